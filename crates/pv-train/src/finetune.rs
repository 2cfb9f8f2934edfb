//! Training on a list of samples.

use std::ops::ControlFlow;

use pv_model::decoder::Decoder;

use crate::batches::Batches;
use crate::options::Duration;
use crate::run_hook::RunHook;
use crate::trainer::{Checkpoints, StepReport, TrainReport};
use crate::{Error, Result, Sample, TrainOptions, Trainer};

/// Trains on the samples with the given options, either all parameters or a new adapter. Returns the trained decoder,
/// with the adapter on top if one was trained, on the device of `decoder` and without autodiff.
///
/// `run` acts in every training pass: a hook, such as an intervention, or [`Regimes`](crate::regimes::Regimes). With
/// `checkpoints`, the run resumes from the newest checkpoint in their folder, if there is one. The result is then
/// bit-identical to that of an uninterrupted run, provided that a hook keeps no state beyond its
/// [`RunHook::state`](crate::run_hook::RunHook::state).
///
/// # Errors
/// Invalid options, samples that the decoder cannot read, a hook that does not fit, a loss or gradient that is not
/// finite, checkpoints of another run ([`RunError::OtherRun`](pv_data::RunError::OtherRun)).
pub fn finetune(
    decoder: &Decoder,
    samples: &[Sample],
    options: &TrainOptions,
    run: &mut (impl RunHook + ?Sized),
    checkpoints: Option<&Checkpoints>,
    progress: impl FnMut(&StepReport) -> ControlFlow<()>,
) -> Result<(Decoder, TrainReport)> {
    options.validate()?;
    if samples.is_empty() {
        return Err(Error::NoSamples { step: 1 });
    }
    let (mut batches, options) = plan(samples, options)?;
    let data = fingerprint(samples);
    run.samples_repeat(options.steps()? > batches.steps_per_epoch());
    let mut trainer = match checkpoints {
        Some(checkpoints) if checkpoints.newest()?.is_some() => {
            Trainer::resume(decoder, options, &checkpoints.folder, Some(&data), run)?
        }
        _ => Trainer::new(decoder, options)?.with_data(data),
    };
    let source = |step| Ok(batches.step(step).iter().map(|&index| samples[index].clone()).collect());
    let report = trainer.run(source, run, checkpoints, progress)?;
    Ok((trainer.decoder(), report))
}

/// The order of the samples, and the options with the duration in steps.
///
/// # Errors
/// [`Error::SampleTooLong`].
pub(crate) fn plan(samples: &[Sample], options: &TrainOptions) -> Result<(Batches, TrainOptions)> {
    let lengths: Vec<usize> = samples.iter().map(|sample| sample.ids().len()).collect();
    options.check_lengths(lengths.iter().copied())?;
    let batches = match options.pack_tokens {
        None => Batches::new(lengths, options.samples_per_step(), options.seed),
        Some(tokens) => Batches::packed(lengths, tokens, options.accumulate, options.seed),
    };
    let duration = match options.duration {
        Duration::Epochs(epochs) => Duration::Steps(epochs.saturating_mul(batches.steps_per_epoch())),
        steps => steps,
    };
    Ok((batches, TrainOptions { duration, ..options.clone() }))
}

/// Identifies a list of samples: their number, and FNV-1a over token ids, marks, response positions and, if there are
/// any, weights.
pub(crate) fn fingerprint(samples: &[Sample]) -> String {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    let mut add = |value: u32| {
        for byte in value.to_le_bytes() {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    };
    for sample in samples {
        add(sample.ids().len() as u32);
        sample.ids().iter().for_each(|id| add(*id));
        sample.trained().iter().for_each(|trained| add(u32::from(*trained)));
        add(sample.response().start as u32);
        add(sample.response().end as u32);
        if sample.is_weighted() {
            (0..sample.ids().len()).for_each(|token| add(sample.weight(token).to_bits()));
        }
    }
    format!("{} samples, {hash:016x}", samples.len())
}
