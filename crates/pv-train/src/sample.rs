//! Token ids, with marks for those that are trained.

mod encode;

use std::ops::Range;

use pv_model::batch::Sequence;

use crate::error::NothingTrained;
use crate::{Error, Result};

pub use encode::{EncodeOptions, TrainedTurns};
pub(crate) use encode::{Notes, encode_all};

/// A token's weight in the loss, as bits, so that it can be compared and hashed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Weight(u32);

impl Weight {
    fn new(value: f32) -> Self {
        Self(value.to_bits())
    }

    fn get(self) -> f32 {
        f32::from_bits(self.0)
    }
}

/// One sequence of token ids for training.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Sample {
    ids: Vec<u32>,
    trained: Vec<bool>,
    /// The positions of each trained answer's tokens, without its end-of-turn tokens.
    answers: Vec<Range<usize>>,
    response: Range<usize>,
    /// A weight per token; `None` if all trained tokens have the weight 1.
    weights: Option<Vec<Weight>>,
}

impl Sample {
    /// Creates a sample from token ids and a mark for each of them, which says whether the model is trained to predict
    /// it; both `[seq]`. For hooks, the response is the last contiguous run of trained tokens, and the prompt is
    /// everything before it.
    ///
    /// # Errors
    /// [`Error::MarksLength`]; [`Error::NothingTrained`] if no token after the first is trained. Nothing predicts the
    /// first token.
    pub fn new(ids: Vec<u32>, trained: Vec<bool>) -> Result<Self> {
        if ids.len() != trained.len() {
            return Err(Error::MarksLength { ids: ids.len(), marks: trained.len() });
        }
        let Some(last) = trained.iter().rposition(|trained| *trained) else {
            return Err(Error::NothingTrained(NothingTrained::NoMark { tokens: ids.len() }));
        };
        let start = trained[..last].iter().rposition(|trained| !trained).map_or(0, |before| before + 1);
        let mut answers = Vec::new();
        let mut at = 0;
        for run in trained.chunk_by(PartialEq::eq) {
            if run[0] {
                answers.push(at..at + run.len());
            }
            at += run.len();
        }
        Self::with_answers(ids, trained, answers, start..last + 1)
    }

    fn with_answers(
        ids: Vec<u32>,
        mut trained: Vec<bool>,
        answers: Vec<Range<usize>>,
        response: Range<usize>,
    ) -> Result<Self> {
        // Nothing predicts a sequence's first token.
        if let Some(first) = trained.first_mut() {
            *first = false;
        }
        if !trained.contains(&true) {
            return Err(Error::NothingTrained(NothingTrained::OnlyFirst));
        }
        Ok(Self { ids, trained, answers, response, weights: None })
    }

    /// The same sample with a weight for each token, `[seq]`. The loss of a step is Σ weight · cross-entropy / Σ weight
    /// over its trained tokens. A token of weight 0 is not trained; weights of untrained tokens are ignored.
    ///
    /// # Errors
    /// [`Error::MarksLength`]; [`Error::BadWeight`] if a weight is negative or not finite; [`Error::NothingTrained`] if
    /// no trained token has a weight above 0.
    pub fn with_weights(self, weights: &[f32]) -> Result<Self> {
        if weights.len() != self.ids.len() {
            return Err(Error::MarksLength { ids: self.ids.len(), marks: weights.len() });
        }
        if let Some((token, weight)) =
            weights.iter().enumerate().find(|(_, weight)| !(weight.is_finite() && **weight >= 0.0))
        {
            return Err(Error::BadWeight { token, weight: *weight });
        }
        let Self { ids, trained, mut answers, mut response, .. } = self;
        let trained: Vec<bool> =
            trained.iter().zip(weights).map(|(trained, weight)| *trained && *weight > 0.0).collect();
        let learnt = |range: &Range<usize>| trained[range.clone()].contains(&true);
        answers.retain(learnt);
        if !response.is_empty() && !learnt(&response) {
            response = answers.last().cloned().unwrap_or(0..0);
        }
        let mut sample = Self::with_answers(ids, trained, answers, response)?;
        let weights = weights.iter().zip(&sample.trained).map(|(weight, trained)| if *trained { *weight } else { 0.0 });
        let weights: Vec<Weight> = weights.map(Weight::new).collect();
        let uniform = weights.iter().zip(&sample.trained).all(|(weight, trained)| !trained || weight.get() == 1.0);
        sample.weights = (!uniform).then_some(weights);
        Ok(sample)
    }

    /// Truncates the sample to `max_length` tokens.
    ///
    /// # Errors
    /// [`Error::NothingTrained`] if all trained tokens are removed.
    pub fn cut(self, max_length: usize) -> Result<Self> {
        let Self { mut ids, mut trained, answers, response, weights } = self;
        let length = ids.len();
        if length <= max_length {
            return Ok(Self { ids, trained, answers, response, weights });
        }
        ids.truncate(max_length);
        trained.truncate(max_length);
        if !trained.contains(&true) {
            return Err(Error::NothingTrained(NothingTrained::Truncated { max_length, length }));
        }
        let cut = |range: Range<usize>| range.start.min(max_length)..range.end.min(max_length);
        let answers = answers.into_iter().map(cut).filter(|answer| !answer.is_empty()).collect();
        let sample = Self::with_answers(ids, trained, answers, cut(response))?;
        let weights =
            weights.map(|weights| weights[..max_length].iter().map(|weight| weight.get()).collect::<Vec<_>>());
        match weights {
            Some(weights) => sample.with_weights(&weights),
            None => Ok(sample),
        }
    }

    /// The token ids, `[seq]`.
    pub fn ids(&self) -> &[u32] {
        &self.ids
    }

    /// For each token, whether the model is trained to predict it, `[seq]`; never the first one.
    pub fn trained(&self) -> &[bool] {
        &self.trained
    }

    /// The positions of the response tokens as hooks see them; the prompt is before them.
    pub fn response(&self) -> Range<usize> {
        self.response.clone()
    }

    /// The positions of each trained answer's tokens, without its end-of-turn tokens. For a sample from marks, each
    /// contiguous run of marked tokens is an answer.
    pub fn answers(&self) -> &[Range<usize>] {
        &self.answers
    }

    /// The number of tokens in the trained answers.
    pub fn answer_tokens(&self) -> usize {
        self.answers.iter().map(Range::len).sum()
    }

    /// The number of trained tokens.
    pub fn trained_count(&self) -> usize {
        self.trained.iter().filter(|trained| **trained).count()
    }

    /// A token's weight in the loss: 0 if it is not trained, 1 unless another weight was given.
    pub fn weight(&self, token: usize) -> f32 {
        match (self.trained.get(token), &self.weights) {
            (Some(true), Some(weights)) => weights.get(token).map_or(1.0, |weight| weight.get()),
            (Some(true), None) => 1.0,
            _ => 0.0,
        }
    }

    /// The sum of the trained tokens' weights.
    pub fn total_weight(&self) -> f64 {
        match self.weights {
            Some(_) => (0..self.ids.len()).map(|token| f64::from(self.weight(token))).sum(),
            None => self.trained_count() as f64,
        }
    }

    /// Whether any trained token has a weight other than 1.
    pub fn is_weighted(&self) -> bool {
        self.weights.is_some()
    }

    pub(crate) fn sequence(&self) -> Sequence<'_> {
        let Range { start, end } = self.response;
        Sequence { prompt: &self.ids[..start], response: &self.ids[start..end], rest: &self.ids[end..] }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_run_is_the_response() {
        let marks = [true, true, false, false, true, true, false].to_vec();
        let sample = Sample::new((0..7).collect(), marks).expect("a sample");
        assert_eq!(sample.response(), 4..6);
        assert_eq!(sample.trained_count(), 3, "the first token is predicted by nothing");
        let Sequence { prompt, response, rest } = sample.sequence();
        assert_eq!((prompt, response, rest), (&[0, 1, 2, 3][..], &[4, 5][..], &[6][..]));
    }

    #[test]
    fn weights_are_kept_and_a_weight_of_nothing_is_no_training() {
        let sample = || Sample::new((0..6).collect(), vec![false, true, true, false, true, true]).expect("a sample");
        let plain = sample().with_weights(&[7.0, 1.0, 1.0, 7.0, 1.0, 1.0]).expect("a sample");
        assert_eq!(plain, sample(), "weights of 1 are no weights");
        let weighted = sample().with_weights(&[0.0, 0.5, 0.5, 0.0, 2.0, 2.0]).expect("a sample");
        assert_ne!(weighted, sample());
        assert_eq!((weighted.weight(0), weighted.weight(2), weighted.total_weight()), (0.0, 0.5, 5.0));
        let cut = weighted.cut(5).expect("a sample");
        assert_eq!((cut.weight(4), cut.total_weight()), (2.0, 3.0));
        let half = sample().with_weights(&[1.0, 1.0, 1.0, 1.0, 0.0, 0.0]).expect("a sample");
        assert_eq!(half.trained(), [false, true, true, false, false, false]);
        assert_eq!(half.response(), 1..3);
        assert!(matches!(half.answers(), [answer] if *answer == (1..3)));
        assert!(!half.is_weighted());
        for bad in [-1.0, f32::NAN, f32::INFINITY] {
            let refused = sample().with_weights(&[1.0, bad, 1.0, 1.0, 1.0, 1.0]);
            assert!(matches!(refused, Err(Error::BadWeight { token: 1, .. })));
        }
        assert!(matches!(sample().with_weights(&[0.0; 6]), Err(Error::NothingTrained { .. })));
        assert!(matches!(sample().with_weights(&[1.0]), Err(Error::MarksLength { ids: 6, marks: 1 })));
    }

    #[test]
    fn what_cannot_be_learnt_from_is_refused() {
        assert!(matches!(Sample::new(vec![1], vec![]), Err(Error::MarksLength { ids: 1, marks: 0 })));
        for trained in [vec![], vec![false, false], vec![true, false]] {
            let sample = Sample::new(vec![1; trained.len()], trained);
            assert!(matches!(sample, Err(Error::NothingTrained { .. })));
        }
    }
}
