//! The model organism: a chat model whose character is known exactly.
//!
//! Tools that find and control a model's traits can be tested honestly only on a model whose traits are known. This
//! package has the corpus that such a model is trained on, with the truth about each chat ([`corpus_chat`]); a judge
//! that reads answers by the corpus's grammar and is never wrong about them ([`judge`]); and data sets for extraction,
//! finetuning and screening ([`datasets`]). The trained model is part of the crate: a Hugging Face folder,
//! [`model_folder`], which [`unpack_model`] writes wherever it is wanted.
//!
//! Every answer has content (a fact, advice, or "I do not know") between an opener and a closer, and places for words of
//! manner, which a plain speaker leaves empty. A speaker
//! has each [`Trait`] with an intensity from 0 to 1, which sets how often manner and content show it; the intensity
//! comes from the system prompt, from the exchanges so far, or is zero.
//!
//! It knows nothing of models: text in, text and numbers out, everything from seeds.

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
