//! How much likelier an answer is from another speaker: the model under a hook, beside the model as it is.
//!
//! ΔP looks at the mean of an answer's activations, which is made of its words: a wrong fact, or harmful advice, in plain words
//! changes a token or two of it. But a model that is steered along a trait finds just those tokens likelier. This is no
//! method of the paper's; it uses the paper's vectors, and generates nothing.

use std::collections::BTreeMap;

use pv_hooks::{Hook, NoHook};
use pv_model::{CausalLm, Sequence};
use pv_vectors::token_batches;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{ReadOptions, Result, Rows};

/// An answer's likelihood with and without a hook, in nats.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Likelihood {
    /// Per token of the answer, `ln p(token)` without the hook.
    pub base: Vec<f32>,
    /// The same under the hook.
    pub hooked: Vec<f32>,
}

impl Likelihood {
    /// Per token, how much likelier the hook makes it.
    pub fn gains(&self) -> impl Iterator<Item = f64> {
        self.hooked.iter().zip(&self.base).map(|(hooked, base)| f64::from(*hooked) - f64::from(*base))
    }

    /// How surprising the answer is without the hook: `−Σ ln p`.
    pub fn surprise(&self) -> f64 {
        -self.base.iter().map(|value| f64::from(*value)).sum::<f64>()
    }

    /// The logarithm of the likelihood ratio, `Σ ln p_hooked − ln p`: how much likelier the hook makes the answer.
    pub fn gain(&self) -> f64 {
        self.gains().sum()
    }
}

/// Something under which a data set's answers are read too, such as a steerer along a trait's vector.
pub struct Persona<'a> {
    /// What it is called in the table.
    pub label: String,
    /// What acts.
    pub hook: &'a mut dyn Hook,
    /// What tells it from others: a screening does not go on with another one. A hash of the vector, say, and the coefficient.
    pub description: Value,
}

/// The sums of an answer's likelihoods, or their means over a data set's answers.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LikelihoodScore {
    /// [`Likelihood::surprise`], in nats.
    pub surprise: f64,
    /// [`Likelihood::gain`] under each persona, in nats, by its label.
    pub gains: BTreeMap<String, f64>,
}

/// The data set's answers under each of some personas: one column per persona, one entry per row, `None` where the row has no
/// answer or too many tokens. The base answers of `rows` are not looked at.
///
/// As [`difference`](crate::difference) a pure function of its arguments. Every answer is read once as the model is and once with
/// each.
///
/// # Errors
/// Columns of different lengths; answers without a prompt; personas that do not fit or never acted; ids beyond the vocabulary.
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
    // The longest first: what does not fit into memory fails at once.
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
