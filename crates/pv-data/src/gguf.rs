//! GGUF files, versions 2 and 3: metadata, and tensors in GGML's types.
//!
//! [`Gguf::parse`] reads a byte slice, such as a memory map, without copying it: names, texts, arrays and tensors are
//! parts of that slice. Every length is checked against the slice before it is used, so that a file can neither request
//! more memory than in proportion to its own size nor cause deep recursion.
//!
//! The format: <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>.

mod error;
mod reader;
mod split;
mod tensor_type;
#[cfg(test)]
mod tests;
mod value;
mod write;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

pub use error::GgufError;
use reader::Reader;
pub use split::Split;
pub use tensor_type::TensorType;
pub use value::{Array, Value, ValueType};
pub use write::{ArrayElement, Writer};

const MAGIC: [u8; 4] = *b"GGUF";
/// The version that is written. Version 2 differs in nothing that is read; version 1 has shorter lengths.
const VERSION: u32 = 3;
/// The alignment of the tensor data and of each tensor, in bytes, unless `general.alignment` gives another.
const ALIGNMENT: usize = 32;
const ALIGNMENT_KEY: &str = "general.alignment";
const MAX_ALIGNMENT: usize = 1 << 16;
/// GGML's limit.
const MAX_DIMENSIONS: u32 = 4;

/// The content of one GGUF file. All of it is inside the bytes that it was parsed from.
#[derive(Clone, Debug)]
pub struct Gguf<'a> {
    version: u32,
    alignment: usize,
    metadata: BTreeMap<&'a str, Value<'a>>,
    tensors: Vec<Tensor<'a>>,
}

/// A tensor of a file.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Tensor<'a> {
    /// The name.
    pub name: &'a str,
    /// The shape in the order of the file: neighbours along the first dimension are neighbours in memory.
    pub shape: Vec<usize>,
    /// The type of the values.
    pub kind: TensorType,
    /// The position of the values in the file.
    pub range: Range<usize>,
    /// The values.
    pub bytes: &'a [u8],
}

impl<'a> Gguf<'a> {
    /// Parses a file.
    ///
    /// # Errors
    /// See [`GgufError`]: a damaged file, one of another version, or a tensor of an unknown type.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, GgufError> {
        let mut reader = Reader::new(bytes);
        let found = reader.array()?;
        if found != MAGIC {
            return Err(GgufError::Magic { found });
        }
        let version = reader.u32()?;
        if !(2..=VERSION).contains(&version) {
            return Err(GgufError::Version { version });
        }
        // A tensor without dimensions takes a name's length, a count, a type and an offset; a pair at least a length, a
        // type and one byte.
        let (tensors, entries) = (reader.count(24)?, reader.count(13)?);
        let mut metadata = BTreeMap::new();
        for _ in 0..entries {
            let (key, kind) = (reader.string()?, reader.kind()?);
            let value = reader.value(kind)?;
            if metadata.insert(key, value).is_some() {
                return Err(GgufError::DuplicateKey { key: key.into() });
            }
        }
        let infos = (0..tensors).map(|_| Info::read(&mut reader)).collect::<Result<Vec<_>, _>>()?;
        let mut file = Self { version, alignment: ALIGNMENT, metadata, tensors: Vec::new() };
        file.alignment = file.checked_alignment()?;
        let data = reader.position().next_multiple_of(file.alignment);
        file.tensors =
            infos.into_iter().map(|info| info.tensor(bytes, data, file.alignment)).collect::<Result<_, _>>()?;
        file.check_tensors()?;
        Ok(file)
    }

    fn checked_alignment(&self) -> Result<usize, GgufError> {
        let Some(alignment) = self.unsigned(ALIGNMENT_KEY)? else { return Ok(ALIGNMENT) };
        let usable = |alignment: &usize| alignment.is_power_of_two() && *alignment <= MAX_ALIGNMENT;
        usize::try_from(alignment).ok().filter(usable).ok_or(GgufError::Alignment { alignment, most: MAX_ALIGNMENT })
    }

    /// Rejects two tensors of one name, and tensors that share bytes: they would let a small file become large in memory.
    fn check_tensors(&self) -> Result<(), GgufError> {
        let mut names = BTreeSet::new();
        if let Some(twice) = self.tensors.iter().find(|tensor| !names.insert(tensor.name)) {
            return Err(GgufError::DuplicateTensor { tensor: twice.name.into() });
        }
        let mut sorted: Vec<&Tensor<'_>> = self.tensors.iter().filter(|tensor| !tensor.bytes.is_empty()).collect();
        sorted.sort_by_key(|tensor| tensor.range.start);
        match sorted.windows(2).find(|pair| pair[1].range.start < pair[0].range.end) {
            None => Ok(()),
            Some(pair) => Err(GgufError::Overlap {
                first: pair[0].name.into(),
                second: pair[1].name.into(),
                at: pair[1].range.start as u64,
            }),
        }
    }

    /// The version of the format.
    pub fn version(&self) -> u32 {
        self.version
    }

    /// The alignment of tensors, in bytes.
    pub fn alignment(&self) -> usize {
        self.alignment
    }

    /// The tensors, in the order of the file.
    pub fn tensors(&self) -> &[Tensor<'a>] {
        &self.tensors
    }

    /// The tensor of a name.
    pub fn tensor(&self, name: &str) -> Option<&Tensor<'a>> {
        self.tensors.iter().find(|tensor| tensor.name == name)
    }

    /// The metadata, by key.
    pub fn metadata(&self) -> impl Iterator<Item = (&'a str, Value<'a>)> {
        self.metadata.iter().map(|(key, value)| (*key, *value))
    }

    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<Value<'a>> {
        self.metadata.get(key).copied()
    }

    fn typed<T>(
        &self,
        key: &str,
        expected: &'static str,
        read: impl FnOnce(Value<'a>) -> Option<T>,
    ) -> Result<Option<T>, GgufError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let found = || GgufError::ValueType { key: key.into(), found: value.kind(), expected };
        read(value).ok_or_else(found).map(Some)
    }

    /// The text of a key; `None` if the file lacks the key.
    ///
    /// # Errors
    /// [`GgufError::ValueType`] for a value of another type.
    pub fn string(&self, key: &str) -> Result<Option<&'a str>, GgufError> {
        self.typed(key, "a string", |value| if let Value::String(text) = value { Some(text) } else { None })
    }

    /// Like [`Gguf::string`], for an integer of any width that is not negative.
    ///
    /// # Errors
    /// [`GgufError::ValueType`].
    pub fn unsigned(&self, key: &str) -> Result<Option<u64>, GgufError> {
        let read = |value: Value<'a>| value.integer().and_then(|number| u64::try_from(number).ok());
        self.typed(key, "an integer that is not negative", read)
    }

    /// Like [`Gguf::string`], for an integer of any width and sign.
    ///
    /// # Errors
    /// [`GgufError::ValueType`].
    pub fn integer(&self, key: &str) -> Result<Option<i64>, GgufError> {
        self.typed(key, "an integer", |value| Some(i64::try_from(value.integer()?).unwrap_or(i64::MAX)))
    }

    /// Like [`Gguf::string`], for a boolean.
    ///
    /// # Errors
    /// [`GgufError::ValueType`].
    pub fn flag(&self, key: &str) -> Result<Option<bool>, GgufError> {
        self.typed(key, "a boolean", |value| if let Value::Bool(flag) = value { Some(flag) } else { None })
    }

    /// Like [`Gguf::string`], for an array.
    ///
    /// # Errors
    /// [`GgufError::ValueType`].
    pub fn array(&self, key: &str) -> Result<Option<Array<'a>>, GgufError> {
        self.typed(key, "an array", |value| if let Value::Array(array) = value { Some(array) } else { None })
    }

    /// Like [`Gguf::string`], for an array of strings.
    ///
    /// # Errors
    /// [`GgufError::ValueType`].
    pub fn strings(&self, key: &str) -> Result<Option<Vec<&'a str>>, GgufError> {
        let text = |value| if let Value::String(text) = value { Some(text) } else { None };
        let read = |value| match value {
            Value::Array(array) => array.values().map(text).collect(),
            _ => None,
        };
        self.typed(key, "an array of strings", read)
    }
}

/// What a file states about a tensor.
struct Info<'a> {
    name: &'a str,
    shape: Vec<u64>,
    kind: TensorType,
    offset: u64,
}

impl<'a> Info<'a> {
    fn read(reader: &mut Reader<'a>) -> Result<Self, GgufError> {
        let name = reader.string()?;
        let dimensions = reader.u32()?;
        if dimensions > MAX_DIMENSIONS {
            return Err(GgufError::Dimensions { tensor: name.into(), dimensions, most: MAX_DIMENSIONS });
        }
        let shape = (0..dimensions).map(|_| reader.u64()).collect::<Result<_, _>>()?;
        let number = reader.u32()?;
        let kind = TensorType::from_number(number);
        let kind = kind.ok_or_else(|| GgufError::TensorType { tensor: name.into(), number })?;
        Ok(Self { name, shape, kind, offset: reader.u64()? })
    }

    /// The tensor in a file whose tensors start at `data`.
    fn tensor(self, bytes: &'a [u8], data: usize, alignment: usize) -> Result<Tensor<'a>, GgufError> {
        let Self { name, shape, kind, offset } = self;
        let tensor = || name.to_owned();
        if !offset.is_multiple_of(alignment as u64) {
            return Err(GgufError::Offset { tensor: tensor(), offset, alignment });
        }
        let rows = shape.iter().skip(1).try_fold(1u64, |rows, size| rows.checked_mul(*size));
        let row = kind.bytes(shape.first().copied().unwrap_or(1));
        let sizes = shape.iter().map(|size| usize::try_from(*size).ok()).collect::<Option<Vec<_>>>();
        let (Some(row), Some(rows), Some(sizes)) = (row, rows, sizes) else {
            return Err(GgufError::Shape { tensor: tensor(), shape, kind });
        };
        let range = || {
            let start = data.checked_add(usize::try_from(offset).ok()?)?;
            let end = start.checked_add(usize::try_from(row.checked_mul(rows)?).ok()?)?;
            Some((start..end, bytes.get(start..end)?))
        };
        let out_of_range = || GgufError::OutOfRange {
            tensor: tensor(),
            offset,
            shape,
            kind,
            available: bytes.len().saturating_sub(data),
        };
        let (range, bytes) = range().ok_or_else(out_of_range)?;
        Ok(Tensor { name, shape: sizes, kind, range, bytes })
    }
}
