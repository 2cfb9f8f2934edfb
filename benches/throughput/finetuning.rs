//! Steps of finetuning with a low-rank adapter.

use std::collections::BTreeMap;
use std::time::Instant;

use pv_examples::Result;
use pv_hooks::{Layer, NoHook};
use pv_model::adapter::{LoraTarget, LoraWeights};
use pv_model::{Adapter, CausalLm, LoraConfig};
use pv_steer::{Coefficient, Positions, Steerer};
use pv_train::trainer::{Decay, Duration, RunHook};
use pv_train::{Sample, TrainOptions, Trainer};
use pv_vectors::Direction;

use crate::measured::{Measured, ids, wave};

/// So many steps are taken in a run.
const STEPS: usize = 3;
const ROWS: usize = 2;
const SEQ: usize = 256;

/// Tokens read in a step.
pub(crate) const STEP_TOKENS: usize = ROWS * SEQ;

/// Lengths of samples that make up a step's tokens too.
const LENGTHS: [usize; 5] = [256, 40, 120, 72, 24];

/// Steps of AdamW on the paper's adapter (rank 32 on all seven projections, rsLoRA), from a new one, every token of two rows
/// trained. The check is the last step's loss, which the updates before it have changed.
pub(crate) fn finetune(model: &CausalLm, checkpointed: bool, steered: bool) -> Result<Measured> {
    let options = TrainOptions { batch_size: ROWS, activation_checkpointing: checkpointed, ..options() };
    let middle = Layer::hidden_state(model.config().layers / 2);
    let direction = Direction { layer: middle, values: wave(model), mean_residual_norm: None };
    let mut steerer = Steerer::new().add(&direction, Coefficient::Raw(1.0), Positions::All)?;
    let run: &mut dyn RunHook = if steered { &mut steerer } else { &mut NoHook };
    steps(model, &[SEQ; ROWS], options, run)
}

/// The same steps on rows of several lengths, in one pass.
pub(crate) fn packed(model: &CausalLm) -> Result<Measured> {
    steps(model, &LENGTHS, TrainOptions { pack_tokens: Some(STEP_TOKENS), ..options() }, &mut NoHook)
}

fn options() -> TrainOptions {
    TrainOptions {
        learning_rate: 1e-3,
        decay: Decay::Constant,
        duration: Duration::Steps(STEPS),
        ..TrainOptions::default()
    }
}

fn steps(model: &CausalLm, lengths: &[usize], options: TrainOptions, run: &mut dyn RunHook) -> Result<Measured> {
    let mut trainer = Trainer::on_adapter(model.decoder(), &adapter(model)?, options)?;
    let rows = lengths.iter().enumerate();
    let samples = rows
        .map(|(row, length)| Sample::new(ids(model, row, *length), vec![true; *length]))
        .collect::<Result<Vec<_>, _>>()?;
    let start = Instant::now();
    let mut loss = f64::NAN;
    for _ in 0..STEPS {
        loss = trainer.step(&samples, run)?.loss;
    }
    let seconds = start.elapsed().as_secs_f64();
    Ok(Measured { tokens: STEPS * STEP_TOKENS, seconds, check: Some(loss) })
}

/// An adapter that is the same in the peer's script: B zero, A from a formula.
fn adapter(model: &CausalLm) -> Result<Adapter> {
    let config = LoraConfig::default();
    let mut weights = BTreeMap::new();
    for block in 0..model.config().layers {
        for (number, target) in LoraTarget::ALL.into_iter().enumerate() {
            let Some((inputs, outputs)) = target.widths(model.config(), block) else { continue };
            let shift = (13 * block + 7 * number) as f64;
            let value = |i: usize| ((0.7 * i as f64 + shift).sin() / (inputs as f64).sqrt()) as f32;
            let a = (0..config.rank * inputs).map(value).collect();
            let b = vec![0.0; outputs * config.rank];
            weights.insert((block, target), LoraWeights { a, b, inputs, outputs });
        }
    }
    Ok(Adapter::new(config, None, weights)?)
}
