use rand::RngExt;
use serde_json::Value;

use super::*;
use crate::bootstrap::random;

fn reference() -> Value {
    let path = "../../tests/golden/statistics.json";
    serde_json::from_str(&std::fs::read_to_string(path).expect("the reference")).expect("JSON")
}

fn floats(value: &Value) -> Vec<f64> {
    serde_json::from_value(value.clone()).expect("numbers")
}

fn cases(reference: &Value, name: &str) -> Vec<Value> {
    let cases = reference[name].as_array().expect("cases").clone();
    assert!(cases.len() >= 2, "{name}");
    cases
}

#[test]
fn auc_is_scikit_learns_with_ties() {
    let reference = reference();
    for case in cases(&reference, "auc") {
        let ours = roc_auc(&floats(&case["pos"]), &floats(&case["neg"])).expect("two sides");
        let auc = case["auc"].as_f64().expect("a number");
        assert!((ours - auc).abs() < 1e-12, "{ours} against {auc}");
    }
    assert_eq!(roc_auc(&[f64::INFINITY], &[f64::NEG_INFINITY]), Some(1.0));
    for (pos, neg) in [(&[][..], &[1.0][..]), (&[1.0], &[]), (&[f64::NAN], &[1.0]), (&[1.0], &[1.0, f64::NAN])] {
        assert_eq!(roc_auc(pos, neg), None);
    }
}

proptest::proptest! {
    #[test]
    fn auc_counts_pairs(
        pos in proptest::collection::vec(-3i8..3, 1..20),
        neg in proptest::collection::vec(-3i8..3, 1..20),
    ) {
        let [pos, neg] = [pos, neg].map(|side| side.into_iter().map(f64::from).collect::<Vec<_>>());
        let pairs = pos.iter().flat_map(|p| neg.iter().map(move |n| (p, n)));
        let score: f64 = pairs.map(|(p, n)| if p > n { 1.0 } else if p == n { 0.5 } else { 0.0 }).sum();
        let expected = score / (pos.len() * neg.len()) as f64;
        proptest::prop_assert!((roc_auc(&pos, &neg).expect("two sides") - expected).abs() < 1e-12);
        let other = roc_auc(&neg, &pos).expect("two sides");
        proptest::prop_assert!((other - (1.0 - expected)).abs() < 1e-12);
    }
}

#[test]
fn effect_sizes_are_scipys() {
    for case in cases(&reference(), "effect") {
        let ours = cohens_d(&floats(&case["pos"]), &floats(&case["neg"])).expect("a variance");
        assert!((ours - case["d"].as_f64().expect("a number")).abs() < 1e-12);
    }
    assert_eq!(cohens_d(&[1.0], &[1.0, 2.0]), None);
    assert_eq!(cohens_d(&[1.0, 1.0], &[2.0, 2.0]), None);
    assert_eq!(cohens_d(&[1.0, f64::NAN], &[2.0, 3.0]), None);
}

#[test]
fn the_interval_of_an_area_holds_it_and_narrows() {
    let pos: Vec<f64> = (0..40).map(|i| f64::from(i) + 8.0).collect();
    let neg: Vec<f64> = (0..60).map(|i| f64::from(i) * 0.7).collect();
    let pairs = pos
        .iter()
        .flat_map(|p| neg.iter().map(move |n| f64::from(u8::from(p > n)) + 0.5 * f64::from(u8::from(p == n))));
    let expected = pairs.sum::<f64>() / 2400.0;
    let found = auc(&pos, &neg, 0.95).expect("an area");
    assert!((found.value - expected).abs() < 1e-12);
    assert!(found.interval.contains(expected) && found.interval.low > 0.5 && found.interval.high < 1.0);
    let apart = auc(&[5.0; 20], &[1.0; 20], 0.95).expect("an area");
    assert!(apart.value == 1.0 && apart.interval.high == 1.0);
    assert!((0.75..0.95).contains(&apart.interval.low), "{apart:?}");
    let more = auc(&[5.0; 2000], &[1.0; 2000], 0.95).expect("an area");
    assert!(more.interval.low > 0.99);
    assert!(auc(&[], &[1.0], 0.95).is_err() && auc(&[1.0], &[f64::NAN], 0.95).is_err());
}

#[test]
fn the_distance_is_the_greatest_gap() {
    let found = kolmogorov_smirnov(&[1.0, 2.0, 2.0, 3.0], &[2.0, 4.0]).expect("a distance");
    // At 3: all values of the first set, half of the second.
    assert!((found.distance - 0.5).abs() < 1e-12);
    assert!(found.p > 0.5);
    let same: Vec<f64> = (0..500).map(f64::from).collect();
    let moved: Vec<f64> = (0..500).map(|i| f64::from(i) + 250.0).collect();
    assert_eq!(kolmogorov_smirnov(&same, &same).expect("a distance"), KolmogorovSmirnov { distance: 0.0, p: 1.0 });
    let found = kolmogorov_smirnov(&same, &moved).expect("a distance");
    assert!((found.distance - 0.5).abs() < 1e-12 && found.p < 1e-12);
    // For sets from one distribution, one in twenty has p below 0.05.
    let set = |seed: u64| -> Vec<f64> {
        let mut random = random(seed, 0);
        (0..60).map(|_| random.random()).collect()
    };
    let p = |seed: u64| kolmogorov_smirnov(&set(2 * seed), &set(2 * seed + 1)).expect("a distance").p;
    let significant = (0..400).filter(|seed| p(*seed) < 0.05).count();
    assert!((6..=34).contains(&significant), "{significant} of 400");
}

#[test]
fn every_value_is_in_one_bin() {
    let found = histograms(&[0.0, 1.0, 4.0], &[2.0, 2.5], 4).expect("histograms");
    assert_eq!(found.edges, [0.0, 1.0, 2.0, 3.0, 4.0]);
    assert_eq!((found.left, found.right), (vec![1, 1, 0, 1], vec![0, 0, 2, 0]));
    assert_eq!(histograms(&[3.0], &[3.0], 2).expect("histograms").left.iter().sum::<usize>(), 1);
    assert!(histograms(&[], &[], 3).is_err() && histograms(&[f64::INFINITY], &[], 3).is_err());
}
