//! Gradients of the kernels, and the cross-entropy loss.

mod attention;
mod elementwise;
mod loss;
mod norm;

pub use attention::attention_gradient;
pub use elementwise::{clamped_swiglu_gradient, column_sums, swiglu_gradient};
pub use loss::{cross_entropy, cross_entropy_gradient};
pub use norm::{Vectors, rms_norm_gradient};

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
