//! Choices of tokens on the device of the logits, which then leave it as a few numbers for each row.

use burn::tensor::Tensor;

use crate::Result;
use crate::tensors::to_f32;

/// The greatest vocabulary for [`best_tokens`], whose numbers are exact in f32.
pub(crate) const MAX_BEST: usize = 1 << 24;

/// The token of the greatest logit of each row, `[rows, 1, vocab]` in f32, and of equal ones the first; `None` if a row has a NaN
/// or only −∞. The vocabulary has at most [`MAX_BEST`] tokens. Reads three numbers of each row.
///
/// # Errors
/// A device that fails.
pub(crate) fn best_tokens(logits: Tensor<3>) -> Result<Vec<Option<u32>>> {
    // A comparison with NaN may be left out by a shader's compiler, but a NaN is in the sum, and is found on the host.
    let token = logits.clone().argmax(2).float().cast(logits.dtype());
    let found = Tensor::cat(vec![token, logits.clone().max_dim(2), logits.sum_dim(2)], 2);
    let rows = to_f32(found)?;
    let choose = |row: &[f32; 3]| {
        let [token, greatest, sum] = *row;
        (!sum.is_nan() && greatest > f32::NEG_INFINITY).then_some(token as u32)
    };
    Ok(rows.as_chunks().0.iter().map(choose).collect())
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, TensorData};

    use super::*;
    use crate::Sampling;
    use crate::sampling::Sampler;

    #[test]
    fn the_best_tokens_are_those_of_the_host() {
        let (nan, least) = (f32::NAN, f32::NEG_INFINITY);
        let rows = [[1.0, 3.0, -2.0], [3.0, 1.0, 3.0], [least, least, -9.0], [least; 3], [1.0, nan, 2.0], [nan; 3]];
        let data = TensorData::new(rows.concat(), [rows.len(), 1, 3]);
        let found = best_tokens(Tensor::from_data(data, &Device::flex())).expect("values");
        let mut sampler = Sampler::new(Sampling::GREEDY, 0);
        let expected = rows.map(|row| sampler.next(&row, std::iter::empty()));
        assert_eq!(found, expected);
        assert_eq!(found, [Some(1), Some(0), Some(2), None, None, None]);
    }
}
