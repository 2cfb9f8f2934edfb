//! Against scipy 1.17.1 (`pearsonr`, its `confidence_interval`, `spearmanr`), and properties.

use proptest::prelude::*;

use super::*;

const X: [f64; 12] = [12.5, 3.0, 88.0, 41.0, 41.0, 67.25, 90.0, 5.5, 41.0, 100.0, 0.0, 55.0];
const Y: [f64; 12] = [20.0, 1.0, 70.0, 38.5, 52.0, 60.0, 95.0, 1.0, 20.0, 91.0, 4.0, 47.5];

fn pairs(x: &[f64], y: &[f64]) -> Vec<(f64, f64)> {
    assert_eq!(x.len(), y.len());
    x.iter().copied().zip(y.iter().copied()).collect()
}

fn close(found: f64, expected: f64) {
    assert!((found - expected).abs() <= 1e-12, "{found} is not {expected}");
}

#[test]
fn pearson_and_its_interval_are_scipys() {
    let correlation = pearson(&pairs(&X, &Y)).expect("they vary");
    close(correlation.r, 0.9623209800496794);
    assert_eq!(correlation.pairs, 12);
    for (level, low, high) in [
        (0.95, 0.8675450100452357, 0.9896571529347837),
        (0.99, 0.8067953865708262, 0.9931279586563233),
        (0.5, 0.9415528221524183, 0.975801520296383),
    ] {
        let interval = correlation.interval(level).expect("a level");
        assert!((interval.0 - low).abs() <= 1e-9 && (interval.1 - high).abs() <= 1e-9, "{interval:?} at {level}");
    }
    let falling = pearson(&pairs(&[1.0, 2.0, 3.0, 4.0, 5.0], &[5.0, 4.0, 4.0, 1.0, -30.0])).expect("they vary");
    close(falling.r, -0.7665969806524668);
    let (low, high) = falling.interval(0.95).expect("a level");
    assert!((low + 0.9836075460964832).abs() <= 1e-9 && (high - 0.3573825554709352).abs() <= 1e-9, "{low} {high}");
    let four = pearson(&pairs(&[1.0, 2.0, 3.0, 4.0], &[2.0, 1.0, 4.0, 3.0])).expect("they vary");
    close(four.r, 0.6);
    let (low, high) = four.interval(0.95).expect("a level");
    assert!((low + 0.8529325646947181).abs() <= 1e-9 && (high - 0.9901277107996944).abs() <= 1e-9, "{low} {high}");
    // Far from zero, where sums of squares would lose everything.
    let far = pearson(&pairs(&[1e9 + 1.0, 1e9 + 2.0, 1e9 + 4.0], &[2.0, 1.0, 3.0])).expect("they vary");
    close(far.r, 0.6546536707079768);
    assert_eq!(far.interval(0.95), Some((-1.0, 1.0)));
}

#[test]
fn spearman_is_scipys_with_ties() {
    close(spearman(&pairs(&X, &Y)).expect("they vary"), 0.9434687876720445);
    let falling = pairs(&[1.0, 2.0, 3.0, 4.0, 5.0], &[5.0, 4.0, 4.0, 1.0, -30.0]);
    close(spearman(&falling).expect("they vary"), -0.9746794344808964);
    assert_eq!(ranks(&[7.0, -1.0, 7.0, 7.0, 2.0, -0.0, 0.0]), [6.0, 1.0, 6.0, 6.0, 4.0, 2.5, 2.5]);
}

#[test]
fn what_cannot_be_correlated_is_none() {
    let none = |x: &[f64], y: &[f64]| {
        assert_eq!(pearson(&pairs(x, y)), None, "{x:?} {y:?}");
        assert_eq!(spearman(&pairs(x, y)), None, "{x:?} {y:?}");
    };
    none(&[], &[]);
    none(&[1.0, 2.0], &[1.0, 2.0]);
    // A tenth is no binary fraction: the mean of these is not exactly their value.
    none(&[0.1; 7], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]);
    none(&[1.0, 2.0, 3.0], &[5.0, 5.0, 5.0]);
    for bad in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
        none(&[1.0, bad, 3.0], &[1.0, 2.0, 4.0]);
        none(&[1.0, 2.0, 4.0], &[1.0, 2.0, bad]);
    }
    let correlation = Correlation { r: 0.5, pairs: 10 };
    for level in [0.0, 1.0, -0.5, f64::NAN] {
        assert_eq!(correlation.interval(level), None);
    }
    assert_eq!(Correlation { r: 1.0, pairs: 10 }.interval(0.95), Some((1.0, 1.0)));
    assert_eq!(Correlation { r: -1.0, pairs: 3 }.interval(0.95), Some((-1.0, 1.0)));
}

#[test]
fn extreme_values_are_in_range() {
    let huge = pearson(&pairs(&[-1e300, 1e300, 5e299], &[-1e-300, 1e-300, 5e-301])).expect("they vary");
    close(huge.r, 1.0);
}

proptest! {
    #[test]
    fn scaling_and_shifting_change_nothing(
        pairs in prop::collection::vec((-50.0..50.0f64, -50.0..50.0f64), 3..30),
        scale in 0.1..10.0f64,
        shift in -100.0..100.0f64,
    ) {
        let found = pearson(&pairs).expect("random values vary").r;
        prop_assert!((-1.0..=1.0).contains(&found));
        let moved: Vec<_> = pairs.iter().map(|(x, y)| (x * scale + shift, -y)).collect();
        prop_assert!((pearson(&moved).expect("they vary").r + found).abs() < 1e-9);
        let swapped: Vec<_> = pairs.iter().map(|(x, y)| (*y, *x)).collect();
        prop_assert!((pearson(&swapped).expect("they vary").r - found).abs() < 1e-12);
        let ranked = spearman(&pairs).expect("they vary");
        let bent: Vec<_> = pairs.iter().map(|(x, y)| (x.exp(), y.powi(3))).collect();
        prop_assert!((spearman(&bent).expect("they vary") - ranked).abs() < 1e-9);
    }
}
