//! The tensor types of GGML that directions come in.

use half::{bf16, f16};

/// How a tensor's numbers are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Element {
    F32,
    F16,
    Bf16,
    F64,
    /// Blocks of 32 signed bytes behind their common factor.
    Q8_0,
}

/// The names of GGML's types by their numbers, for messages. Numbers that are missing were given up.
const NAMES: [(u32, &str); 36] = [
    (0, "F32"),
    (1, "F16"),
    (2, "Q4_0"),
    (3, "Q4_1"),
    (6, "Q5_0"),
    (7, "Q5_1"),
    (8, "Q8_0"),
    (9, "Q8_1"),
    (10, "Q2_K"),
    (11, "Q3_K"),
    (12, "Q4_K"),
    (13, "Q5_K"),
    (14, "Q6_K"),
    (15, "Q8_K"),
    (16, "IQ2_XXS"),
    (17, "IQ2_XS"),
    (18, "IQ3_XXS"),
    (19, "IQ1_S"),
    (20, "IQ4_NL"),
    (21, "IQ3_S"),
    (22, "IQ2_S"),
    (23, "IQ4_XS"),
    (24, "I8"),
    (25, "I16"),
    (26, "I32"),
    (27, "I64"),
    (28, "F64"),
    (29, "IQ1_M"),
    (30, "BF16"),
    (34, "TQ1_0"),
    (35, "TQ2_0"),
    (39, "MXFP4"),
    (40, "NVFP4"),
    (41, "Q1_0"),
    (42, "Q2_0"),
    (43, "Q3_0"),
];

/// The numbers in a block of [`Element::Q8_0`], and the bytes that they take with their factor.
const BLOCK: (u64, u64) = (32, 34);

impl Element {
    /// The type of a number, or what to say of one that directions are not read from.
    pub(super) fn of(kind: u32) -> Result<Self, String> {
        Ok(match kind {
            0 => Self::F32,
            1 => Self::F16,
            8 => Self::Q8_0,
            28 => Self::F64,
            30 => Self::Bf16,
            _ => {
                let name = NAMES.iter().find(|(number, _)| *number == kind).map(|(_, name)| format!(" ({name})"));
                let name = name.unwrap_or_default();
                return Err(format!("GGML's type {kind}{name}; directions are read as F32, F16, BF16, F64 or Q8_0"));
            }
        })
    }

    /// How many bytes so many numbers take; `None` where they fill no whole blocks, or are too many.
    pub(super) fn bytes(self, numbers: u64) -> Option<u64> {
        match self {
            Self::F32 => numbers.checked_mul(4),
            Self::F16 | Self::Bf16 => numbers.checked_mul(2),
            Self::F64 => numbers.checked_mul(8),
            Self::Q8_0 if numbers.is_multiple_of(BLOCK.0) => (numbers / BLOCK.0).checked_mul(BLOCK.1),
            Self::Q8_0 => None,
        }
    }

    /// The numbers in these bytes, little end first.
    pub(super) fn read(self, bytes: &[u8]) -> Vec<f32> {
        match self {
            Self::F32 => bytes.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect(),
            Self::F16 => bytes.as_chunks().0.iter().map(|bytes| f16::from_le_bytes(*bytes).to_f32()).collect(),
            Self::Bf16 => bytes.as_chunks().0.iter().map(|bytes| bf16::from_le_bytes(*bytes).to_f32()).collect(),
            Self::F64 => bytes.as_chunks().0.iter().map(|bytes| f64::from_le_bytes(*bytes) as f32).collect(),
            Self::Q8_0 => bytes
                .chunks_exact(BLOCK.1 as usize)
                .flat_map(|block| {
                    let factor = f16::from_le_bytes([block[0], block[1]]).to_f32();
                    block[2..].iter().map(move |value| factor * f32::from(*value as i8))
                })
                .collect(),
        }
    }
}
