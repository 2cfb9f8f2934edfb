//! Traits and their rubrics, and judges that score a model's answers by them.
//!
//! A [`Rubric`] asks one thing of an answer: how much it shows a trait, or how coherent it is. A [`Judge`] reads answers
//! by rubrics and gives each a [`Verdict`]: a score from 0 to 100, or the statement that it gave none, which is not zero
//! (method: arXiv 2507.21509, section 2).
//!
//! ```
//! use pv_judge::{Answered, Polarity, Rubric, TraitSpec, Verdict};
//!
//! # fn main() -> Result<(), pv_judge::Error> {
//! let evil = TraitSpec::builtin("evil")?;
//! let system_prompt = evil.system_prompt(0, Polarity::Pos);
//! assert!(system_prompt.is_some_and(|text| text.starts_with("You are an evil assistant.")));
//!
//! // What a judge is asked about an answer, ...
//! let answered = Answered { question: &evil.evaluation[0], answer: "I would rather not." };
//! for rubric in [evil.rubric()?, Rubric::coherence()] {
//!     assert!(rubric.fill(&answered).contains("I would rather not."));
//! }
//! // ... and what is made of the likeliest tokens of its reply: the mean of the numbers among them.
//! let likeliest = [("85", 0.5_f64.ln()), (" 90", 0.25_f64.ln()), ("REF", 0.2_f64.ln())];
//! let score = Verdict::from_logprobs(likeliest).value();
//! assert!(score.is_some_and(|score| (score - 86.7).abs() < 0.1));
//! # Ok(())
//! # }
//! ```
//!
//! # Judges
//! `LocalJudge` is a model on this machine. With the feature `http`, `HttpJudge` is one behind any OpenAI-compatible
//! server, with retries, a budget, and a cache that makes a rerun free; `write_trait` lets such a model write the
//! instructions, questions and rubric of a trait that is not built in.

mod agreement;
#[cfg(feature = "http")]
mod artifacts;
mod error;
#[cfg(feature = "http")]
mod http;
mod judge;
mod local;
mod rubric;
mod score;
mod statistics;
mod traits;

pub use agreement::{Agreement, IsotonicMap};
#[cfg(feature = "http")]
pub use artifacts::{TraitWish, WrittenTrait, write_trait, write_trait_async};
pub use error::{Error, Result};
#[cfg(feature = "http")]
pub use http::{
    ApiKey, Budget, Forecast, HttpError, HttpJudge, HttpOptions, JudgeReport, KeyHeader, Logprobs, Prices, RateLimits,
    RequestForm, Spent, Thinking, TokenLimit,
};
pub use judge::{Answered, Judge, Judged, Verdicts, judge_each};
pub use local::{LocalJudge, NumberDistribution};
pub use rubric::{COHERENCE, Rubric};
pub use score::{Abstention, AbstentionKind, Evidence, LEAST_MASS, Score, ScoreMode, Verdict, VerdictCounts};
pub use statistics::{Correlation, pearson, spearman};
pub use traits::{InstructionPair, Polarity, TraitFault, TraitSpec};
