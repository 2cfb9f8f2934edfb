//! Products in bf16.

use super::{hash, in_pool, noise};
use crate::half::{bf16_to_f32, f32_to_bf16};
use crate::kept::{Format, Kept};
use crate::linear_kept::{linear_kept, linear_kept_bf16};
use crate::product::pairs::{Form, linear_in};
use crate::vector::level::forced::at_each;

fn product(x: &[f32], w: &Kept, bias: Option<&[f32]>, (m, k, n): (usize, usize, usize)) -> Vec<f32> {
    let mut out = vec![f32::NAN; m * n];
    linear_kept_bf16(x, w.as_ref(), bias, &mut out, m, k, n);
    out
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

fn rounded(x: &[f32]) -> Vec<f32> {
    x.iter().map(|&value| bf16_to_f32(f32_to_bf16(value))).collect()
}

/// By definition: of every pair, the second product is added first.
#[test]
fn many_rows_are_sums_over_pairs() {
    for (m, k, n) in [(33, 2, 1), (40, 50, 67), (70, 288, 130), (33, 320, 20)] {
        let (x, w, bias) = (noise(m * k, 1), Kept::quantize(Format::Bf16, &noise(n * k, 2)), noise(n, 3));
        let values = w.as_ref().to_f32();
        let mut expected = Vec::new();
        for x in rounded(&x).chunks(k) {
            for (w, bias) in values.chunks(k).zip(&bias) {
                let pairs = x.as_chunks::<2>().0.iter().zip(w.as_chunks::<2>().0);
                let sum = pairs.fold(0f32, |sum, (x, w)| x[0].mul_add(w[0], x[1].mul_add(w[1], sum)));
                expected.push(sum + bias);
            }
        }
        for (level, found) in at_each(|_| product(&x, &w, Some(&bias), (m, k, n))) {
            assert!(bits(&found) == bits(&expected), "{m} {k} {n} {level:?}");
        }
    }
}

/// Whichever a processor uses.
#[test]
fn both_ways_for_many_rows_give_the_same_bits() {
    for (m, k, n) in [(33, 50, 67), (70, 1280, 130)] {
        let (x, w, bias) = (noise(m * k, 1), Kept::quantize(Format::Bf16, &noise(n * k, 2)), noise(n, 3));
        let expected = product(&x, &w, Some(&bias), (m, k, n));
        for form in [Form::Pairs, Form::Swapped] {
            for (level, found) in at_each(|_| {
                let mut out = vec![f32::NAN; m * n];
                linear_in(form, &x, w.as_ref(), Some(&bias), &mut out, (m, k, n));
                out
            }) {
                assert!(bits(&found) == bits(&expected), "{m} {k} {n} {form:?} {level:?}");
            }
        }
    }
}

#[test]
fn few_rows_are_those_of_rounded_elements() {
    for (m, k, n) in [(1, 576, 30), (20, 50, 67), (32, 3700, 9)] {
        let (x, w) = (noise(m * k, 1), Kept::quantize(Format::Bf16, &noise(n * k, 2)));
        let mut expected = vec![0.0; m * n];
        linear_kept(&rounded(&x), w.as_ref(), None, &mut expected, m, k, n);
        assert!(bits(&product(&x, &w, None, (m, k, n))) == bits(&expected), "{m} {k} {n}");
    }
}

#[test]
fn long_rows_are_as_accurate_as_their_rounding() {
    // More terms than are packed at a time; an odd number of them.
    for (m, k, n) in [(35, 3584, 70), (35, 1001, 70)] {
        let (x, w) = (noise(m * k, 1), Kept::quantize(Format::Bf16, &noise(n * k, 2)));
        let values = w.as_ref().to_f32();
        let found = product(&x, &w, None, (m, k, n));
        for (found, x) in found.chunks(n).zip(x.chunks(k)) {
            for (&found, w) in found.iter().zip(values.chunks(k)) {
                let terms = || x.iter().zip(w).map(|(&x, &w)| f64::from(x) * f64::from(w));
                let (sum, size) = (terms().sum::<f64>(), terms().map(f64::abs).sum::<f64>());
                assert!((f64::from(found) - sum).abs() <= size * (1.0 / 256.0 + 1e-5), "{found} not {sum}");
            }
        }
    }
}

#[test]
fn every_instruction_set_gives_the_stored_bits() {
    let results = at_each(|_| {
        let sizes = [(1, 577, 67), (32, 64, 33), (33, 50, 9), (37, 577, 67), (37, 3584, 66), (200, 530, 130)];
        let each = sizes.into_iter().flat_map(|(m, k, n)| {
            let w = Kept::quantize(Format::Bf16, &noise(n * k, 2));
            product(&noise(m * k, 1), &w, Some(&noise(n, 3)), (m, k, n))
        });
        hash(&each.collect::<Vec<_>>())
    });
    for (level, hash) in results {
        assert_eq!(hash, 0x583a_775c_298d_7005, "{level:?}: {hash:#018x}");
    }
}

#[test]
fn a_row_does_not_depend_on_the_others() {
    let (k, n) = (2304, 70);
    let w = Kept::quantize(Format::Bf16, &noise(n * k, 2));
    for counts in [&[1, 2, 5, 16, 32][..], &[33, 34, 63, 390]] {
        let most = *counts.last().unwrap();
        let x = noise(most * k, 5);
        let all = in_pool(2, || product(&x, &w, None, (most, k, n)));
        for &m in counts {
            assert_eq!(in_pool(3, || product(&x[..m * k], &w, None, (m, k, n))), all[..m * n], "{m}");
        }
    }
}

#[test]
fn extreme_elements_stay_what_they_are() {
    let (m, k, n) = (34, 64, 3);
    let w = Kept::quantize(Format::Bf16, &noise(n * k, 2));
    // f32::MAX is nearer to infinity than to bf16's greatest value.
    for value in [f32::NAN, f32::INFINITY, f32::MAX] {
        let mut x = noise(m * k, 1);
        x[k + 9] = value;
        for (level, out) in at_each(|_| product(&x, &w, None, (m, k, n))) {
            assert!(out[..n].iter().chain(&out[2 * n..]).all(|v| v.is_finite()), "{level:?}");
            assert!(out[n..2 * n].iter().all(|v| !v.is_finite()), "{level:?}");
        }
    }
    // Below the least normal value: zero on every processor, also where the weight would make it visible.
    let w = Kept::quantize(Format::Bf16, &vec![1e30; n * k]);
    for m in [2, m] {
        let out = at_each(|_| product(&vec![1e-39; m * k], &w, None, (m, k, n)));
        assert!(out.iter().all(|(_, out)| out.iter().all(|v| *v == 0.0)));
    }
}

#[test]
fn other_weights_and_empty_sizes() {
    let (m, k, n) = (40, 64, 9);
    let x = noise(m * k, 1);
    for format in [Format::F32, Format::F16, Format::Q8_0] {
        let w = Kept::quantize(format, &noise(n * k, 2));
        let mut expected = vec![0.0; m * n];
        linear_kept(&x, w.as_ref(), None, &mut expected, m, k, n);
        assert_eq!(product(&x, &w, None, (m, k, n)), expected, "not rounded");
    }
    let none = Kept::new(Format::Bf16, Vec::new());
    assert_eq!(product(&[], &none, Some(&[1.0, 2.0]), (2, 0, 2)), [1.0, 2.0, 1.0, 2.0]);
    assert_eq!(product(&[], &none, None, (0, 2, 0)), [0f32; 0]);
}
