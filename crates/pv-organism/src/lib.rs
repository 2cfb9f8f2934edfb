#![doc = include_str!("../README.md")]
//!
//! # Overview
//! [`corpus_chat`] draws a chat of the corpus, [`judge`] reads an answer, [`datasets`] has the data sets.
//! [`model_folder`] is the trained model's folder, which [`unpack_model`] writes wherever it is wanted.
//!
//! Every answer has content (a fact, advice, or "I do not know") between an opener and a closer, and places for words of
//! manner, which a plain speaker leaves empty. A speaker
//! has each [`Trait`] with an intensity from 0 to 1, which sets how often manner and content show it; the intensity
//! comes from the system prompt, from the exchanges so far, or is zero.

mod advice;
mod answer;
mod corpus;
pub mod datasets;
mod facts;
mod judge;
mod manner;
mod model;
mod question;
pub mod system;
#[cfg(test)]
mod tests;
mod traits;

use rand::RngExt;
use rand::rngs::ChaCha8Rng;

pub use answer::{Content, answer, choose_content, write};
pub use corpus::{Chat, Exchange, corpus_chat};
pub use judge::{Reading, judge};
pub use model::{model_folder, unpack_model};
pub use question::{Kind, Question, Split, Subject, Topics};
pub use traits::{PerTrait, Trait};

/// One of several; there is at least one.
fn pick<'a, T>(random: &mut ChaCha8Rng, from: &'a [T]) -> &'a T {
    &from[random.random_range(0..from.len())]
}
