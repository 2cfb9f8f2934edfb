//! Options of training.

use pv_model::LoraConfig;
use pv_model::adapter::LoraTarget;
use pv_model::decoder::WeightBits;
use pv_train::run::{BestRule, Keep};
use pv_train::trainer::Duration;
use pv_train::{RunOptions, TrainOptions};

use crate::Result;

/// Which step's weights are the result.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum KeepArg {
    Last,
    Best,
}

/// Options of training.
#[derive(clap::Args, Debug)]
pub(super) struct TrainingArgs {
    /// The adapter's rank.
    #[arg(long, default_value_t = 32)]
    rank: usize,
    /// The adapter's alpha.
    #[arg(long, default_value_t = 64.0)]
    alpha: f64,
    /// The adapter's dropout.
    #[arg(long, default_value_t = 0.0)]
    dropout: f64,
    /// The projections that the adapter updates, such as q_proj,v_proj; all seven by default.
    #[arg(long, value_delimiter = ',')]
    targets: Vec<String>,
    /// Train all parameters instead of an adapter.
    #[arg(long)]
    pub(super) full: bool,
    /// The bits of the frozen weights under the adapter: 8 or 4.
    #[arg(long, conflicts_with = "full", value_parser = base_bits)]
    pub(super) base_bits: Option<WeightBits>,
    /// The peak learning rate.
    #[arg(long, default_value_t = 1e-5)]
    learning_rate: f64,
    /// The number of passes through the data.
    #[arg(long, default_value_t = 1)]
    epochs: usize,
    /// The number of steps, instead of epochs.
    #[arg(long)]
    steps: Option<usize>,
    /// The number of samples per forward pass.
    #[arg(long, default_value_t = 2)]
    batch_size: usize,
    /// Pack samples of any length into passes of this many tokens, instead of --batch-size samples of similar length.
    #[arg(long)]
    pack_tokens: Option<usize>,
    /// The number of forward passes per step (gradient accumulation).
    #[arg(long, default_value_t = 8)]
    accumulate: usize,
    /// The seed of the sample order, the adapter and the split.
    #[arg(long, default_value_t = 0)]
    pub(super) seed: u64,
    /// Recompute activations in the backward pass: less memory, a third more time.
    #[arg(long)]
    checkpointing: bool,
    /// The number of steps between checkpoints.
    #[arg(long, default_value_t = 50)]
    checkpoint_every: usize,
    /// The number of steps between measurements of the held-out loss and the shift.
    #[arg(long, default_value_t = 10)]
    measure_every: usize,
    /// Which step's weights are the result. By default the last step's; for a run with a closed loop, --patience or
    /// --extend, the best step's.
    #[arg(long)]
    keep: Option<KeepArg>,
    /// Choose the best step only among steps with shifts of at most this much from zero, in activation units.
    #[arg(long)]
    max_shift: Option<f64>,
    /// The same limit for the shift that a closed loop follows, in multiples of its vector's norm; 0.25 by default.
    #[arg(long)]
    max_loop_shift: Option<f64>,
    /// Early stopping: stop after this many measurements in a row without improvement.
    #[arg(long, alias = "stop-after")]
    patience: Option<usize>,
    /// Resume a finished run with more steps or epochs.
    #[arg(long, alias = "grow")]
    extend: bool,
}

fn base_bits(text: &str) -> Result<WeightBits, String> {
    match text {
        "8" => Ok(WeightBits::Eight),
        "4" => Ok(WeightBits::Four),
        other => Err(format!("{other:?} is neither 8 nor 4")),
    }
}

impl TrainingArgs {
    pub(super) fn options(&self) -> Result<RunOptions> {
        let target = |name: &String| {
            let known = LoraTarget::ALL.into_iter().find(|target| target.name() == name);
            known.ok_or_else(|| {
                format!(
                    "there is no projection {name:?}; choose from {}",
                    LoraTarget::ALL.map(LoraTarget::name).join(", ")
                )
            })
        };
        let mut lora =
            LoraConfig { rank: self.rank, alpha: self.alpha, dropout: self.dropout, ..LoraConfig::default() };
        if !self.targets.is_empty() {
            lora.targets = self.targets.iter().map(target).collect::<Result<_, _>>()?;
        }
        let train = TrainOptions {
            learning_rate: self.learning_rate,
            batch_size: self.batch_size,
            pack_tokens: self.pack_tokens,
            accumulate: self.accumulate,
            duration: self.steps.map_or(Duration::Epochs(self.epochs), Duration::Steps),
            seed: self.seed,
            adapter: (!self.full).then_some(lora),
            activation_checkpointing: self.checkpointing,
            ..TrainOptions::paper()
        };
        let (checkpoint_every, measure_every) = (self.checkpoint_every, self.measure_every);
        let (stop_after, grow, keep) = (self.patience, self.extend, self.keep()?);
        Ok(RunOptions { train, checkpoint_every, measure_every, keep, stop_after, grow })
    }

    fn keep(&self) -> Result<Option<Keep>> {
        let bounded = self.max_shift.is_some() || self.max_loop_shift.is_some();
        match self.keep {
            Some(KeepArg::Last) if bounded => {
                Err("--max-shift and --max-loop-shift restrict the choice of the best step, and --keep last makes no choice".into())
            }
            Some(KeepArg::Last) => Ok(Some(Keep::Last)),
            None if !bounded => Ok(None),
            _ => {
                let rule = BestRule::default();
                let max_loop_shift = self.max_loop_shift.unwrap_or(rule.max_loop_shift);
                Ok(Some(Keep::Best(BestRule { max_shift: self.max_shift, max_loop_shift })))
            }
        }
    }
}
