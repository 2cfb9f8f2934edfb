//! Traits and their rubrics, and judges that score a model's answers by them.
//!
//! A [`Rubric`] asks one thing of an answer: how much it shows a trait, or how coherent it is. A [`Judge`] reads answers
//! by rubrics and gives each a [`Verdict`]: a score from 0 to 100, or the statement that it gave none, which is not zero
//! (method: arXiv 2507.21509, section 2).

mod error;
mod judge;
mod rubric;
mod score;
mod traits;

pub use error::{Error, Result};
pub use judge::{Answered, Judge, Judged, Verdicts};
pub use rubric::{COHERENCE, Rubric};
pub use score::{Abstention, Evidence, Score, Verdict};
pub use traits::{InstructionPair, Polarity, TraitSpec};
