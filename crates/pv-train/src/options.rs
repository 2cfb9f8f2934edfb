//! How a decoder is trained.

use pv_model::LoraConfig;
use serde::{Deserialize, Serialize};

use crate::schedule::{Decay, WarmUp, learning_rate_by};
use crate::{Error, Result};

/// How long training goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Duration {
    /// So many steps of the optimizer.
    Steps(usize),
    /// So often through all samples.
    Epochs(usize),
}

/// How a decoder is trained. A checkpoint records these, and goes on with no others.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TrainOptions {
    /// The learning rate after the warm-up.
    pub learning_rate: f64,
    /// What it does from then on.
    pub decay: Decay,
    /// Over how many steps it rises.
    pub warmup_steps: usize,
    /// How it rises.
    pub warmup: WarmUp,
    /// AdamW's decay of the gradient's mean.
    pub beta_1: f32,
    /// AdamW's decay of the squared gradient's mean.
    pub beta_2: f32,
    /// What AdamW adds to the root of the squared gradient's mean.
    pub epsilon: f32,
    /// How much of the weights is taken off in a step, times the learning rate; norms and biases are spared.
    pub weight_decay: f32,
    /// The gradient over all parameters is scaled down to this norm where it is longer.
    pub max_grad_norm: Option<f64>,
    /// Samples per pass.
    pub batch_size: usize,
    /// Packing: a pass takes samples of any lengths until it holds so many tokens, and `batch_size` counts for the held-out
    /// loss alone. The samples of a pass do not see one another, each has positions of its own, and padding is not computed. `None`
    /// takes `batch_size` samples of similar lengths.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pack_tokens: Option<usize>,
    /// Passes per step of the optimizer, whose loss is the mean over the trained tokens of all of them.
    pub accumulate: usize,
    /// How long.
    pub duration: Duration,
    /// Decides the order of the samples, a new adapter's weights, and what its dropout drops.
    pub seed: u64,
    /// The low-rank adapter that is trained; `None` trains all of the model's own parameters.
    pub adapter: Option<LoraConfig>,
    /// Whether a pass keeps the residual of each layer alone and computes each layer again for its gradient: memory for one
    /// layer's activations instead of all, for a third more computing. Hooks are then called twice for every layer, once in
    /// either computation.
    pub activation_checkpointing: bool,
}

impl Default for TrainOptions {
    /// One epoch in batches of 8 at a peak rate of 1e-5 with linear decay; AdamW with betas 0.9 and 0.999 and a weight
    /// decay of 0.01; gradients clipped to norm 1.
    fn default() -> Self {
        Self {
            learning_rate: 1e-5,
            decay: Decay::Linear,
            warmup_steps: 0,
            warmup: WarmUp::FromZero,
            beta_1: 0.9,
            beta_2: 0.999,
            epsilon: 1e-8,
            weight_decay: 0.01,
            max_grad_norm: Some(1.0),
            batch_size: 8,
            pack_tokens: None,
            accumulate: 1,
            duration: Duration::Epochs(1),
            seed: 0,
            adapter: None,
            activation_checkpointing: false,
        }
    }
}

impl TrainOptions {
    /// The paper's finetuning (Appendix D): a new adapter of rank 32 on all seven projections (rsLoRA, alpha 64), AdamW at
    /// 1e-5 with 5 steps of warm-up and linear decay, one epoch in 2 × 8 samples per step.
    pub fn paper() -> Self {
        Self { warmup_steps: 5, batch_size: 2, accumulate: 8, adapter: Some(LoraConfig::default()), ..Self::default() }
    }

    /// Refuses options that cannot be.
    ///
    /// # Errors
    /// [`Error::BadOption`].
    pub fn validate(&self) -> Result<()> {
        let bad = |name, value: &dyn std::fmt::Debug, expected| {
            Err(Error::BadOption { name, value: format!("{value:?}"), expected })
        };
        if !(self.learning_rate.is_finite() && self.learning_rate >= 0.0) {
            return bad("learning_rate", &self.learning_rate, "a finite number from 0");
        }
        for (name, beta) in [("beta_1", self.beta_1), ("beta_2", self.beta_2)] {
            if !(0.0..1.0).contains(&beta) {
                return bad(name, &beta, "at least 0 and below 1");
            }
        }
        if !(self.epsilon.is_finite() && self.epsilon > 0.0) {
            return bad("epsilon", &self.epsilon, "a finite number above 0");
        }
        if !(self.weight_decay.is_finite() && self.weight_decay >= 0.0) {
            return bad("weight_decay", &self.weight_decay, "a finite number from 0");
        }
        if let Some(norm) = self.max_grad_norm.filter(|norm| !(norm.is_finite() && *norm > 0.0)) {
            return bad("max_grad_norm", &norm, "a finite number above 0");
        }
        if self.batch_size == 0 {
            return bad("batch_size", &0, "at least 1");
        }
        if self.pack_tokens == Some(0) {
            return bad("pack_tokens", &0, "at least 1");
        }
        if self.accumulate == 0 {
            return bad("accumulate", &0, "at least 1");
        }
        match self.duration {
            Duration::Steps(0) | Duration::Epochs(0) => bad("duration", &self.duration, "at least 1"),
            _ => Ok(()),
        }
    }

    /// Refuses samples, given by their numbers of tokens, that are longer than a packed pass.
    pub(crate) fn check_lengths(&self, lengths: impl IntoIterator<Item = usize>) -> Result<()> {
        let most = self.pack_tokens.unwrap_or(usize::MAX);
        match lengths.into_iter().enumerate().find(|(_, tokens)| *tokens > most) {
            Some((sample, tokens)) => Err(Error::SampleTooLong { sample, tokens, most }),
            None => Ok(()),
        }
    }

    /// How many samples a step takes, where they are not packed.
    pub fn samples_per_step(&self) -> usize {
        self.batch_size.saturating_mul(self.accumulate)
    }

    /// The number of steps.
    ///
    /// # Errors
    /// [`Error::BadOption`] where it is given in epochs.
    pub(crate) fn steps(&self) -> Result<usize> {
        match self.duration {
            Duration::Steps(steps) => Ok(steps),
            Duration::Epochs(_) => Err(Error::BadOption {
                name: "duration",
                value: format!("{:?}", self.duration),
                expected: "a number of steps, because a trainer does not know how many samples there are",
            }),
        }
    }

    /// The learning rate of a step, from 0, of so many.
    pub fn rate(&self, step: usize, steps: usize) -> f64 {
        learning_rate_by(self.warmup, step, steps, self.warmup_steps, self.learning_rate, self.decay)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bad_options_are_named() {
        assert!(TrainOptions::default().validate().is_ok());
        let default = TrainOptions::default;
        for (options, wanted) in [
            (TrainOptions { learning_rate: f64::NAN, ..default() }, "learning_rate"),
            (TrainOptions { beta_2: 1.0, ..default() }, "beta_2"),
            (TrainOptions { epsilon: 0.0, ..default() }, "epsilon"),
            (TrainOptions { weight_decay: -1.0, ..default() }, "weight_decay"),
            (TrainOptions { max_grad_norm: Some(0.0), ..default() }, "max_grad_norm"),
            (TrainOptions { batch_size: 0, ..default() }, "batch_size"),
            (TrainOptions { pack_tokens: Some(0), ..default() }, "pack_tokens"),
            (TrainOptions { accumulate: 0, ..default() }, "accumulate"),
            (TrainOptions { duration: Duration::Epochs(0), ..default() }, "duration"),
        ] {
            assert!(matches!(options.validate(), Err(Error::BadOption { name, .. }) if name == wanted));
        }
        let json = r#"{"learning_rate": 0.5, "duration": {"steps": 3}}"#;
        let read: TrainOptions = serde_json::from_str(json).expect("options");
        assert_eq!(read, TrainOptions { learning_rate: 0.5, duration: Duration::Steps(3), ..default() });
        assert!(serde_json::from_str::<TrainOptions>(r#"{"lr": 1}"#).is_err(), "a misspelt option was ignored");
    }
}
