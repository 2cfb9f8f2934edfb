//! What every task uses: its result, and inputs that the peer's script makes too.

use pv_model::CausalLm;

/// What a run did.
pub(crate) struct Measured {
    pub(crate) tokens: usize,
    pub(crate) seconds: f64,
    /// A number that a peer which does the same work arrives at too.
    pub(crate) check: Option<f64>,
}

impl Measured {
    pub(crate) fn tokens_per_s(&self) -> f64 {
        self.tokens as f64 / self.seconds
    }
}

/// Token ids that are spread over the vocabulary and the same in the peer's script.
pub(crate) fn ids(model: &CausalLm, row: usize, n: usize) -> Vec<u32> {
    (0..n).map(|i| ((i * 7919 + row * 104_729 + 17) % model.config().vocab) as u32).collect()
}

/// A direction that is the same in the peer's script.
pub(crate) fn wave(model: &CausalLm) -> Vec<f32> {
    (0..model.config().d_model).map(|i| (i as f32).sin()).collect()
}
