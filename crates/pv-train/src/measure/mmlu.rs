//! MMLU: four-way multiple-choice questions, as a measure of general capability.
//!
//! The prompt is the subject's line, its first dev questions with their answers, and the question. This is the format
//! of the original and of the evaluation harness that most published figures use:
//!
//! ```text
//! The following are multiple choice questions (with answers) about abstract algebra.
//!
//! {question}
//! A. {choice}
//! B. {choice}
//! C. {choice}
//! D. {choice}
//! Answer: B
//!
//! …
//! Answer:
//! ```
//!
//! The model's choice is the most likely of " A", " B", " C" and " D" after the prompt. [`QuestionSet::read_folder`]
//! reads the original CSV files, [`Question::from_columns`] converts a row of any other table, and [`Mmlu`] runs the
//! questions.

mod prompt;
mod question;
mod read;
mod results;
mod run;

pub use question::{Question, QuestionSet};
pub use results::{Answer, MmluResults, SubjectResult};
pub use run::{Mmlu, MmluOptions};
