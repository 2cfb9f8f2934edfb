//! The token sequences of the numbers, and the conversion of token probabilities to number probabilities.

use std::collections::BTreeMap;

use pv_model::{CausalLm, Message, RenderOptions};

use super::NumberDistribution;
use crate::score::REFUSAL;
use crate::{Error, Result};

/// The meaning of a sequence of tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Meaning {
    Number(usize),
    Refusal,
}

impl Meaning {
    fn text(self) -> String {
        match self {
            Self::Number(number) => number.to_string(),
            Self::Refusal => REFUSAL.to_owned(),
        }
    }
}

/// The token sequences that are a number or a refusal.
#[derive(Clone, Debug)]
pub(super) struct Spellings {
    tokens: Vec<Vec<u32>>,
    meanings: Vec<Meaning>,
    /// For each sequence of a number, longer ones with this prefix: one for each possible next token.
    longer: Vec<Vec<usize>>,
}

impl Spellings {
    /// The spellings after the prompts that a model's template renders.
    ///
    /// Texts are encoded together with such a prompt, since tokenizers encode the start of a text differently; the
    /// user's message does not matter if a template adds text after it. If a text would merge with the prompt's last
    /// token (a line break and a space may be one token), it is encoded after a colon: the prompt's tokens are given,
    /// and the model continues with new ones.
    ///
    /// # Errors
    /// No tokenizer or template, a template that rejects the message, [`Error::NumbersAlike`].
    pub(super) fn new(model: &CausalLm, template: &RenderOptions) -> Result<Self> {
        let rendered = model.chat_template()?.render(&[Message::user("?")], template)?.text;
        let tokenizer = model.tokenizer()?;
        // The end of a prompt, a character that tokenizers separate from the following text, nothing.
        let contexts = [rendered.as_str(), ":", ""];
        let contexts = contexts.into_iter().map(|text| Ok((text, tokenizer.encode_rendered(text)?)));
        let contexts = contexts.collect::<Result<Vec<_>>>()?;
        let spell = |text: &str| -> Result<Vec<u32>> {
            for (before, tokens) in &contexts {
                let whole = tokenizer.encode_rendered(&format!("{before}{text}"))?;
                if let Some(after) = whole.strip_prefix(tokens.as_slice()) {
                    return Ok(after.to_vec());
                }
            }
            Ok(Vec::new())
        };
        let mut known = BTreeMap::new();
        for meaning in (0..=100).map(Meaning::Number).chain([Meaning::Refusal]) {
            let text = meaning.text();
            for tokens in [spell(&text)?, spell(&format!(" {text}"))?] {
                let alike = |other: String| Error::NumbersAlike {
                    model: model.name().to_owned(),
                    first: other,
                    second: text.clone(),
                };
                if tokens.is_empty() {
                    return Err(alike(String::new()));
                }
                match known.insert(tokens, meaning) {
                    Some(other) if other != meaning => return Err(alike(other.text())),
                    _ => {}
                }
            }
        }
        let (tokens, meanings): (Vec<_>, Vec<_>) = known.into_iter().unzip();
        let longer = (0..tokens.len()).map(|short| longer(&tokens, &meanings, short)).collect();
        Ok(Self { tokens, meanings, longer })
    }

    /// The token sequences.
    pub(super) fn tokens(&self) -> &[Vec<u32>] {
        &self.tokens
    }

    /// The length of the longest sequence.
    pub(super) fn longest(&self) -> usize {
        self.tokens.iter().map(Vec::len).max().unwrap_or(0)
    }

    /// Computes the distribution from the log-probability of each token of each sequence, given the preceding ones.
    pub(super) fn distribution(&self, log_probs: &[Vec<f64>]) -> NumberDistribution {
        let mut distribution = NumberDistribution::default();
        for (index, meaning) in self.meanings.iter().enumerate() {
            let begun = log_probs[index].iter().sum::<f64>().exp();
            let length = self.tokens[index].len();
            match meaning {
                Meaning::Refusal => distribution.add_refusal(begun),
                Meaning::Number(number) => {
                    let goes_on: f64 = self.longer[index].iter().map(|&longer| log_probs[longer][length].exp()).sum();
                    // A sum of rounded probabilities may slightly exceed 1.
                    distribution.add(*number, begun * (1.0 - goes_on).max(0.0));
                }
            }
        }
        distribution
    }
}

/// The number sequences that continue the sequence `short`, one for each possible next token.
fn longer(tokens: &[Vec<u32>], meanings: &[Meaning], short: usize) -> Vec<usize> {
    let numbers = (0..tokens.len()).filter(|&index| meanings[index] != Meaning::Refusal);
    let next: BTreeMap<u32, usize> = numbers
        .filter_map(|index| {
            let rest = tokens[index].strip_prefix(tokens[short].as_slice())?;
            Some((*rest.first()?, index))
        })
        .collect();
    next.into_values().collect()
}
