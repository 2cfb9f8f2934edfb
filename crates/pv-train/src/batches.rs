//! Which samples each step takes.

use rand::SeedableRng;
use rand::rngs::ChaCha8Rng;
use rand::seq::SliceRandom;

/// So many batches are sorted by length together: padding is small, and yet batches are not the same in every epoch.
const BUCKET: usize = 50;

/// The order in which samples are used: every one once per epoch, those of a batch of similar lengths. It depends on
/// the seed and the step alone, so that training can go on at any step.
#[derive(Clone, Debug)]
pub struct Batches {
    lengths: Vec<usize>,
    size: usize,
    seed: u64,
    /// The epoch that was asked for last, and its batches.
    epoch: Option<(usize, Vec<Vec<usize>>)>,
}

impl Batches {
    /// For samples of these lengths, at least one, and steps of `size` samples, at least one. An epoch's last step may
    /// have fewer.
    pub fn new(lengths: Vec<usize>, size: usize, seed: u64) -> Self {
        Self { lengths, size: size.max(1), seed, epoch: None }
    }

    /// How many steps an epoch has.
    pub fn steps_per_epoch(&self) -> usize {
        self.lengths.len().div_ceil(self.size)
    }

    /// The indices of the samples of a step, counted from 0 through all epochs; empty where there are no samples.
    pub fn step(&mut self, step: usize) -> &[usize] {
        let steps = self.steps_per_epoch();
        if steps == 0 {
            return &[];
        }
        let epoch = step / steps;
        if self.epoch.as_ref().is_none_or(|(known, _)| *known != epoch) {
            self.epoch = Some((epoch, self.shuffled(epoch)));
        }
        self.epoch.as_ref().map_or(&[], |(_, batches)| &batches[step % steps])
    }

    fn shuffled(&self, epoch: usize) -> Vec<Vec<usize>> {
        let mut random = ChaCha8Rng::seed_from_u64(self.seed);
        random.set_stream(epoch as u64);
        let mut order: Vec<usize> = (0..self.lengths.len()).collect();
        order.shuffle(&mut random);
        let mut batches = Vec::with_capacity(self.steps_per_epoch());
        for bucket in order.chunks_mut(self.size.saturating_mul(BUCKET)) {
            bucket.sort_by_key(|sample| self.lengths[*sample]);
            batches.extend(bucket.chunks(self.size).map(<[usize]>::to_vec));
        }
        batches.shuffle(&mut random);
        batches
    }
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
        // Any step, without those before it.
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
}
