//! The change of an answer's likelihood under a hook, relative to the unmodified model.
//!
//! ΔP is computed from the mean of an answer's activations, to which all its words contribute: a wrong fact, or harmful
//! advice, in plain words changes only a token or two. But a model that is steered along a trait finds exactly those
//! tokens more likely. This method is not in the paper; it uses the paper's vectors, and needs no generation.

use std::collections::BTreeMap;

use pv_hooks::{Hook, NoHook};
use pv_model::CausalLm;
use pv_model::batch::Sequence;
use pv_vectors::scan::token_batches;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::Result;
use crate::difference::{ReadOptions, Rows};

/// An answer's log-likelihood with and without a hook, in nats.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Likelihood {
    /// `ln p(token)` without the hook, one per token of the answer, `[tokens]`.
    pub base: Vec<f32>,
    /// `ln p(token)` under the hook, `[tokens]`.
    pub hooked: Vec<f32>,
}

impl Likelihood {
    /// The increase of each token's log-likelihood under the hook, `[tokens]`, in nats.
    pub fn gains(&self) -> impl Iterator<Item = f64> {
        self.hooked.iter().zip(&self.base).map(|(hooked, base)| f64::from(*hooked) - f64::from(*base))
    }

    /// The surprise of the answer without the hook: `−Σ ln p`, in nats.
    pub fn surprise(&self) -> f64 {
        -self.base.iter().map(|value| f64::from(*value)).sum::<f64>()
    }

    /// The logarithm of the likelihood ratio, `Σ ln p_hooked − ln p`, in nats: how much the hook raises the answer's
    /// log-likelihood.
    pub fn gain(&self) -> f64 {
        self.gains().sum()
    }
}

/// A hook under which a data set's answers are also read, such as a steerer along a trait's vector.
pub struct Persona<'a> {
    /// The label in the table.
    pub label: String,
    /// The hook.
    pub hook: &'a mut dyn Hook,
    /// A description that identifies the hook, such as a hash of the vector, and the coefficient. A screening only
    /// resumes with the same description.
    pub description: Value,
}

/// The sums of an answer's log-likelihoods, or their means over a data set's answers.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LikelihoodScore {
    /// [`Likelihood::surprise`], in nats.
    pub surprise: f64,
    /// [`Likelihood::gain`] under each persona, in nats, by its label.
    pub gains: BTreeMap<String, f64>,
}

/// The likelihoods of the data set's answers under each persona: one column per persona, one entry per row,
/// `[personas][rows]`, in nats. An entry is `None` if the row has no answer or too many tokens. The base answers of
/// `rows` are ignored.
///
/// Like [`difference`](crate::difference::difference), this is a pure function of its arguments. Every answer is read
/// once without a hook and once with each persona.
///
/// # Errors
/// Columns of different lengths; answers without a prompt; personas that do not fit or never acted; ids beyond the
/// vocabulary.
pub fn likelihood(
    model: &CausalLm,
    rows: &Rows<'_>,
    personas: &mut [Persona<'_>],
    options: &ReadOptions,
) -> Result<Vec<Vec<Option<Likelihood>>>> {
    let n = rows.check()?;
    let limit = options.max_tokens.unwrap_or(model.config().max_positions);
    let length = |row: usize| rows.prompts[row].len() + rows.answers[row].len();
    let mut order: Vec<usize> = (0..n).filter(|&row| !rows.answers[row].is_empty() && length(row) <= limit).collect();
    // The longest first, so that a lack of memory shows immediately.
    order.sort_by_key(|&row| std::cmp::Reverse(length(row)));
    let mut columns = vec![vec![None; n]; personas.len()];
    for batch in token_batches(&order, options.batch_tokens, |row| length(*row)) {
        let sequence = |row: &usize| Sequence { prompt: rows.prompts[*row], response: rows.answers[*row], rest: &[] };
        let sequences: Vec<_> = batch.iter().map(sequence).collect();
        let base = model.response_log_probs(&sequences, &mut NoHook)?;
        for (persona, column) in personas.iter_mut().zip(&mut columns) {
            let hooked = model.response_log_probs(&sequences, persona.hook)?;
            for ((row, base), hooked) in batch.iter().zip(&base).zip(hooked) {
                column[*row] = Some(Likelihood { base: base.clone(), hooked });
            }
        }
    }
    Ok(columns)
}
