//! The log-probabilities of given responses.

use pv_hooks::Hook;

use crate::batch::{Batch, Sequence};
use crate::causal_lm::ForwardOptions;
use crate::{CausalLm, Error, Result, ops};

/// The number of logits in memory at a time, or those of one token if they are more.
const LOGITS: usize = 8 << 20;

impl CausalLm {
    /// The natural logarithm of the probability of every response token, given all preceding tokens: one pass over
    /// whole sequences (teacher forcing), with the output head for the responses only. Rows without a response get no
    /// values.
    ///
    /// For several short continuations of one prompt, use [`score_continuations`](Self::score_continuations).
    ///
    /// # Errors
    /// Those of [`forward`](Self::forward); [`Error::EmptyPrompt`] for a response without a prompt, since nothing
    /// predicts its first token; [`Error::BadLogits`].
    pub fn response_log_probs(
        &self,
        sequences: &[Sequence<'_>],
        hook: &mut (impl Hook + ?Sized),
    ) -> Result<Vec<Vec<f32>>> {
        if let Some(index) = sequences.iter().position(|s| s.prompt.is_empty() && !s.response.is_empty()) {
            return Err(Error::EmptyPrompt { index });
        }
        // Tokens after a response predict none of it.
        let sequences: Vec<_> = sequences.iter().map(|sequence| Sequence { rest: &[], ..*sequence }).collect();
        let batch = Batch::whole(&sequences)?;
        let residual = self.forward(&batch, ForwardOptions::default(), hook)?.residual;
        let [rows, seq, d_model] = residual.dims();
        let residual = residual.reshape([rows * seq, d_model]);
        let (mut before, mut targets) = (Vec::new(), Vec::new());
        for (row, sequence) in sequences.iter().enumerate() {
            let first = (row + 1) * seq - sequence.response.len() - 1;
            before.extend(first..first + sequence.response.len());
            targets.extend_from_slice(sequence.response);
        }
        let together = (LOGITS / self.config().vocab.max(1)).max(1);
        let mut found = Vec::with_capacity(targets.len());
        for (before, targets) in before.chunks(together).zip(targets.chunks(together)) {
            let index = ops::indices(before.iter().copied(), &residual.device());
            let logits = self.decoder().logits(residual.clone().select(0, index).unsqueeze::<3>());
            let [_, n, vocab] = logits.dims();
            found.extend(ops::log_probs(logits.reshape([n, vocab]), targets)?);
        }
        let mut found = found.into_iter();
        let split: Vec<Vec<f32>> = sequences.iter().map(|s| found.by_ref().take(s.response.len()).collect()).collect();
        match split.iter().position(|row| row.iter().any(|value| value.is_nan())) {
            Some(sequence) => Err(Error::BadLogits { sequence }),
            None => Ok(split),
        }
    }
}
