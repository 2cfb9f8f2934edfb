use super::{assert_close, in_pool, noise};
use crate::elementwise::add_in_place;
use crate::gated::{Activation, gated};
use crate::gradients::gated_gradient;
use crate::lanes::ln;
use crate::norm::{add_rms_norm, rms_norm, rms_norm_heads_in_place};
use crate::rope::rope_in_place;
use crate::softmax::softmax_weights;

fn normed(x: &[f32], weight: &[f32], eps: f32) -> Vec<f64> {
    let d = weight.len();
    let mut out = Vec::new();
    for row in x.chunks(d) {
        let mean = row.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>() / d as f64;
        let factor = 1.0 / (mean + f64::from(eps)).sqrt();
        out.extend(row.iter().zip(weight).map(|(&v, &w)| f64::from(v) * factor * f64::from(w)));
    }
    out
}

const SIZES: [(usize, usize); 5] = [(1, 48), (3, 7), (24, 48), (200, 576), (5000, 33)];

#[test]
fn norms() {
    for (m, d) in SIZES {
        let (x, delta, weight) = (noise(m * d, 1), noise(m * d, 2), noise(d, 3));
        let mut out = vec![0.0; m * d];
        in_pool(3, || rms_norm(&x, &weight, 1e-5, &mut out));
        assert_close(&out, &normed(&x, &weight, 1e-5), 2e-6);

        let mut residual = x.clone();
        in_pool(3, || add_rms_norm(&mut residual, &delta, &weight, 1e-5, &mut out));
        let sum: Vec<f32> = x.iter().zip(&delta).map(|(a, b)| a + b).collect();
        assert_eq!(residual, sum);
        assert_close(&out, &normed(&sum, &weight, 1e-5), 2e-6);

        let mut added = x.clone();
        in_pool(3, || add_in_place(&mut added, &delta));
        assert_eq!(added, sum);
    }
}

#[test]
fn norm_of_heads_touches_only_them() {
    for (m, d) in [(1, 8), (5, 7), (900, 64)] {
        let (heads, offset, stride) = (3, d, 5 * d + 1);
        let weight = noise(d, 3);
        let buffer = noise(m * stride, 1);
        let mut out = buffer.clone();
        in_pool(2, || rms_norm_heads_in_place(&mut out, stride, offset, heads, &weight, 1e-6));
        for (row, before) in out.chunks(stride).zip(buffer.chunks(stride)) {
            assert_eq!(row[..offset], before[..offset]);
            assert_eq!(row[4 * d..], before[4 * d..]);
            assert_close(&row[d..4 * d], &normed(&before[d..4 * d], &weight, 1e-6), 2e-6);
        }
    }
}

#[test]
fn swiglu_matches_and_survives_extremes() {
    for (m, f) in SIZES {
        let mut gate_up: Vec<f32> = noise(m * 2 * f, 4).iter().map(|v| v * 12.0).collect();
        gate_up[0] = -120.0;
        gate_up[1] = 110.0;
        let mut out = vec![0.0; m * f];
        in_pool(3, || gated(Activation::Silu, &gate_up, &mut out, m, f));
        for (row, out) in gate_up.chunks(2 * f).zip(out.chunks(f)) {
            for j in 0..f {
                let (g, u) = (f64::from(row[j]), f64::from(row[f + j]));
                let e = g / (1.0 + (-g).exp()) * u;
                let error = (f64::from(out[j]) - e).abs();
                assert!(error <= 4e-7 * e.abs() + 1e-30, "silu({g}) * {u}: {} for {e}", out[j]);
            }
        }
    }
    let mut out = [0.0];
    gated(Activation::Silu, &[f32::NAN, 1.0], &mut out, 1, 1);
    assert!(out[0].is_nan());
}

/// In `f64`.
fn geglu(gate: f64, up: f64) -> f64 {
    // 1 + tanh(u), without cancellation.
    let inner = 2.0 * (2.0 / std::f64::consts::PI).sqrt() * (gate + 0.044715 * gate.powi(3));
    up * gate / (1.0 + (-inner).exp())
}

#[test]
fn geglu_and_its_gradient_match_and_survive_extremes() {
    for (m, f) in SIZES {
        let mut gate_up: Vec<f32> = noise(m * 2 * f, 4).iter().map(|v| v * 6.0).collect();
        (gate_up[0], gate_up[1]) = (-120.0, 1e30);
        let (mut out, mut gradient) = (vec![0.0; m * f], vec![0.0; m * 2 * f]);
        in_pool(3, || gated(Activation::GeluTanh, &gate_up, &mut out, m, f));
        let upstream = noise(m * f, 5);
        in_pool(3, || gated_gradient(Activation::GeluTanh, &gate_up, &upstream, &mut gradient, f));
        for (i, (row, out)) in gate_up.chunks(2 * f).zip(out.chunks(f)).enumerate() {
            for j in 0..f {
                let (g, u, by) = (f64::from(row[j]), f64::from(row[f + j]), f64::from(upstream[i * f + j]));
                let e = geglu(g, u);
                // Its smallest values are the exponential of numbers up to 80.
                assert!((f64::from(out[j]) - e).abs() <= 2e-5 * e.abs() + 1e-30, "{g} {u}: {} for {e}", out[j]);
                let step = 1e-5 * g.abs().max(1.0);
                let of_gate = by * (geglu(g + step, u) - geglu(g - step, u)) / (2.0 * step);
                let of_up = by * geglu(g, 1.0);
                let found = [gradient[2 * f * i + j], gradient[2 * f * i + f + j]].map(f64::from);
                for (found, expected) in found.into_iter().zip([of_gate, of_up]) {
                    assert!((found - expected).abs() <= 1e-4 * expected.abs().max(0.1), "{g} {u}: {found} {expected}");
                }
            }
        }
    }
    let mut out = [0.0];
    gated(Activation::GeluTanh, &[f32::NAN, 1.0], &mut out, 1, 1);
    assert!(out[0].is_nan());
}

/// The clamped form in `f64`.
fn clamped(gate: f64, up: f64) -> f64 {
    let (gate, up) = (gate.min(7.0), up.clamp(-7.0, 7.0));
    (up + 1.0) * gate / (1.0 + (-1.702 * gate).exp())
}

#[test]
fn clamped_swiglu_and_its_gradient_match_and_survive_extremes() {
    for (m, f) in SIZES {
        let mut gate_up: Vec<f32> = noise(m * 2 * f, 4).iter().map(|v| v * 12.0).collect();
        (gate_up[0], gate_up[1]) = (-120.0, 3e38);
        let (mut out, mut gradient) = (vec![0.0; m * f], vec![0.0; m * 2 * f]);
        in_pool(3, || gated(Activation::ClampedSwiGlu, &gate_up, &mut out, m, f));
        let upstream = noise(m * f, 5);
        in_pool(3, || gated_gradient(Activation::ClampedSwiGlu, &gate_up, &upstream, &mut gradient, f));
        for (i, (row, out)) in gate_up.chunks(2 * f).zip(out.chunks(f)).enumerate() {
            for j in 0..f {
                let (g, u, by) = (f64::from(row[j]), f64::from(row[f + j]), f64::from(upstream[i * f + j]));
                let e = clamped(g, u);
                assert!((f64::from(out[j]) - e).abs() <= 4e-6 * e.abs() + 1e-30, "{g} {u}: {} for {e}", out[j]);
                let step = 1e-5 * g.abs().max(1.0);
                let found = [gradient[2 * f * i + j], gradient[2 * f * i + f + j]].map(f64::from);
                // Where the difference quotient is on one side of the bounds.
                if (g - 7.0).abs() > step && (u.abs() - 7.0).abs() > step {
                    let of_gate = by * (clamped(g + step, u) - clamped(g - step, u)) / (2.0 * step);
                    let of_up = by * (clamped(g, u + step) - clamped(g, u - step)) / (2.0 * step);
                    for (found, expected) in found.into_iter().zip([of_gate, of_up]) {
                        assert!(
                            (found - expected).abs() <= 1e-4 * expected.abs().max(0.1),
                            "{g} {u}: {found} {expected}"
                        );
                    }
                }
            }
        }
    }
    let (mut out, mut gradient) = ([0.0; 4], [1.0; 8]);
    gated(Activation::ClampedSwiGlu, &[f32::NAN, 1.0, 7.0, 9.0, 1.0, f32::NAN, 7.0, -9.0], &mut out, 1, 4);
    assert!(out[0].is_nan() && out[1].is_nan() && out[2].is_finite() && out[3].is_finite(), "{out:?}");
    gated_gradient(Activation::ClampedSwiGlu, &[0.0, 1.0, 7.0, 9.0, 1.0, 0.0, 7.0, -9.0], &[1.0; 4], &mut gradient, 4);
    // The bounds themselves are within, as in PyTorch.
    assert!(gradient[2] > 0.0 && gradient[6] > 0.0, "{gradient:?}");
    assert_eq!([gradient[3], gradient[7]], [0.0, 0.0]);
}

#[test]
fn rope_rotates_pairs() {
    for (m, d, half) in [(1, 8, 4), (24, 8, 4), (24, 50, 25), (300, 64, 32), (7, 80, 20)] {
        let (heads, stride) = (4, 6 * d);
        let positions: Vec<usize> = (0..m).map(|i| (i * 7) % 40).collect();
        let angles = noise(40 * half, 1);
        let cos: Vec<f32> = angles.iter().map(|a| a.cos()).collect();
        let sin: Vec<f32> = angles.iter().map(|a| a.sin()).collect();
        let buffer = noise(m * stride, 2);
        let mut out = buffer.clone();
        in_pool(2, || rope_in_place(&mut out, stride, heads, d, half, &cos, &sin, &positions));
        for (i, (row, before)) in out.chunks(stride).zip(buffer.chunks(stride)).enumerate() {
            let mut expected: Vec<f64> = before.iter().map(|&v| f64::from(v)).collect();
            for head in 0..heads {
                for p in 0..half {
                    let (a, b) = (head * d + p, head * d + p + half);
                    let c = f64::from(cos[positions[i] * half + p]);
                    let s = f64::from(sin[positions[i] * half + p]);
                    let (x, y) = (expected[a], expected[b]);
                    expected[a] = x * c - y * s;
                    expected[b] = y * c + x * s;
                }
            }
            assert_close(row, &expected, 1e-6);
        }
    }
}

#[test]
fn softmax_weights_are_exponentials() {
    for len in [1, 7, 16, 33, 1000] {
        let logits: Vec<f32> = noise(len, 5).iter().map(|v| v * 40.0).collect();
        let peak = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        for factor in [0.5, 1.0, 3.0] {
            let mut out = vec![0.0; len];
            softmax_weights(&logits, peak, factor, &mut out);
            for (found, logit) in out.iter().zip(&logits) {
                let power = f64::from((logit - peak) * factor);
                let expected = if power < -87.0 { 0.0 } else { power.exp() };
                assert!((f64::from(*found) - expected).abs() <= 1e-6 * expected, "{found} for e^{power}");
            }
        }
    }
    let mut out = [1.0; 3];
    softmax_weights(&[f32::NEG_INFINITY, 2.0, -1e30], 2.0, 1.0, &mut out);
    assert_eq!(out, [0.0, 1.0, 0.0]);
}

#[test]
fn logarithms_are_the_nearest() {
    for i in 0..200_000_u32 {
        let x = f32::from_bits(1 + i * 10_691);
        // A value halfway between two may be rounded to either.
        let difference = (f64::from(ln(x)) - f64::from(x).ln()).abs();
        assert!(
            difference <= 0.500_001 * f64::from(f32::EPSILON) * f64::from(x).ln().abs().max(1e-7),
            "ln({x}): {}",
            ln(x)
        );
    }
    assert_eq!([ln(1.0), ln(0.0), ln(f32::INFINITY)], [0.0, f32::NEG_INFINITY, f32::INFINITY]);
    assert!(ln(-1.0).is_nan() && ln(f32::NAN).is_nan());
}
