//! The options of training.

use pv_model::LoraConfig;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::schedule::{Decay, WarmUp, learning_rate_by};
use crate::{Error, Result};

/// The duration of training.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Duration {
    /// This many steps of the optimizer.
    Steps(usize),
    /// This many passes through all samples.
    Epochs(usize),
}

/// The options of training. A checkpoint records them, and resumes with options that give the same result.
///
/// These may change when training resumes: [`activation_checkpointing`](Self::activation_checkpointing), and the division
/// of a step's samples into passes, which is `batch_size` and `accumulate` with the same product (not with dropout, which
/// drops other inputs in other passes), or with `pack_tokens` the `batch_size` alone. Sums are then formed in another
/// order, so that the result is the same up to rounding. The [`duration`](Self::duration) may become longer if the learning
/// rate does not depend on it ([`Decay::Constant`]); the result is then that of a run of this duration.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TrainOptions {
    /// The peak learning rate, after the warm-up.
    pub learning_rate: f64,
    /// The schedule of the learning rate after the warm-up.
    pub decay: Decay,
    /// The number of steps of the warm-up.
    pub warmup_steps: usize,
    /// The rule of the warm-up.
    pub warmup: WarmUp,
    /// AdamW's decay rate of the gradient's running mean.
    pub beta_1: f32,
    /// AdamW's decay rate of the squared gradient's running mean.
    pub beta_2: f32,
    /// The constant that AdamW adds to the root of the squared gradient's mean.
    pub epsilon: f32,
    /// The fraction of the weights that is subtracted in a step, times the learning rate; norms and biases have no
    /// weight decay.
    pub weight_decay: f32,
    /// The gradient over all parameters is scaled down to this norm if its norm is larger.
    pub max_grad_norm: Option<f64>,
    /// The number of samples per pass. The memory of a pass grows with it; the result depends only on
    /// [`samples_per_step`](Self::samples_per_step), up to rounding.
    pub batch_size: usize,
    /// Packing: a pass takes samples of any lengths up to this many tokens in total, and `batch_size` applies only to
    /// the held-out loss. The samples of a pass do not attend to one another, each has its own positions, and padding
    /// is not computed. With `None`, a pass takes `batch_size` samples of similar lengths.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pack_tokens: Option<usize>,
    /// The number of passes per step of the optimizer. The loss is the mean over the trained tokens of all of them.
    pub accumulate: usize,
    /// The duration of training.
    pub duration: Duration,
    /// The seed of the order of the samples, a new adapter's weights, and its dropout.
    pub seed: u64,
    /// The low-rank adapter that is trained; `None` trains all of the model's own parameters.
    pub adapter: Option<LoraConfig>,
    /// Whether a pass keeps only the residual of each layer and computes each layer again for its gradient. This takes
    /// memory for one layer's activations instead of all, and about a third more computation. Hooks are then called
    /// twice for every layer, once in each computation.
    pub activation_checkpointing: bool,
}

impl Default for TrainOptions {
    /// One epoch in batches of 8 at a peak learning rate of 1e-5 with linear decay; AdamW with betas 0.9 and 0.999 and
    /// a weight decay of 0.01; gradients clipped to norm 1.
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
    /// The paper's finetuning (Appendix D): a new adapter of rank 32 on all seven projections (rsLoRA, alpha 64), AdamW
    /// at 1e-5 with 5 steps of warm-up and linear decay, one epoch in 2 × 8 samples per step.
    pub fn paper() -> Self {
        Self { warmup_steps: 5, batch_size: 2, accumulate: 8, adapter: Some(LoraConfig::default()), ..Self::default() }
    }

    /// Refuses invalid options.
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

    /// The number of samples in a step without packing.
    pub fn samples_per_step(&self) -> usize {
        self.batch_size.saturating_mul(self.accumulate)
    }

    /// The number of steps.
    ///
    /// # Errors
    /// [`Error::BadOption`] if the duration is given in epochs.
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

    /// The learning rate of a step, counted from 0, in a run of `steps` steps.
    pub fn rate(&self, step: usize, steps: usize) -> f64 {
        learning_rate_by(self.warmup, step, steps, self.warmup_steps, self.learning_rate, self.decay)
    }
}

/// Stored options without the duration, which is compared as a number of steps, and without everything that changes
/// results by no more than rounding.
pub(crate) fn result_options(options: &Value) -> Value {
    let Some(all) = options.as_object() else { return options.clone() };
    let packed = all.get("pack_tokens").is_some_and(|tokens| !tokens.is_null());
    let dropout = options.pointer("/adapter/dropout").and_then(Value::as_f64).is_some_and(|dropout| dropout > 0.0);
    let counts = |name: &str| match name {
        "activation_checkpointing" | "duration" => false,
        "batch_size" => dropout && !packed,
        "accumulate" => dropout || packed,
        _ => true,
    };
    let mut kept: serde_json::Map<String, Value> =
        all.iter().filter(|(name, _)| counts(name)).map(|(name, value)| (name.clone(), value.clone())).collect();
    kept.entry("pack_tokens").or_insert(Value::Null);
    if !packed && !dropout {
        let number = |name: &str| all.get(name).and_then(Value::as_u64).unwrap_or_default();
        kept.insert("samples_per_step".to_owned(), json!(number("batch_size").saturating_mul(number("accumulate"))));
    }
    kept.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_change_results_is_not_compared() {
        let compared = |options: TrainOptions| result_options(&serde_json::to_value(options).expect("JSON"));
        let default = || TrainOptions { batch_size: 4, accumulate: 2, ..TrainOptions::default() };
        let same = |a: TrainOptions, b: TrainOptions| compared(a) == compared(b);
        assert!(same(default(), TrainOptions { batch_size: 1, accumulate: 8, ..default() }));
        assert!(same(default(), TrainOptions { activation_checkpointing: true, ..default() }));
        assert!(same(default(), TrainOptions { duration: Duration::Steps(7), ..default() }));
        assert!(!same(default(), TrainOptions { batch_size: 1, ..default() }));
        assert!(!same(default(), TrainOptions { seed: 1, ..default() }));
        // Dropout drops other inputs in other passes.
        let dropout = |batch_size, accumulate| TrainOptions {
            adapter: Some(LoraConfig { dropout: 0.1, ..LoraConfig::default() }),
            batch_size,
            accumulate,
            ..default()
        };
        assert!(!same(dropout(4, 2), dropout(2, 4)));
        // Packs determine the steps; the batch size is that of the held-out loss.
        let packed =
            |batch_size, accumulate| TrainOptions { pack_tokens: Some(64), batch_size, accumulate, ..default() };
        assert!(same(packed(4, 2), packed(1, 2)));
        assert!(!same(packed(4, 2), packed(2, 4)));
        assert!(!same(packed(4, 2), default()));
    }

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
