//! Every kernel against a plain `f64` implementation.

mod attention;
mod linear;
mod rows;

use pulp::{Simd, WithSimd};

/// Reproducible values in `[-1, 1)`.
fn noise(len: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..len)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 40) as f32 / (1 << 23) as f32 - 1.0
        })
        .collect()
}

#[track_caller]
fn assert_close(actual: &[f32], expected: &[f64], tolerance: f64) {
    assert_eq!(actual.len(), expected.len());
    for (i, (&a, &e)) in actual.iter().zip(expected).enumerate() {
        let difference = (f64::from(a) - e).abs();
        assert!(difference <= tolerance * e.abs().max(1.0), "element {i}: {a} instead of {e}");
    }
}

fn in_pool<R: Send>(threads: usize, body: impl FnOnce() -> R + Send) -> R {
    rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(body)
}

/// Says how many `f32` values a vector of the chosen instruction set holds.
struct Lanes;

impl WithSimd for Lanes {
    type Output = usize;

    fn with_simd<S: Simd>(self, _: S) -> usize {
        S::F32_LANES
    }
}

/// Vectors are as wide as build and processor allow: without the feature `x86-v4` no AVX-512, not even by a feature that
/// some other crate switches on.
#[test]
#[cfg(target_arch = "x86_64")]
fn the_build_picks_the_instruction_set() {
    let lanes = super::simd::dispatch(Lanes);
    let avx2 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
    let avx512 = avx2
        && is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512cd")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512vl");
    match (cfg!(feature = "x86-v4"), avx512, avx2) {
        (true, true, _) => assert_eq!(lanes, 16),
        (_, _, true) => assert_eq!(lanes, 8),
        _ => assert!(lanes < 8, "{lanes}"),
    }
}
