//! Noise in the residual stream during training.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use burn::tensor::{Tensor, TensorData};
use pv_hooks::{Hook, HookError, LayerSet, ModelShape, ResidualContext};
use rand::rngs::ChaCha8Rng;
use rand::{Rng, SeedableRng};

/// Adds to every token's residual at some layers a random vector whose norm is a share of the residual's. The model must then
/// represent its information clearly, and its text stays coherent when vectors are added to the stream: a
/// narrow model learns a property that wide ones have by their width.
///
/// The first part of the training, which noise would slow down, has none; then it rises.
#[derive(Debug)]
pub struct ResidualNoise {
    layers: LayerSet,
    share: f64,
    rise: Range<usize>,
    seed: u64,
    /// The current step of the training, set from outside.
    step: Arc<AtomicUsize>,
    /// The step for which `random` was created.
    random: Option<(usize, ChaCha8Rng)>,
}

impl ResidualNoise {
    /// Noise at these layers. During the steps of `rise`, its norm rises from zero to this share of the residual's.
    /// It depends only on the seed and on the number of the step, which the caller sets in [`step`](Self::step).
    pub fn new(layers: LayerSet, share: f64, rise: Range<usize>, seed: u64) -> Self {
        Self { layers, share, rise, seed, step: Arc::default(), random: None }
    }

    /// The variable in which the number of the step is stored before it begins.
    pub fn step(&self) -> Arc<AtomicUsize> {
        Arc::clone(&self.step)
    }

    fn share_now(&self) -> f64 {
        let risen = self.step.load(Ordering::Relaxed).saturating_sub(self.rise.start);
        self.share * (risen as f64 / self.rise.len().max(1) as f64).min(1.0)
    }

    fn random(&mut self) -> &mut ChaCha8Rng {
        let step = self.step.load(Ordering::Relaxed);
        let random = match self.random.take() {
            Some((known, random)) if known == step => random,
            _ => {
                let mut random = ChaCha8Rng::seed_from_u64(self.seed);
                random.set_stream(step as u64);
                random
            }
        };
        &mut self.random.insert((step, random)).1
    }
}

impl Hook for ResidualNoise {
    fn name(&self) -> String {
        "residual noise".into()
    }

    fn layers(&self) -> LayerSet {
        self.layers.clone()
    }

    fn validate(&self, _shape: &ModelShape) -> Result<(), HookError> {
        Ok(())
    }

    fn on_residual(&mut self, _context: &ResidualContext<'_>, residual: Tensor<3>) -> Tensor<3> {
        let share = self.share_now();
        if share == 0.0 {
            return residual;
        }
        let dims = residual.dims();
        // Uniform numbers of variance 1.
        let mut bytes = vec![0; 2 * dims.iter().product::<usize>()];
        self.random().fill_bytes(&mut bytes);
        let uniform = |pair: &[u8]| (f32::from(u16::from_le_bytes([pair[0], pair[1]])) / 65535.0 - 0.5) * 3.464_101_6;
        let values: Vec<f32> = bytes.chunks_exact(2).map(uniform).collect();
        let noise = Tensor::<3>::from_data(TensorData::new(values, dims), &residual.device());
        let rms = residual.clone().detach().powf_scalar(2.0).mean_dim(2).sqrt();
        residual + noise * rms * share
    }
}
