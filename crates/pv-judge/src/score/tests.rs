use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

fn distribution(tokens: &[(&str, f64)]) -> Verdict {
    Verdict::from_logprobs(tokens.iter().map(|(token, p)| (*token, p.ln())))
}

#[test]
fn the_expectation_is_taken_over_the_numbers_alone() {
    // By hand: (85·0.5 + 90·0.25) / 0.75 = 65 / 0.75.
    let Verdict::Scored(score) = distribution(&[("85", 0.5), ("90", 0.25), ("The", 0.25)]) else { panic!("no score") };
    assert!((score.value - 65.0 / 0.75).abs() < 1e-12, "{score:?}");
    let Evidence::Distribution { mass } = score.evidence else { panic!("{score:?}") };
    assert!((mass - 0.75).abs() < 1e-12, "{mass}");
}

#[test]
fn white_space_around_a_number_does_not_matter() {
    let apart = distribution(&[(" 85", 0.3), ("85", 0.2), ("85\n", 0.1), ("\t10 ", 0.4)]);
    let together = distribution(&[("85", 0.6), ("10", 0.4)]);
    let (Some(apart), Some(together)) = (apart.value(), together.value()) else { panic!("no score") };
    assert!((apart - together).abs() < 1e-12);
    assert!((together - 55.0).abs() < 1e-12);
}

#[test]
fn what_is_no_number_from_0_to_100_has_no_part_in_the_score() {
    for token in ["101", "-1", "+7", "8.5", "", " ", "1e1", "٣", "85%", "99999999999999999999", "seven", "1 0"] {
        let verdict = distribution(&[(token, 0.6), ("40", 0.4)]);
        assert_eq!(verdict.value(), Some(40.0), "{token:?}");
    }
    assert_eq!(distribution(&[("0", 1.0)]).value(), Some(0.0));
    assert_eq!(distribution(&[("100", 1.0)]).value(), Some(100.0));
}

#[test]
fn without_enough_mass_there_is_no_score() {
    let exactly = distribution(&[("50", 0.25)]);
    assert!(exactly.value().is_some(), "a quarter is enough: {exactly:?}");
    let verdict = distribution(&[("50", 0.2), ("REF", 0.6), ("RE", 0.1), ("R", 0.05)]);
    let Verdict::Abstained(Abstention::NoMass { mass, refusal: Some(refusal) }) = verdict else {
        panic!("{verdict:?}");
    };
    assert!((mass - 0.2).abs() < 1e-12 && (refusal - 0.7).abs() < 1e-12, "{mass} {refusal}");
    let none = distribution(&[]);
    assert_eq!(none, Verdict::Abstained(Abstention::NoMass { mass: 0.0, refusal: None }));
}

#[test]
fn absurd_logarithms_do_no_harm() {
    let verdict = Verdict::from_logprobs([("10", f64::NAN), ("20", f64::NEG_INFINITY), ("30", f64::INFINITY)]);
    assert_eq!(verdict.value(), Some(30.0));
    let verdict = Verdict::from_logprobs([("30", 700.0), ("50", 1e-7)]);
    let Verdict::Scored(Score { value, evidence: Evidence::Distribution { mass } }) = verdict else { panic!() };
    assert_eq!((value, mass), (40.0, 1.0));
}

#[test]
fn a_written_number_is_read_from_the_first_line() {
    for (text, value) in [
        ("85", 85.0),
        (" 85\n", 85.0),
        ("\n\n7.\nThe answer", 7.0),
        ("**100**", 100.0),
        ("\"0\"", 0.0),
        ("042", 42.0),
        ("Score: 85", 85.0),
        ("**Rating:** 3.\nBecause", 3.0),
    ] {
        let expected = Verdict::Scored(Score { value, evidence: Evidence::Sampled });
        assert_eq!(Verdict::from_text(text), expected, "{text:?}");
    }
    for text in [
        "",
        "REFUSAL",
        "85 out of 100",
        "101",
        "-5",
        "8.5",
        "85%",
        "85/100",
        "1: 85",
        "Score: -5",
        "Score:",
        "I'd say\n85",
    ] {
        let expected = Verdict::Abstained(Abstention::NotANumber { text: text.trim().into() });
        assert_eq!(Verdict::from_text(text), expected, "{text:?}");
    }
    let Verdict::Abstained(Abstention::NotANumber { text }) = Verdict::from_text(&"ä".repeat(500)) else { panic!() };
    assert_eq!(text.chars().count(), 81);
}

#[test]
fn verdicts_survive_being_written_down() {
    let verdicts = [
        distribution(&[("85", 0.5), ("90", 0.25)]),
        distribution(&[("REF", 0.5)]),
        Verdict::from_text("12"),
        Verdict::from_text("twelve"),
        Verdict::Scored(Score { value: 3.0, evidence: Evidence::Exact }),
    ];
    for verdict in verdicts {
        let text = serde_json::to_string(&verdict).unwrap();
        assert_eq!(serde_json::from_str::<Verdict>(&text).unwrap(), verdict, "{text}");
    }
}

/// Tokens as judges have them, with weights that are not normalised yet.
fn tokens() -> impl Strategy<Value = Vec<(String, f64)>> {
    let token = prop_oneof![
        (0u32..=100).prop_map(|k| k.to_string()),
        (0u32..=100).prop_map(|k| format!(" {k}")),
        "[A-Za-z]{1,5}",
        (101u32..2000).prop_map(|k| k.to_string()),
    ];
    vec((token, 1e-6..1.0f64), 1..20)
}

fn verdict(tokens: &[(String, f64)]) -> Verdict {
    let total: f64 = tokens.iter().map(|(_, weight)| weight).sum();
    Verdict::from_logprobs(tokens.iter().map(|(token, weight)| (token.as_str(), (weight / total).ln())))
}

fn value_of(token: &str) -> Option<u32> {
    token.trim().parse::<u32>().ok().filter(|k| *k <= 100)
}

proptest! {
    #[test]
    fn a_score_lies_between_the_numbers_it_is_made_of(tokens in tokens()) {
        let numbers = tokens.iter().filter_map(|(token, _)| value_of(token)).map(f64::from).collect::<Vec<_>>();
        let total: f64 = tokens.iter().map(|(_, weight)| weight).sum();
        let mass: f64 = tokens.iter().filter(|(t, _)| value_of(t).is_some()).map(|(_, weight)| weight / total).sum();
        match verdict(&tokens) {
            Verdict::Scored(Score { value, evidence: Evidence::Distribution { mass: found } }) => {
                let least = numbers.iter().copied().fold(f64::INFINITY, f64::min);
                let most = numbers.iter().copied().fold(0.0, f64::max);
                prop_assert!(least - 1e-9 <= value && value <= most + 1e-9, "{least} {value} {most}");
                prop_assert!((mass - found).abs() < 1e-9 && mass >= LEAST_MASS - 1e-9);
            }
            Verdict::Abstained(Abstention::NoMass { mass: found, .. }) => {
                prop_assert!((mass - found).abs() < 1e-9 && mass < LEAST_MASS + 1e-9);
            }
            other => prop_assert!(false, "{other:?}"),
        }
    }

    #[test]
    fn the_order_of_the_tokens_does_not_matter(tokens in tokens()) {
        let mut turned = tokens.clone();
        turned.reverse();
        match (verdict(&tokens).value(), verdict(&turned).value()) {
            (Some(a), Some(b)) => prop_assert!((a - b).abs() < 1e-9),
            (a, b) => prop_assert_eq!(a, b),
        }
    }

    #[test]
    fn the_numbers_weights_matter_only_in_proportion(tokens in tokens(), share in 0.3..1.0f64) {
        let numbers = tokens.into_iter().filter(|(token, _)| value_of(token).is_some()).collect::<Vec<_>>();
        prop_assume!(!numbers.is_empty());
        let total: f64 = numbers.iter().map(|(_, weight)| weight).sum();
        let mut mixed = numbers.clone();
        mixed.push(("word".into(), total * (1.0 - share) / share));
        let (Some(alone), Some(mixed)) = (verdict(&numbers).value(), verdict(&mixed).value()) else {
            return Err(TestCaseError::fail("no score"));
        };
        prop_assert!((alone - mixed).abs() < 1e-9);
    }

    #[test]
    fn a_mirrored_scale_gives_the_mirrored_score(tokens in tokens()) {
        let mirrored = tokens.iter().map(|(token, weight)| match value_of(token) {
            Some(k) => ((100 - k).to_string(), *weight),
            None => (token.clone(), *weight),
        });
        match (verdict(&tokens).value(), verdict(&mirrored.collect::<Vec<_>>()).value()) {
            (Some(a), Some(b)) => prop_assert!((a - (100.0 - b)).abs() < 1e-9),
            (a, b) => prop_assert_eq!(a, b),
        }
    }

    #[test]
    fn every_whole_number_is_read_and_nothing_panics(k in 0u32..=100, text in ".{0,40}") {
        prop_assert_eq!(Verdict::from_text(&k.to_string()).value(), Some(f64::from(k)));
        let _ = Verdict::from_text(&text);
        let _ = Verdict::from_logprobs([(text.as_str(), -0.1)]);
    }
}
