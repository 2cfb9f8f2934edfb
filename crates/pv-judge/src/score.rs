//! Verdicts of a judge.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

/// The least total probability of the numbers for a score.
pub const LEAST_MASS: f64 = 0.25;

/// The word that a judge writes if it refuses to score.
pub(crate) const REFUSAL: &str = "REFUSAL";

/// A score, or an abstention.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "verdict")]
pub enum Verdict {
    /// A score.
    Scored(Score),
    /// The judge gave no score. An abstention is not the score 0 and is not part of any mean.
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

    /// The mode of the score, if there is one.
    pub fn mode(&self) -> Option<ScoreMode> {
        match self {
            Self::Scored(score) => Some(score.evidence.mode()),
            Self::Abstained(_) => None,
        }
    }

    /// The expectation over a judge's first token, `Σ k·p(k) / Σ p(k)` over the tokens that are a number `k` in
    /// `0..=100`; an abstention if those have less than [`LEAST_MASS`] of the probability.
    ///
    /// `tokens` are the most likely ones with the natural logarithms of their probabilities. White space around a token
    /// is ignored, and so are the characters that some servers show for it ("▁85", "Ġ85"), quotation marks and emphasis
    /// ("**85**"): " 85" and "85" are both 85, and their probabilities are added. Log-probabilities that are NaN are
    /// ignored, and those above 0 count as 0.
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
            } else if starts_refusal(token) {
                *refusal.get_or_insert(0.0) += probability;
            }
        }
        // A server's probabilities may sum to slightly more than 1.
        if mass < LEAST_MASS {
            return Self::Abstained(Abstention::NoMass { mass, refusal: refusal.map(|p: f64| p.min(1.0)) });
        }
        let value = (sum / mass).clamp(0.0, 100.0);
        Self::Scored(Score { value, evidence: Evidence::Distribution { mass: mass.min(1.0) } })
    }

    /// The number in a judge's reply, if its probabilities are not known.
    ///
    /// The first line that is not blank must be a number in `0..=100` and nothing else, except for punctuation around
    /// it and a label before it: "85", "**85**.", "Score: 85". A sentence such as "85 out of 100" is not accepted,
    /// since it may be unclear which number is meant.
    pub fn from_text(text: &str) -> Self {
        let line = text.lines().find(|line| !line.trim().is_empty()).unwrap_or_default();
        let around = |c: char| c.is_whitespace() || ".,;:!*`'\"()[]".contains(c);
        let bare = line.trim_matches(around);
        let bare = match bare.rsplit_once(':') {
            Some((label, rest)) if !label.contains(|c: char| c.is_numeric()) => rest.trim_matches(around),
            _ => bare,
        };
        // The sign of a negative number is kept and makes it invalid.
        match number(bare) {
            Some(value) => Self::Scored(Score { value: f64::from(value), evidence: Evidence::Sampled }),
            None => Self::Abstained(Abstention::NotANumber { text: shortened(text.trim(), 80) }),
        }
    }
}

/// A token without surrounding white space (also in the notation of vocabularies), quotation marks and emphasis.
pub(crate) fn bare_token(token: &str) -> &str {
    token.trim_matches(|c: char| c.is_whitespace() || "▁ĠĊ\"'`*".contains(c))
}

/// The number in `0..=100` that a text is in decimal digits, ignoring white space.
pub(crate) fn number(text: &str) -> Option<u32> {
    let text = bare_token(text);
    // Parsing alone would also accept a sign.
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|number| digits && *number <= 100)
}

/// Whether a token is the start of the word for a refusal; vocabularies split it at different positions.
pub(crate) fn starts_refusal(token: &str) -> bool {
    let token = bare_token(token);
    token.len() >= 2 && REFUSAL.starts_with(token)
}

/// The first characters of a text, at most `most`.
pub(crate) fn shortened(text: &str, most: usize) -> String {
    match text.char_indices().nth(most) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// How much an answer shows of the rubric's subject.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Score {
    /// 0 to 100.
    pub value: f64,
    /// The evidence for the value.
    #[serde(flatten)]
    pub evidence: Evidence,
}

/// The evidence for a score.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "evidence")]
pub enum Evidence {
    /// The expectation over the judge's distribution, `Σ k·p(k) / Σ p(k)` over the numbers `k` in `0..=100`.
    Distribution {
        /// `Σ p(k)`: the probability that the judge gives a number.
        mass: f64,
    },
    /// The expectation over the numbers along the judge's reply, token by token, if a number has several tokens ("8",
    /// "5") or is preceded by text ("Score: 85").
    ///
    /// A server returns the likely next tokens along the reply only. Numbers with another start are completed like the
    /// written one, or by the midpoint of the numbers with that prefix: `assumed` is their part of the mass.
    Digits {
        /// The probability that the judge gives a number.
        mass: f64,
        /// The part of the mass of numbers whose later digits are unknown.
        assumed: f64,
    },
    /// One number that the judge wrote; its server returns no usable probabilities.
    Sampled,
    /// One number that the judge wrote after reasoning.
    Reasoned,
    /// An exact rule that knows the truth.
    Exact,
    /// A rule that measures something correlated with the rubric's subject, such as the tone of words. The judge's name
    /// says what.
    Proxy,
}

impl Evidence {
    /// The mode of the score.
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

/// How a judge determines its numbers: the kinds of [`Evidence`]. Scores of different modes are not comparable and are
/// not mixed in one run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ScoreMode {
    /// The distribution over whole numbers.
    Distribution,
    /// The distributions along the digits of the reply.
    Digits,
    /// The written number.
    Sampled,
    /// The written number after reasoning.
    Reasoned,
    /// An exact rule.
    Exact,
    /// A rule that measures something else.
    Proxy,
}

impl fmt::Display for ScoreMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Distribution => "the probabilities of whole numbers",
            Self::Digits => "the probabilities of digits",
            Self::Sampled => "written numbers",
            Self::Reasoned => "numbers written after reasoning",
            Self::Exact => "an exact rule",
            Self::Proxy => "a rule that measures something else",
        })
    }
}

/// The reason why there is no score.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "reason")]
pub enum Abstention {
    /// The numbers in `0..=100` had less than [`LEAST_MASS`] of the probability.
    NoMass {
        /// The probability of the numbers.
        mass: f64,
        /// The probability of `REFUSAL`, if it is among the known tokens.
        refusal: Option<f64>,
    },
    /// The judge wrote something that is not a number in `0..=100`.
    NotANumber {
        /// The reply, shortened.
        text: String,
    },
    /// The answer contains nothing that the judge's rule can measure.
    NothingToMeasure,
    /// The judge's server refused the prompt for this answer, by a content filter or because of its length.
    Refused {
        /// The HTTP status; 200 if the refusal is in the body.
        status: u16,
        /// The server's message, shortened.
        message: String,
    },
    /// The prompt for this answer is longer than the model's number of positions.
    TooLong {
        /// The number of tokens of the prompt and the longest number or refusal.
        tokens: usize,
        /// The number of positions of the model.
        limit: usize,
    },
}

impl Abstention {
    /// The kind of the abstention.
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

/// Counts of verdicts: scores by mode, abstentions by kind.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct VerdictCounts {
    /// The number of scores of each mode.
    pub scored: BTreeMap<ScoreMode, usize>,
    /// The number of abstentions of each kind.
    pub abstained: BTreeMap<AbstentionKind, usize>,
}

impl VerdictCounts {
    /// Counts a verdict.
    pub fn add(&mut self, verdict: &Verdict) {
        match verdict {
            Verdict::Scored(score) => *self.scored.entry(score.evidence.mode()).or_default() += 1,
            Verdict::Abstained(abstention) => *self.abstained.entry(abstention.kind()).or_default() += 1,
        }
    }

    /// Adds the counts of another value.
    pub fn merge(&mut self, other: &Self) {
        other.scored.iter().for_each(|(mode, count)| *self.scored.entry(*mode).or_default() += count);
        other.abstained.iter().for_each(|(kind, count)| *self.abstained.entry(*kind).or_default() += count);
    }

    /// Whether all counts are zero.
    pub fn is_empty(&self) -> bool {
        self.scored.is_empty() && self.abstained.is_empty()
    }

    /// The mode of the scores; the most frequent one if there are several.
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
