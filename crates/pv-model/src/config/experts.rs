//! Mixtures of experts.

use std::path::Path;

use serde::Serialize;

use super::fields::wrong;
use super::{ConfigError, MAX_WIDTH};

/// The limit on the number of experts of a block, above that of any model.
pub(crate) const MAX_EXPERTS: usize = 1 << 12;
/// The limit on the number of experts of all blocks.
const MAX_ALL_EXPERTS: usize = 1 << 17;

/// The experts of a mixture-of-experts model: MLPs of which a router chooses some for each token. The token's result is
/// the sum of theirs, weighted with the softmax of the router's logits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ExpertConfig {
    /// The number of experts of a block.
    pub count: usize,
    /// The number of experts that the router chooses for a token.
    pub per_token: usize,
    /// The width of an expert.
    pub d_ff: usize,
    /// Whether the weights of a token's experts are divided by their sum.
    pub normalised: bool,
    /// The blocks, from 0 and in ascending order, that have one MLP of the width
    /// [`DecoderConfig::d_ff`](super::DecoderConfig::d_ff) in place of experts.
    pub dense_blocks: Vec<usize>,
}

impl ExpertConfig {
    /// Whether a block has experts.
    pub fn in_block(&self, block: usize) -> bool {
        self.dense_blocks.binary_search(&block).is_err()
    }

    pub(super) fn check(&self, path: &Path, layers: usize) -> Result<(), ConfigError> {
        let Self { count, per_token, d_ff, dense_blocks, .. } = self;
        for (key, value, most) in [
            ("num_experts", *count, MAX_EXPERTS),
            ("num_experts_per_tok", *per_token, *count),
            ("moe_intermediate_size", *d_ff, MAX_WIDTH),
        ] {
            if value == 0 || value > most {
                return Err(wrong(path, key, value, format!("an integer from 1 to {most}")));
            }
        }
        let ascending = dense_blocks.is_sorted_by(|left, right| left < right);
        if !ascending || dense_blocks.len() >= layers || dense_blocks.last().is_some_and(|last| *last >= layers) {
            let expected = format!("some of the {layers} blocks, in ascending order");
            return Err(wrong(path, "mlp_only_layers", format!("{dense_blocks:?}"), expected));
        }
        if count * (layers - dense_blocks.len()) > MAX_ALL_EXPERTS {
            let expected = format!("at most {MAX_ALL_EXPERTS} in all {layers} blocks together");
            return Err(wrong(path, "num_experts", count, expected));
        }
        Ok(())
    }
}
