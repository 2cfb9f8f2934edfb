//! What acts on a training run beside its loss.

use burn::tensor::{Device, Tensor};
use pv_hooks::{Hook, Layer};
use pv_model::Decoder;
use serde_json::Value;

use crate::{Result, Sample};

/// The shift that a closed loop follows, see [`RunHook::shifts`].
#[derive(Clone, Debug, PartialEq)]
pub struct LoopShift {
    /// What tells it from others, such as `regime_0`.
    pub name: String,
    /// How far the probe prompts' mean projection has moved since before the training, in activation units.
    pub shift: f64,
    /// The length of the vector whose coefficient follows it.
    pub length: f64,
}

/// What acts on a training run: interventions on the residual stream that may change from step to step, and penalties that
/// are added to the loss. Every [`Hook`] is one that stays the same; [`Regimes`](crate::Regimes) are the usual ones.
///
/// Whatever is here acts on passes of training alone: adapters, checkpoints and saved models hold none of it.
pub trait RunHook: Send {
    /// Called before each step, counted from 0, with the decoder as it is (without autodiff).
    ///
    /// # Errors
    /// Anything that keeps the run from going on.
    fn before_step(&mut self, step: usize, decoder: &Decoder) -> Result<()> {
        let _ = (step, decoder);
        Ok(())
    }

    /// Says, before a run's first step, whether samples are used more than once in it: what is known of one is then worth
    /// keeping. Where nobody says, it is not.
    fn samples_repeat(&mut self, repeat: bool) {
        let _ = repeat;
    }

    /// What acts on the residual stream in the passes of the current step.
    fn hook(&mut self) -> &mut dyn Hook;

    /// The layers, above the embeddings, whose residual a penalty looks at.
    fn penalised(&self) -> Vec<Layer> {
        Vec::new()
    }

    /// A penalty on a layer's residual `[batch, seq, d_model]`, as it is before [`hook`](Self::hook) acts there: a sum over
    /// the tokens of the samples' answers, `[1]`. The step's loss grows by the mean over those tokens.
    ///
    /// # Errors
    /// Anything that keeps the penalty from being computed.
    fn penalty(&mut self, layer: Layer, residual: Tensor<3>, samples: &[&Sample]) -> Result<Option<Tensor<1>>> {
        let _ = (layer, residual, samples);
        Ok(None)
    }

    /// The shifts that its closed loops follow, as they are for this decoder, without interventions.
    ///
    /// # Errors
    /// Anything that keeps them from being measured.
    fn shifts(&self, decoder: &Decoder) -> Result<Vec<LoopShift>> {
        let _ = decoder;
        Ok(Vec::new())
    }

    /// What a checkpoint must hold for the run to go on as if it had not been interrupted.
    fn state(&self) -> Value {
        Value::Null
    }

    /// Takes over a state that [`state`](Self::state) gave.
    ///
    /// # Errors
    /// A state of something else.
    fn restore(&mut self, state: &Value) -> Result<()> {
        let _ = state;
        Ok(())
    }

    /// The same for passes on another device, which run at the same time; it takes the state of the original
    /// ([`restore`](Self::restore)) before each step. `None` where there is no such thing.
    ///
    /// # Errors
    /// Anything that keeps it from being made.
    fn replica(&self, device: &Device) -> Result<Option<Box<dyn RunHook>>> {
        let _ = device;
        Ok(None)
    }

    /// Numbers worth keeping of the current step, such as coefficients, by name.
    fn metrics(&self) -> Vec<(String, f64)> {
        Vec::new()
    }
}

impl<H: Hook> RunHook for H {
    fn hook(&mut self) -> &mut dyn Hook {
        self
    }
}
