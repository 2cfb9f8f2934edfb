//! Penalties on the change of projections since the start of finetuning.

use std::collections::HashMap;

use burn::tensor::{DType, Tensor, TensorData};
use pv_hooks::{Layer, NoHook};
use pv_model::decoder::{Decoder, Pass, to_f32};
use pv_vectors::UnitDirection;
use sha2::{Digest, Sha256};

use crate::collate::{answer_rows, collate};
use crate::gradients::Tap;
use crate::loss::{indices, whole};
use crate::{Result, Sample};

/// The penalties of a run, and the base model's projections that they compare with.
///
/// The base model reads each training pass once for all penalties. If samples repeat, the base model reads each sample
/// alone and only once: in a batch, the last bits of its projections would depend on the other samples, and a resumed
/// run would differ from an uninterrupted one.
#[derive(Default)]
pub(crate) struct Penalties {
    all: Vec<Penalty>,
    repeated: bool,
    /// The most recently read pass.
    pass: Option<(Vec<Key>, Vec<Projections>)>,
    /// The projections of repeated samples.
    known: HashMap<Key, Projections>,
    /// The number of passes that the base model has read.
    passes: usize,
}

struct Penalty {
    unit: UnitDirection,
    weight: f64,
}

/// The first 16 bytes of a SHA-256 over everything that determines a sample's projections.
type Key = [u8; 16];

/// Each penalty's projections at the answer tokens of a sample under the base model, `[penalties][tokens]`.
type Projections = Vec<Vec<f32>>;

fn key(sample: &Sample) -> Key {
    let mut hash = Sha256::new();
    hash.update((sample.ids().len() as u64).to_le_bytes());
    sample.ids().iter().for_each(|id| hash.update(id.to_le_bytes()));
    for answer in sample.answers() {
        hash.update((answer.start as u64).to_le_bytes());
        hash.update((answer.end as u64).to_le_bytes());
    }
    let hash: [u8; 32] = hash.finalize().into();
    let mut key = Key::default();
    key.copy_from_slice(&hash[..16]);
    key
}

/// The projections `h·v̂` at the given rows of a residual `[batch, seq, d_model]`: `[rows]` in f32, in activation
/// units.
fn projections(residual: Tensor<3>, rows: Vec<i64>, unit: &UnitDirection) -> Tensor<1> {
    let [batch, seq, d_model] = residual.dims();
    let n = rows.len();
    let device = residual.device().without_autodiff();
    let rows = residual.reshape([batch * seq, d_model]).select(0, indices(rows, &device)).cast(DType::F32);
    let unit = TensorData::new(unit.values().to_vec(), [d_model, 1]);
    rows.matmul(Tensor::from_data(unit, (&device, DType::F32))).reshape([n])
}

impl Penalties {
    pub(crate) fn add(&mut self, unit: UnitDirection, weight: f64) {
        self.all.push(Penalty { unit, weight });
    }

    /// The same penalties, without cached projections.
    pub(crate) fn afresh(&self) -> Self {
        let copy = |penalty: &Penalty| Penalty { unit: penalty.unit.clone(), weight: penalty.weight };
        Self { all: self.all.iter().map(copy).collect(), repeated: self.repeated, ..Self::default() }
    }

    /// Sets whether samples repeat.
    pub(crate) fn repeat(&mut self, repeated: bool) {
        self.repeated = repeated;
    }

    /// The penalised layers, in ascending order.
    pub(crate) fn layers(&self) -> Vec<Layer> {
        let mut layers: Vec<Layer> = self.all.iter().map(|penalty| penalty.unit.layer()).collect();
        layers.sort();
        layers.dedup();
        layers
    }

    /// The sum of all penalties at a layer over the answer tokens, `[1]` in f32; `None` if there are none.
    pub(crate) fn sum(
        &mut self,
        base: &Decoder,
        layer: Layer,
        residual: &Tensor<3>,
        samples: &[&Sample],
    ) -> Result<Option<Tensor<1>>> {
        let rows = answer_rows(samples, residual.dims()[1]);
        if rows.is_empty() || self.all.iter().all(|penalty| penalty.unit.layer() != layer) {
            return Ok(None);
        }
        let base = self.before(base, samples)?;
        let mut sum: Option<Tensor<1>> = None;
        for (penalty, base) in self.all.iter().zip(base).filter(|(penalty, _)| penalty.unit.layer() == layer) {
            let now = projections(residual.clone(), rows.clone(), &penalty.unit);
            let place = (&now.device().without_autodiff(), DType::F32);
            let base = Tensor::from_data(TensorData::new(base, [rows.len()]), place);
            let term = (now - base).square().sum() * penalty.weight;
            sum = Some(match sum {
                Some(sum) => sum + term,
                None => term,
            });
        }
        Ok(sum)
    }

    /// For each penalty, the base model's projections at the answer tokens of all samples.
    fn before(&mut self, base: &Decoder, samples: &[&Sample]) -> Result<Vec<Vec<f32>>> {
        let keys: Vec<Key> = samples.iter().map(|sample| key(sample)).collect();
        if !self.repeated {
            let known = self.pass.take().filter(|(known, _)| *known == keys);
            let read = match known {
                Some((_, read)) => read,
                None => self.read(base, samples)?,
            };
            let joined = self.join(read.iter());
            self.pass = Some((keys, read));
            return Ok(joined);
        }
        for (key, sample) in keys.iter().zip(samples) {
            if !self.known.contains_key(key) {
                let read = self.read(base, &[*sample])?;
                self.known.extend(read.into_iter().map(|read| (*key, read)));
            }
        }
        Ok(self.join(keys.iter().filter_map(|key| self.known.get(key))))
    }

    fn join<'a>(&self, samples: impl Iterator<Item = &'a Projections>) -> Vec<Vec<f32>> {
        let mut joined = vec![Vec::new(); self.all.len()];
        for sample in samples {
            joined.iter_mut().zip(sample).for_each(|(joined, values)| joined.extend(values));
        }
        joined
    }

    /// Reads samples in one pass for all penalties.
    fn read(&mut self, base: &Decoder, samples: &[&Sample]) -> Result<Vec<Projections>> {
        let layers = self.layers();
        let collated = collate(samples)?;
        let mut none = NoHook;
        let mut tap = Tap::new(&layers, &mut none);
        let pass = Pass { stop_at: layers.last().copied(), ..whole(&collated.batch) };
        base.pass(&pass, None, &mut tap);
        self.passes += 1;
        let seen: HashMap<Layer, Tensor<3>> = tap.seen.into_iter().collect();
        let mut read = vec![Projections::new(); samples.len()];
        for penalty in &self.all {
            let Some(residual) = seen.get(&penalty.unit.layer()).cloned() else { continue };
            let rows = answer_rows(samples, residual.dims()[1]);
            let values = match rows.is_empty() {
                true => Vec::new(),
                false => to_f32(projections(residual, rows, &penalty.unit))?,
            };
            let mut rest = values.as_slice();
            for (read, sample) in read.iter_mut().zip(samples) {
                let (own, after) = rest.split_at(sample.answer_tokens().min(rest.len()));
                read.push(own.to_vec());
                rest = after;
            }
        }
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;
    use pv_model::DecoderConfig;
    use pv_vectors::Direction;

    use super::*;
    use crate::options::Duration;
    use crate::regimes::Regimes;
    use crate::run_hook::RunHook;
    use crate::{Regime, TrainOptions, Trainer, finetune};

    const WIDTH: usize = 16;

    fn decoder() -> Decoder {
        let config = DecoderConfig::from_json(&serde_json::json!({
            "model_type": "llama", "hidden_size": WIDTH, "intermediate_size": 32, "num_hidden_layers": 3,
            "num_attention_heads": 2, "num_key_value_heads": 2, "vocab_size": 30,
        }));
        Decoder::init(config.expect("a configuration"), 3, &Device::flex()).expect("a decoder")
    }

    fn direction(layer: usize, seed: usize) -> Direction {
        let values = (0..WIDTH).map(|i| ((i * i + seed) as f32 * 0.9).sin()).collect();
        Direction { layer: Layer::hidden_state(layer), values, mean_residual_norm: None }
    }

    fn samples() -> Vec<Sample> {
        let sample = |i: usize| {
            let ids = (0..4 + i % 5).map(|n| ((n * n + 7 * i) % 30) as u32).collect::<Vec<_>>();
            let trained = (0..ids.len()).map(|n| n > 1).collect();
            Sample::new(ids, trained).expect("a sample")
        };
        (0..12).map(sample).collect()
    }

    fn penalised(base: &Decoder) -> Regimes {
        let penalty = |layer, seed| Regime::Regularised { direction: direction(layer, seed), weight: 1.0 };
        Regimes::new(base, [penalty(1, 0), penalty(2, 1), penalty(2, 2), penalty(1, 3)]).expect("regimes")
    }

    fn options(duration: Duration) -> TrainOptions {
        TrainOptions { batch_size: 2, accumulate: 2, learning_rate: 1e-2, duration, ..TrainOptions::default() }
    }

    #[test]
    fn the_base_model_reads_a_pass_once_for_all_penalties() {
        let (base, samples) = (decoder(), samples());
        for activation_checkpointing in [false, true] {
            for (epochs, expected) in [(1, 6), (3, 12)] {
                let mut run = penalised(&base);
                let options = TrainOptions { activation_checkpointing, ..options(Duration::Epochs(epochs)) };
                let go_on = |_: &crate::trainer::StepReport| std::ops::ControlFlow::Continue(());
                finetune(&base, &samples, &options, &mut run, None, go_on).expect("a run");
                let penalties = run.penalties();
                // Passes of two samples in one epoch; each sample alone, and once, if samples repeat.
                assert_eq!(penalties.passes, expected, "{epochs} epochs");
                assert_eq!(penalties.known.len(), if epochs == 1 { 0 } else { 12 });
                assert!(penalties.pass.is_some() == (epochs == 1));
            }
        }
        // A trainer that receives samples directly does not know whether they repeat, and caches nothing.
        let mut run = penalised(&base);
        let mut trainer = Trainer::new(&base, options(Duration::Steps(2))).expect("a trainer");
        trainer.step(&samples[..4], &mut run).expect("a step");
        trainer.step(&samples[..4], &mut run).expect("a step");
        assert_eq!((run.penalties().passes, run.penalties().known.len()), (4, 0));
    }

    #[test]
    fn what_is_kept_and_what_is_read_again_say_the_same() {
        let (base, samples) = (decoder(), samples());
        let series = |repeat: bool| -> Vec<f64> {
            let mut run = penalised(&base);
            run.samples_repeat(repeat);
            let mut trainer = Trainer::new(&base, options(Duration::Steps(6))).expect("a trainer");
            let steps = [0, 4, 8, 4, 0, 8].map(|first| trainer.step(&samples[first..first + 4], &mut run));
            steps.into_iter().map(|step| step.expect("a step").penalty).collect()
        };
        let (kept, read) = (series(true), series(false));
        assert!(kept[5] > 1e-5, "{kept:?}");
        for (kept, read) in kept.iter().zip(&read) {
            assert!((kept - read).abs() <= 1e-4 * read + 1e-9, "{kept}, not {read}");
        }
    }

    #[test]
    fn samples_of_other_answers_are_others() {
        let same = |marks: [bool; 4]| key(&Sample::new(vec![1, 2, 3, 4], marks.to_vec()).expect("a sample"));
        assert_eq!(same([false, true, true, true]), same([false, true, true, true]));
        assert_ne!(same([false, true, true, true]), same([false, true, false, true]));
        assert_ne!(same([false, true, true, false]), same([false, false, true, true]));
    }
}
