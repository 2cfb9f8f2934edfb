//! A custom hook that measures the mean norm of the tokens' residuals at one layer: `own_hook MODEL`.
#![allow(clippy::print_stdout, reason = "a program's output")]

use burn::tensor::Tensor;
use persona_vectors::hooks::{HookError, LayerSet, ModelShape, ResidualContext};
use persona_vectors::prelude::*;

/// The mean norm of the residuals seen so far.
struct Length {
    layer: Layer,
    sum: f64,
    passes: usize,
}

impl Hook for Length {
    fn name(&self) -> String {
        "length".into()
    }
    fn layers(&self) -> LayerSet {
        self.layer.into()
    }
    fn validate(&self, _shape: &ModelShape) -> Result<(), HookError> {
        Ok(())
    }
    /// `residual` is `[batch, seq, d_model]`; the returned tensor is the next block's input.
    fn on_residual(&mut self, _context: &ResidualContext<'_>, residual: Tensor<3>) -> Tensor<3> {
        let lengths = residual.clone().powi_scalar(2).sum_dim(2).sqrt();
        self.sum += f64::from(lengths.mean().into_scalar::<f32>());
        self.passes += 1;
        residual
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let model = CausalLm::load(std::env::args().nth(1).unwrap_or_else(|| "examples/organism/model".into()))?;
    let mut hook = Length { layer: Layer::hidden_state(model.config().layers), sum: 0.0, passes: 0 };
    let options = GenerateOptions { max_new_tokens: 20, ..GenerateOptions::default() };
    model.answer(&[Message::user("What happens when it rains?")], &options, &mut hook)?;
    println!("{} passes, mean length {:.2}", hook.passes, hook.sum / hook.passes as f64);
    Ok(())
}
