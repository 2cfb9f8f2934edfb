//! The order of samples over steps.

use rand::SeedableRng;
use rand::rngs::ChaCha8Rng;
use rand::seq::SliceRandom;

/// The number of batches that are sorted by length together. Padding is small, and the batches still differ between
/// epochs.
const BUCKET: usize = 50;

/// The number of samples that are packed together: few packs stay partly empty, and packing takes negligible time.
const PACKED_TOGETHER: usize = 1000;

/// The order in which samples are used: each one once per epoch. It depends only on the seed and the step, so that
/// training can resume at any step.
#[derive(Clone, Debug)]
pub struct Batches {
    lengths: Vec<usize>,
    seed: u64,
    size: Size,
    /// The most recently requested epoch, and its steps.
    epoch: Option<(usize, Vec<Vec<usize>>)>,
}

/// The contents of a step.
#[derive(Clone, Debug)]
enum Size {
    /// This many samples, of similar lengths.
    Samples(usize),
    /// This many of these packs. The packs are the same in every epoch, so that every epoch has the same number of
    /// steps.
    Packs(usize, Vec<Vec<usize>>),
}

impl Batches {
    /// Creates batches for samples of these lengths (in tokens, each at least one) and steps of `size` samples (at
    /// least one) of similar lengths. The last step of an epoch may have fewer samples.
    pub fn new(lengths: Vec<usize>, size: usize, seed: u64) -> Self {
        Self { lengths, seed, size: Size::Samples(size.max(1)), epoch: None }
    }

    /// Creates batches for steps of `packs` packs. A pack contains samples of any lengths with at most `tokens` tokens
    /// in total; a longer sample is a pack of its own. The last step of an epoch may have fewer packs. The samples of a
    /// step are in the order of its packs.
    pub fn packed(lengths: Vec<usize>, tokens: usize, packs: usize, seed: u64) -> Self {
        let order = shuffled(lengths.len(), &mut ChaCha8Rng::seed_from_u64(seed));
        let all = order.chunks(PACKED_TOGETHER).flat_map(|some| pack(some, &lengths, tokens)).collect();
        Self { lengths, seed, size: Size::Packs(packs.max(1), all), epoch: None }
    }

    /// The number of steps in an epoch.
    pub fn steps_per_epoch(&self) -> usize {
        match &self.size {
            Size::Samples(size) => self.lengths.len().div_ceil(*size),
            Size::Packs(size, packs) => packs.len().div_ceil(*size),
        }
    }

    /// The indices of the samples of a step. Steps are counted from 0 through all epochs. Empty if there are no
    /// samples.
    pub fn step(&mut self, step: usize) -> &[usize] {
        let steps = self.steps_per_epoch();
        if steps == 0 {
            return &[];
        }
        let epoch = step / steps;
        if self.epoch.as_ref().is_none_or(|(known, _)| *known != epoch) {
            self.epoch = Some((epoch, self.steps(epoch)));
        }
        self.epoch.as_ref().map_or(&[], |(_, batches)| &batches[step % steps])
    }

    fn steps(&self, epoch: usize) -> Vec<Vec<usize>> {
        let mut random = ChaCha8Rng::seed_from_u64(self.seed);
        random.set_stream(epoch as u64);
        match &self.size {
            Size::Samples(size) => {
                let mut order = shuffled(self.lengths.len(), &mut random);
                let mut batches = Vec::with_capacity(self.steps_per_epoch());
                for bucket in order.chunks_mut(size.saturating_mul(BUCKET)) {
                    bucket.sort_by_key(|sample| self.lengths[*sample]);
                    batches.extend(bucket.chunks(*size).map(<[usize]>::to_vec));
                }
                batches.shuffle(&mut random);
                batches
            }
            Size::Packs(size, packs) => {
                let order = shuffled(packs.len(), &mut random);
                order
                    .chunks(*size)
                    .map(|step| step.iter().flat_map(|pack| packs[*pack].iter().copied()).collect())
                    .collect()
            }
        }
    }
}

fn shuffled(n: usize, random: &mut ChaCha8Rng) -> Vec<usize> {
    let mut order: Vec<usize> = (0..n).collect();
    order.shuffle(random);
    order
}

/// Packs of at most `tokens` tokens: the longest samples first, each into the first pack with enough room.
fn pack(samples: &[usize], lengths: &[usize], tokens: usize) -> Vec<Vec<usize>> {
    let mut sorted = samples.to_vec();
    sorted.sort_by_key(|sample| std::cmp::Reverse(lengths[*sample]));
    let mut packs: Vec<(usize, Vec<usize>)> = Vec::new();
    for sample in sorted {
        let length = lengths[sample];
        match packs.iter_mut().find(|(room, _)| *room >= length) {
            Some((room, pack)) => {
                *room -= length;
                pack.push(sample);
            }
            None => packs.push((tokens.saturating_sub(length), vec![sample])),
        }
    }
    packs.into_iter().map(|(_, pack)| pack).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batches(seed: u64) -> Batches {
        Batches::new((0..1003).map(|i| 10 + (i * 37) % 91).collect(), 4, seed)
    }

    #[test]
    fn an_epoch_holds_every_sample_once_and_no_two_are_alike() {
        let mut all = batches(1);
        let steps = all.steps_per_epoch();
        assert_eq!(steps, 251);
        let epoch = |all: &mut Batches, epoch: usize| -> Vec<Vec<usize>> {
            (0..steps).map(|step| all.step(epoch * steps + step).to_vec()).collect()
        };
        let (first, second) = (epoch(&mut all, 0), epoch(&mut all, 1));
        for epoch in [&first, &second] {
            let mut samples = epoch.concat();
            samples.sort_unstable();
            assert_eq!(samples, (0..1003).collect::<Vec<_>>());
        }
        assert_ne!(first, second);
        assert_ne!(first, epoch(&mut batches(2), 0));
        // Any step, without computing those before it.
        assert_eq!(batches(1).step(steps + 17), second[17]);
    }

    #[test]
    fn batches_are_of_similar_lengths() {
        let mut all = batches(3);
        let lengths = all.lengths.clone();
        let (mut padded, mut real) = (0, 0);
        for step in 0..all.steps_per_epoch() {
            let batch: Vec<usize> = all.step(step).iter().map(|sample| lengths[*sample]).collect();
            padded += batch.len() * batch.iter().max().expect("samples");
            real += batch.iter().sum::<usize>();
        }
        assert!(padded as f64 / (real as f64) < 1.03, "{padded} for {real}");
        assert!(Batches::new(vec![], 4, 0).step(3).is_empty());
    }

    #[test]
    fn packs_are_full_and_hold_every_sample_once() {
        let lengths: Vec<usize> = (0..5003).map(|i| 10 + (i * 37) % 391).collect();
        let mut all = Batches::packed(lengths.clone(), 1024, 3, 7);
        let steps = all.steps_per_epoch();
        let epoch = |all: &mut Batches, epoch: usize| -> Vec<Vec<usize>> {
            (0..steps).map(|step| all.step(epoch * steps + step).to_vec()).collect()
        };
        let (first, second) = (epoch(&mut all, 0), epoch(&mut all, 1));
        let tokens = |step: &Vec<usize>| step.iter().map(|sample| lengths[*sample]).sum::<usize>();
        for epoch in [&first, &second] {
            let mut samples = epoch.concat();
            samples.sort_unstable();
            assert_eq!(samples, (0..5003).collect::<Vec<_>>());
            assert!(epoch.iter().all(|step| tokens(step) <= 3 * 1024));
        }
        let room = steps * 3 * 1024;
        assert!(lengths.iter().sum::<usize>() as f64 / room as f64 > 0.97, "packs are part empty: {room}");
        assert_ne!(first, second);
        assert_ne!(first, epoch(&mut Batches::packed(lengths.clone(), 1024, 3, 8), 0));
        assert_eq!(Batches::packed(lengths.clone(), 1024, 3, 7).step(steps + 17), second[17]);
        // A sample too long for any pack, and no samples at all.
        assert_eq!(Batches::packed(vec![5, 9, 2], 7, 1, 0).steps_per_epoch(), 2);
        assert!(Batches::packed(vec![], 7, 1, 0).step(3).is_empty());
    }
}
