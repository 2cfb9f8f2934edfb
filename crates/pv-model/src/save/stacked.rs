//! Experts as the files of some families have them: all of a block in one tensor for each part. See `weights/stacked.rs`.

use super::Weight;
use crate::Result;
use crate::config::{DecoderConfig, ExpectedTensor, MlpBias};
use crate::decoder::{Block, Mlp, Projection};
use crate::tensors::to_f32;

/// A tensor of all experts of a block.
pub(super) struct Stacked<'a> {
    experts: Vec<&'a Projection>,
    /// The number of parts of a projection whose outputs are stored by turns.
    parts: usize,
    bias: bool,
}

/// Whether a tensor is that of a single expert.
pub(super) fn is_expert(config: &DecoderConfig, name: &str) -> bool {
    config.names.stacked_experts && name.contains(&format!(".{}.", config.names.experts))
}

/// The stacked tensors of a block; none for other families.
pub(super) fn tensors<'a>(
    config: &DecoderConfig,
    index: usize,
    block: &'a Block,
) -> Vec<(ExpectedTensor, Stacked<'a>)> {
    let (Mlp::Experts(held), Some(experts), true) = (&block.mlp, &config.experts, config.names.stacked_experts) else {
        return Vec::new();
    };
    let prefix = config.names.in_block(index, config.names.experts);
    let gate_up = held.experts.iter().map(|expert| &expert.gate_up).collect::<Vec<_>>();
    let down = held.experts.iter().map(|expert| &expert.down).collect::<Vec<_>>();
    let mut found = Vec::new();
    for (part, parts, inputs, outputs, projections) in [
        ("gate_up_proj", 2, config.d_model, 2 * experts.d_ff, gate_up),
        ("down_proj", 1, experts.d_ff, config.d_model, down),
    ] {
        let weight = Stacked { experts: projections.clone(), parts, bias: false };
        let shape = vec![experts.count, inputs, outputs];
        found.push((ExpectedTensor { name: format!("{prefix}.{part}"), shape }, weight));
        if config.mlp_bias == MlpBias::All {
            let bias = Stacked { experts: projections, parts, bias: true };
            let shape = vec![experts.count, outputs];
            found.push((ExpectedTensor { name: format!("{prefix}.{part}_bias"), shape }, bias));
        }
    }
    found
}

impl Stacked<'_> {
    /// Passes the values to `give`, in order, those of one expert at a time.
    pub(super) fn each_chunk(&self, mut give: impl FnMut(&[f32]) -> Result<()>) -> Result<()> {
        for expert in &self.experts {
            let (values, outputs) = match (&expert.bias, self.bias) {
                (Some(bias), true) => (to_f32(bias.val().without_autodiff())?, bias.val().dims()[0]),
                (None, true) => continue,
                (_, false) => {
                    let weight: Weight = expert.weight.without_scales();
                    let [outputs, _] = weight.dims();
                    (to_f32(weight.rows(0..outputs))?, outputs)
                }
            };
            give(&by_turns(&values, outputs, self.parts))?;
        }
        Ok(())
    }
}

/// The columns of a matrix with so many rows, whose rows are those of some parts one part after another: in each column, the rows
/// of the parts by turns.
fn by_turns(values: &[f32], rows: usize, parts: usize) -> Vec<f32> {
    let (columns, each) = (values.len() / rows.max(1), rows / parts);
    let mut out = vec![0.0; values.len()];
    for (row, values) in values.chunks_exact(columns.max(1)).enumerate() {
        let to = row % each * parts + row / each;
        for (column, value) in values.iter().enumerate() {
            out[column * rows + to] = *value;
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_take_turns() {
        // Rows 0 and 1 are of the first part.
        let values = [0.0, 1.0, 10.0, 11.0, 20.0, 21.0, 30.0, 31.0];
        assert_eq!(by_turns(&values, 4, 2), [0.0, 20.0, 10.0, 30.0, 1.0, 21.0, 11.0, 31.0]);
        assert_eq!(by_turns(&values, 4, 1), [0.0, 10.0, 20.0, 30.0, 1.0, 11.0, 21.0, 31.0]);
    }
}
