//! A sample as text with its mask, for inspection before training.

use pv_model::Tokenizer;

use crate::{Result, Sample};

/// A piece of a sample's text whose tokens are all trained, or all untrained.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct MaskSpan {
    /// The text, including special tokens.
    pub text: String,
    /// Whether it is trained.
    pub trained: bool,
}

/// A sample's text in pieces that are alternately trained and untrained. A character of several tokens belongs to its
/// last token.
///
/// # Errors
/// Ids that the tokenizer does not have.
pub fn mask_spans(tokenizer: &Tokenizer, sample: &Sample) -> Result<Vec<MaskSpan>> {
    let mut spans: Vec<MaskSpan> = Vec::new();
    let mut add = |text: Option<String>, trained: bool| {
        let Some(text) = text else { return };
        match spans.last_mut() {
            Some(last) if last.trained == trained => last.text.push_str(&text),
            _ => spans.push(MaskSpan { text, trained }),
        }
    };
    let mut stream = tokenizer.stream(false);
    for (&id, &trained) in sample.ids().iter().zip(sample.trained()) {
        add(stream.push(id)?, trained);
    }
    add(stream.flush()?, sample.trained().last().copied().unwrap_or(false));
    Ok(spans)
}
