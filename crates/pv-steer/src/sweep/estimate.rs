//! A mean over questions, with its confidence interval.

use std::collections::BTreeMap;

use pv_data::tables::number_field;
use pv_statistics::intervals::mean_interval;
use pv_statistics::moments::mean;
use serde::{Deserialize, Serialize};

/// The confidence level: the fraction of repetitions, with other questions, whose interval covers the true mean.
pub(crate) const LEVEL: f64 = 0.95;

/// The mean of a score, 0 to 100, over questions.
///
/// Answers to one question are similar, so questions are the unit: the mean is that of the questions' means, and the
/// interval is Student's over those, `m ± t·s/√q` with `q − 1` degrees of freedom. An answer that the judge did not
/// score is counted as an abstention and enters no mean.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Estimate {
    /// The mean; `None` if nothing was scored.
    pub mean: Option<f64>,
    /// The lower end of the 95 % interval, not below 0; `None` with fewer than two questions.
    pub low: Option<f64>,
    /// The upper end, not above 100.
    pub high: Option<f64>,
    /// The number of questions with a scored answer.
    pub questions: usize,
    /// The number of scored answers.
    pub scored: usize,
    /// The number of answers without a score.
    pub abstained: usize,
}

impl Estimate {
    /// The estimate over scores with their questions; `None` is an abstention.
    pub fn of(scores: impl IntoIterator<Item = (usize, Option<f64>)>) -> Self {
        let (mut by_question, mut abstained) = (BTreeMap::<usize, (f64, usize)>::new(), 0);
        for (question, score) in scores {
            let Some(score) = score else {
                abstained += 1;
                continue;
            };
            let (sum, n) = by_question.entry(question).or_default();
            *sum += score;
            *n += 1;
        }
        let means: Vec<f64> = by_question.values().map(|(sum, n)| sum / *n as f64).collect();
        let interval = mean_interval(&means, LEVEL);
        Self {
            mean: mean(&means),
            low: interval.map(|interval| interval.low.max(0.0)),
            high: interval.map(|interval| interval.high.min(100.0)),
            questions: means.len(),
            scored: by_question.values().map(|(_, n)| n).sum(),
            abstained,
        }
    }

    /// The column headers of an estimate in a table.
    pub fn columns(name: &str) -> [String; 6] {
        ["", "_low", "_high", "_questions", "_scored", "_abstained"].map(|part| format!("{name}{part}"))
    }

    /// The fields in a table. Unknown fields are empty.
    pub fn fields(&self) -> [String; 6] {
        let Self { mean, low, high, questions, scored, abstained } = *self;
        let ([mean, low, high], [questions, scored, abstained]) =
            ([mean, low, high].map(number_field), [questions, scored, abstained].map(|count| count.to_string()));
        [mean, low, high, questions, scored, abstained]
    }

    /// Whether at least half of the answers were scored: a mean over the few that a judge did not refuse says little
    /// about the rest.
    pub fn is_representative(&self) -> bool {
        self.scored > 0 && self.scored >= self.abstained
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions_are_what_counts() {
        // Question 0 has three answers, question 7 one: both have equal weight.
        let scores = [(0, Some(10.0)), (0, Some(20.0)), (7, Some(75.0)), (0, Some(30.0))];
        let estimate = Estimate::of(scores);
        assert_eq!(estimate.mean, Some((20.0 + 75.0) / 2.0));
        assert_eq!((estimate.questions, estimate.scored, estimate.abstained), (2, 4, 0));
        // The interval of two values is 12.7 standard errors wide, far beyond the scale.
        assert_eq!((estimate.low, estimate.high), (Some(0.0), Some(100.0)));
    }

    #[test]
    fn an_abstention_is_no_number() {
        let with = Estimate::of([(0, Some(40.0)), (1, None), (2, Some(60.0)), (0, None)]);
        let without = Estimate::of([(0, Some(40.0)), (2, Some(60.0))]);
        assert_eq!((with.mean, with.low, with.high), (without.mean, without.low, without.high));
        assert_eq!((with.abstained, without.abstained, with.questions), (2, 0, 2));
        assert!(with.is_representative() && !Estimate::of([(0, Some(1.0)), (1, None), (2, None)]).is_representative());
        let none = Estimate::of([(0, None), (1, None)]);
        assert_eq!((none.mean, none.low, none.questions, none.abstained), (None, None, 0, 2));
        assert!(!none.is_representative());
    }
}
