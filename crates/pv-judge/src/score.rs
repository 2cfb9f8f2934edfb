//! What a judge says of an answer.

use serde::{Deserialize, Serialize};

/// The least probability that the numbers must have together for there to be a score.
pub const LEAST_MASS: f64 = 0.25;

/// What a judge is told to write when it will not score.
pub(crate) const REFUSAL: &str = "REFUSAL";

/// A score, or the statement that there is none.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "verdict")]
pub enum Verdict {
    /// A score.
    Scored(Score),
    /// The judge gave no score. That is not the score 0, and enters no mean.
    Abstained(Abstention),
}

impl Verdict {
    /// The score's value, 0 to 100.
    pub fn value(&self) -> Option<f64> {
        match self {
            Self::Scored(score) => Some(score.value),
            Self::Abstained(_) => None,
        }
    }

    /// The expectation over a judge's first token, `Σ k·p(k) / Σ p(k)` over the tokens that are a number `k` in
    /// `0..=100`; none when those have less than [`LEAST_MASS`] of the probability.
    ///
    /// `tokens` are the most likely ones with the natural logarithms of their probabilities. White space around a token
    /// does not matter: " 85" and "85" are both 85, and their probabilities add up. Log-probabilities that are not
    /// numbers count for nothing, and those above 0 as 0.
    pub fn from_logprobs<'a>(tokens: impl IntoIterator<Item = (&'a str, f64)>) -> Self {
        let (mut mass, mut sum, mut refusal) = (0.0, 0.0, None);
        for (token, logprob) in tokens {
            if logprob.is_nan() {
                continue;
            }
            let probability = logprob.min(0.0).exp();
            if let Some(number) = number(token) {
                mass += probability;
                sum += f64::from(number) * probability;
            } else if begins_refusal(token) {
                *refusal.get_or_insert(0.0) += probability;
            }
        }
        // The probabilities of a server may add up to a little more than 1.
        if mass < LEAST_MASS {
            return Self::Abstained(Abstention::NoMass { mass, refusal: refusal.map(|p: f64| p.min(1.0)) });
        }
        let value = (sum / mass).clamp(0.0, 100.0);
        Self::Scored(Score { value, evidence: Evidence::Distribution { mass: mass.min(1.0) } })
    }

    /// The number that a judge wrote, where its probabilities are not known.
    ///
    /// The first line that is not blank must be a number in `0..=100` and nothing else, but for punctuation around it and
    /// a label before it: "85", "**85**.", "Score: 85". Of a sentence like "85 out of 100" nothing is taken, since of
    /// another one it would not be known which number is meant.
    pub fn from_text(text: &str) -> Self {
        let line = text.lines().find(|line| !line.trim().is_empty()).unwrap_or_default();
        let around = |c: char| c.is_whitespace() || ".,;:!*`'\"()[]".contains(c);
        let bare = line.trim_matches(around);
        let bare = match bare.rsplit_once(':') {
            Some((label, rest)) if !label.contains(|c: char| c.is_numeric()) => rest.trim_matches(around),
            _ => bare,
        };
        // The sign of a number below 0 is kept, and makes it none.
        match number(bare) {
            Some(value) => Self::Scored(Score { value: f64::from(value), evidence: Evidence::Sampled }),
            None => Self::Abstained(Abstention::NotANumber { text: shortened(text.trim(), 80) }),
        }
    }
}

/// The number in `0..=100` that a text is in decimal digits, white space aside.
pub(crate) fn number(text: &str) -> Option<u32> {
    let text = text.trim();
    // Parsing alone would also take a sign.
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|number| digits && *number <= 100)
}

/// Whether a token is the beginning of the word for a refusal; vocabularies split it in different places.
fn begins_refusal(token: &str) -> bool {
    let token = token.trim();
    token.len() >= 2 && REFUSAL.starts_with(token)
}

/// At most so many characters of a text.
pub(crate) fn shortened(text: &str, most: usize) -> String {
    match text.char_indices().nth(most) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// How much an answer has of what the rubric asks for.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Score {
    /// 0 to 100.
    pub value: f64,
    /// What it rests on.
    #[serde(flatten)]
    pub evidence: Evidence,
}

/// What a score rests on.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "evidence")]
pub enum Evidence {
    /// The expectation over the judge's distribution, `Σ k·p(k) / Σ p(k)` over the numbers `k` in `0..=100`.
    Distribution {
        /// `Σ p(k)`: the probability that the judge gives a number.
        mass: f64,
    },
    /// One number that the judge wrote; its server gives no probabilities.
    Sampled,
    /// A rule that knows the truth.
    Exact,
    /// A rule that measures something that goes along with what was asked for, such as the tone of words. The judge's name
    /// says what.
    Proxy,
}

/// Why there is no score.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "reason")]
pub enum Abstention {
    /// The numbers in `0..=100` had less than [`LEAST_MASS`] of the probability.
    NoMass {
        /// Their probability.
        mass: f64,
        /// That of `REFUSAL`, where it is among the tokens that are known.
        refusal: Option<f64>,
    },
    /// The judge wrote something that is not a number in `0..=100`.
    NotANumber {
        /// What it wrote, shortened.
        text: String,
    },
    /// There is nothing in the answer that the judge's rule could measure.
    NothingToMeasure,
}

#[cfg(test)]
mod tests;
