//! One answer that is being generated.

use super::{FinishReason, GenerateOptions, Generation};
use crate::sampling::Sampler;
use crate::tokenizer::TokenStream;
use crate::{CausalLm, Error, Result};

/// A sequence that is being decoded.
pub(super) struct Row<'a> {
    pub(super) sequence: usize,
    pub(super) prompt: &'a [u32],
    pub(super) tokens: Vec<u32>,
    /// The reason why the answer ended, while its last token is still to be fed back.
    pub(super) ended: Option<FinishReason>,
    sampler: Sampler,
    /// The greatest number of tokens of the answer.
    limit: usize,
    /// `None` if the model has no tokenizer: then there are only tokens and no text.
    stream: Option<TokenStream<'a>>,
    text: String,
    /// The length of the part of `text` that was reported.
    shown: usize,
}

/// What is known of a row's next token.
pub(super) enum RowLogits<'a> {
    /// The logits of all tokens.
    All(&'a [f32]),
    /// The most likely token; `None` if the logits cannot be used.
    Best(Option<u32>),
}

/// The effect of a new token on its row.
pub(super) enum Step {
    /// The row continues.
    Grown,
    /// The row ended.
    Ended(FinishReason),
}

impl<'a> Row<'a> {
    pub(super) fn new(
        model: &'a CausalLm,
        sequence: usize,
        prompt: &'a [u32],
        seed: u64,
        options: &GenerateOptions,
    ) -> Self {
        Self {
            sequence,
            prompt,
            tokens: Vec::new(),
            ended: None,
            sampler: Sampler::new(options.sampling.clone(), seed),
            limit: options.max_new_tokens.min(model.config().max_positions),
            stream: model.tokenizer().ok().map(|tokenizer| tokenizer.stream(true)),
            text: String::new(),
            shown: 0,
        }
    }

    /// Chooses the next token from its logits.
    pub(super) fn choose(&mut self, logits: RowLogits<'_>) -> Result<u32> {
        let seen = self.prompt.iter().chain(&self.tokens).copied();
        let token = match logits {
            RowLogits::All(logits) => self.sampler.next(logits, seen),
            RowLogits::Best(token) => token,
        };
        token.ok_or(Error::BadLogits { sequence: self.sequence })
    }

    /// Appends the next token. The second value is the text that became final.
    pub(super) fn advance(
        &mut self,
        token: u32,
        stop_tokens: &[u32],
        options: &GenerateOptions,
    ) -> Result<(Step, &str)> {
        if stop_tokens.contains(&token) {
            self.finish_text()?;
            return Ok((Step::Ended(FinishReason::StopToken), self.reveal(0)));
        }
        self.tokens.push(token);
        let before = self.text.len();
        if let Some(stream) = &mut self.stream {
            self.text.extend(stream.push(token)?);
        }
        if let Some(end) = first_stop(&self.text, before, &options.stop_strings) {
            self.text.truncate(end);
            return Ok((Step::Ended(FinishReason::StopString), self.reveal(0)));
        }
        if self.tokens.len() >= self.limit {
            self.finish_text()?;
            if let Some(end) = first_stop(&self.text, before, &options.stop_strings) {
                self.text.truncate(end);
            }
            return Ok((Step::Ended(FinishReason::Length), self.reveal(0)));
        }
        let held = options.stop_strings.iter().map(|stop| held_back(&self.text, stop)).max().unwrap_or(0);
        Ok((Step::Grown, self.reveal(held)))
    }

    fn finish_text(&mut self) -> Result<()> {
        if let Some(stream) = &mut self.stream {
            self.text.extend(stream.flush()?);
        }
        Ok(())
    }

    /// The text that was not reported yet, except for its last `held` bytes.
    fn reveal(&mut self, held: usize) -> &str {
        let end = (self.text.len() - held.min(self.text.len())).max(self.shown.min(self.text.len()));
        let start = self.shown.min(end);
        self.shown = end;
        &self.text[start..end]
    }

    pub(super) fn into_generation(mut self, finish: FinishReason) -> Generation {
        if finish == FinishReason::Cancelled {
            // The rest is at most an incomplete character; losing it is better than an error here.
            let _ = self.finish_text();
        }
        Generation { tokens: self.tokens, text: self.text, finish }
    }
}

/// The start of the first stop string that ends after `before`.
fn first_stop(text: &str, before: usize, stops: &[String]) -> Option<usize> {
    let find = |stop: &String| {
        let mut from = before.saturating_sub(stop.len());
        while !text.is_char_boundary(from) {
            from -= 1;
        }
        text[from..].find(stop.as_str()).map(|at| from + at)
    };
    stops.iter().filter_map(find).min()
}

/// The number of bytes at the end of the text that may be the start of a stop string.
fn held_back(text: &str, stop: &str) -> usize {
    (1..stop.len().min(text.len() + 1))
        .rev()
        .find(|&n| stop.as_bytes().get(..n) == text.as_bytes().get(text.len() - n..))
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stop_strings_are_found_across_tokens_and_characters() {
        let stops = ["\n\n".to_owned(), "é!".to_owned()];
        assert_eq!(first_stop("ab\n\ncd", 3, &stops), Some(2));
        assert_eq!(first_stop("abé!", 4, &stops), Some(2));
        assert_eq!(first_stop("abé", 2, &stops), None);
    }

    #[test]
    fn a_possible_stop_string_is_held_back() {
        assert_eq!(held_back("answer <|", "<|end|>"), 2);
        assert_eq!(held_back("answer", "<|end|>"), 0);
        assert_eq!(held_back("<", "<|end|>"), 1);
        assert_eq!(held_back("", "x"), 0);
    }
}
