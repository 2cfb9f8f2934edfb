//! The tokens of a question and of its choices.

use pv_model::CausalLm;
use pv_model::tokenizer::AddSpecial;

use super::question::{LETTERS, Question};
use crate::measure::{QuestionError, Result};

/// An encoded question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Encoded {
    /// The number of examples before it.
    pub(super) shots: usize,
    pub(super) context: Vec<u32>,
    pub(super) choices: Vec<Vec<u32>>,
}

impl Encoded {
    fn longest(&self) -> usize {
        self.context.len() + self.choices.iter().map(Vec::len).max().unwrap_or(0)
    }
}

/// The prompt's text: the examples, then the question.
pub(super) fn text(question: &Question, examples: &[&Question]) -> String {
    let subject = question.subject.replace('_', " ");
    let mut text = format!("The following are multiple choice questions (with answers) about {subject}.\n\n");
    for example in examples {
        text.push_str(&format!("{} {}\n\n", example.asked(), LETTERS[example.answer]));
    }
    text + &question.asked()
}

/// Encodes a question after its examples, or, as in the original, after as many examples as fit into the model's
/// positions.
///
/// # Errors
/// The inner error is the reason why the question cannot be used: it is too long even without examples, or the
/// tokenizer encodes two choices identically. The outer errors are those of the tokenizer.
pub(super) fn encode(
    model: &CausalLm,
    question: &Question,
    examples: &[&Question],
) -> Result<Result<Encoded, QuestionError>> {
    let limit = model.config().max_positions;
    let mut shots = examples.len();
    loop {
        let encoded = encode_all(model, question, &examples[..shots])?;
        if encoded.longest() <= limit {
            let alike = (1..4).any(|at| encoded.choices[..at].contains(&encoded.choices[at]));
            return Ok(match alike {
                true => Err(QuestionError::SameTokens),
                false => Ok(encoded),
            });
        }
        if shots == 0 {
            return Ok(Err(QuestionError::TooLong { tokens: encoded.longest(), positions: limit }));
        }
        shots -= 1;
    }
}

/// The tokens of the prompt with each choice, split at the first position at which the first choice differs from the
/// prompt or from another choice. Usually each choice is then one token. If a tokenizer encodes " A" as several tokens,
/// or merges it with the end of the prompt, the choice is everything after the common prefix.
fn encode_all(model: &CausalLm, question: &Question, examples: &[&Question]) -> Result<Encoded> {
    let tokenizer = model.tokenizer()?;
    let prompt = text(question, examples);
    let mut context = tokenizer.encode(&prompt, AddSpecial::Yes)?;
    let mut whole = Vec::with_capacity(LETTERS.len());
    for letter in LETTERS {
        let ids = tokenizer.encode(&format!("{prompt} {letter}"), AddSpecial::Yes)?;
        context.truncate(common(&context, &ids));
        whole.push(ids);
    }
    let choices = whole.into_iter().map(|ids| ids[context.len()..].to_vec()).collect();
    Ok(Encoded { shots: examples.len(), context, choices })
}

/// The length of the common prefix in tokens.
pub(super) fn common(a: &[u32], b: &[u32]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}
