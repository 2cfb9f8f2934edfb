//! Compared with scipy 1.17.1 and scikit-learn 1.9.1 (`IsotonicRegression(out_of_bounds="clip")`), and properties.

use proptest::prelude::*;

use super::*;
use crate::score::Evidence;
use crate::{Abstention, Score};

fn scored_at(value: f64) -> Verdict {
    Verdict::Scored(Score { value, evidence: Evidence::Exact })
}

fn abstained() -> Verdict {
    Verdict::Abstained(Abstention::NoMass { mass: 0.1, refusal: Some(0.8) })
}

#[test]
fn abstentions_are_counted_and_excluded() {
    let first = [scored_at(10.0), abstained(), scored_at(30.0), abstained(), scored_at(50.0), scored_at(0.0)];
    let second = [scored_at(20.0), scored_at(99.0), scored_at(10.0), abstained(), abstained(), scored_at(1.0)];
    let found = Agreement::between(&first, &second).expect("paired");
    assert_eq!((found.pairs, found.first_abstained, found.second_abstained, found.both_abstained), (3, 1, 1, 1));
    assert!((found.mean_absolute_difference.expect("pairs") - 31.0 / 3.0).abs() < 1e-12);
    let pairs = [(10.0, 20.0), (30.0, 10.0), (0.0, 1.0)];
    assert_eq!((found.pearson, found.spearman), (pearson(&pairs), spearman(&pairs)));
    assert_eq!(found.spearman, Some(0.5));
    let json = serde_json::to_string(&found).expect("JSON");
    assert_eq!(serde_json::from_str::<Agreement>(&json).expect("the same"), found);
}

#[test]
fn intervals_are_over_prompts() {
    // Five answers to each of eight prompts, all alike: as many answers say no more than one each.
    let scores: Vec<(f64, f64)> =
        (0..8).map(|i| (f64::from(i * 10), f64::from((i * 10 + 17 * (i % 3)) % 100))).collect();
    let verdicts = |each: usize, side: fn(&(f64, f64)) -> f64| -> Vec<Verdict> {
        scores.iter().flat_map(|pair| vec![scored_at(side(pair)); each]).collect()
    };
    let agreement = |each: usize| {
        let prompts: Vec<usize> = (0..8 * each).map(|row| row / each).collect();
        let (first, second) = (verdicts(each, |pair| pair.0), verdicts(each, |pair| pair.1));
        Agreement::between_prompts(&first, &second, &prompts).expect("paired")
    };
    let (one, five) = (agreement(1), agreement(5));
    let (found, same) = (one.pearson_interval.expect("an interval"), five.pearson_interval.expect("an interval"));
    assert!((found.low - same.low).abs() < 1e-9 && (found.high - same.high).abs() < 1e-9, "{found:?} {same:?}");
    assert!(found.contains(one.pearson.expect("they vary").r) && one.spearman_interval.is_some());
    // As if all answers were independent.
    let rough = five.pearson.and_then(|found| found.interval(0.95)).expect("an interval");
    assert!(rough.width() < 0.7 * found.width(), "{rough:?} {found:?}");
    let error = Agreement::between_prompts(&[abstained()], &[abstained()], &[]).expect_err("no prompt");
    assert!(matches!(error, Error::NotPaired { first: 1, second: 0 }));
}

#[test]
fn nothing_in_common_is_no_number() {
    let found = Agreement::between(&[abstained(), scored_at(1.0)], &[scored_at(1.0), abstained()]).expect("paired");
    assert_eq!((found.pairs, found.first_abstained, found.second_abstained), (0, 1, 1));
    assert_eq!((found.pearson, found.spearman, found.mean_absolute_difference), (None, None, None));
    let error = Agreement::between(&[abstained()], &[]).expect_err("one against none");
    assert!(matches!(error, Error::NotPaired { first: 1, second: 0 }));
}

const X: [f64; 12] = [10., 20., 20., 30., 40., 50., 60., 70., 70., 70., 90., 95.];
const Y: [f64; 12] = [15., 12., 8., 30., 25., 27., 60., 55., 70., 40., 85., 80.];

#[test]
fn the_map_is_scikit_learns() {
    let mut pairs: Vec<(f64, f64)> = X.into_iter().zip(Y).collect();
    let map = IsotonicMap::fit(&pairs).expect("pairs");
    let asked = [0., 10., 15., 20., 25., 33., 45., 55., 65., 70., 80., 92., 95., 100.];
    let expected = [
        11.666666666666666,
        11.666666666666666,
        11.666666666666666,
        11.666666666666666,
        19.5,
        27.333333333333332,
        27.333333333333332,
        41.791666666666664,
        56.25,
        56.25,
        69.375,
        82.5,
        82.5,
        82.5,
    ];
    for (score, expected) in asked.into_iter().zip(expected) {
        assert!((map.map(score) - expected).abs() < 1e-12, "{score}: {} is not {expected}", map.map(score));
    }
    assert_eq!(map.points().len(), 8);
    pairs.reverse();
    assert_eq!(IsotonicMap::fit(&pairs), Some(map), "the order of the pairs does not matter");
}

#[test]
fn maps_come_from_verdicts_that_both_gave() {
    let mut from: Vec<Verdict> = X.into_iter().map(scored_at).collect();
    let mut to: Vec<Verdict> = Y.into_iter().map(scored_at).collect();
    let plain = IsotonicMap::between(&from, &to).expect("pairs");
    from.extend([scored_at(0.0), abstained()]);
    to.extend([abstained(), scored_at(100.0)]);
    assert_eq!(IsotonicMap::between(&from, &to).expect("pairs"), plain);
    assert!(matches!(IsotonicMap::between(&from, &to[1..]), Err(Error::NotPaired { first: 14, second: 13 })));
    assert!(matches!(IsotonicMap::between(&from[..2], &to[..2]), Err(Error::NoMap { pairs: 2 })));
}

#[test]
fn what_gives_no_map_is_none() {
    assert_eq!(IsotonicMap::fit(&[]), None);
    assert_eq!(IsotonicMap::fit(&[(1.0, 1.0), (2.0, 2.0)]), None);
    assert_eq!(IsotonicMap::fit(&[(1.0, 1.0), (1.0, 2.0), (1.0, 3.0)]), None);
    assert_eq!(IsotonicMap::fit(&[(1.0, 1.0), (2.0, f64::NAN), (3.0, 3.0)]), None);
    assert_eq!(IsotonicMap::fit(&[(1.0, 1.0), (f64::INFINITY, 2.0), (3.0, 3.0)]), None);
    // Against the order, the best nondecreasing map is constant.
    let level = IsotonicMap::fit(&[(1.0, 3.0), (2.0, 2.0), (3.0, 1.0)]).expect("a map");
    assert_eq!([0.0, 1.5, 9.0].map(|score| level.map(score)), [2.0; 3]);
    assert!(level.map(f64::NAN).is_nan());
}

#[test]
fn files_are_checked() {
    let map = IsotonicMap::fit(&X.into_iter().zip(Y).collect::<Vec<_>>()).expect("pairs");
    let json = serde_json::to_string(&map).expect("JSON");
    assert_eq!(serde_json::from_str::<IsotonicMap>(&json).expect("the same"), map);
    for (bad, why) in [
        ("[]", "at least two points"),
        ("[[1,2]]", "at least two points"),
        ("[[1,2],[1,3]]", "does not rise"),
        ("[[2,2],[1,3]]", "does not rise"),
        ("[[1,3],[2,2]]", "does not rise"),
    ] {
        let error = serde_json::from_str::<IsotonicMap>(bad).expect_err(bad).to_string();
        assert!(error.contains(why), "{bad}: {error}");
    }
    let error = IsotonicMap::try_from(vec![(0.0, 1.0), (1.0, f64::INFINITY)]).expect_err("not finite");
    assert!(matches!(error, Error::Map(MapError::NotFinite { index: 1, .. })));
}

/// The best nondecreasing fit by its definition: the value at `i` is the greatest over starts `a ≤ i` of the least over
/// ends `b ≥ i` of the mean of `a..=b`.
fn by_definition(y: &[f64]) -> Vec<f64> {
    let mean = |a: usize, b: usize| y[a..=b].iter().sum::<f64>() / (b - a + 1) as f64;
    let least = |a: usize, i: usize| (i..y.len()).map(|b| mean(a, b)).fold(f64::INFINITY, f64::min);
    (0..y.len()).map(|i| (0..=i).map(|a| least(a, i)).fold(f64::NEG_INFINITY, f64::max)).collect()
}

proptest! {
    #[test]
    fn the_fit_is_the_best_rising_one(y in prop::collection::vec(-100.0..100.0f64, 3..40)) {
        let pairs: Vec<(f64, f64)> = y.iter().enumerate().map(|(i, y)| (i as f64, *y)).collect();
        let map = IsotonicMap::fit(&pairs).expect("pairs");
        for (i, expected) in by_definition(&y).into_iter().enumerate() {
            prop_assert!((map.map(i as f64) - expected).abs() < 1e-9, "at {i}: {} is not {expected}", map.map(i as f64));
        }
        let mut last = f64::NEG_INFINITY;
        for step in 0..200 {
            let value = map.map(-1.0 + step as f64 * 0.25);
            prop_assert!(value >= last);
            last = value;
        }
    }
}
