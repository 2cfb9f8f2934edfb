//! The layout of samples in a pass.

use std::collections::BTreeMap;

use pv_model::batch::Batch;

use crate::{Result, Sample};

/// The tokens of one pass, and the positions of its predicted tokens.
#[derive(Debug)]
pub(crate) struct Collated {
    pub(crate) batch: Batch,
    /// The predicted tokens, grouped by weight: one group if all weights are equal.
    pub(crate) targets: Vec<Targets>,
}

/// The predicted tokens of one weight.
#[derive(Debug, Default)]
pub(crate) struct Targets {
    pub(crate) weight: f32,
    /// The rows of the flattened residual `[batch · seq, d_model]` whose next token is trained.
    pub(crate) rows: Vec<i64>,
    /// The ids of those next tokens.
    pub(crate) ids: Vec<u32>,
}

pub(crate) fn collate(samples: &[&Sample]) -> Result<Collated> {
    let sequences: Vec<_> = samples.iter().map(|sample| sample.sequence()).collect();
    let batch = Batch::whole(&sequences)?;
    let seq = batch.spans().seq();
    // Weights are not negative, so their bits have the same order.
    let mut targets: BTreeMap<u32, Targets> = BTreeMap::new();
    for (row, sample) in samples.iter().enumerate() {
        let start = row * seq + seq - sample.ids().len();
        for (position, _) in sample.trained().iter().enumerate().filter(|(_, trained)| **trained) {
            // The preceding token always exists: a sample's first token is never trained.
            let weight = sample.weight(position);
            let group = targets.entry(weight.to_bits()).or_insert_with(|| Targets { weight, ..Targets::default() });
            group.rows.push((start + position - 1) as i64);
            group.ids.push(sample.ids()[position]);
        }
    }
    Ok(Collated { batch, targets: targets.into_values().collect() })
}

/// The rows of the flattened residual `[batch · seq, d_model]` at the tokens of the trained answers, sample after
/// sample.
pub(crate) fn answer_rows(samples: &[&Sample], seq: usize) -> Vec<i64> {
    let rows = samples.iter().enumerate().flat_map(|(row, sample)| {
        let start = row * seq + seq - sample.ids().len();
        sample.answers().iter().cloned().flatten().map(move |position| (start + position) as i64)
    });
    rows.collect()
}

/// Splits a step's samples into passes of at most `size` samples of similar lengths.
pub(crate) fn passes(samples: &[Sample], size: usize) -> Vec<Vec<&Sample>> {
    let mut sorted: Vec<&Sample> = samples.iter().collect();
    if samples.len() > size {
        sorted.sort_by_key(|sample| sample.ids().len());
    }
    sorted.chunks(size.max(1)).map(<[&Sample]>::to_vec).collect()
}

/// Splits a step's samples, in their order, into passes of at most `tokens` tokens; a longer sample is a pass of its
/// own. There are never more passes than packs from which the samples come.
pub(crate) fn packed_passes(samples: &[Sample], tokens: usize) -> Vec<Vec<&Sample>> {
    let (mut passes, mut room) = (Vec::<Vec<&Sample>>::new(), 0);
    for sample in samples {
        let length = sample.ids().len();
        match passes.last_mut().filter(|_| length <= room) {
            Some(pass) => {
                pass.push(sample);
                room -= length;
            }
            None => {
                passes.push(vec![sample]);
                room = tokens.saturating_sub(length);
            }
        }
    }
    passes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_follow_their_rows() {
        let long = Sample::new(vec![5, 6, 7, 8], vec![false, true, false, true]).expect("a sample");
        let short = Sample::new(vec![1, 2], vec![false, true]).expect("a sample");
        let Collated { batch, targets } = collate(&[&long, &short]).expect("a batch");
        assert_eq!(batch.ids(), [5, 6, 7, 8, 1, 1, 1, 2]);
        let [Targets { weight: 1.0, rows, ids }] = &targets[..] else { panic!("{targets:?}") };
        assert_eq!((&rows[..], &ids[..]), (&[0, 2, 6][..], &[6, 8, 2][..]));
        let half = long.clone().with_weights(&[0.0, 0.5, 0.0, 1.0]).expect("a sample");
        let Collated { targets, .. } = collate(&[&half, &short]).expect("a batch");
        let groups: Vec<_> = targets.iter().map(|group| (group.weight, &group.rows[..], &group.ids[..])).collect();
        assert_eq!(groups, [(0.5, &[0][..], &[6][..]), (1.0, &[2, 6][..], &[8, 2][..])]);
        assert_eq!(answer_rows(&[&long, &short], 4), [1, 3, 7]);
    }

    #[test]
    fn packed_passes_hold_what_fits() {
        let samples: Vec<Sample> = [3, 4, 2, 9, 2, 5]
            .into_iter()
            .map(|n| Sample::new(vec![1; n], (0..n).map(|i| i > 0).collect()).expect("a sample"))
            .collect();
        let lengths = |tokens| -> Vec<Vec<usize>> {
            let passes = packed_passes(&samples, tokens);
            passes.iter().map(|pass| pass.iter().map(|sample| sample.ids().len()).collect()).collect()
        };
        assert_eq!(lengths(7), [vec![3, 4], vec![2], vec![9], vec![2, 5]]);
        assert_eq!(lengths(100), [vec![3, 4, 2, 9, 2, 5]]);
        assert_eq!(lengths(1).len(), 6);
        assert!(packed_passes(&[], 7).is_empty());
    }
}
