//! Frozen weights in eight or four bits, under f32 adapters (as in QLoRA, arXiv 2305.14314).

use burn::tensor::DType;
use burn::tensor::quantization::{QuantScheme, QuantValue, ScaleDtype};

use super::Decoder;
use crate::{Error, Result};

/// The quantization of weights: each is an integer, symmetric about 0, and `block` neighbours along a row share a scale
/// (their greatest magnitude over that of the integer type).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quantization {
    /// The integer type.
    pub bits: WeightBits,
    /// The number of weights that share a scale. It must divide the inputs of every projection.
    pub block: u8,
}

impl Default for Quantization {
    /// Eight bits in blocks of 32: 9 bits per weight, scales included.
    fn default() -> Self {
        Self { bits: WeightBits::Eight, block: 32 }
    }
}

/// The number of bits of a weight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WeightBits {
    /// −127 to 127.
    Eight,
    /// −7 to 7. On the CPU each weight still occupies a byte: Burn packs them on GPUs only.
    Four,
}

impl Quantization {
    fn scheme(self) -> QuantScheme {
        let value = match self.bits {
            WeightBits::Eight => QuantValue::Q8S,
            WeightBits::Four => QuantValue::Q4S,
        };
        QuantScheme::default().with_value(value).per_block([1, self.block], ScaleDtype::F32)
    }
}

impl Decoder {
    /// A copy whose projections store their weights in few bits, for inference or for training an adapter. Embeddings,
    /// norms, biases, routers and adapters are unchanged. It computes what a decoder with the rounded weights would compute, in
    /// the same compute type: each projection's weights are dequantized when it is used. That saves memory, not time;
    /// gradients that are computed layer by layer hold one layer's dequantized weights at a time.
    ///
    /// It cannot be trained as a whole.
    ///
    /// # Errors
    /// [`Error::QuantizationBlock`] for a block that does not divide a projection's inputs;
    /// [`Error::AlreadyQuantized`].
    pub fn quantized(&self, quantization: Quantization) -> Result<Self> {
        let block = usize::from(quantization.block);
        if self.is_quantized() {
            return Err(Error::AlreadyQuantized);
        }
        let mut decoder = self.plain();
        let scheme = quantization.scheme();
        for projection in decoder.blocks.iter_mut().flat_map(super::Block::projections_mut) {
            let [_, inputs] = projection.weight.dims();
            if block == 0 || inputs % block != 0 {
                return Err(Error::QuantizationBlock { block, inputs });
            }
            // Burn quantizes f32 values, whatever the type of the weights.
            let weight = projection.weight.val().cast(DType::F32).quantize_dynamic(&scheme);
            projection.weight = weight.into();
        }
        Ok(decoder)
    }

    /// Whether the projections' weights are integers with scales, rather than values of a floating-point type.
    pub fn is_quantized(&self) -> bool {
        self.blocks.iter().any(|block| block.qkv.weight.is_quantized())
    }

    /// A copy whose weights are tensors in the compute type; if they all are, a decoder is unchanged.
    #[must_use]
    pub fn dequantized(&self) -> Self {
        self.with_tensors(|_| true)
    }
}
