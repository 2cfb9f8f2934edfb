//! Frozen weights in eight or four bits, under adapters in f32 (as in QLoRA, arXiv 2305.14314).

use burn::module::Param;
use burn::tensor::quantization::{QuantScheme, QuantValue, ScaleDtype};
use burn::tensor::{DType, Tensor};

use super::{Decoder, Projection};
use crate::{Error, Result};

/// How weights are rounded: `block` neighbours along a row share a scale (their greatest magnitude over that of the type), and each is
/// an integer of so many bits, symmetric about 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quantization {
    /// The integers.
    pub bits: WeightBits,
    /// How many weights share a scale. It must divide the inputs of every projection.
    pub block: u8,
}

impl Default for Quantization {
    /// Eight bits in blocks of 32: 9 bits per weight, scales included.
    fn default() -> Self {
        Self { bits: WeightBits::Eight, block: 32 }
    }
}

/// How many bits a weight takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WeightBits {
    /// −127 to 127.
    Eight,
    /// −7 to 7. On the CPU each still takes a byte: Burn packs them on GPUs only.
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

/// Whether a tensor holds integers and scales.
pub(super) fn is_quantized(weight: &Tensor<2>) -> bool {
    matches!(weight.dtype(), DType::QFloat(_))
}

impl Projection {
    /// The weight to compute with, in a type: of a quantized one, the values that its integers stand for.
    pub(crate) fn weight_in(&self, dtype: DType) -> Tensor<2> {
        let weight = self.weight.val();
        match is_quantized(&weight) {
            true => weight.dequantize().cast(dtype),
            false => weight,
        }
    }
}

impl Decoder {
    /// A copy whose projections hold their weights in few bits, to be read or to train an adapter on: embeddings, norms and biases stay as
    /// they are, and adapters too. It computes what a decoder with the rounded weights would, in the type that this one computes in:
    /// each projection's weights are made from their integers when it is used. That saves memory, not time; gradients that are
    /// computed layer by layer keep one layer's of them at once.
    ///
    /// It cannot be trained as a whole.
    ///
    /// # Errors
    /// [`Error::BadOption`] for a block that does not divide a projection's inputs, or a decoder that is quantized.
    pub fn quantized(&self, quantization: Quantization) -> Result<Self> {
        let block = usize::from(quantization.block);
        if self.is_quantized() {
            return Err(Error::BadOption { reason: "the weights are quantized already".into() });
        }
        let mut decoder = self.plain();
        let scheme = quantization.scheme();
        for projection in decoder.blocks.iter_mut().flat_map(super::Block::projections) {
            let [_, inputs] = projection.weight.val().dims();
            if block == 0 || inputs % block != 0 {
                let reason = format!("weights in blocks of {block}, where a projection has {inputs} inputs");
                return Err(Error::BadOption { reason });
            }
            // Burn's integers come from f32, whatever the weights are in.
            let weight = projection.weight.val().cast(DType::F32).quantize_dynamic(&scheme);
            projection.weight = Param::from_tensor(weight);
        }
        Ok(decoder)
    }

    /// Whether the projections hold integers.
    pub fn is_quantized(&self) -> bool {
        self.blocks.iter().any(|block| is_quantized(&block.qkv.weight.val()))
    }

    /// A copy with the values that the integers stand for; of a decoder that is not quantized, the same.
    #[must_use]
    pub fn dequantized(&self) -> Self {
        let mut decoder = self.clone();
        let dtype = self.dtype();
        for projection in decoder.blocks.iter_mut().flat_map(super::Block::projections) {
            if is_quantized(&projection.weight.val()) {
                projection.weight = Param::from_tensor(projection.weight_in(dtype));
            }
        }
        decoder
    }
}
