#![doc = include_str!("../README.md")]
//!
//! # Use
//! Call the kernels from inside a rayon pool ([`pool::in_pool`], or `ThreadPool::install` of one's own): from outside, each
//! parallel kernel blocks and wakes its caller. Small work stays on the calling thread.
//!
//! The caller is responsible for the sizes: every kernel panics when the length of a slice does not match its shapes. This
//! crate is the only place in the workspace for `unsafe` code over numbers.

pub mod adamw;
pub mod attention;
pub mod cache;
mod element;
pub mod elementwise;
pub mod gated;
pub mod gradients;
mod half;
pub mod kept;
mod lanes;
pub mod linear;
pub mod linear_kept;
pub mod norm;
pub mod pool;
mod product;
pub mod rope;
mod scratch;
pub mod simd;
pub mod softmax;
#[cfg(test)]
mod tests;
mod tile;
mod vector;

/// Element-wise work on fewer elements than this stays on the calling thread.
const PARALLEL_ELEMENTS: usize = 32 * 1024;

/// Rows per parallel task for `rows` rows of `width` elements, or `None` to stay on the calling thread.
fn rows_per_task(rows: usize, width: usize) -> Option<usize> {
    let threads = rayon::current_num_threads();
    if threads == 1 || rows == 1 || rows * width < PARALLEL_ELEMENTS {
        return None;
    }
    // A task of at least 8K elements outweighs the cost of stealing it.
    let smallest = (8 * 1024usize).div_ceil(width);
    Some(rows.div_ceil(threads * 4).max(smallest))
}
