//! A mean over questions, and how far it can be trusted.

use std::collections::BTreeMap;

use pv_vectors::number_field;
use serde::{Deserialize, Serialize};
use statrs::distribution::{ContinuousCDF, StudentsT};

/// The part of repetitions, with other questions, whose interval covers the true mean.
const LEVEL: f64 = 0.95;

/// The mean of a score, 0 to 100, over questions.
///
/// Answers to one question resemble each other, so that questions are what is counted: the mean is that of the questions'
/// means, and the interval is Student's over those, `m ± t·s/√q` with `q − 1` degrees of freedom. An answer that the judge
/// did not score is counted as such and enters no mean.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Estimate {
    /// The mean; `None` when nothing was scored.
    pub mean: Option<f64>,
    /// The lower end of the 95 % interval, not below 0; `None` with fewer than two questions.
    pub low: Option<f64>,
    /// Its upper end, not above 100.
    pub high: Option<f64>,
    /// How many questions have a scored answer.
    pub questions: usize,
    /// How many answers were scored.
    pub scored: usize,
    /// How many the judge gave no score.
    pub abstained: usize,
}

impl Estimate {
    /// Over scores with their questions; `None` is an abstention.
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
        let interval = interval(&means);
        Self {
            mean: mean(&means),
            low: interval.map(|(low, _)| low.max(0.0)),
            high: interval.map(|(_, high)| high.min(100.0)),
            questions: means.len(),
            scored: by_question.values().map(|(_, n)| n).sum(),
            abstained,
        }
    }

    /// The headers of an estimate's columns in a table.
    pub fn columns(name: &str) -> [String; 6] {
        ["", "_low", "_high", "_questions", "_scored", "_abstained"].map(|part| format!("{name}{part}"))
    }

    /// Its fields in a table. What is not known is empty.
    pub fn fields(&self) -> [String; 6] {
        let Self { mean, low, high, questions, scored, abstained } = *self;
        let ([mean, low, high], [questions, scored, abstained]) =
            ([mean, low, high].map(number_field), [questions, scored, abstained].map(|count| count.to_string()));
        [mean, low, high, questions, scored, abstained]
    }

    /// Whether at least half of the answers were scored: a mean over a few that the judge did not refuse says little about
    /// the rest.
    pub fn is_representative(&self) -> bool {
        self.scored > 0 && self.scored >= self.abstained
    }
}

/// The mean; `None` of nothing.
pub(crate) fn mean(values: &[f64]) -> Option<f64> {
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

/// Student's 95 % interval of the mean; `None` with fewer than two values.
pub(crate) fn interval(values: &[f64]) -> Option<(f64, f64)> {
    let n = values.len() as f64;
    let middle = mean(values).filter(|_| values.len() > 1)?;
    let variance = values.iter().map(|value| (value - middle).powi(2)).sum::<f64>() / (n - 1.0);
    let t = StudentsT::new(0.0, 1.0, n - 1.0).ok()?.inverse_cdf(0.5 + LEVEL / 2.0);
    let reach = t * (variance / n).sqrt();
    Some((middle - reach, middle + reach))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// From a printed table of Student's distribution: 97.5 % points.
    const TABLE: [(usize, f64); 5] = [(1, 12.706), (3, 3.182), (9, 2.262), (19, 2.093), (30, 2.042)];

    #[test]
    fn the_interval_is_student_s() {
        for (freedom, t) in TABLE {
            // n values whose mean is 50 and whose standard deviation is 1 by construction: ±a, and 0s for odd n.
            let n = freedom + 1;
            let a = ((n - 1) as f64 / (n - n % 2) as f64).sqrt();
            let values: Vec<f64> = (0..n)
                .map(|i| match i {
                    _ if n % 2 == 1 && i == n - 1 => 50.0,
                    _ if i % 2 == 0 => 50.0 + a,
                    _ => 50.0 - a,
                })
                .collect();
            let (low, high) = interval(&values).unwrap();
            let reach = t / (n as f64).sqrt();
            assert!(
                (low - (50.0 - reach)).abs() < 1e-3 && (high - (50.0 + reach)).abs() < 1e-3,
                "{freedom}: {low} {high}"
            );
        }
        assert_eq!(interval(&[5.0]), None);
        assert_eq!(interval(&[5.0, 5.0]), Some((5.0, 5.0)));
    }

    #[test]
    fn questions_are_what_counts() {
        // Question 0 has three answers, question 7 one: both weigh the same.
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
