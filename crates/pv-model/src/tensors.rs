//! Copies tensors to the host.

use burn::tensor::Tensor;

use crate::Result;
use crate::device::DeviceError;

/// The values of a tensor, row-major, in f32.
///
/// # Errors
/// [`DeviceError::Failed`] if the device failed to compute or to return them.
pub fn to_f32<const D: usize>(tensor: Tensor<D>) -> Result<Vec<f32>> {
    let data = tensor.try_into_data().map_err(|source| DeviceError::Failed { source: source.into() })?;
    let values = data.convert::<f32>().try_into_vec();
    Ok(values.map_err(|source| DeviceError::Failed { source: source.into() })?)
}
