//! Multiple-choice questions.

use serde::{Deserialize, Serialize};

use crate::measure::{QuestionError, Result};

/// The letters of the choices.
pub(super) const LETTERS: [char; 4] = ['A', 'B', 'C', 'D'];

/// A question with four choices.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Question {
    /// The subject, as in file names: "abstract_algebra".
    pub subject: String,
    /// The text of the question.
    pub question: String,
    /// The choices.
    pub choices: [String; 4],
    /// The index of the correct choice, 0 to 3.
    pub answer: usize,
}

impl Question {
    /// Creates a question from the columns of a table such as `cais/mmlu`: `question`, `subject`, `choices`, `answer`
    /// (0 to 3).
    ///
    /// # Errors
    /// [`QuestionError::Choices`] for another number of choices, [`QuestionError::Index`] for an answer that is not the
    /// index of a choice.
    pub fn from_columns<S: Into<String>>(
        subject: impl Into<String>,
        question: impl Into<String>,
        choices: impl IntoIterator<Item = S>,
        answer: i64,
    ) -> Result<Self, QuestionError> {
        let choices: Vec<String> = choices.into_iter().map(Into::into).collect();
        let found = choices.len();
        let choices: [String; 4] = choices.try_into().map_err(|_| QuestionError::Choices { found })?;
        let index = usize::try_from(answer).ok().filter(|index| *index < choices.len());
        let answer = index.ok_or(QuestionError::Index { found: answer })?;
        Ok(Self { subject: subject.into(), question: question.into(), choices, answer })
    }

    /// The text of the question and its choices, up to the answer.
    pub(super) fn asked(&self) -> String {
        let mut text = self.question.trim().to_owned();
        for (letter, choice) in LETTERS.iter().zip(&self.choices) {
            text.push_str(&format!("\n{letter}. {choice}"));
        }
        text + "\nAnswer:"
    }
}

/// Test questions, and questions that serve as examples.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct QuestionSet {
    /// The examples: the first ones of a subject are put before its test questions.
    pub dev: Vec<Question>,
    /// The test questions.
    pub test: Vec<Question>,
}

impl QuestionSet {
    /// Keeps at most the first `most` questions of each subject.
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
