//! Numbers that are copied to a device once for all layers of a pass.

use burn::tensor::{DType, Device, Int, Tensor, TensorData};

/// The lists that were used last, and their tensors. Layers of a pass use the same ones.
#[derive(Debug, Default)]
pub(super) struct Uploads {
    indices: Vec<(Vec<usize>, Device, Tensor<1, Int>)>,
    masks: Vec<(Vec<f32>, Device, Tensor<1>)>,
}

/// The number of lists that are kept of each kind: more than the captures of a pass need.
const KEPT: usize = 16;

impl Uploads {
    /// Indices, `[n]`.
    pub(super) fn indices(&mut self, values: &[usize], device: &Device) -> Tensor<1, Int> {
        kept(&mut self.indices, values, device, || {
            let values: Vec<i64> = values.iter().map(|&v| v as i64).collect();
            let len = values.len();
            Tensor::from_data(TensorData::new(values, [len]), device)
        })
    }

    /// Factors, `[n]` in f32.
    pub(super) fn factors(&mut self, values: &[f32], device: &Device) -> Tensor<1> {
        kept(&mut self.masks, values, device, || {
            Tensor::from_data(TensorData::new(values.to_vec(), [values.len()]), (device, DType::F32))
        })
    }
}

fn kept<V: Clone + PartialEq, T: Clone>(
    all: &mut Vec<(Vec<V>, Device, T)>,
    values: &[V],
    device: &Device,
    make: impl FnOnce() -> T,
) -> T {
    if let Some((_, _, tensor)) = all.iter().find(|(known, of, _)| of == device && known == values) {
        return tensor.clone();
    }
    let tensor = make();
    if all.len() == KEPT {
        all.remove(0);
    }
    all.push((values.to_vec(), device.clone(), tensor.clone()));
    tensor
}
