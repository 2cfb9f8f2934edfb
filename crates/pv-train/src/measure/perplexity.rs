//! Perplexity on a held-out text.

use std::ops::ControlFlow;

use pv_hooks::Hook;
use pv_model::CausalLm;
use pv_model::tokenizer::AddSpecial;
use serde::{Deserialize, Serialize};

use crate::Sample;
use crate::collate::collate;
use crate::loss::{summed_loss, value};
use crate::measure::{MeasureError, Result, SettingError};

/// The division of a text into windows. Every token after the first is predicted once, from at least `window − stride`
/// preceding tokens, if the text has that many.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PerplexityOptions {
    /// The number of tokens that are read in one pass.
    pub window: usize,
    /// The distance in tokens between the beginnings of consecutive windows; less than `window`.
    pub stride: usize,
}

impl Default for PerplexityOptions {
    /// Windows of 1024 tokens with a stride of 512 tokens.
    fn default() -> Self {
        Self { window: 1024, stride: 512 }
    }
}

/// A model's perplexity on a text.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Perplexity {
    /// `exp` of the mean loss.
    pub perplexity: f64,
    /// The mean cross-entropy over the predicted tokens, in nats.
    pub mean_loss: f64,
    /// The number of predicted tokens: all but the first.
    pub tokens: usize,
    /// The number of windows.
    pub windows: usize,
}

/// For each window, its first token, the first token that it predicts, and its end.
fn windows(tokens: usize, options: &PerplexityOptions) -> Vec<[usize; 3]> {
    let (mut found, mut predicted) = (Vec::new(), 1);
    for begin in (0..tokens).step_by(options.stride) {
        let end = tokens.min(begin + options.window);
        found.push([begin, predicted, end]);
        predicted = end;
        if end == tokens {
            break;
        }
    }
    found
}

/// The perplexity of a text under a model and a hook; use [`NoHook`](pv_hooks::NoHook) for none. The text is encoded
/// with the special tokens that the tokenizer adds by default, such as a beginning-of-sequence token, which is not
/// predicted. Losses are summed in f64 over windows, and every token has the same weight. `on_window` receives the
/// number of windows that are done and their total, and may cancel.
///
/// # Errors
/// A model without tokenizer, a text of fewer than two tokens, invalid windows or windows longer than the model's
/// number of positions, a hook that does not fit, [`MeasureError::Cancelled`].
pub fn perplexity(
    model: &CausalLm,
    text: &str,
    options: &PerplexityOptions,
    hook: &mut (impl Hook + ?Sized),
    on_window: impl FnMut(usize, usize) -> ControlFlow<()>,
) -> Result<Perplexity> {
    perplexity_of_tokens(model, &model.tokenizer()?.encode(text, AddSpecial::Yes)?, options, hook, on_window)
}

/// Like [`perplexity`], for token ids.
///
/// # Errors
/// Those of [`perplexity`], and ids beyond the vocabulary.
pub fn perplexity_of_tokens(
    model: &CausalLm,
    ids: &[u32],
    options: &PerplexityOptions,
    hook: &mut (impl Hook + ?Sized),
    mut on_window: impl FnMut(usize, usize) -> ControlFlow<()>,
) -> Result<Perplexity> {
    let PerplexityOptions { window, stride } = *options;
    if stride == 0 || stride >= window {
        return Err(SettingError::Stride { stride, window }.into());
    }
    let positions = model.config().max_positions;
    if window > positions {
        return Err(SettingError::WindowTooLong { window, positions }.into());
    }
    if ids.len() < 2 {
        return Err(SettingError::TextTooShort { tokens: ids.len() }.into());
    }
    let vocab = model.config().vocab;
    if let Some(&id) = ids.iter().find(|id| **id as usize >= vocab) {
        return Err(pv_model::Error::TokenOutOfRange { id, vocab }.into());
    }
    pv_hooks::hook::check(hook, &model.shape(), None)?;
    let windows = windows(ids.len(), options);
    let mut sum = 0.0;
    for (done, &[begin, predicted, end]) in windows.iter().enumerate() {
        let marks = (begin..end).map(|position| position >= predicted).collect();
        let sample = Sample::new(ids[begin..end].to_vec(), marks)?;
        sum += value(summed_loss(model.decoder(), collate(&[&sample])?, hook))?;
        if on_window(done + 1, windows.len()).is_break() {
            // After cancellation, the hook may not have fired yet.
            let _ = hook.finish();
            return Err(MeasureError::Cancelled);
        }
    }
    hook.finish()?;
    let tokens = ids.len() - 1;
    let mean_loss = sum / tokens as f64;
    Ok(Perplexity { perplexity: mean_loss.exp(), mean_loss, tokens, windows: windows.len() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_token_is_predicted_once_with_enough_before_it() {
        for (tokens, window, stride) in [(2, 5, 1), (5, 5, 4), (6, 5, 4), (100, 7, 3), (101, 7, 6), (1000, 64, 32)] {
            let windows = windows(tokens, &PerplexityOptions { window, stride });
            let mut next = 1;
            for [begin, predicted, end] in windows {
                assert!(predicted == next && end > predicted && end - begin <= window);
                assert!(predicted - begin >= 1.max(if begin > 0 { window - stride } else { 1 }));
                next = end;
            }
            assert_eq!(next, tokens);
        }
    }
}
