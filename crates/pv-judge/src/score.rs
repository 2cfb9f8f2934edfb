//! What a judge says of an answer.

use std::collections::BTreeMap;
use std::fmt;

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

    /// How the score was got, if there is one.
    pub fn mode(&self) -> Option<ScoreMode> {
        match self {
            Self::Scored(score) => Some(score.evidence.mode()),
            Self::Abstained(_) => None,
        }
    }

    /// The expectation over a judge's first token, `Σ k·p(k) / Σ p(k)` over the tokens that are a number `k` in
    /// `0..=100`; none when those have less than [`LEAST_MASS`] of the probability.
    ///
    /// `tokens` are the most likely ones with the natural logarithms of their probabilities. White space around a token
    /// does not matter, and neither do the marks that some servers show for it ("▁85", "Ġ85"), quotation marks and emphasis
    /// ("**85**"): " 85" and "85" are both 85, and their probabilities add up. Log-probabilities that are not numbers count for nothing, and those above 0 as 0.
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

/// A token without the white space around it (also as vocabularies write it), quotation marks and emphasis.
pub(crate) fn bare_token(token: &str) -> &str {
    token.trim_matches(|c: char| c.is_whitespace() || "▁ĠĊ\"'`*".contains(c))
}

/// The number in `0..=100` that a text is in decimal digits, white space aside.
pub(crate) fn number(text: &str) -> Option<u32> {
    let text = bare_token(text);
    // Parsing alone would also take a sign.
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|number| digits && *number <= 100)
}

/// Whether a token is the beginning of the word for a refusal; vocabularies split it in different places.
pub(crate) fn begins_refusal(token: &str) -> bool {
    let token = bare_token(token);
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
    /// The expectation over the numbers that begin along what the judge wrote, token by token, where a number takes several
    /// tokens ("8", "5") or something stands before it ("Score: 85").
    ///
    /// A server tells the likely next tokens along the reply alone. The numbers that begin otherwise are completed as the one
    /// that was written, or by the middle of those that they may become: `assumed` is their part of the mass.
    Digits {
        /// The probability that the judge gives a number.
        mass: f64,
        /// How much of it belongs to numbers whose later digits were not read.
        assumed: f64,
    },
    /// One number that the judge wrote; its server gives no probabilities that could be used.
    Sampled,
    /// One number that the judge wrote after a thought.
    Reasoned,
    /// A rule that knows the truth.
    Exact,
    /// A rule that measures something that goes along with what was asked for, such as the tone of words. The judge's name
    /// says what.
    Proxy,
}

impl Evidence {
    /// How the number was got.
    pub fn mode(&self) -> ScoreMode {
        match self {
            Self::Distribution { .. } => ScoreMode::Distribution,
            Self::Digits { .. } => ScoreMode::Digits,
            Self::Sampled => ScoreMode::Sampled,
            Self::Reasoned => ScoreMode::Reasoned,
            Self::Exact => ScoreMode::Exact,
            Self::Proxy => ScoreMode::Proxy,
        }
    }
}

/// How a judge gets its numbers: the kinds of [`Evidence`]. Scores of different modes are not comparable, and are not mixed in
/// one run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ScoreMode {
    /// By the distribution over whole numbers.
    Distribution,
    /// By the distributions along the digits of the reply.
    Digits,
    /// By the number that is written.
    Sampled,
    /// By the number that is written after a thought.
    Reasoned,
    /// By a rule that knows the truth.
    Exact,
    /// By a rule that measures something else.
    Proxy,
}

impl fmt::Display for ScoreMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Distribution => "the probabilities of whole numbers",
            Self::Digits => "the probabilities of digits",
            Self::Sampled => "written numbers",
            Self::Reasoned => "numbers written after a thought",
            Self::Exact => "a rule that knows the truth",
            Self::Proxy => "a rule that measures something else",
        })
    }
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
    /// The judge's server refused the prompt about this answer, by a content filter or for its length.
    Refused {
        /// The HTTP status; 200 where a response says so in its body.
        status: u16,
        /// What the server said, shortened.
        message: String,
    },
    /// The prompt about this answer is longer than the judge's model can read.
    TooLong {
        /// How many tokens the prompt and the longest number or refusal have.
        tokens: usize,
        /// How many positions the model was made for.
        limit: usize,
    },
}

impl Abstention {
    /// Which kind it is.
    pub fn kind(&self) -> AbstentionKind {
        match self {
            Self::NoMass { .. } => AbstentionKind::NoMass,
            Self::NotANumber { .. } => AbstentionKind::NotANumber,
            Self::NothingToMeasure => AbstentionKind::NothingToMeasure,
            Self::Refused { .. } => AbstentionKind::Refused,
            Self::TooLong { .. } => AbstentionKind::TooLong,
        }
    }
}

/// The kinds of [`Abstention`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AbstentionKind {
    /// The numbers had too little probability.
    NoMass,
    /// The judge wrote something else.
    NotANumber,
    /// Nothing could be measured.
    NothingToMeasure,
    /// The server refused the prompt.
    Refused,
    /// The prompt was too long.
    TooLong,
}

impl fmt::Display for AbstentionKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoMass => "too little probability on numbers",
            Self::NotANumber => "not a number",
            Self::NothingToMeasure => "nothing to measure",
            Self::Refused => "refused by the server",
            Self::TooLong => "too long for the judge",
        })
    }
}

/// How verdicts were got: scores by their mode, abstentions by their kind.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct VerdictCounts {
    /// How many scores there are of each mode.
    pub scored: BTreeMap<ScoreMode, usize>,
    /// How many abstentions there are of each kind.
    pub abstained: BTreeMap<AbstentionKind, usize>,
}

impl VerdictCounts {
    /// Counts one more.
    pub fn add(&mut self, verdict: &Verdict) {
        match verdict {
            Verdict::Scored(score) => *self.scored.entry(score.evidence.mode()).or_default() += 1,
            Verdict::Abstained(abstention) => *self.abstained.entry(abstention.kind()).or_default() += 1,
        }
    }

    /// Counts those of another as well.
    pub fn merge(&mut self, other: &Self) {
        other.scored.iter().for_each(|(mode, count)| *self.scored.entry(*mode).or_default() += count);
        other.abstained.iter().for_each(|(kind, count)| *self.abstained.entry(*kind).or_default() += count);
    }

    /// Whether none was counted.
    pub fn is_empty(&self) -> bool {
        self.scored.is_empty() && self.abstained.is_empty()
    }

    /// The mode of the scores; the most frequent one where there are several.
    pub fn mode(&self) -> Option<ScoreMode> {
        self.scored.iter().max_by_key(|(_, count)| **count).map(|(mode, _)| *mode)
    }
}

impl<'a> FromIterator<&'a Verdict> for VerdictCounts {
    fn from_iter<I: IntoIterator<Item = &'a Verdict>>(verdicts: I) -> Self {
        let mut counts = Self::default();
        verdicts.into_iter().for_each(|verdict| counts.add(verdict));
        counts
    }
}

impl fmt::Display for VerdictCounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scored = self.scored.iter().map(|(mode, count)| format!("{count} by {mode}"));
        let abstained = self.abstained.iter().map(|(kind, count)| format!("{count} without a score ({kind})"));
        let all = scored.chain(abstained).collect::<Vec<_>>();
        f.write_str(if all.is_empty() { "no verdicts" } else { "" })?;
        f.write_str(&all.join(", "))
    }
}

#[cfg(test)]
mod tests;
