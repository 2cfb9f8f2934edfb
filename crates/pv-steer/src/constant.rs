//! Numbers that stay on the device between passes.

use burn::tensor::{DType, Device, Tensor, TensorData};

/// Rows of one width, uploaded when a device asks for them first.
#[derive(Debug)]
pub(crate) struct Constant {
    /// Row after row.
    pub(crate) values: Vec<f32>,
    pub(crate) width: usize,
    on_device: Option<(Device, DType, Tensor<3>)>,
}

impl Constant {
    pub(crate) fn new(values: Vec<f32>, width: usize) -> Self {
        Self { values, width, on_device: None }
    }

    /// The rows as `[1, rows, width]`, beside a tensor of this device. Never on an autodiff device: it is a constant, and
    /// a tensor that was made for a training pass may meet a plain one next.
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

/// The tensor in another element type; itself where it has that type.
pub(crate) fn to(tensor: Tensor<3>, dtype: DType) -> Tensor<3> {
    if tensor.dtype() == dtype { tensor } else { tensor.cast(dtype) }
}

/// The projection of every token on a unit vector, `[batch, seq, d_model]` and `[1, 1, d_model]` to `[batch, seq, 1]`, both
/// in f32. Not a matrix product: a token's sum must not depend on how many tokens there are.
pub(crate) fn along(residual: &Tensor<3>, unit: &Tensor<3>) -> Tensor<3> {
    (residual.clone() * unit.clone()).sum_dim(2)
}
