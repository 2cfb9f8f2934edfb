//! Hooks and penalties of a training run.

use burn::tensor::{Device, Tensor};
use pv_hooks::{Hook, Layer};
use pv_model::decoder::Decoder;
use serde_json::Value;

use crate::{Result, Sample};

/// The shift that a closed loop follows, see [`RunHook::shifts`].
#[derive(Clone, Debug, PartialEq)]
pub struct LoopShift {
    /// A unique name, such as `regime_0`.
    pub name: String,
    /// The change of the probe prompts' mean projection since the start of training, in activation units.
    pub shift: f64,
    /// The length of the vector whose coefficient follows the shift, in activation units.
    pub length: f64,
}

/// Interventions on the residual stream of a training run, which may change from step to step, and penalties that are
/// added to the loss. Every [`Hook`] is a run hook that does not change; [`Regimes`](crate::regimes::Regimes) is the
/// usual implementation.
///
/// A run hook acts only in training passes: adapters, checkpoints and saved models do not contain its effect.
pub trait RunHook: Send {
    /// Called before each step, counted from 0, with the decoder in its current state (without autodiff).
    ///
    /// # Errors
    /// Any error that stops the run.
    fn before_step(&mut self, step: usize, decoder: &Decoder) -> Result<()> {
        let _ = (step, decoder);
        Ok(())
    }

    /// Called before a run's first step with whether samples are used more than once, in which case values per sample
    /// are worth caching. If it is not called, nothing is cached.
    fn samples_repeat(&mut self, repeat: bool) {
        let _ = repeat;
    }

    /// The hook for the residual stream in the passes of the current step.
    fn hook(&mut self) -> &mut dyn Hook;

    /// The layers, above the embeddings, whose residual is penalised.
    fn penalised(&self) -> Vec<Layer> {
        Vec::new()
    }

    /// A penalty on a layer's residual `[batch, seq, d_model]`, before [`hook`](Self::hook) acts there: a sum over the
    /// tokens of the samples' answers, `[1]`. The mean over those tokens is added to the step's loss.
    ///
    /// # Errors
    /// Any error that prevents the computation of the penalty.
    fn penalty(&mut self, layer: Layer, residual: Tensor<3>, samples: &[&Sample]) -> Result<Option<Tensor<1>>> {
        let _ = (layer, residual, samples);
        Ok(None)
    }

    /// The shifts that its closed loops follow, for this decoder, without interventions.
    ///
    /// # Errors
    /// Any error that prevents the measurement.
    fn shifts(&self, decoder: &Decoder) -> Result<Vec<LoopShift>> {
        let _ = decoder;
        Ok(Vec::new())
    }

    /// The state that a checkpoint must contain, so that a resumed run equals an uninterrupted one.
    fn state(&self) -> Value {
        Value::Null
    }

    /// Restores a state that [`state`](Self::state) returned.
    ///
    /// # Errors
    /// A state of another hook.
    fn restore(&mut self, state: &Value) -> Result<()> {
        let _ = state;
        Ok(())
    }

    /// A copy for passes on another device, which run at the same time. The copy gets the state of the original
    /// ([`restore`](Self::restore)) before each step. `None` if the hook cannot be copied.
    ///
    /// # Errors
    /// Any error that prevents the copy.
    fn replica(&self, device: &Device) -> Result<Option<Box<dyn RunHook>>> {
        let _ = device;
        Ok(None)
    }

    /// Numbers of the current step for the metrics, such as coefficients, by name.
    fn metrics(&self) -> Vec<(String, f64)> {
        Vec::new()
    }
}

impl<H: Hook> RunHook for H {
    fn hook(&mut self) -> &mut dyn Hook {
        self
    }
}
