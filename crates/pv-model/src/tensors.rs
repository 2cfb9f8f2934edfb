//! Between tensors and slices.

use burn::tensor::Tensor;

use crate::{Error, Result};

/// The values of a tensor, row-major, in f32.
///
/// # Errors
/// [`Error::Device`] when the device failed to compute or to hand them over.
pub fn to_f32<const D: usize>(tensor: Tensor<D>) -> Result<Vec<f32>> {
    let device = |reason: String| Error::Device { reason };
    let data = tensor.try_into_data().map_err(|error| device(format!("{error:?}")))?;
    data.convert::<f32>().try_into_vec().map_err(|error| device(format!("{error:?}")))
}
