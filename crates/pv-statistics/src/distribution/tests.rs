//! The sketch and the moments compared with exact ones.

use rand::rngs::ChaCha8Rng;
use rand::{RngExt, SeedableRng};

use super::*;

const N: usize = 20_000;

fn random(seed: u64) -> ChaCha8Rng {
    ChaCha8Rng::seed_from_u64(seed)
}

/// A standard normal value, by Box and Muller.
fn normal(random: &mut ChaCha8Rng) -> f64 {
    let (a, b): (f64, f64) = (1.0 - random.random::<f64>(), random.random());
    (-2.0 * a.ln()).sqrt() * (std::f64::consts::TAU * b).cos()
}

/// Streams of many shapes, orders and scales.
fn streams() -> Vec<(&'static str, Vec<f64>)> {
    let mut random = random(7);
    let mut draw = |value: &mut dyn FnMut(&mut rand::rngs::ChaCha8Rng) -> f64| -> Vec<f64> {
        (0..N).map(|_| value(&mut random)).collect()
    };
    let mut rising = draw(&mut normal);
    rising.sort_by(f64::total_cmp);
    let falling: Vec<f64> = rising.iter().rev().copied().collect();
    vec![
        ("uniform", draw(&mut |r| r.random::<f64>())),
        ("normal", draw(&mut normal)),
        ("exponential", draw(&mut |r| -(1.0 - r.random::<f64>()).ln())),
        ("heavy tails", draw(&mut |r| normal(r) / normal(r))),
        ("two humps", draw(&mut |r| if r.random::<bool>() { normal(r) - 20.0 } else { 5.0 + 0.01 * normal(r) })),
        ("far and narrow", draw(&mut |r| 1e6 + 1e-3 * normal(r))),
        ("rising", rising),
        ("falling", falling),
    ]
}

/// The distance of a value's rank among sorted values from a share.
fn rank_error(sorted: &[f64], value: f64, share: f64) -> f64 {
    let below = sorted.partition_point(|v| *v < value) as f64 / sorted.len() as f64;
    let up_to = sorted.partition_point(|v| *v <= value) as f64 / sorted.len() as f64;
    (below - share).max(share - up_to).max(0.0)
}

/// The largest rank errors of the quantiles p1 to p99, and of the outermost ones alone.
fn check(name: &str, distribution: &Distribution, values: &[f64]) -> (f64, f64) {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    assert_eq!(distribution.n(), values.len() as u64);
    assert_eq!((distribution.min(), distribution.max()), (Some(sorted[0]), Some(sorted[sorted.len() - 1])));
    let (mut worst, mut outer): (f64, f64) = (0.0, 0.0);
    for percent in 1..100 {
        let share = f64::from(percent) / 100.0;
        let quantile = distribution.quantile(share).expect("a quantile");
        let error = rank_error(&sorted, quantile, share);
        // In the other direction: the rank of the exact quantile.
        let exact = sorted[(share * sorted.len() as f64) as usize];
        let back = rank_error(&sorted, exact, distribution.rank(exact).expect("a rank"));
        worst = worst.max(error).max(back);
        if percent == 1 || percent == 99 {
            outer = outer.max(error).max(back);
        }
    }
    let bound = if name == "two humps" { 0.05 } else { 0.005 };
    assert!(worst <= bound && outer <= 0.001, "{name}: {worst:.4} and {outer:.4}");
    let n = values.len() as f64;
    let mean = values.iter().map(|v| v / n).sum::<f64>();
    let sd = (values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / (n - 1.0)).sqrt();
    let close = |found: Option<f64>, exact: f64| (found.expect("a number") - exact).abs() <= 1e-9 * exact.abs().max(sd);
    assert!(close(distribution.mean(), mean), "{name}: mean {:?}, {mean}", distribution.mean());
    let found = distribution.sd().expect("a number");
    assert!((found - sd).abs() <= 1e-6 * sd, "{name}: sd {found}, {sd}");
    (worst, outer)
}

#[test]
fn quantiles_and_moments_are_those_of_the_stream() {
    for (name, values) in streams() {
        let (worst, outer) = check(name, &Distribution::of(values.iter().copied()), &values);
        assert!(worst > 0.0, "a sketch of {N} values cannot be exact");
        assert!(outer <= worst);
    }
}

#[test]
fn merged_streams_are_one() {
    for (name, values) in streams() {
        // Neighbours together, so that sorted streams give parts that do not overlap; and parts of very unequal sizes.
        for cuts in [vec![2_000; 10], vec![3, 10_000, 1, 9_996]] {
            let (mut rest, mut merged) = (values.as_slice(), Distribution::of([]));
            for cut in cuts {
                let (part, later) = rest.split_at(cut);
                rest = later;
                merged = merged.merged(&Distribution::of(part.iter().copied()));
            }
            assert!(rest.is_empty());
            check(name, &merged, &values);
        }
    }
}

#[test]
fn memory_is_bounded() {
    let stored = |n: usize| {
        let mut random = random(3);
        serde_json::to_string(&Distribution::of((0..n).map(|_| normal(&mut random)))).expect("JSON").len()
    };
    assert!(stored(1_000) < 15_000 && stored(200_000) < 15_000, "{} {}", stored(1_000), stored(200_000));
}

#[test]
fn few_values_and_none() {
    let none = Distribution::of([f64::NAN, f64::INFINITY]);
    assert_eq!((none.n(), none.mean(), none.sd(), none.min(), none.quantile(0.5)), (0, None, None, None, None));
    assert_eq!((none.z(1.0), none.rank(1.0)), (None, None));
    let one = Distribution::of([3.0]);
    assert_eq!((one.mean(), one.sd(), one.z(3.0), one.quantile(0.9)), (Some(3.0), None, None, Some(3.0)));
    let same = Distribution::of([2.0, 2.0]);
    assert_eq!((same.sd(), same.z(2.0), same.quantile(0.1)), (Some(0.0), None, Some(2.0)));
    let two = Distribution::of([0.0, 2.0]);
    assert_eq!((two.mean(), two.z(1.0)), (Some(1.0), Some(0.0)));
    assert!((two.z(1.0 + 2.0_f64.sqrt()).unwrap() - 1.0).abs() < 1e-12);
    assert_eq!((two.rank(-1.0), two.rank(3.0), two.rank(f64::NAN)), (Some(0.0), Some(1.0), None));
    for share in [-0.1, 1.1, f64::NAN] {
        assert_eq!(two.quantile(share), None);
    }
    assert_eq!(none.clone().merged(&two).n(), 2);
    assert_eq!(two.merged(&none).n(), 2);
}
