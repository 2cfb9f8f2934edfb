//! The instruction set that the kernels use: the best one of this processor, within the limit that the environment
//! variable `PV_SIMD` sets. Results are the same to the bit with all of them.

use crate::vector::level::{Level, VARIABLE};

/// Why `PV_SIMD` has no effect.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SimdError {
    /// It has a value that names no instruction set.
    #[error("{VARIABLE} is {value:?}, expected portable, avx2 or avx512")]
    UnknownLevel {
        /// The value.
        value: String,
    },
}

/// Whether `PV_SIMD`, if set, is `portable`, `avx2` or `avx512`. The kernels ignore another value.
///
/// # Errors
/// [`SimdError::UnknownLevel`] for another value.
pub fn check() -> Result<(), SimdError> {
    let Some(value) = std::env::var_os(VARIABLE) else {
        return Ok(());
    };
    match Level::best(Some(&value)) {
        (_, true) => Ok(()),
        (_, false) => Err(SimdError::UnknownLevel { value: value.to_string_lossy().into_owned() }),
    }
}
