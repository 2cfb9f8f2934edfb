use super::value::ValueType;
use super::{TensorType, VERSION};

/// The error of a GGUF file. Positions are byte numbers in the file.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum GgufError {
    /// The file is not a GGUF file.
    #[error("it starts with the bytes {found:?}, not with GGUF")]
    Magic {
        /// The first bytes.
        found: [u8; 4],
    },
    /// Another version of the format.
    #[error(
        "it is of GGUF's version {version}{}; versions 2 and 3 can be read",
        if (2..=VERSION).contains(&version.swap_bytes()) { " (a big-endian file)" } else { "" }
    )]
    Version {
        /// The version.
        version: u32,
    },
    /// The file ends within its header.
    #[error("it ends within its header: {needed} bytes are needed at byte {at}, and {} are there", length - at)]
    Truncated {
        /// Where bytes are missing.
        at: u64,
        /// The number of bytes needed there.
        needed: u64,
        /// The length of the file.
        length: u64,
    },
    /// A count that the file has no room for.
    #[error("it counts {count} entries at byte {at}, but the rest of the file contains {most} at most")]
    Count {
        /// The position of the count.
        at: u64,
        /// The count.
        count: u64,
        /// The greatest number of entries.
        most: u64,
    },
    /// A text that is not UTF-8.
    #[error("the text at byte {at} is not UTF-8")]
    Text {
        /// The position of the text.
        at: u64,
    },
    /// An unknown type of value.
    #[error("the value at byte {at} is of the unknown type {number}")]
    UnknownType {
        /// The position of the type.
        at: u64,
        /// The type.
        number: u32,
    },
    /// Arrays inside arrays, too deep.
    #[error("the arrays at byte {at} are nested more than {most} deep")]
    Nesting {
        /// The position of the array.
        at: u64,
        /// The greatest depth.
        most: usize,
    },
    /// Two values of one key.
    #[error("it contains the key {key:?} twice")]
    DuplicateKey {
        /// The key.
        key: String,
    },
    /// A value of another type than the key's.
    #[error("its {key} is of the type {found}, not {expected}")]
    ValueType {
        /// The key.
        key: String,
        /// The type of the value.
        found: ValueType,
        /// The expected type.
        expected: &'static str,
    },
    /// An alignment that is no power of two, or too large.
    #[error("its general.alignment is {alignment}, expected a power of two up to {most}")]
    Alignment {
        /// The alignment in bytes.
        alignment: u64,
        /// The greatest alignment.
        most: usize,
    },
    /// A tensor with too many dimensions.
    #[error("the tensor {tensor:?} has {dimensions} dimensions, and {most} at most are possible")]
    Dimensions {
        /// The tensor.
        tensor: String,
        /// The number of its dimensions.
        dimensions: u32,
        /// The greatest number.
        most: u32,
    },
    /// A tensor of an unknown type.
    #[error("the tensor {tensor:?} is of GGML's type {number}, which is not known")]
    TensorType {
        /// The tensor.
        tensor: String,
        /// The number of the type.
        number: u32,
    },
    /// A shape whose rows are not whole blocks of the type, or that is too large.
    #[error("the tensor {tensor:?} has the shape {shape:?}, which is impossible in {kind}: {}", why(*kind))]
    Shape {
        /// The tensor.
        tensor: String,
        /// Its shape.
        shape: Vec<u64>,
        /// Its type.
        kind: TensorType,
    },
    /// A tensor at an offset that is not aligned.
    #[error("the tensor {tensor:?} is at the offset {offset}, which is not a multiple of {alignment}")]
    Offset {
        /// The tensor.
        tensor: String,
        /// Its offset in the data.
        offset: u64,
        /// The alignment.
        alignment: usize,
    },
    /// A tensor that the file does not contain completely.
    #[error(
        "the tensor {tensor:?}, {kind} {shape:?} at the offset {offset}, is beyond the end of the file's data of \
         {available} bytes; the file may be truncated"
    )]
    OutOfRange {
        /// The tensor.
        tensor: String,
        /// Its offset in the data.
        offset: u64,
        /// Its shape.
        shape: Vec<u64>,
        /// Its type.
        kind: TensorType,
        /// The length of the data.
        available: usize,
    },
    /// Two tensors of one name.
    #[error("it contains the tensor {tensor:?} twice")]
    DuplicateTensor {
        /// The tensor.
        tensor: String,
    },
    /// Two tensors that share bytes.
    #[error("its tensors {first:?} and {second:?} overlap at byte {at}")]
    Overlap {
        /// The tensor that starts first.
        first: String,
        /// The tensor that starts before the first one ends.
        second: String,
        /// The first shared byte.
        at: u64,
    },
    /// The number of a part that does not exist.
    #[error("it is part {number} of {count}, counted from 0")]
    PartNumber {
        /// The number, from 0.
        number: u64,
        /// The number of parts.
        count: u64,
    },
    /// A part of a split model whose name does not lead to the other parts.
    #[error("it is part {number} of {count}, but is named {name:?} instead of …{expected}")]
    PartName {
        /// The file's name.
        name: String,
        /// The number of the part, from 1.
        number: usize,
        /// The number of parts.
        count: usize,
        /// The end of the name.
        expected: String,
    },
}

fn why(kind: TensorType) -> String {
    match kind.block_elements() {
        1 => "it is too large".to_owned(),
        elements => format!("rows are blocks of {elements} values"),
    }
}
