//! Reads the header's fields, with checked lengths.

use super::GgufError;
use super::value::{Array, Value, ValueType};

/// The greatest depth of arrays in arrays. No known file has more than two.
pub(super) const MAX_DEPTH: usize = 4;

pub(super) struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    pub(super) fn position(&self) -> usize {
        self.at
    }

    fn take(&mut self, needed: u64) -> Result<&'a [u8], GgufError> {
        let end = usize::try_from(needed).ok().and_then(|length| self.at.checked_add(length));
        let taken = end.and_then(|end| self.bytes.get(self.at..end));
        let (at, length) = (self.at as u64, self.bytes.len() as u64);
        let taken = taken.ok_or(GgufError::Truncated { at, needed, length })?;
        self.at += taken.len();
        Ok(taken)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], GgufError> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N as u64)?);
        Ok(array)
    }

    pub(super) fn u32(&mut self) -> Result<u32, GgufError> {
        self.array().map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Result<u64, GgufError> {
        self.array().map(u64::from_le_bytes)
    }

    /// A count of entries that take at least `bytes_each` bytes each.
    pub(super) fn count(&mut self, bytes_each: u64) -> Result<u64, GgufError> {
        let at = self.at as u64;
        let count = self.u64()?;
        let most = (self.bytes.len() - self.at) as u64 / bytes_each;
        if count <= most { Ok(count) } else { Err(GgufError::Count { at, count, most }) }
    }

    pub(super) fn string(&mut self) -> Result<&'a str, GgufError> {
        let length = self.u64()?;
        let at = self.at as u64;
        std::str::from_utf8(self.take(length)?).map_err(|_| GgufError::Text { at })
    }

    pub(super) fn kind(&mut self) -> Result<ValueType, GgufError> {
        let at = self.at as u64;
        let number = self.u32()?;
        ValueType::from_number(number).ok_or(GgufError::UnknownType { at, number })
    }

    pub(super) fn value(&mut self, kind: ValueType) -> Result<Value<'a>, GgufError> {
        Ok(match kind {
            ValueType::U8 => Value::U8(u8::from_le_bytes(self.array()?)),
            ValueType::I8 => Value::I8(i8::from_le_bytes(self.array()?)),
            ValueType::U16 => Value::U16(u16::from_le_bytes(self.array()?)),
            ValueType::I16 => Value::I16(i16::from_le_bytes(self.array()?)),
            ValueType::U32 => Value::U32(self.u32()?),
            ValueType::I32 => Value::I32(i32::from_le_bytes(self.array()?)),
            ValueType::F32 => Value::F32(f32::from_le_bytes(self.array()?)),
            ValueType::Bool => Value::Bool(self.array::<1>()? != [0]),
            ValueType::String => Value::String(self.string()?),
            ValueType::Array => Value::Array(self.nested(MAX_DEPTH)?),
            ValueType::U64 => Value::U64(self.u64()?),
            ValueType::I64 => Value::I64(i64::from_le_bytes(self.array()?)),
            ValueType::F64 => Value::F64(f64::from_le_bytes(self.array()?)),
        })
    }

    /// An array that contains arrays of at most `depth - 1` levels.
    fn nested(&mut self, depth: usize) -> Result<Array<'a>, GgufError> {
        let at = self.at as u64;
        if depth == 0 {
            return Err(GgufError::Nesting { at, most: MAX_DEPTH });
        }
        let kind = self.kind()?;
        let count = self.count(kind.least_bytes())?;
        let start = self.at;
        match kind {
            ValueType::String => (0..count).try_for_each(|_| self.string().map(drop))?,
            ValueType::Array => (0..count).try_for_each(|_| self.nested(depth - 1).map(drop))?,
            // The product is at most the file's length.
            scalar => drop(self.take(count * scalar.least_bytes())?),
        }
        Ok(Array { kind, count: count as usize, bytes: &self.bytes[start..self.at] })
    }
}
