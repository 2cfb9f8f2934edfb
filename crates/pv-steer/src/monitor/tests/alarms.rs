//! Alarms: by name, at quantiles and values, and invalid ones.

use pv_hooks::Layer;

use super::super::*;
use super::{calibration, normal, random, reading, watches};

fn rule(trait_name: &str, layer: Option<usize>, kind: Kind, side: Side, threshold: Threshold) -> AlarmRule {
    AlarmRule { trait_name: trait_name.to_owned(), layer: layer.map(Layer::hidden_state), kind, side, threshold }
}

#[test]
fn an_alarm_names_what_where_and_how_much() {
    let rules = [
        rule("evil", Some(5), Kind::Token, Side::Above, Threshold::Value(1.5)),
        rule("optimism", None, Kind::Token, Side::Below, Threshold::Value(-1.0)),
        rule("evil", None, Kind::PromptLast, Side::Above, Threshold::Value(0.0)),
    ];
    let alarms = Alarms::new(&watches(), &rules, None).expect("alarms");
    assert_eq!(alarms.check(&reading(At::Token(0), &[9.0, 1.5, -1.0])), [], "on the threshold is ordinary");
    let found = alarms.check(&reading(At::Token(7), &[9.0, 2.0, -3.0]));
    let expected = |trait_name: &str, layer, at, value, side, threshold| Alarm {
        trait_name: trait_name.to_owned(),
        layer: Layer::hidden_state(layer),
        sequence: 4,
        at,
        value,
        side,
        threshold,
    };
    assert_eq!(
        found,
        [
            expected("evil", 5, At::Token(7), 2.0, Side::Above, 1.5),
            expected("optimism", 3, At::Token(7), -3.0, Side::Below, -1.0),
        ]
    );
    assert_eq!(
        found[0].to_string(),
        "evil at layer 5 (after block 4): token 7 of the answer projects 2.000, above 1.500"
    );
    // Without a layer, every layer of the trait; other kinds have separate rules.
    let found = alarms.check(&reading(At::PromptLast, &[0.5, 0.25, -9.0]));
    assert_eq!(
        found,
        [
            expected("evil", 3, At::PromptLast, 0.5, Side::Above, 0.0),
            expected("evil", 5, At::PromptLast, 0.25, Side::Above, 0.0),
        ]
    );
    assert_eq!(alarms.check(&reading(At::ResponseMean, &[99.0; 3])), []);
    // NaN is not ordinary; a missing value raises no alarm.
    assert_eq!(alarms.check(&reading(At::Token(1), &[0.0, f32::NAN, f32::NAN])).len(), 2);
    assert_eq!(alarms.check(&reading(At::Token(1), &[])), []);
}

#[test]
fn a_quantile_gives_the_rate_of_false_alarms() {
    let calibration = calibration(20_000);
    let mut random = random(99);
    for (side, share, rate) in [(Side::Above, 0.99, 0.01), (Side::Above, 0.9, 0.1), (Side::Below, 0.05, 0.05)] {
        let rules = [rule("optimism", Some(3), Kind::Token, side, Threshold::Quantile(share))];
        let alarms = Alarms::new(&watches(), &rules, Some(&calibration)).expect("alarms");
        let n = 20_000;
        let raised = (0..n)
            .filter(|_| {
                let value = (20.0 + 3.0 * normal(&mut random)) as f32;
                !alarms.check(&reading(At::Token(0), &[0.0, 0.0, value])).is_empty()
            })
            .count();
        let found = raised as f64 / f64::from(n);
        // Five standard errors of either sample, and the error bound of the sketch at that rank.
        let bound = 5.0 * (2.0 * rate * (1.0 - rate) / f64::from(n)).sqrt() + 0.1 * rate;
        assert!((found - rate).abs() <= bound, "{side:?} {share}: {found}, not {rate} ± {bound:.4}");
    }
}

#[test]
fn rules_that_cannot_work_are_refused() {
    let fifty = calibration(50);
    let refused = |rule: AlarmRule, calibration: Option<&Calibration>| {
        Alarms::new(&watches(), &[rule], calibration).expect_err("refused").to_string()
    };
    let of = |name: &str, layer, threshold| rule(name, layer, Kind::Token, Side::Above, threshold);
    assert_eq!(refused(of("kindness", None, Threshold::Value(0.0)), None), "kindness is not watched at any layer");
    let unwatched = refused(of("optimism", Some(5), Threshold::Value(0.0)), None);
    assert_eq!(unwatched, "optimism is not watched at layer 5 (after block 4)");
    assert!(refused(of("evil", None, Threshold::Value(f64::NAN)), None).contains("not finite"));
    assert!(refused(of("evil", None, Threshold::Quantile(0.9)), None).contains("needs a calibration"));
    for share in [0.0, 1.0, -0.5, f64::NAN] {
        assert!(refused(of("evil", None, Threshold::Quantile(share)), Some(&fifty)).contains("between 0 and 1"));
    }
    let error = refused(of("evil", Some(3), Threshold::Quantile(0.99)), Some(&fifty));
    assert!(error.contains("has 50 readings of the kind token, too few for the quantile 0.99"), "{error}");
    assert!(Alarms::new(&watches(), &[of("evil", None, Threshold::Quantile(0.98))], Some(&fifty)).is_ok());
    let rules: AlarmRule =
        serde_json::from_str(r#"{"trait": "evil", "kind": "prompt_last", "threshold": {"quantile": 0.9}}"#)
            .expect("a rule as one writes it");
    assert_eq!(rules, rule("evil", None, Kind::PromptLast, Side::Above, Threshold::Quantile(0.9)));
}
