//! A weight matrix: a tensor of a device, or packed on the host.

use std::ops::Range;

use burn::module::{Module, Param};
use burn::tensor::{DType, Device, Tensor};

use super::PackedMatrix;

/// A weight matrix, `[out, in]`: of a projection, of the embeddings or of the output head.
#[derive(Module, Debug)]
pub enum Weight {
    /// A tensor in the compute type, or in Burn's quantized type.
    Tensor(Param<Tensor<2>>),
    /// A matrix on the host in 16 or fewer bits, for computation in f32 on the CPU. It has no gradient.
    Packed(PackedMatrix),
}

impl From<Tensor<2>> for Weight {
    fn from(tensor: Tensor<2>) -> Self {
        Self::Tensor(Param::from_tensor(tensor))
    }
}

impl Weight {
    /// The shape, `[out, in]`.
    pub fn dims(&self) -> [usize; 2] {
        match self {
            Self::Tensor(tensor) => tensor.val().dims(),
            Self::Packed(matrix) => matrix.dims(),
        }
    }

    /// The values as a tensor, `[out, in]`: a packed matrix is unpacked to f32, which takes its size in f32.
    pub fn val(&self) -> Tensor<2> {
        match self {
            Self::Tensor(tensor) => tensor.val(),
            Self::Packed(matrix) => matrix.unpacked(0..matrix.dims()[0]),
        }
    }

    /// Some rows of [`val`](Self::val), without autodiff.
    pub(crate) fn rows(&self, rows: Range<usize>) -> Tensor<2> {
        match self {
            Self::Tensor(tensor) => {
                let tensor = tensor.val().without_autodiff();
                let [_, width] = tensor.dims();
                tensor.slice([rows, 0..width])
            }
            Self::Packed(matrix) => matrix.unpacked(rows),
        }
    }

    /// The weight without Burn's quantization, whose rows cannot be sliced.
    pub(crate) fn without_scales(&self) -> Self {
        match self {
            Self::Tensor(tensor) if self.is_quantized() => tensor.val().dequantize().into(),
            _ => self.clone(),
        }
    }

    /// The rows of these numbers, `[ids, in]`.
    pub(crate) fn select(&self, ids: &[u32]) -> Tensor<2> {
        match self {
            Self::Tensor(tensor) => {
                let tensor = tensor.val();
                let ids = super::indices(ids.iter().map(|id| *id as usize), &tensor.device());
                tensor.select(0, ids)
            }
            Self::Packed(matrix) => matrix.select(ids),
        }
    }

    /// Changes the values; a packed matrix becomes a tensor in f32.
    #[must_use]
    pub fn map(self, change: impl FnOnce(Tensor<2>) -> Tensor<2>) -> Self {
        match self {
            Self::Tensor(tensor) => Self::Tensor(tensor.map(change)),
            Self::Packed(_) => change(self.val()).into(),
        }
    }

    /// The device: the CPU for a packed matrix.
    pub fn device(&self) -> Device {
        match self {
            Self::Tensor(tensor) => tensor.val().device(),
            Self::Packed(_) => Device::flex(),
        }
    }

    /// The compute type of products with this weight: f32 for a packed matrix.
    pub fn dtype(&self) -> DType {
        match self {
            Self::Tensor(tensor) => tensor.val().dtype(),
            Self::Packed(_) => DType::F32,
        }
    }

    /// Whether a gradient of this weight is computed.
    pub fn is_require_grad(&self) -> bool {
        matches!(self, Self::Tensor(tensor) if tensor.val().is_require_grad())
    }

    /// Whether the values are stored in fewer bits than any type of computation has.
    pub fn is_quantized(&self) -> bool {
        match self {
            Self::Tensor(tensor) => matches!(tensor.val().dtype(), DType::QFloat(_)),
            Self::Packed(matrix) => matrix.formats().any(|format| format.block_elements() > 1),
        }
    }

    /// The packed matrix, if this is one.
    pub fn packed(&self) -> Option<&PackedMatrix> {
        match self {
            Self::Tensor(_) => None,
            Self::Packed(matrix) => Some(matrix),
        }
    }

    /// The weight as a tensor of a compute type; one that is a tensor of such a type is unchanged.
    #[must_use]
    pub(crate) fn unpacked(&self, dtype: DType) -> Self {
        match self.is_quantized() || self.packed().is_some() {
            true => self.without_scales().val().cast(dtype).into(),
            false => self.clone(),
        }
    }
}
