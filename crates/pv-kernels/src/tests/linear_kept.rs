use super::{assert_close, hash, in_pool, noise};
use crate::kept::{Format, Kept};
use crate::linear::{grad_input, linear};
use crate::linear_kept::{grad_input_kept, linear_kept, linear_kept_rounded, rows_kept};
use crate::vector::level::forced::at_each;

/// `x . wᵀ + bias`, and how far a product with rounded `x` may be from it.
fn expected(
    x: &[f32],
    w: &[f32],
    bias: Option<&[f32]>,
    rounded: bool,
    (m, k, n): (usize, usize, usize),
) -> (Vec<f64>, Vec<f64>) {
    let (mut out, mut bounds) = (Vec::new(), Vec::new());
    for x in x.chunks(k).take(m) {
        // Half of a step of the rounding, per element.
        let steps: Vec<f64> = x
            .chunks(32)
            .flat_map(|x| {
                let most = x.iter().fold(0f32, |most, v| most.max(v.abs()));
                vec![f64::from(most) / 254.0 * 1.000_01; x.len()]
            })
            .collect();
        for (j, w) in w.chunks(k).enumerate().take(n) {
            let sum: f64 = x.iter().zip(w).map(|(&x, &w)| f64::from(x) * f64::from(w)).sum();
            let size: f64 = x.iter().zip(w).map(|(&x, &w)| f64::from(x * w).abs()).sum();
            let steps: f64 = steps.iter().zip(w).map(|(step, &w)| step * f64::from(w).abs()).sum();
            out.push(sum + bias.map_or(0.0, |bias| f64::from(bias[j])));
            // A sum of unsigned integers and minima has larger terms than the product.
            bounds.push(4e-6 * (size + 1.0) * (k as f64).sqrt() + if rounded { steps } else { 0.0 });
        }
    }
    (out, bounds)
}

/// Sizes with and without whole chunks of groups, and whole vectors.
fn sizes(format: Format) -> Vec<(usize, usize)> {
    match format.block_elements() {
        1 => vec![(1, 1), (7, 5), (48, 96), (50, 67), (129, 200), (576, 66), (3700, 66)],
        32 => vec![(32, 1), (64, 7), (96, 66), (256, 5), (288, 9), (352, 70), (2304, 66)],
        _ => vec![(256, 1), (256, 67), (512, 130), (2304, 66)],
    }
}

#[test]
fn products_match_those_of_the_values() {
    for format in Format::ALL {
        for (k, n) in sizes(format) {
            let w = Kept::quantize(format, &noise(n * k, 2));
            let values = w.as_ref().to_f32();
            let bias = noise(n, 3);
            for m in [1, 2, 3, 4, 7, 16, 17, 40, 390] {
                if m * n * k > 10_000_000 {
                    continue;
                }
                let x = noise(m * k, 1);
                for (bias, rounds) in [(None, false), (Some(&bias[..]), false), (None, true), (Some(&bias[..]), true)] {
                    let rounded = rounds && format.block_elements() > 1;
                    let mut out = vec![f32::NAN; m * n];
                    let product = if rounds { linear_kept_rounded } else { linear_kept };
                    in_pool(3, || product(&x, w.as_ref(), bias, &mut out, m, k, n));
                    let (expected, bounds) = expected(&x, &values, bias, rounded, (m, k, n));
                    for ((&out, expected), bound) in out.iter().zip(&expected).zip(&bounds) {
                        let difference = (f64::from(out) - expected).abs();
                        assert!(difference <= *bound, "{format} {m} {k} {n}: {out} not {expected} ± {bound}");
                    }
                }
            }
        }
    }
}

/// The error of rounding `x` is not only bounded, but as small as that of random errors.
#[test]
fn rounded_activations_cost_little() {
    let (m, k, n) = (4, 4096, 50);
    for format in Format::ALL.into_iter().filter(|format| format.block_elements() > 1) {
        let w = Kept::quantize(format, &noise(n * k, 2));
        let x = noise(m * k, 1);
        let mut out = vec![0.0; m * n];
        linear_kept_rounded(&x, w.as_ref(), None, &mut out, m, k, n);
        let (expected, _) = expected(&x, &w.as_ref().to_f32(), None, true, (m, k, n));
        let error: f64 = out.iter().zip(&expected).map(|(&a, b)| (f64::from(a) - b).powi(2)).sum();
        let size: f64 = expected.iter().map(|v| v * v).sum();
        assert!((error / size).sqrt() < 6e-3, "{format}: {}", (error / size).sqrt());
    }
}

#[test]
fn a_row_does_not_depend_on_the_others() {
    for format in Format::ALL {
        let (k, n) = (2304, 70);
        let w = Kept::quantize(format, &noise(n * k, 2));
        for counts in [&[1, 2, 3, 4, 5, 11, 16, 23, 32][..], &[33, 34, 63, 390]] {
            let most = *counts.last().unwrap();
            let x = noise(most * k, 5);
            let mut all = vec![0.0; most * n];
            in_pool(2, || linear_kept(&x, w.as_ref(), None, &mut all, most, k, n));
            for &m in counts {
                let mut out = vec![0.0; m * n];
                in_pool(3, || linear_kept(&x[..m * k], w.as_ref(), None, &mut out, m, k, n));
                assert_eq!(out, all[..m * n], "{format} {m}");
            }
        }
    }
}

/// With rounded activations, neither on their number: decoding gives the bits of a whole pass.
#[test]
fn a_rounded_row_does_not_depend_on_the_number_of_rows() {
    for format in Format::ALL.into_iter().filter(|format| format.block_elements() > 1) {
        for (k, n) in sizes(format).into_iter().chain([(2304, 70)]) {
            let w = Kept::quantize(format, &noise(n * k, 2));
            let (most, bias) = (45, noise(n, 3));
            let x = noise(most * k, 5);
            at_each(|level| {
                let mut all = vec![0.0; most * n];
                in_pool(2, || linear_kept_rounded(&x, w.as_ref(), Some(&bias), &mut all, most, k, n));
                for m in [1, 2, 3, 4, 5, 8, 13, 16, 17] {
                    let mut out = vec![0.0; m * n];
                    in_pool(3, || linear_kept_rounded(&x[..m * k], w.as_ref(), Some(&bias), &mut out, m, k, n));
                    assert_eq!(out, all[..m * n], "{format} {k} {n} {m} {level:?}");
                }
            });
        }
    }
}

#[test]
fn the_gradient_is_the_product_with_the_weights() {
    for format in Format::ALL {
        for (k, n) in sizes(format) {
            let w = Kept::quantize(format, &noise(n * k, 2));
            let values = w.as_ref().to_f32();
            for m in [1, 5, 40, 390] {
                if m * n * k > 5_000_000 {
                    continue;
                }
                let upstream = noise(m * n, 1);
                let mut out = vec![f32::NAN; m * k];
                in_pool(3, || grad_input_kept(&upstream, w.as_ref(), &mut out, m, k, n));
                let mut expected = vec![0.0; m * k];
                for (i, expected) in expected.chunks_mut(k).enumerate() {
                    for (j, w) in values.chunks(k).enumerate() {
                        let factor = f64::from(upstream[i * n + j]);
                        expected.iter_mut().zip(w).for_each(|(sum, &w)| *sum += factor * f64::from(w));
                    }
                }
                assert_close(&out, &expected, 2e-6 * (n as f64).sqrt());
            }
        }
    }
}

/// How weights are kept changes no result: products and gradients are those of the same values in `f32`, to the bit.
#[test]
fn a_format_changes_no_bit() {
    for format in Format::ALL {
        for (k, n) in sizes(format).into_iter().chain([(2304, 130)]) {
            let w = Kept::quantize(format, &noise(n * k, 2));
            let values = w.as_ref().to_f32();
            let bias = noise(n, 3);
            for m in (1..=18).chain([40, 512]) {
                if m > 16 && m * n * k > 20_000_000 {
                    continue;
                }
                let (x, upstream) = (noise(m * k, 1), noise(m * n, 4));
                let (mut kept, mut plain) = (vec![0.0; m * n], vec![1.0; m * n]);
                in_pool(2, || linear_kept(&x, w.as_ref(), Some(&bias), &mut kept, m, k, n));
                in_pool(3, || linear(&x, &values, Some(&bias), &mut plain, m, k, n));
                assert!(kept == plain, "{format} {m} {k} {n}");
                let (mut kept, mut plain) = (vec![0.0; m * k], vec![1.0; m * k]);
                in_pool(2, || grad_input_kept(&upstream, w.as_ref(), &mut kept, m, k, n));
                in_pool(3, || grad_input(&upstream, &values, &mut plain, m, k, n));
                assert!(kept == plain, "the gradient of {format} {m} {k} {n}");
            }
        }
    }
}

#[test]
fn rows_are_unpacked() {
    for format in Format::ALL {
        let k = 512;
        let w = Kept::quantize(format, &noise(6 * k, 2));
        let values = w.as_ref().to_f32();
        let mut out = vec![0.0; 3 * k];
        rows_kept(w.as_ref(), &[5, 0, 2], &mut out, k);
        for (out, id) in out.chunks(k).zip([5, 0, 2]) {
            assert_eq!(out, &values[id * k..][..k]);
        }
    }
}

/// The offsets of the 16-bit scales of a block.
fn scales(format: Format) -> &'static [usize] {
    match format {
        Format::F32 | Format::Bf16 | Format::F16 | Format::Mxfp4 => &[],
        Format::Q8_0 | Format::Q4_0 | Format::Q5_0 => &[0],
        Format::Q6K => &[208],
        _ => &[0, 2],
    }
}

/// Blocks of random bits with scales in `[1/64, 1/32)`.
fn random_blocks(format: Format, elements: usize) -> Kept {
    if format.block_elements() == 1 {
        return Kept::quantize(format, &noise(elements, 2));
    }
    let noise = noise(format.bytes(elements).unwrap(), 2);
    let mut bytes: Vec<u8> = noise.iter().map(|v| ((v + 1.0) * 128.0) as u8).collect();
    for block in bytes.chunks_mut(format.block_bytes()) {
        scales(format).iter().for_each(|at| block[at + 1] = 0x24 | block[at + 1] & 3);
        if format == Format::Mxfp4 {
            block[0] = 0x76 | block[0] & 3;
        }
    }
    Kept::new(format, bytes)
}

#[test]
fn every_instruction_set_gives_the_stored_bits() {
    let mut found = Vec::new();
    for format in Format::ALL {
        let results = at_each(|_| {
            let mut all = Vec::new();
            for (k, n, m) in
                [(1280, 21, 1), (1280, 5, 7), (1280, 70, 37), (1280, 6, 2), (544, 9, 3), (50, 9, 3), (67, 70, 40)]
            {
                if format.bytes(k).is_none() {
                    continue;
                }
                let w = random_blocks(format, n * k);
                let (x, bias, upstream) = (noise(m * k, 1), noise(n, 3), noise(m * n, 4));
                let (mut exact, mut rounded) = (vec![0.0; m * n], vec![0.0; m * n]);
                let (mut gradient, mut rows) = (vec![0.0; m * k], vec![0.0; 2 * k]);
                linear_kept(&x, w.as_ref(), Some(&bias), &mut exact, m, k, n);
                linear_kept_rounded(&x, w.as_ref(), Some(&bias), &mut rounded, m, k, n);
                grad_input_kept(&upstream, w.as_ref(), &mut gradient, m, k, n);
                rows_kept(w.as_ref(), &[n - 1, 0], &mut rows, k);
                all.extend([exact, rounded, gradient, rows].concat());
            }
            hash(&all)
        });
        let first = results[0].1;
        assert!(results.iter().all(|(_, hash)| *hash == first), "{format}: {results:?}");
        found.push((format.name(), first));
    }
    let list: String = found.iter().map(|(name, hash)| format!("    (\"{name}\", {hash:#018x}),\n")).collect();
    assert!(found == HASHES, "{list}");
}

const HASHES: [(&str, u64); 12] = [
    ("F32", 0x923c_b9d1_ef49_0f55),
    ("BF16", 0x3b89_56b6_f4e7_2165),
    ("F16", 0x6593_ae58_5965_d04d),
    ("Q8_0", 0xae82_c8a4_b3d7_eb76),
    ("Q4_0", 0x0d4d_6d03_9bfd_a64c),
    ("Q4_1", 0x5d54_e0d7_9586_71a3),
    ("Q5_0", 0x0d26_ffaf_80b7_6875),
    ("Q5_1", 0x1acf_97ff_ca30_c832),
    ("Q4_K", 0x389b_0d8d_608c_a2c7),
    ("Q5_K", 0x834c_2b42_0b5b_6cb0),
    ("Q6_K", 0xa8a7_edb8_9b3f_c45e),
    ("MXFP4", 0x4013_2c7a_272c_1bf4),
];

#[test]
fn values_that_are_not_finite_stay_visible() {
    for format in Format::ALL {
        let k = 512;
        let w = Kept::quantize(format, &noise(3 * k, 2));
        for m in [2, 17] {
            for value in [f32::NAN, f32::INFINITY] {
                let mut x = noise(m * k, 1);
                x[k + 40] = value;
                let mut out = vec![0.0; m * 3];
                linear_kept(&x, w.as_ref(), None, &mut out, m, k, 3);
                assert!(out[..3].iter().all(|v| v.is_finite()), "{format}");
                assert!(out[3..6].iter().all(|v| !v.is_finite()), "{format} {out:?}");
            }
        }
    }
}

#[test]
fn extremes_do_not_overflow() {
    for format in Format::ALL.into_iter().filter(|format| format.block_elements() > 1) {
        let k = 512;
        for (bits, scale) in [(0x80, 0x2e00_u16), (0xff, 0x2e00), (0x7f, 0xae00), (0x00, 0x2e00)] {
            let mut bytes = vec![bits; format.bytes(k).unwrap()];
            for block in bytes.chunks_mut(format.block_bytes()) {
                scales(format).iter().for_each(|&at| block[at..at + 2].copy_from_slice(&scale.to_le_bytes()));
                if format == Format::Mxfp4 {
                    block[0] = 0x7c;
                }
            }
            let w = Kept::new(format, bytes);
            for sign in [1.0, -1.0] {
                let x: Vec<f32> = (0..k).map(|i| if i % 3 == 0 { sign } else { -sign }).collect();
                let (expected, bounds) = expected(&x, &w.as_ref().to_f32(), None, false, (1, k, 1));
                at_each(|level| {
                    for product in [linear_kept, linear_kept_rounded] {
                        let mut out = [0.0];
                        product(&x, w.as_ref(), None, &mut out, 1, k, 1);
                        let difference = (f64::from(out[0]) - expected[0]).abs();
                        assert!(difference <= bounds[0], "{format} {bits} {level:?}: {} not {}", out[0], expected[0]);
                    }
                });
            }
        }
    }
}

#[test]
fn empty_sizes() {
    let none = Kept::new(Format::Q4_0, Vec::new());
    let w = Kept::quantize(Format::Q4_0, &[1.0; 64]);
    linear_kept(&[], w.as_ref(), None, &mut [], 0, 32, 2);
    let mut out = [9.0; 4];
    linear_kept(&[], none.as_ref(), Some(&[1.0, 2.0]), &mut out, 2, 0, 2);
    assert_eq!(out, [1.0, 2.0, 1.0, 2.0]);
    let mut gradient = [9.0; 32];
    grad_input_kept(&[], none.as_ref(), &mut gradient, 1, 32, 0);
    assert_eq!(gradient, [0.0; 32]);
}

#[test]
#[should_panic(expected = "the weights are not [n, k] in Q4_0")]
fn missing_blocks_panic() {
    linear_kept(&[0.0; 64], Kept::quantize(Format::Q4_0, &[1.0; 32]).as_ref(), None, &mut [0.0], 1, 64, 1);
}
