//! CPU kernels of a decoder: plain functions over `f32` slices, all row-major, with the gradients that training needs.
//!
//! ```
//! // Two tokens of three features through a projection to two features: `y = x · wᵀ + b`.
//! let x = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]; // [2, 3]
//! let w = [1.0, 0.0, 0.0, 0.0, 0.0, 1.0]; // [2, 3]
//! let mut y = [0.0; 4]; // [2, 2]
//! pv_kernels::linear(&x, &w, Some(&[0.5, -0.5]), &mut y, 2, 3, 2);
//! assert_eq!(y, [1.5, 2.5, 4.5, 5.5]);
//! ```
//!
//! The vector code is written once against [`pulp`], which picks AVX-512, AVX2, NEON or scalar
//! code at run time. Parallel work runs on the current rayon pool; work too small to pay for a
//! hand-over stays on the calling thread. Call the kernels from inside the pool
//! (`ThreadPool::install`): from outside, each parallel kernel blocks and wakes its caller.
//!
//! Sizes are the caller's to get right: every kernel panics on slices that are not of the length its shapes give them.
//! This crate knows nothing of models or tensors, and is the one place in the workspace for `unsafe` code over numbers.

mod attention;
mod cache;
mod decode;
mod dot;
mod elementwise;
mod gradients;
mod linear;
mod norm;
mod prefill;
mod rope;
mod scratch;
mod simd;
#[cfg(test)]
mod tests;
mod tile;

pub use attention::{AttentionShape, attention};
pub use cache::write_cache;
pub use elementwise::{add_in_place, swiglu};
pub use gradients::{
    Vectors, attention_gradient, column_sums, cross_entropy, cross_entropy_gradient, rms_norm_gradient, swiglu_gradient,
};
pub use linear::{Columns, linear, linear_add};
pub use norm::{add_rms_norm, rms_norm, rms_norm_heads_in_place};
pub use rope::rope_in_place;

/// Elements below which an element-wise kernel is not worth a hand-over to another thread.
const PARALLEL_ELEMENTS: usize = 32 * 1024;

/// Rows per parallel task for `rows` rows of `width` elements, or `None` to stay on this thread.
fn rows_per_task(rows: usize, width: usize) -> Option<usize> {
    let threads = rayon::current_num_threads();
    if threads == 1 || rows == 1 || rows * width < PARALLEL_ELEMENTS {
        return None;
    }
    // A task of at least 8K elements outweighs the cost of stealing it.
    let smallest = (8 * 1024usize).div_ceil(width);
    Some(rows.div_ceil(threads * 4).max(smallest))
}
