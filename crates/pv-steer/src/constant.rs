//! Constants that stay on the device between passes.

use burn::tensor::{DType, Device, Tensor, TensorData};
use pv_vectors::Direction;

use crate::Result;
use crate::error::SteeringError;

/// The unit vector of a direction, `[d_model]`, rounded once.
pub(crate) fn unit_values(direction: &Direction) -> Result<Vec<f32>> {
    let norm = direction.norm();
    if norm == 0.0 || !norm.is_finite() {
        return Err(SteeringError::Degenerate { layer: direction.layer }.into());
    }
    Ok(direction.values.iter().map(|value| (f64::from(*value) / norm) as f32).collect())
}

/// Rows of one width, uploaded when a device first needs them.
#[derive(Debug)]
pub(crate) struct Constant {
    /// The values, row by row.
    pub(crate) values: Vec<f32>,
    pub(crate) width: usize,
    on_device: Option<(Device, DType, Tensor<3>)>,
}

impl Constant {
    pub(crate) fn new(values: Vec<f32>, width: usize) -> Self {
        Self { values, width, on_device: None }
    }

    /// The rows as `[1, rows, width]`, on this device without autodiff. They are constants, and a tensor made for a
    /// training pass may be combined with a plain one next.
    pub(crate) fn on(&mut self, device: &Device, dtype: DType) -> Tensor<3> {
        let device = device.clone().without_autodiff();
        match &self.on_device {
            Some((known, known_dtype, tensor)) if *known == device && *known_dtype == dtype => tensor.clone(),
            _ => {
                let rows = self.values.len() / self.width.max(1);
                let tensor = to(upload(self.values.clone(), [1, rows, self.width], &device), dtype);
                self.on_device = Some((device, dtype, tensor.clone()));
                tensor
            }
        }
    }
}

/// A constant in f32, without autodiff.
pub(crate) fn upload(values: Vec<f32>, shape: [usize; 3], device: &Device) -> Tensor<3> {
    Tensor::from_data(TensorData::new(values, shape), (&device.clone().without_autodiff(), DType::F32))
}

/// The tensor in another element type, unchanged if it already has that type.
pub(crate) fn to(tensor: Tensor<3>, dtype: DType) -> Tensor<3> {
    if tensor.dtype() == dtype { tensor } else { tensor.cast(dtype) }
}

/// The projection of every token on a unit vector, from `[batch, seq, d_model]` and `[1, 1, d_model]` to `[batch, seq,
/// 1]`, both in f32. This is not a matrix product, because a token's sum must not depend on the number of tokens.
pub(crate) fn along(residual: &Tensor<3>, unit: &Tensor<3>) -> Tensor<3> {
    (residual.clone() * unit.clone()).sum_dim(2)
}
