//! Weights in memory: floating-point types and the blocks of GGUF files.
//!
//! The format in which weights are kept is independent of the type in which products are computed, which is always `f32`.
//! All values are little-endian, as in files; the bytes need no alignment.

mod blocks;
mod dequantize;
mod quantize;

pub(crate) use blocks::{FP4, half_power_of_two};
pub use dequantize::dequantize;
pub(crate) use dequantize::unpack;
pub use quantize::quantize;

/// How weights are kept. A block format keeps a number of neighbours along a row together with their scales; a row
/// consists of whole blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Format {
    /// 32-bit floating point.
    F32,
    /// The upper half of 32-bit floating point.
    Bf16,
    /// 16-bit floating point (IEEE 754).
    F16,
    /// 8 bits in blocks of 32 with a scale.
    Q8_0,
    /// 4 bits in blocks of 32 with a scale.
    Q4_0,
    /// 4 bits in blocks of 32 with a scale and a minimum.
    Q4_1,
    /// 5 bits in blocks of 32 with a scale.
    Q5_0,
    /// 5 bits in blocks of 32 with a scale and a minimum.
    Q5_1,
    /// 4 bits in blocks of 256: 8 groups of 32 with a scale and a minimum each, in 6 bits.
    Q4K,
    /// 5 bits in blocks of 256: 8 groups of 32 with a scale and a minimum each, in 6 bits.
    Q5K,
    /// 6 bits in blocks of 256: 16 groups of 16 with a scale each, in 8 bits.
    Q6K,
    /// 4-bit floating point (e2m1) in blocks of 32 with a power of two as the scale (OCP Microscaling).
    Mxfp4,
}

impl Format {
    /// Every format.
    pub const ALL: [Self; 12] = [
        Self::F32,
        Self::Bf16,
        Self::F16,
        Self::Q8_0,
        Self::Q4_0,
        Self::Q4_1,
        Self::Q5_0,
        Self::Q5_1,
        Self::Q4K,
        Self::Q5K,
        Self::Q6K,
        Self::Mxfp4,
    ];

    /// The number of elements of a block; 1 without blocks.
    pub const fn block_elements(self) -> usize {
        match self {
            Self::F32 | Self::Bf16 | Self::F16 => 1,
            Self::Q8_0 | Self::Q4_0 | Self::Q4_1 | Self::Q5_0 | Self::Q5_1 | Self::Mxfp4 => 32,
            Self::Q4K | Self::Q5K | Self::Q6K => 256,
        }
    }

    /// The number of bytes of a block, or of an element without blocks.
    pub const fn block_bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::Bf16 | Self::F16 => 2,
            Self::Q8_0 => 2 + 32,
            Self::Q4_0 => 2 + 16,
            Self::Q4_1 => 4 + 16,
            Self::Q5_0 => 2 + 4 + 16,
            Self::Q5_1 => 4 + 4 + 16,
            Self::Q4K => 4 + 12 + 128,
            Self::Q5K => 4 + 12 + 32 + 128,
            Self::Q6K => 128 + 64 + 16 + 2,
            Self::Mxfp4 => 1 + 16,
        }
    }

    /// The name in GGUF files, such as `Q4_K`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::F32 => "F32",
            Self::Bf16 => "BF16",
            Self::F16 => "F16",
            Self::Q8_0 => "Q8_0",
            Self::Q4_0 => "Q4_0",
            Self::Q4_1 => "Q4_1",
            Self::Q5_0 => "Q5_0",
            Self::Q5_1 => "Q5_1",
            Self::Q4K => "Q4_K",
            Self::Q5K => "Q5_K",
            Self::Q6K => "Q6_K",
            Self::Mxfp4 => "MXFP4",
        }
    }

    /// The format with this name, in upper or lower case.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|format| format.name().eq_ignore_ascii_case(name))
    }

    /// The bytes of the whole blocks among `elements` neighbours.
    #[inline(always)]
    pub(crate) const fn bytes_of_blocks(self, elements: usize) -> usize {
        elements / self.block_elements() * self.block_bytes()
    }

    /// The bytes of `elements` neighbours, or `None` unless they fill whole blocks.
    pub const fn bytes(self, elements: usize) -> Option<usize> {
        if !elements.is_multiple_of(self.block_elements()) {
            return None;
        }
        (elements / self.block_elements()).checked_mul(self.block_bytes())
    }

    /// The mean number of bits of an element, with its part of the scales.
    pub const fn bits_per_element(self) -> f32 {
        (self.block_bytes() * 8) as f32 / self.block_elements() as f32
    }

    /// The bytes of a row of `k` elements.
    #[track_caller]
    pub(crate) fn row_bytes(self, k: usize) -> usize {
        match self.bytes(k) {
            Some(bytes) => bytes,
            None => panic!("a row of {k} elements does not consist of whole blocks of {}", self.name()),
        }
    }
}

impl std::fmt::Display for Format {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// A view of kept weights, row after row.
#[derive(Clone, Copy, Debug)]
pub struct KeptRef<'a> {
    /// The format.
    pub format: Format,
    /// The blocks.
    pub bytes: &'a [u8],
}

impl<'a> KeptRef<'a> {
    /// The rows `from..to` of weights with `k` elements per row.
    ///
    /// # Panics
    /// If there are fewer rows, or `k` is not a multiple of the block.
    pub fn rows(self, from: usize, to: usize, k: usize) -> Self {
        let row = self.format.row_bytes(k);
        Self { format: self.format, bytes: &self.bytes[from * row..to * row] }
    }

    /// The values.
    ///
    /// # Panics
    /// If the bytes are not whole blocks.
    pub fn to_f32(self) -> Vec<f32> {
        let mut out = vec![0.0; self.bytes.len() / self.format.block_bytes() * self.format.block_elements()];
        dequantize(self.format, self.bytes, &mut out);
        out
    }
}

/// Kept weights with their memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    format: Format,
    bytes: Vec<u8>,
}

impl Kept {
    /// Takes blocks as they are in a file.
    ///
    /// # Panics
    /// If `bytes` are not whole blocks.
    pub fn new(format: Format, bytes: Vec<u8>) -> Self {
        assert!(bytes.len().is_multiple_of(format.block_bytes()), "Kept: the bytes are not whole blocks of {format}");
        Self { format, bytes }
    }

    /// Rounds `values` to a format, see [`quantize`].
    ///
    /// # Panics
    /// If `values` do not fill whole blocks.
    pub fn quantize(format: Format, values: &[f32]) -> Self {
        let mut bytes = Vec::new();
        quantize(format, values, &mut bytes);
        Self { format, bytes }
    }

    /// The format.
    pub fn format(&self) -> Format {
        self.format
    }

    /// The blocks.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// A view.
    pub fn as_ref(&self) -> KeptRef<'_> {
        KeptRef { format: self.format, bytes: &self.bytes }
    }
}
