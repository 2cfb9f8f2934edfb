//! Routing: which experts compute which tokens, and the sum of their results.

use std::cmp::Ordering;

use burn::tensor::activation::softmax;
use burn::tensor::{DType, Device, Tensor, TensorData};
use pv_kernels::linear::ROWS_IN_PLACE;

use super::indices;
use crate::config::ExpertConfig;
use crate::device::is_cpu;
use crate::tensors::to_f32;

/// An expert and the tokens that are the rows of a product.
type Product = (usize, Vec<usize>);

/// The experts of each token.
#[derive(Debug)]
pub(crate) struct Routing {
    /// The products to compute. Experts are in ascending order, and those without tokens are not among them.
    products: Vec<Product>,
    /// For the j-th chosen expert of every token: the row of its result among those of all products. A token's experts are
    /// in ascending order, whatever their weights are.
    rows: Vec<Vec<usize>>,
    /// The weights of a token's experts, in the same order, `[tokens, per_token]` in the compute type.
    weights: Tensor<2>,
}

impl Routing {
    /// Routes tokens by the router's logits, `[tokens, experts]`: the greatest of each token are chosen, the lower number
    /// of equal ones. The logits are copied to the host once.
    ///
    /// If the device fails, all results are NaN.
    pub(crate) fn of(logits: Tensor<2>, config: &ExpertConfig) -> Self {
        let ([tokens, count], dtype) = (logits.dims(), logits.dtype());
        let device = logits.device();
        let logits = logits.cast(DType::F32);
        let read = to_f32(logits.clone().without_autodiff());
        let failed = read.is_err();
        let values = read.unwrap_or_else(|error| {
            tracing::error!(%error, "the router's logits cannot be read");
            vec![f32::NAN; tokens * count]
        });
        let chosen: Vec<Vec<usize>> = values.chunks(count).map(|row| greatest(row, config.per_token)).collect();
        let weights = weights(logits, &chosen, config, &device).cast(dtype);
        let weights = if failed { weights * f32::NAN } else { weights };
        let kernels = dtype == DType::F32 && is_cpu(&device);
        let rule = if kernels { Rows::of(tokens, config) } else { Rows::Any };
        let (products, rows) = assigned(&chosen, config, rule);
        Self { products, rows, weights }
    }

    /// The sum over each token's experts, in ascending order, of weight times result: `[tokens, d_model]`. `expert` maps an
    /// expert's number and some rows of `x` `[tokens, d_model]` to its results; it is called for experts that have
    /// tokens only.
    pub(crate) fn sum(&self, x: Tensor<2>, expert: impl Fn(usize, Tensor<2>) -> Tensor<2>) -> Tensor<2> {
        let ([tokens, _], device) = (x.dims(), x.device());
        let result = |(number, own): &Product| {
            let all = own.iter().copied().eq(0..tokens);
            let x = if all { x.clone() } else { x.clone().select(0, indices(own.iter().copied(), &device)) };
            expert(*number, x)
        };
        let results: Vec<Tensor<2>> = self.products.iter().map(result).collect();
        if results.is_empty() {
            return x.zeros_like();
        }
        let results = Tensor::cat(results, 0);
        let terms = self.rows.iter().enumerate().map(|(j, rows)| {
            let weights = self.weights.clone().slice([0..tokens, j..j + 1]);
            results.clone().select(0, indices(rows.iter().copied(), &device)) * weights
        });
        terms.reduce(|sum, term| sum + term).unwrap_or_else(|| x.zeros_like())
    }
}

/// The numbers of the `n` greatest values, in ascending order.
fn greatest(values: &[f32], n: usize) -> Vec<usize> {
    let before = |left: &usize, right: &usize| -> Ordering {
        values[*right].total_cmp(&values[*left]).then_with(|| left.cmp(right))
    };
    let mut numbers: Vec<usize> = (0..values.len()).collect();
    if n < numbers.len() {
        numbers.select_nth_unstable_by(n, before);
        numbers.truncate(n);
    }
    numbers.sort_unstable();
    numbers
}

/// The weights of the chosen experts, `[tokens, per_token]` in f32: the softmax of all logits in f32, divided by the sum
/// over the chosen ones if the model does so.
fn weights(logits: Tensor<2>, chosen: &[Vec<usize>], config: &ExpertConfig, device: &Device) -> Tensor<2> {
    let numbers: Vec<i64> = chosen.iter().flatten().map(|number| *number as i64).collect();
    let numbers = Tensor::from_data(TensorData::new(numbers, [chosen.len(), config.per_token]), device);
    let weights = softmax(logits, 1).gather(1, numbers);
    match config.normalised {
        true => weights.clone() / weights.sum_dim(1),
        false => weights,
    }
}

/// How many rows a product may have. Our kernels have two methods with other last bits, for few rows and for many. How
/// many tokens an expert has depends on all rows of a batch; which method it uses must not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rows {
    Any,
    /// At most [`ROWS_IN_PLACE`].
    Few,
    /// More than that.
    Many,
}

impl Rows {
    /// The method for the mean number of tokens of an expert, which depends on the number of tokens only.
    fn of(tokens: usize, config: &ExpertConfig) -> Self {
        if tokens * config.per_token <= ROWS_IN_PLACE * config.count { Self::Few } else { Self::Many }
    }
}

/// The products, and for every token the rows of its experts' results.
fn assigned(chosen: &[Vec<usize>], config: &ExpertConfig, rule: Rows) -> (Vec<Product>, Vec<Vec<usize>>) {
    let mut tokens = vec![Vec::new(); config.count];
    for (token, chosen) in chosen.iter().enumerate() {
        chosen.iter().for_each(|number| tokens[*number].push(token));
    }
    // Rows beyond an expert's own tokens repeat one of them; no token reads their results.
    if rule == Rows::Many {
        for own in &mut tokens {
            if let Some(first) = own.first().copied() {
                own.resize(own.len().max(ROWS_IN_PLACE + 1), first);
            }
        }
    }
    // The next row of each expert; tokens are in ascending order everywhere.
    let mut next: Vec<usize> =
        tokens.iter().scan(0, |first, own| Some(std::mem::replace(first, *first + own.len()))).collect();
    let mut rows = vec![Vec::with_capacity(chosen.len()); config.per_token];
    for chosen in chosen {
        for (number, rows) in chosen.iter().zip(&mut rows) {
            rows.push(next[*number]);
            next[*number] += 1;
        }
    }
    let most = if rule == Rows::Few { ROWS_IN_PLACE } else { usize::MAX };
    let products = tokens.iter().enumerate();
    let products = products.flat_map(|(number, own)| own.chunks(most).map(move |own| (number, own.to_vec())));
    (products.collect(), rows)
}

#[cfg(test)]
mod tests;
