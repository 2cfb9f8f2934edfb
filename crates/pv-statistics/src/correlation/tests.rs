//! Compared with scipy 1.17.1 (`pearsonr`, its `confidence_interval`, `spearmanr`), and properties.

use proptest::prelude::*;
use rand::RngExt;

use super::*;
use crate::bootstrap::random;

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
        assert!((interval.low - low).abs() <= 1e-9 && (interval.high - high).abs() <= 1e-9, "{interval:?} at {level}");
    }
    let falling = pearson(&pairs(&[1.0, 2.0, 3.0, 4.0, 5.0], &[5.0, 4.0, 4.0, 1.0, -30.0])).expect("they vary");
    close(falling.r, -0.7665969806524668);
    let Interval { low, high } = falling.interval(0.95).expect("a level");
    assert!((low + 0.9836075460964832).abs() <= 1e-9 && (high - 0.3573825554709352).abs() <= 1e-9, "{low} {high}");
    let four = pearson(&pairs(&[1.0, 2.0, 3.0, 4.0], &[2.0, 1.0, 4.0, 3.0])).expect("they vary");
    close(four.r, 0.6);
    let Interval { low, high } = four.interval(0.95).expect("a level");
    assert!((low + 0.8529325646947181).abs() <= 1e-9 && (high - 0.9901277107996944).abs() <= 1e-9, "{low} {high}");
    // Far from zero, where sums of squares would lose all precision.
    let far = pearson(&pairs(&[1e9 + 1.0, 1e9 + 2.0, 1e9 + 4.0], &[2.0, 1.0, 3.0])).expect("they vary");
    close(far.r, 0.6546536707079768);
    assert_eq!(far.interval(0.95), Some(ANYTHING));
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
    // A tenth is not a binary fraction: the mean of these values is not exactly their value.
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
    assert_eq!(Correlation { r: 1.0, pairs: 10 }.interval(0.95), Some(Interval { low: 1.0, high: 1.0 }));
    assert_eq!(Correlation { r: -1.0, pairs: 3 }.interval(0.95), Some(ANYTHING));
}

#[test]
fn extreme_values_are_in_range() {
    let huge = pearson(&pairs(&[-1e300, 1e300, 5e299], &[-1e-300, 1e-300, 5e-301])).expect("they vary");
    close(huge.r, 1.0);
}

/// A standard normal number.
fn normal(random: &mut impl rand::Rng) -> f64 {
    let (u, v): (f64, f64) = (random.random(), random.random());
    (-2.0 * (1.0 - u).ln()).sqrt() * (std::f64::consts::TAU * v).cos()
}

fn r_of(pairs: &[(f64, f64)]) -> impl Fn(&[usize]) -> Option<f64> + Sync + '_ {
    |rows| pearson(&rows.iter().map(|row| pairs[*row]).collect::<Vec<_>>()).map(|found| found.r)
}

/// Prompts vary in both numbers, with the correlation `truth`; answers to one prompt vary around it by as much again.
fn answers(prompts: usize, each: usize, truth: f64, seed: u64) -> (Vec<(f64, f64)>, Vec<usize>) {
    let mut random = random(seed, 7);
    let mut pairs = Vec::new();
    for _ in 0..prompts {
        let x = normal(&mut random);
        let y = truth * x + (1.0 - truth * truth).sqrt() * normal(&mut random);
        pairs.extend((0..each).map(|_| (x, y + normal(&mut random))));
    }
    (pairs, (0..prompts * each).map(|row| row / each).collect())
}

/// If answers resemble each other, intervals over rows are far too narrow; intervals over prompts have their nominal
/// coverage.
#[test]
fn clustered_intervals_cover_the_truth_and_those_over_rows_do_not() {
    let (truth, runs, options) = (0.6_f64, 300, BootstrapOptions { resamples: 400, ..BootstrapOptions::default() });
    // The noise of single answers halves the variance that x explains.
    let at_rows = truth / 2f64.sqrt();
    let (mut by_prompt, mut by_row, mut fisher) = (0, 0, 0);
    for seed in 0..runs {
        let (pairs, prompts) = answers(25, 8, truth, seed);
        let r = r_of(&pairs);
        let covers = |interval: Interval| usize::from(interval.contains(at_rows));
        let rows: Vec<usize> = (0..pairs.len()).collect();
        by_prompt += covers(clustered_interval(&Clusters::new(&prompts), &options, &r).unwrap().unwrap());
        by_row += covers(clustered_interval(&Clusters::new(&rows), &options, &r).unwrap().unwrap());
        fisher += covers(pearson(&pairs).unwrap().interval(0.95).unwrap());
    }
    // 95 % of 300, with a margin of four standard errors.
    assert!((270..=298).contains(&by_prompt), "{by_prompt} of {runs}");
    assert!(by_row < 240 && fisher < 240, "{by_row} and {fisher} of {runs}");
}

/// For independent pairs from a normal distribution, the interval is Fisher's.
#[test]
fn with_a_row_for_each_cluster_the_interval_is_fishers() {
    let mut random = random(5, 0);
    let pairs: Vec<(f64, f64)> = (0..400)
        .map(|_| {
            let x = normal(&mut random);
            (x, 0.5 * x + normal(&mut random))
        })
        .collect();
    let rows: Vec<usize> = (0..pairs.len()).collect();
    let options = BootstrapOptions { resamples: 4000, ..BootstrapOptions::default() };
    let found = clustered_interval(&Clusters::new(&rows), &options, r_of(&pairs)).unwrap().unwrap();
    let fisher = pearson(&pairs).unwrap().interval(0.95).unwrap();
    assert!((found.low - fisher.low).abs() < 0.02 && (found.high - fisher.high).abs() < 0.02, "{found:?} {fisher:?}");
    let again = clustered_interval(&Clusters::new(&rows), &options, r_of(&pairs)).unwrap();
    assert_eq!(again, Some(found), "one seed, one interval");
}

#[test]
fn few_clusters_tell_nothing() {
    let (pairs, prompts) = answers(3, 10, 0.9, 1);
    let options = BootstrapOptions::default();
    let interval = |clusters: &Clusters| clustered_interval(clusters, &options, r_of(&pairs)).unwrap();
    assert_eq!(interval(&Clusters::new(&prompts)), Some(ANYTHING));
    // Five clusters in three groups: two degrees of freedom are lost.
    let five: Vec<usize> = (0..30).map(|row| row / 6).collect();
    let three: Vec<usize> = five.iter().map(|cluster| cluster / 2).collect();
    let clusters = Clusters::within(&five, &three);
    assert_eq!((clusters.len(), interval(&clusters)), (5, Some(ANYTHING)));
    assert_ne!(interval(&Clusters::new(&five)), Some(ANYTHING));
    let flat = [(1.0, 2.0); 30];
    assert_eq!(clustered_interval(&Clusters::new(&five), &options, r_of(&flat)), Ok(None));
    assert_eq!(clustered_interval(&Clusters::new::<usize>(&[]), &options, r_of(&[])), Ok(None));
    let bad = BootstrapOptions { level: 1.0, ..options };
    assert!(clustered_interval(&Clusters::new(&prompts), &bad, r_of(&pairs)).is_err());
    // Only one cluster differs: hardly any draw varies.
    let mut lone = [(1.0, 2.0); 30];
    (lone[0], lone[1]) = ((0.0, 5.0), (1.0, 4.0));
    let rows: Vec<usize> = (0..30).collect();
    assert!(clustered_interval(&Clusters::new(&rows), &options, r_of(&lone)).unwrap().is_some());
}

#[test]
fn groups_explain_what_their_means_do() {
    let square = |group: usize, at: f64| {
        [(0.0, 0.0), (0.0, 1.0), (1.0, 0.0), (1.0, 1.0)].map(|(x, y)| (group, (at + x, at + y)))
    };
    let apart = [square(0, 0.0), square(1, 50.0)].concat();
    assert!(pearson_within(apart).unwrap().r.abs() < 1e-12);
    let line = |group: usize, x: f64, y: f64| [0.0, 1.0, 2.0].map(|step| (group, (x + step, y + 2.0 * step)));
    let lines = [line(0, 0.0, 90.0), line(1, 50.0, 0.0)].concat();
    let found = pearson_within(lines).unwrap();
    assert!((found.r - 1.0).abs() < 1e-12 && found.pairs == 6);
    assert_eq!(pearson_within([(0, (1.0, 2.0)), (1, (3.0, 4.0)), (2, (3.0, 4.0))]), None);
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
