//! Perplexity on a text that was held out of training.

use std::ops::ControlFlow;

use pv_hooks::Hook;
use pv_model::{AddSpecial, CausalLm};
use serde::{Deserialize, Serialize};

use crate::Sample;
use crate::collate::collate;
use crate::loss::{summed_loss, value};
use crate::measure::{MeasureError, Result};

/// How a text is cut into windows. Every token after the first is predicted once, from at least `window − stride` tokens
/// before it where the text has so many.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PerplexityOptions {
    /// The tokens that are read at once.
    pub window: usize,
    /// By how many tokens a window lies after the one before; less than the window.
    pub stride: usize,
}

impl Default for PerplexityOptions {
    /// Windows of 1024 tokens that begin 512 tokens apart.
    fn default() -> Self {
        Self { window: 1024, stride: 512 }
    }
}

/// How well a model predicts a text.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Perplexity {
    /// `exp` of the mean loss.
    pub perplexity: f64,
    /// The mean cross-entropy over the predicted tokens, in nats.
    pub mean_loss: f64,
    /// How many tokens were predicted: all but the first.
    pub tokens: usize,
    /// In how many windows.
    pub windows: usize,
}

/// A window's first token, the first that it predicts, and its end.
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

/// The perplexity of a text under a model and a hook, [`NoHook`](pv_hooks::NoHook) for none. The text is encoded with what
/// the tokenizer adds by itself, a beginning-of-sequence token say, which is not predicted. Losses are added up in f64 over
/// windows, each token counting the same. `on_window` hears how many windows of how many are read, and may break off.
///
/// # Errors
/// A model without tokenizer, a text of fewer than two tokens, windows that make no sense or are longer than the model has
/// positions, a hook that does not fit, [`MeasureError::Cancelled`].
pub fn perplexity(
    model: &CausalLm,
    text: &str,
    options: &PerplexityOptions,
    hook: &mut (impl Hook + ?Sized),
    on_window: impl FnMut(usize, usize) -> ControlFlow<()>,
) -> Result<Perplexity> {
    perplexity_of_tokens(model, &model.tokenizer()?.encode(text, AddSpecial::Yes)?, options, hook, on_window)
}

/// As [`perplexity`], of token ids.
///
/// # Errors
/// As [`perplexity`], and ids beyond the vocabulary.
pub fn perplexity_of_tokens(
    model: &CausalLm,
    ids: &[u32],
    options: &PerplexityOptions,
    hook: &mut (impl Hook + ?Sized),
    mut on_window: impl FnMut(usize, usize) -> ControlFlow<()>,
) -> Result<Perplexity> {
    let PerplexityOptions { window, stride } = *options;
    if stride == 0 || stride >= window {
        let reason =
            format!("a stride of {stride} in windows of {window}: it must be at least 1 and less than the window");
        return Err(MeasureError::BadSetting { reason });
    }
    let limit = model.config().max_positions;
    if window > limit {
        return Err(MeasureError::bad(format!("windows of {window} tokens for a model of {limit} positions")));
    }
    if ids.len() < 2 {
        return Err(MeasureError::bad(format!("a text of {} tokens has none to predict", ids.len())));
    }
    let vocab = model.config().vocab;
    if let Some(&id) = ids.iter().find(|id| **id as usize >= vocab) {
        return Err(pv_model::Error::TokenOutOfRange { id, vocab }.into());
    }
    pv_hooks::check(hook, &model.shape(), None)?;
    let windows = windows(ids.len(), options);
    let mut sum = 0.0;
    for (done, &[begin, predicted, end]) in windows.iter().enumerate() {
        let marks = (begin..end).map(|position| position >= predicted).collect();
        let sample = Sample::new(ids[begin..end].to_vec(), marks)?;
        sum += value(summed_loss(model.decoder(), collate(&[&sample])?, hook))?;
        if on_window(done + 1, windows.len()).is_break() {
            // What was broken off may have ended before the hook's turn came.
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
