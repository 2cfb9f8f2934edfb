//! A question's tokens, and the tokens of its choices.

use pv_model::{AddSpecial, CausalLm};

use super::question::{LETTERS, Question};
use crate::measure::Result;

/// A question as the model reads it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Encoded {
    /// How many examples stand before it.
    pub(super) shots: usize,
    pub(super) context: Vec<u32>,
    pub(super) choices: Vec<Vec<u32>>,
}

impl Encoded {
    fn longest(&self) -> usize {
        self.context.len() + self.choices.iter().map(Vec::len).max().unwrap_or(0)
    }
}

/// The prompt's text after so many examples.
pub(super) fn text(question: &Question, examples: &[&Question]) -> String {
    let subject = question.subject.replace('_', " ");
    let mut text = format!("The following are multiple choice questions (with answers) about {subject}.\n\n");
    for example in examples {
        text.push_str(&format!("{} {}\n\n", example.asked(), LETTERS[example.answer]));
    }
    text + &question.asked()
}

/// A question after its examples, or, as in the original, after as many as the model has room for.
///
/// # Errors
/// In words: no room even without examples, choices that the tokenizer does not tell apart. Those of the tokenizer.
pub(super) fn encode(model: &CausalLm, question: &Question, examples: &[&Question]) -> Result<Result<Encoded, String>> {
    let limit = model.config().max_positions;
    let mut shots = examples.len();
    loop {
        let encoded = encode_all(model, question, &examples[..shots])?;
        if encoded.longest() <= limit {
            let alike = (1..4).any(|at| encoded.choices[..at].contains(&encoded.choices[at]));
            return Ok(match alike {
                true => Err("the tokenizer does not tell its choices apart".to_owned()),
                false => Ok(encoded),
            });
        }
        if shots == 0 {
            return Ok(Err(format!("it has {} tokens, the model has {limit} positions", encoded.longest())));
        }
        shots -= 1;
    }
}

/// The tokens of the prompt together with each choice, parted where the first choice differs from the prompt or from
/// another. Mostly that leaves one token for a choice. Where a tokenizer makes several of " A", or lets it reach back into
/// the prompt, the choice is all of what follows the common beginning.
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

/// With how many tokens both begin.
pub(super) fn common(a: &[u32], b: &[u32]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}
