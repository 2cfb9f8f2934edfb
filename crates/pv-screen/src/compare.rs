//! The contributions of an answer's words to its projection.

use std::ops::{ControlFlow, Range};

use pv_model::CausalLm;
use pv_model::batch::Sequence;
use pv_vectors::UnitDirection;
use pv_vectors::scan::{ScanOptions, scan};
use serde::{Deserialize, Serialize};

use crate::likelihood::Likelihood;
use crate::{Error, Result};

/// The contribution of one token of an answer to its projection, or to its gain in likelihood.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct TokenShare {
    /// The byte range of the token's text in the answer's text.
    pub text: Range<usize>,
    /// The token's own projection minus the reference, divided by the number of tokens, in activation units. The sum
    /// over all tokens is the answer's projection minus the reference, which is ΔP if the reference is the base
    /// answer's projection. For a likelihood: the token's gain, in nats.
    pub share: f64,
}

/// An answer's text, and the contribution of each token to its projection on one direction, or to its gain in
/// likelihood.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Contributions {
    /// The answer's text.
    pub text: String,
    /// Its tokens, in order.
    pub tokens: Vec<TokenShare>,
}

impl Contributions {
    /// The contributions to the projection of an answer to a prompt. `reference` is subtracted from each token's
    /// projection, in activation units; for example, the projection of the base answer.
    ///
    /// # Errors
    /// An empty answer, or tokens, a direction or a length that do not fit the model.
    pub fn of(
        model: &CausalLm,
        prompt: &[u32],
        answer: &[u32],
        direction: &UnitDirection,
        reference: f64,
    ) -> Result<Self> {
        let options = ScanOptions { poolings: Vec::new(), response_tokens: true, ..ScanOptions::default() };
        let sequence = Sequence { prompt, response: answer, rest: &[] };
        let found =
            scan(model, &[sequence], std::slice::from_ref(direction), &options, |_, _| ControlFlow::Continue(()))?;
        let shares = found.items.first().and_then(|item| item.tokens(0)).unwrap_or_default();
        if shares.is_empty() {
            return Err(Error::EmptyAnswer);
        }
        let share = |projection: &f32| (f64::from(*projection) - reference) / shares.len() as f64;
        Self::with(model, answer, shares.iter().map(share))
    }

    /// The contribution of each token to an answer's [`Likelihood::gain`], in nats: how much the persona raises its
    /// log-likelihood.
    ///
    /// # Errors
    /// [`Error::OtherAnswer`] for a likelihood of another answer; a model without a tokenizer.
    pub fn of_gains(model: &CausalLm, answer: &[u32], likelihood: &Likelihood) -> Result<Self> {
        for found in [likelihood.base.len(), likelihood.hooked.len()] {
            if found != answer.len() {
                return Err(Error::OtherAnswer { expected: answer.len(), found });
            }
        }
        Self::with(model, answer, likelihood.gains())
    }

    fn with(model: &CausalLm, answer: &[u32], shares: impl Iterator<Item = f64>) -> Result<Self> {
        let mut stream = model.tokenizer()?.stream(false);
        let (mut text, mut tokens) = (String::new(), Vec::with_capacity(answer.len()));
        for (id, share) in answer.iter().zip(shares) {
            let from = text.len();
            text.extend(stream.push(*id)?);
            tokens.push(TokenShare { text: from..text.len(), share });
        }
        text.extend(stream.flush()?);
        if let Some(last) = tokens.last_mut() {
            last.text.end = text.len();
        }
        Ok(Self { text, tokens })
    }

    /// Up to `most` spans of neighbouring tokens whose contributions are positive and above the mean of the answer's
    /// tokens. Those with the largest contributions are first, each with its contribution.
    pub fn spans(&self, most: usize) -> Vec<(Range<usize>, f64)> {
        let mean = self.tokens.iter().map(|token| token.share).sum::<f64>() / self.tokens.len().max(1) as f64;
        let pushes = |token: &TokenShare| token.share > mean.max(0.0);
        let mut spans: Vec<(Range<usize>, f64)> = self
            .tokens
            .chunk_by(|a, b| pushes(a) == pushes(b))
            .filter(|run| pushes(&run[0]))
            .map(|run| (run[0].text.start..run[run.len() - 1].text.end, run.iter().map(|token| token.share).sum()))
            .collect();
        spans.sort_by(|a, b| b.1.total_cmp(&a.1));
        spans.truncate(most);
        spans
    }
}
