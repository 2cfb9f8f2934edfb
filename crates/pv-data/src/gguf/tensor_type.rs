//! GGML's types of tensors.

use std::fmt;

/// A type of GGML: values by themselves, or blocks of neighbours along a row with their scales.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct TensorType {
    number: u32,
    name: &'static str,
    elements: u64,
    bytes: u64,
}

const fn row(number: u32, name: &'static str, elements: u64, bytes: u64) -> TensorType {
    TensorType { number, name, elements, bytes }
}

/// Every type of GGML's that files contain, with the values and the bytes of a block. Missing numbers are obsolete.
const ALL: [TensorType; 34] = [
    row(0, "F32", 1, 4),
    row(1, "F16", 1, 2),
    row(2, "Q4_0", 32, 18),
    row(3, "Q4_1", 32, 20),
    row(6, "Q5_0", 32, 22),
    row(7, "Q5_1", 32, 24),
    row(8, "Q8_0", 32, 34),
    row(9, "Q8_1", 32, 36),
    row(10, "Q2_K", 256, 84),
    row(11, "Q3_K", 256, 110),
    row(12, "Q4_K", 256, 144),
    row(13, "Q5_K", 256, 176),
    row(14, "Q6_K", 256, 210),
    row(15, "Q8_K", 256, 292),
    row(16, "IQ2_XXS", 256, 66),
    row(17, "IQ2_XS", 256, 74),
    row(18, "IQ3_XXS", 256, 98),
    row(19, "IQ1_S", 256, 50),
    row(20, "IQ4_NL", 32, 18),
    row(21, "IQ3_S", 256, 110),
    row(22, "IQ2_S", 256, 82),
    row(23, "IQ4_XS", 256, 136),
    row(24, "I8", 1, 1),
    row(25, "I16", 1, 2),
    row(26, "I32", 1, 4),
    row(27, "I64", 1, 8),
    row(28, "F64", 1, 8),
    row(29, "IQ1_M", 256, 56),
    row(30, "BF16", 1, 2),
    row(34, "TQ1_0", 256, 54),
    row(35, "TQ2_0", 256, 66),
    row(39, "MXFP4", 32, 17),
    row(40, "NVFP4", 64, 36),
    row(41, "Q1_0", 128, 18),
];

impl TensorType {
    /// 32-bit floating point.
    pub const F32: Self = ALL[0];

    /// All types, by number.
    pub const fn all() -> &'static [Self] {
        &ALL
    }

    /// The type with this number in files.
    pub fn from_number(number: u32) -> Option<Self> {
        ALL.into_iter().find(|kind| kind.number == number)
    }

    /// The type of this name.
    pub fn from_name(name: &str) -> Option<Self> {
        ALL.into_iter().find(|kind| kind.name == name)
    }

    /// The number in files.
    pub fn number(self) -> u32 {
        self.number
    }

    /// GGML's name, such as `Q4_K`.
    pub fn name(self) -> &'static str {
        self.name
    }

    /// The number of values in a block; 1 without blocks.
    pub fn block_elements(self) -> u64 {
        self.elements
    }

    /// The bytes of so many neighbours; `None` if they are not whole blocks, or too many.
    pub fn bytes(self, elements: u64) -> Option<u64> {
        if !elements.is_multiple_of(self.elements) {
            return None;
        }
        (elements / self.elements).checked_mul(self.bytes)
    }
}

impl fmt::Debug for TensorType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

impl fmt::Display for TensorType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}
