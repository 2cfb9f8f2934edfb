//! How likely a model finds given responses.

use pv_hooks::Hook;

use crate::{Batch, CausalLm, Error, ForwardOptions, Result, Sequence, ops};

/// So many logits are in memory at a time, or those of one token.
const LOGITS: usize = 8 << 20;

impl CausalLm {
    /// The natural logarithm of the probability of every response token, given all tokens before it: one pass over whole
    /// sequences (teacher forcing), the output head for the responses alone. Rows without a response get no values.
    ///
    /// [`score_continuations`](Self::score_continuations) is for short continuations of which a prompt has several.
    ///
    /// # Errors
    /// As [`forward`](Self::forward); a response without a prompt, since nothing predicts its first token
    /// ([`Error::EmptyPrompt`]); [`Error::BadLogits`].
    pub fn response_log_probs(
        &self,
        sequences: &[Sequence<'_>],
        hook: &mut (impl Hook + ?Sized),
    ) -> Result<Vec<Vec<f32>>> {
        if let Some(index) = sequences.iter().position(|s| s.prompt.is_empty() && !s.response.is_empty()) {
            return Err(Error::EmptyPrompt { index });
        }
        // What follows a response predicts nothing of it.
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
