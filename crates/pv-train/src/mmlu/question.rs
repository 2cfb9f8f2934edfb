//! Multiple-choice questions.

use serde::{Deserialize, Serialize};

use crate::measure::{MeasureError, Result};

/// The letters of the choices.
pub(super) const LETTERS: [char; 4] = ['A', 'B', 'C', 'D'];

/// A question with four choices.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Question {
    /// Its subject, as in file names: "abstract_algebra".
    pub subject: String,
    /// What is asked.
    pub question: String,
    /// What may be answered.
    pub choices: [String; 4],
    /// The index of the right choice, 0 to 3.
    pub answer: usize,
}

impl Question {
    /// From the columns of a table, as those of `cais/mmlu` are: `question`, `subject`, `choices`, `answer` (0 to 3).
    ///
    /// # Errors
    /// [`MeasureError::BadSetting`] for another number of choices, or an answer that is none of them.
    pub fn from_columns<S: Into<String>>(
        subject: impl Into<String>,
        question: impl Into<String>,
        choices: impl IntoIterator<Item = S>,
        answer: i64,
    ) -> Result<Self> {
        let choices: Vec<String> = choices.into_iter().map(Into::into).collect();
        let found = choices.len();
        let choices: [String; 4] =
            choices.try_into().map_err(|_| MeasureError::bad(format!("a question has {found} choices, not 4")))?;
        let index = usize::try_from(answer).ok().filter(|index| *index < choices.len());
        let answer = index.ok_or_else(|| MeasureError::bad(format!("the answer is {answer}, not 0 to 3")))?;
        Ok(Self { subject: subject.into(), question: question.into(), choices, answer })
    }

    /// The question and its choices, up to the answer.
    pub(super) fn asked(&self) -> String {
        let mut text = self.question.trim().to_owned();
        for (letter, choice) in LETTERS.iter().zip(&self.choices) {
            text.push_str(&format!("\n{letter}. {choice}"));
        }
        text + "\nAnswer:"
    }
}

/// Questions to be asked, and those that serve as examples.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct QuestionSet {
    /// The examples: the first of a subject stand before its questions.
    pub dev: Vec<Question>,
    /// The questions that are asked.
    pub test: Vec<Question>,
}

impl QuestionSet {
    /// Keeps at most so many questions of each subject, the first ones.
    #[must_use]
    pub fn first_of_each(mut self, most: usize) -> Self {
        let mut seen = std::collections::BTreeMap::<String, usize>::new();
        self.test.retain(|question| {
            let seen = seen.entry(question.subject.clone()).or_default();
            *seen += 1;
            *seen <= most
        });
        self
    }
}
