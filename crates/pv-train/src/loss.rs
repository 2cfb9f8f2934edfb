//! Cross-entropy at the trained tokens.

use burn::tensor::{Device, Int, Tensor, TensorData};
use pv_hooks::{Hook, Phase};
use pv_model::batch::Batch;
use pv_model::decoder::{Decoder, Logits, Pass, cross_entropy, to_f32};
use pv_model::device::run_on;

use crate::collate::{Collated, Targets, collate, passes};
use crate::{Error, Result, Sample};

pub(crate) fn indices(values: Vec<i64>, device: &Device) -> Tensor<1, Int> {
    let len = values.len();
    Tensor::from_data(TensorData::new(values, [len]), device)
}

/// Runs a pass, and returns the weighted sum of the cross-entropy over its trained tokens, `[1]`, in nats. The output
/// head is computed only for those.
pub(crate) fn summed_loss(decoder: &Decoder, collated: Collated, hook: &mut (impl Hook + ?Sized)) -> Tensor<1> {
    let Collated { batch, targets } = collated;
    let residual = decoder.pass(&whole(&batch), None, hook).residual;
    weighted_loss(decoder, residual, targets)
}

/// The weighted sum of the cross-entropy, `[1]`, from the last layer's residual `[batch, seq, d_model]`, in nats.
pub(crate) fn weighted_loss(decoder: &Decoder, residual: Tensor<3>, targets: Vec<Targets>) -> Tensor<1> {
    let losses = targets.into_iter().map(|Targets { weight, rows, ids }| {
        let loss = loss_of(decoder, residual.clone(), rows, &ids);
        if weight == 1.0 { loss } else { loss * weight }
    });
    // A sample has at least one trained token.
    losses.reduce(|sum, loss| sum + loss).unwrap_or_else(|| Tensor::zeros([1], &residual.device()))
}

/// A pass up to the last layer's residual, without logits.
pub(crate) fn whole(batch: &Batch) -> Pass<'_> {
    Pass { ids: batch.ids(), spans: batch.spans(), phase: Phase::Full, stop_at: None, logits: Logits::None }
}

/// The summed cross-entropy, `[1]`, at these rows of the last layer's residual `[batch, seq, d_model]`, in nats.
pub(crate) fn loss_of(decoder: &Decoder, residual: Tensor<3>, rows: Vec<i64>, targets: &[u32]) -> Tensor<1> {
    let [rows_of_batch, seq, d_model] = residual.dims();
    let n = rows.len();
    let device = residual.device().without_autodiff();
    let residual = residual.reshape([rows_of_batch * seq, d_model]).select(0, indices(rows, &device));
    let logits = decoder.logits(residual.reshape([1, n, d_model]));
    let vocab = logits.dims()[2];
    cross_entropy(logits.reshape([n, vocab]), targets)
}

/// The mean cross-entropy in nats over the trained tokens of all samples, weighted if the samples have weights, under a
/// hook, in passes of `batch_size` samples.
///
/// # Errors
/// No samples ([`Error::NoSamples`]), ids that the decoder does not have, a hook that does not fit.
pub fn mean_loss(
    decoder: &Decoder,
    samples: &[Sample],
    batch_size: usize,
    hook: &mut (impl Hook + ?Sized),
) -> Result<f64> {
    check(decoder, samples, 0)?;
    pv_hooks::hook::check(hook, &decoder.shape(), None)?;
    let (mut sum, mut count) = (0.0, 0.0);
    for pass in passes(samples, batch_size) {
        let collated = collate(&pass)?;
        count += pass.iter().map(|sample| sample.total_weight()).sum::<f64>();
        sum += run_on(&decoder.device(), || value(summed_loss(decoder, collated, hook)))?;
    }
    hook.finish()?;
    Ok(sum / count)
}

/// Refuses samples that the decoder cannot read. `step` is used in the error.
pub(crate) fn check(decoder: &Decoder, samples: &[Sample], step: usize) -> Result<()> {
    if samples.is_empty() {
        return Err(Error::NoSamples { step });
    }
    let (vocab, positions) = (decoder.config().vocab, decoder.config().max_positions);
    for (sample, ids) in samples.iter().map(Sample::ids).enumerate() {
        if ids.len() > positions {
            return Err(Error::BeyondPositions { step, sample, tokens: ids.len(), positions });
        }
        if let Some(&id) = ids.iter().find(|id| **id as usize >= vocab) {
            return Err(Error::TokenOutOfRange { step, sample, id, vocab });
        }
    }
    Ok(())
}

/// The value of a tensor of shape `[1]`.
pub(crate) fn value(tensor: Tensor<1>) -> Result<f64> {
    Ok(to_f32(tensor.without_autodiff())?.first().map_or(f64::NAN, |value| f64::from(*value)))
}

#[cfg(test)]
mod tests {
    use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
    use pv_hooks::NoHook;
    use pv_model::DecoderConfig;

    use super::*;

    fn decoder() -> Decoder {
        struct Widen;
        impl ModuleMapper for Widen {
            fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
                // With weights of the usual size, the loss hardly depends on them.
                param.map(|tensor| tensor * if D == 2 { 12.0 } else { 1.1 })
            }
        }
        let config = DecoderConfig::from_json(&serde_json::json!({
            "model_type": "qwen3", "hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 2, "head_dim": 4,
            "num_attention_heads": 2, "num_key_value_heads": 1, "vocab_size": 11, "attention_bias": true,
        }));
        Decoder::init(config.expect("a configuration"), 5, &Device::flex()).expect("a decoder").map(&mut Widen)
    }

    fn samples() -> Vec<Sample> {
        [4usize, 7, 2]
            .into_iter()
            .map(|n| {
                let ids = (0..n).map(|i| ((i * i + 3 * n) % 11) as u32).collect();
                Sample::new(ids, (0..n).map(|i| i % 3 != 2).collect()).expect("a sample")
            })
            .collect()
    }

    #[test]
    fn cross_entropy_is_that_of_f64() {
        let (n, vocab) = (5, 7);
        let logits: Vec<f32> = (0..n * vocab).map(|i| ((i * i) as f32 * 0.37).sin() * 30.0).collect();
        let targets = [3, 0, 6, 6, 1];
        let expected: f64 = logits
            .chunks(vocab)
            .zip(&targets)
            .map(|(row, target)| {
                let sum: f64 = row.iter().map(|x| f64::from(*x).exp()).sum();
                sum.ln() - f64::from(row[*target as usize])
            })
            .sum();
        let logits = Tensor::<2>::from_data(TensorData::new(logits, [n, vocab]), &Device::flex());
        let found = value(cross_entropy(logits, &targets)).expect("a number");
        assert!((found - expected).abs() < 1e-5 * expected, "{found}, not {expected}");
    }

    #[test]
    fn the_head_at_the_trained_positions_gives_the_loss_of_all_logits() {
        let (decoder, samples) = (decoder(), samples());
        let mut expected = (0.0, 0);
        for sample in &samples {
            let batch = pv_model::batch::Batch::whole(&[sample.sequence()]).expect("a batch");
            let pass =
                Pass { ids: batch.ids(), spans: batch.spans(), phase: Phase::Full, stop_at: None, logits: Logits::All };
            let logits = to_f32(decoder.pass(&pass, None, &mut NoHook).logits.expect("asked for")).expect("values");
            for position in (0..sample.ids().len()).filter(|p| sample.trained()[*p]) {
                let row = &logits[(position - 1) * 11..][..11];
                let sum: f64 = row.iter().map(|x| f64::from(*x).exp()).sum();
                expected.0 += sum.ln() - f64::from(row[sample.ids()[position] as usize]);
                expected.1 += 1;
            }
        }
        let expected = expected.0 / f64::from(expected.1);
        for batch_size in [1, 2, 8] {
            for decoder in [decoder.plain(), decoder.trainable()] {
                let found = mean_loss(&decoder, &samples, batch_size, &mut NoHook).expect("a loss");
                assert!((found - expected).abs() < 1e-5, "{found}, not {expected}");
            }
        }
        assert!(matches!(mean_loss(&decoder, &[], 1, &mut NoHook), Err(Error::NoSamples { .. })));
    }

    /// Moves one parameter, the `at`-th, along a fixed direction.
    struct Move {
        at: usize,
        by: f32,
        next: usize,
    }

    fn direction(n: usize) -> Vec<f32> {
        (0..n).map(|i| ((i * i + 1) as f32 * 1.3).sin()).collect()
    }

    impl ModuleMapper for Move {
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            self.next += 1;
            if self.next - 1 != self.at {
                return param;
            }
            param.map(|tensor| {
                let shape = tensor.shape();
                let step = TensorData::new(direction(shape.num_elements()), shape);
                let step = Tensor::from_data(step, &tensor.device());
                tensor + step * self.by
            })
        }
    }

    /// For each parameter, the gradient's component along the same direction.
    struct Slopes {
        gradients: burn::tensor::Gradients,
        found: Vec<f64>,
    }

    impl ModuleVisitor for Slopes {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let gradient = param.val().grad(&self.gradients).expect("every parameter has a gradient");
            let gradient = to_f32(gradient).expect("values");
            self.found.push(gradient.iter().zip(direction(gradient.len())).map(|(g, d)| f64::from(g * d)).sum());
        }
    }

    #[test]
    fn gradients_are_finite_differences() {
        let (decoder, samples) = (decoder(), samples());
        let loss = |decoder: &Decoder| {
            let pass: Vec<&Sample> = samples.iter().collect();
            summed_loss(decoder, collate(&pass).expect("a batch"), &mut NoHook)
        };
        let trainable = decoder.trainable();
        let mut slopes = Slopes { gradients: loss(&trainable).backward(), found: Vec::new() };
        trainable.visit(&mut slopes);
        assert_eq!(slopes.found.len(), 3 + 2 * 10);
        let largest = slopes.found.iter().fold(0.0f64, |most, slope| most.max(slope.abs()));
        for (at, slope) in slopes.found.into_iter().enumerate() {
            let moved = |by: f32| value(loss(&decoder.clone().map(&mut Move { at, by, next: 0 }))).expect("a number");
            let by = 2e-3;
            let difference = (moved(by) - moved(-by)) / (2.0 * f64::from(by));
            let gap = (difference - slope).abs();
            assert!(gap < 2e-3 * slope.abs() + 3e-4 * largest, "parameter {at}: {slope}, but {difference}");
        }
    }
}
