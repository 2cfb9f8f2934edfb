//! Writes files of version 3.

use super::value::{Array, Value, ValueType};
use super::{ALIGNMENT, ALIGNMENT_KEY, MAGIC, TensorType, VERSION};

/// Builds a file in memory. Keys and tensors are written in the order in which they are given, and are not checked for
/// duplicates.
#[derive(Clone, Debug)]
pub struct Writer {
    alignment: usize,
    entries: u64,
    metadata: Vec<u8>,
    tensors: u64,
    infos: Vec<u8>,
    data: Vec<u8>,
}

impl Default for Writer {
    fn default() -> Self {
        Self { alignment: ALIGNMENT, entries: 0, metadata: vec![], tensors: 0, infos: vec![], data: vec![] }
    }
}

/// A type whose values an array can contain.
pub trait ArrayElement: Copy {
    /// The type in files.
    const KIND: ValueType;
    /// The value.
    fn value(&self) -> Value<'_>;
}

macro_rules! elements {
    ($($type:ty => $variant:ident),*) => {
        $(impl ArrayElement for $type {
            const KIND: ValueType = ValueType::$variant;

            fn value(&self) -> Value<'_> {
                Value::$variant(*self)
            }
        })*
    };
}

elements! {
    u8 => U8, i8 => I8, u16 => U16, i16 => I16, u32 => U32, i32 => I32, f32 => F32, bool => Bool, &str => String, u64 => U64,
    i64 => I64, f64 => F64
}

impl Writer {
    /// A file with another alignment than 32 bytes.
    ///
    /// # Panics
    /// If the alignment is no power of two.
    pub fn with_alignment(alignment: u32) -> Self {
        assert!(alignment.is_power_of_two(), "the alignment is {alignment}");
        let mut writer = Self { alignment: alignment as usize, ..Self::default() };
        writer.set(ALIGNMENT_KEY, Value::U32(alignment));
        writer
    }

    /// Adds a value.
    pub fn set(&mut self, key: &str, value: Value<'_>) -> &mut Self {
        self.entries += 1;
        Value::String(key).write(&mut self.metadata);
        self.metadata.extend(value.kind().number().to_le_bytes());
        value.write(&mut self.metadata);
        self
    }

    /// Adds an array.
    pub fn set_array<T: ArrayElement>(&mut self, key: &str, values: &[T]) -> &mut Self {
        let mut bytes = Vec::new();
        values.iter().for_each(|value| value.value().write(&mut bytes));
        self.set(key, Value::Array(Array { kind: T::KIND, count: values.len(), bytes: &bytes }))
    }

    /// Adds a tensor; the shape is in the order of the file, with the length of a row first.
    ///
    /// # Panics
    /// If the number of bytes is another than the type's for this shape.
    pub fn tensor(&mut self, name: &str, shape: &[usize], kind: TensorType, bytes: &[u8]) -> &mut Self {
        let row = kind.bytes(shape.first().copied().unwrap_or(1) as u64);
        let rows = shape.iter().skip(1).product::<usize>() as u64;
        assert_eq!(row.map(|row| row * rows), Some(bytes.len() as u64), "{name}: {kind} {shape:?}");
        self.tensors += 1;
        Value::String(name).write(&mut self.infos);
        self.infos.extend((shape.len() as u32).to_le_bytes());
        shape.iter().for_each(|size| self.infos.extend((*size as u64).to_le_bytes()));
        self.infos.extend(kind.number().to_le_bytes());
        self.infos.extend((self.data.len() as u64).to_le_bytes());
        self.data.extend(bytes);
        self.data.resize(self.data.len().next_multiple_of(self.alignment), 0);
        self
    }

    /// The file's bytes.
    pub fn finish(&self) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        bytes.extend(VERSION.to_le_bytes());
        bytes.extend(self.tensors.to_le_bytes());
        bytes.extend(self.entries.to_le_bytes());
        bytes.extend(&self.metadata);
        bytes.extend(&self.infos);
        bytes.resize(bytes.len().next_multiple_of(self.alignment), 0);
        bytes.extend(&self.data);
        bytes
    }
}
