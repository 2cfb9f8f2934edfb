//! Screening training data before anybody trains on it (arXiv 2507.21509, the section on screening; method.md §8).
//!
//! The *projection difference* of a sample is how much further the data set's answer lies along a persona vector than the
//! model's own answer to the same prompt: `ΔP = (a(x, y) − a(x, y′))·v̂`. Its mean over a data set predicts what finetuning on it
//! does to the model's character; its value per sample finds those that do it.
//!
//! [`Screen`] goes through a data set's files into a folder, and on from there when it was stopped. [`difference`] is the
//! computation alone, for a batch. [`likelihood`] asks instead how much likelier a steered model makes an answer, which sees a
//! wrong fact in plain words too. [`BaseAnswers`] keeps the model's own answers, which are the greater part of the cost;
//! [`estimate`] does with those of a random part, and says with what error; [`Sequential`] with as few as a
//! decision takes. [`select`], [`threshold`], [`judged`] and [`export`] choose samples, and [`Judging`] keeps a judge's verdicts
//! on them; [`auc`], [`kolmogorov_smirnov`], [`histograms`] compare sets, and [`Contributions`] shows which words push a projection.
//!
//! # Features
//! `data` reads and exports Parquet and compressed files, and adds `write_score_table`, a screening's table as Parquet.

mod base_answers;
mod compare;
mod difference;
mod error;
mod estimate;
mod export;
mod hashes;
mod judging;
mod likelihood;
mod sample;
#[cfg(feature = "data")]
mod score_table;
mod screen;
mod select;
mod stream;
mod table;

pub use base_answers::{BaseAnswers, BaseOptions};
pub use compare::{Auc, Contributions, Histograms, KolmogorovSmirnov, TokenShare, auc, histograms, kolmogorov_smirnov};
pub use difference::{Difference, ReadOptions, Rows, difference};
pub use error::{Error, Result};
pub use estimate::{
    Decision, Estimate, EstimateOptions, FIRST_LOOK, IntervalKind, Known, LEAST, Look, Method, Sequential, Stop,
    estimate,
};
pub use export::{Exported, Keep, export};
pub use judging::{JudgeSample, Judging};
pub use likelihood::{Likelihood, LikelihoodScore, Persona, likelihood};
pub use pv_model::ModelIdentity;
pub use pv_vectors::TraitDirection;
pub use sample::{ReadingOptions, Skip, Tokens, Turns, tokens, tokens_with};
#[cfg(feature = "data")]
pub use score_table::write_score_table;
pub use screen::{
    Base, DirectionSummary, HashedFile, NOTICED, SCORES, SKIPPED, SUMMARY, Screen, ScreenOptions, ScreenProgress, Step,
    Summary,
};
pub use select::{JudgedSamples, Which, judged, select, threshold};
pub use stream::Place;
pub use table::{Score, ScoreRow, read_scores};
