//! The passes of a step, on one device or on several.
//!
//! Burn's own distributed training synchronises gradients in every backward pass, through a server of the process.
//! Steps of several passes, and passes that go backward layer by layer, need one sum at the end of a step; this module
//! computes it.

use burn::tensor::Device;
use pv_model::decoder::Decoder;

use crate::gradients::{Counts, Sums, accumulate, accumulate_by_layer};
use crate::optimizer::ParameterGradients;
use crate::run_hook::RunHook;
use crate::{Error, Result, Sample, TrainOptions};

/// A pass with its number in the step.
pub(crate) type Numbered<'a> = (usize, Vec<&'a Sample>);

/// The sums over passes.
pub(crate) type Summed = (Sums, ParameterGradients);

/// The values that all passes of a step share.
#[derive(Clone, Copy)]
pub(crate) struct Step<'a> {
    pub(crate) options: &'a TrainOptions,
    /// The step's number, from 1.
    pub(crate) number: usize,
    pub(crate) counts: Counts,
}

impl Step<'_> {
    /// Computes passes on one device, and returns the sums over them.
    pub(crate) fn passes(
        &self,
        decoder: &Decoder,
        passes: &[Numbered<'_>],
        run: &mut (impl RunHook + ?Sized),
    ) -> Result<Summed> {
        let dropout = self.options.adapter.as_ref().is_some_and(|adapter| adapter.dropout > 0.0);
        let (mut sums, mut gradients) = (Sums::default(), ParameterGradients::default());
        for (number, pass) in passes {
            let decoder = match dropout {
                true => &decoder.clone().with_dropout(Some(seed(self.options.seed, self.number, *number))),
                false => decoder,
            };
            let found = match self.options.activation_checkpointing {
                true => accumulate_by_layer(decoder, pass, self.counts, run, &mut gradients)?,
                false => accumulate(decoder, pass, self.counts, run, &mut gradients)?,
            };
            sums.loss += found.loss;
            sums.penalty += found.penalty;
            if !(sums.loss.is_finite() && sums.penalty.is_finite()) {
                return Err(Error::BadLoss { step: self.number, loss: sums.loss + sums.penalty });
            }
        }
        Ok((sums, gradients))
    }
}

/// The seed of a pass's dropout.
fn seed(seed: u64, step: usize, pass: usize) -> u64 {
    // Multiples of odd constants give each step, and each pass within it, a different seed.
    seed ^ (step as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ (pass as u64 + 1).wrapping_mul(0xc2b2_ae3d_27d4_eb4f)
}

/// A further device, and the values that stay on it between steps.
pub(crate) struct Replica {
    device: Device,
    /// The model's own weights under an adapter; `None` if all parameters are trained, because they change in every
    /// step.
    base: Option<Decoder>,
    /// The replica of the run's hook, once it exists.
    run: Option<Box<dyn RunHook>>,
}

impl Replica {
    pub(crate) fn new(decoder: &Decoder, device: &Device, adapter: bool) -> Self {
        let device = device.clone().without_autodiff();
        let base = adapter.then(|| decoder.without_adapters().plain().on_device(&device));
        Self { device, base, run: None }
    }

    /// A copy of the trained decoder in its current state, on this device.
    fn decoder(&self, trained: &Decoder) -> Result<Decoder> {
        match &self.base {
            Some(base) => Ok(base.with_adapter(&trained.adapter(0)?, 1.0)?.trainable_adapter()?),
            None => Ok(trained.plain().on_device(&self.device).trainable()),
        }
    }
}

/// Like [`Step::passes`], with the passes distributed over the decoder's device and the replicas' devices, each in a
/// thread of its own. The run's hook has a replica for each device; if it has none, the passes of that device are
/// computed in this thread, one device after the other. Sums are formed in the order of the devices, so that a step is
/// reproducible to the bit.
pub(crate) fn passes_on_all(
    step: &Step<'_>,
    decoder: &Decoder,
    replicas: &mut [Replica],
    passes: Vec<Numbered<'_>>,
    run: &mut (impl RunHook + ?Sized),
) -> Result<Summed> {
    let parts = spread(passes, replicas.len() + 1);
    let [here, others @ ..] = parts.as_slice() else { return step.passes(decoder, &[], run) };
    let mut moved = Vec::with_capacity(replicas.len());
    for replica in replicas.iter_mut() {
        if replica.run.is_none() {
            replica.run = run.replica(&replica.device)?;
        }
        if let Some(copy) = &mut replica.run {
            copy.restore(&run.state())?;
        }
        moved.push(replica.decoder(decoder)?);
    }
    let summed: Vec<Result<Summed>> = std::thread::scope(|scope| {
        let jobs: Vec<_> = replicas
            .iter_mut()
            .zip(&moved)
            .zip(others)
            .map(|((replica, moved), part)| {
                let copy = replica.run.as_mut().filter(|_| !part.is_empty());
                (copy.map(|copy| scope.spawn(move || step.passes(moved, part, &mut **copy))), moved, part)
            })
            .collect();
        let mut summed = vec![step.passes(decoder, here, run)];
        for (job, moved, part) in jobs {
            summed.push(match job {
                Some(job) => job.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
                None => step.passes(moved, part, run),
            });
        }
        summed
    });
    let device = decoder.device().without_autodiff();
    let (mut sums, mut gradients) = (Sums::default(), ParameterGradients::default());
    for part in summed {
        let (found, more) = part?;
        sums.loss += found.loss;
        sums.penalty += found.penalty;
        gradients.add(more, &device);
    }
    Ok((sums, gradients))
}

/// Distributes passes, the longest first, each to the device with the fewest tokens so far. The first device always
/// gets at least one.
fn spread<'a>(passes: Vec<Numbered<'a>>, devices: usize) -> Vec<Vec<Numbered<'a>>> {
    let cost = |pass: &[&Sample]| pass.iter().map(|sample| sample.ids().len()).sum::<usize>();
    let mut sorted: Vec<_> = passes.into_iter().map(|pass| (cost(&pass.1), pass)).collect();
    sorted.sort_by_key(|(cost, (number, _))| (std::cmp::Reverse(*cost), *number));
    let mut loads = vec![0; devices];
    let mut parts = vec![Vec::new(); devices];
    for (cost, pass) in sorted {
        let least = (0..devices).min_by_key(|device| loads[*device]).unwrap_or(0);
        loads[least] += cost;
        parts[least].push(pass);
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pass_is_shared_out_once_and_evenly() {
        let samples: Vec<Sample> =
            (2..30).map(|n| Sample::new(vec![1; n], (0..n).map(|i| i > 0).collect()).expect("a sample")).collect();
        for devices in 1..5 {
            let passes: Vec<Numbered<'_>> = samples.iter().enumerate().map(|(i, sample)| (i, vec![sample])).collect();
            let parts = spread(passes, devices);
            let mut numbers: Vec<usize> = parts.iter().flatten().map(|(number, _)| *number).collect();
            numbers.sort_unstable();
            assert_eq!(numbers, (0..28).collect::<Vec<_>>());
            let loads: Vec<usize> =
                parts.iter().map(|part| part.iter().map(|(_, pass)| pass[0].ids().len()).sum()).collect();
            let (least, most) = (loads.iter().min().expect("one"), loads.iter().max().expect("one"));
            assert!(most - least < 29, "{loads:?}");
        }
        let one = vec![(0, vec![&samples[0]])];
        let parts = spread(one, 3);
        assert_eq!(parts.iter().map(Vec::len).collect::<Vec<_>>(), [1, 0, 0]);
    }
}
