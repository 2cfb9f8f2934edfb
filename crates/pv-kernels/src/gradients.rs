//! Gradients of the kernels, and the cross-entropy loss.

mod attention;
mod gated;
mod loss;
mod norm;
mod sums;

pub use attention::attention_gradient;
pub use gated::gated_gradient;
pub use loss::{cross_entropy, cross_entropy_gradient};
pub use norm::{Vectors, rms_norm_gradient};
pub use sums::column_sums;

/// Rows whose contributions to a sum over rows are added up by one task. Fixed, so that a sum does not depend on the
/// number of threads.
const ROWS: usize = 128;

/// Sums partial results in order.
fn total(parts: Vec<Vec<f32>>, out: &mut [f32]) {
    out.fill(0.0);
    for part in parts {
        out.iter_mut().zip(part).for_each(|(sum, value)| *sum += value);
    }
}
