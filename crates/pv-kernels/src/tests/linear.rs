use super::{assert_close, in_pool, noise};
use crate::linear::{Columns, ROWS_IN_PLACE, grad_input, grad_input_of, grad_weight, linear, linear_add};

fn expected(x: &[f32], w: &[f32], bias: Option<&[f32]>, m: usize, k: usize, n: usize) -> Vec<f64> {
    let mut out = Vec::with_capacity(m * n);
    for i in 0..m {
        for j in 0..n {
            let sum: f64 = (0..k).map(|p| f64::from(x[i * k + p]) * f64::from(w[j * k + p])).sum();
            out.push(sum + bias.map_or(0.0, |bias| f64::from(bias[j])));
        }
    }
    out
}

#[test]
fn matches_the_plain_product() {
    for threads in [1, 3] {
        for (k, n) in [(1, 1), (7, 5), (48, 96), (50, 67), (64, 64), (129, 200), (576, 130), (3700, 66)] {
            for m in [1, 2, 3, 5, 8, 16, 17, 31, 70, 520] {
                if m * n * k > 40_000_000 {
                    continue;
                }
                let (x, w, bias) = (noise(m * k, 1), noise(n * k, 2), noise(n, 3));
                for bias in [None, Some(&bias[..])] {
                    let mut out = vec![f32::NAN; m * n];
                    in_pool(threads, || linear(&x, &w, bias, &mut out, m, k, n));
                    // The error of a sum of `k` terms in one order grows with the square root of their number.
                    let tolerance = 2e-6 * (k as f64).sqrt().max(1.0);
                    assert_close(&out, &expected(&x, &w, bias, m, k, n), tolerance);
                }
            }
        }
    }
}

#[test]
fn a_row_does_not_depend_on_the_others() {
    // The last sizes use the method for many rows.
    for (k, n, counts, most) in [
        (150, 90, [1, 2, 3, 7, 12], 16),
        (1500, 90, [1, 2, 4, 5, 17], ROWS_IN_PLACE),
        (4500, 70, [33, 34, 35, 40, 63], 390),
    ] {
        let w = noise(n * k, 2);
        let x = noise(most * k, 5);
        let mut all = vec![0.0; most * n];
        in_pool(2, || linear(&x, &w, None, &mut all, most, k, n));
        for m in counts {
            let mut out = vec![0.0; m * n];
            in_pool(3, || linear(&x[..m * k], &w, None, &mut out, m, k, n));
            assert_eq!(out, all[..m * n]);
        }
    }
}

#[test]
fn empty_sizes() {
    linear(&[], &[1.0; 6], None, &mut [], 0, 3, 2);
    let mut out = [9.0; 4];
    linear(&[], &[], Some(&[1.0, 2.0]), &mut out, 2, 0, 2);
    assert_eq!(out, [1.0, 2.0, 1.0, 2.0]);
}

#[test]
fn a_product_is_added_to_some_columns() {
    for threads in [1, 3] {
        for m in [1, 5, 16, 17, 40, 333] {
            for (k, n) in [(1, 1), (8, 3), (32, 130), (5, 64), (33, 200)] {
                let (from, to) =
                    (Columns { width: k + 7, first: 4, count: k }, Columns { width: n + 9, first: 6, count: n });
                let (x, w, before) = (noise(m * from.width, 1), noise(n * k, 2), noise(m * to.width, 3));
                let mut out = before.clone();
                in_pool(threads, || linear_add(&x, from, &w, &mut out, to));
                let cut: Vec<f32> = x.chunks(from.width).flat_map(|row| row[4..4 + k].to_vec()).collect();
                let sums = expected(&cut, &w, None, m, k, n);
                let whole: Vec<f64> = before
                    .iter()
                    .enumerate()
                    .map(|(at, before)| {
                        let (row, column) = (at / to.width, at % to.width);
                        let inside = (6..6 + n).contains(&column);
                        f64::from(*before) + if inside { sums[row * n + column - 6] } else { 0.0 }
                    })
                    .collect();
                assert_close(&out, &whole, 2e-6 * (k as f64).sqrt().max(1.0));
            }
        }
    }
}

/// Either matrix may be the wider one; its last columns need not fill a vector.
#[test]
fn the_gradient_of_weights_is_the_transposed_product() {
    for threads in [1, 3] {
        for m in [1, 5, 128, 129, 333] {
            for (n, k) in [(1, 1), (3, 8), (96, 130), (130, 96), (64, 5), (700, 7), (33, 1200), (1100, 70)] {
                let of = Columns { width: n + 7, first: 4, count: n };
                let from = Columns { width: k + 9, first: 6, count: k };
                let (upstream, x) = (noise(m * of.width, 1), noise(m * from.width, 2));
                let mut out = vec![f32::NAN; n * k];
                in_pool(threads, || grad_weight(&upstream, of, &x, from, &mut out));
                let transposed = |values: &[f32], columns: Columns| -> Vec<f32> {
                    let column = |j| values.chunks(columns.width).map(move |row| row[columns.first + j]);
                    (0..columns.count).flat_map(column).collect()
                };
                let sums = expected(&transposed(&upstream, of), &transposed(&x, from), None, n, m, k);
                assert_close(&out, &sums, 2e-6 * (m as f64).sqrt().max(1.0));
            }
        }
    }
    let mut out = [9.0; 6];
    grad_weight(&[], Columns::all(2), &[], Columns::all(3), &mut out);
    assert_eq!(out, [0.0; 6]);
}

#[test]
fn a_gradient_of_some_columns_is_that_of_a_copy() {
    for (m, n, k) in [(1, 3, 8), (40, 130, 70), (400, 33, 20)] {
        let of = Columns { width: n + 7, first: 4, count: n };
        let (upstream, w) = (noise(m * of.width, 1), noise(n * k, 2));
        let copy: Vec<f32> = upstream.chunks(of.width).flat_map(|row| row[4..4 + n].to_vec()).collect();
        let (mut whole, mut part) = (vec![0.0; m * k], vec![1.0; m * k]);
        in_pool(3, || grad_input(&copy, &w, &mut whole, m, k, n));
        in_pool(2, || grad_input_of(&upstream, of, &w, &mut part, m, k));
        assert_eq!(part, whole);
    }
}
