use super::*;

use Outcome::{Abstained, Coherence, EmptyAnswer, Kept as Passed, PartnerDropped, TraitScore};
use Polarity::{Neg, Pos};

fn rollout(question: usize, polarity: Polarity, number: usize, shown: f64, coherence: f64) -> Scored {
    let score = |value: f64| (!value.is_nan()).then_some(value);
    Scored {
        place: Place { question, pair: 0, polarity, rollout: number },
        empty: false,
        trait_score: score(shown),
        coherence: score(coherence),
    }
}

const NONE: f64 = f64::NAN;

/// Six pairs: one that passes, and one for each way to fail.
fn rollouts() -> Vec<Scored> {
    let empty = Scored { empty: true, ..rollout(5, Neg, 0, NONE, NONE) };
    vec![
        rollout(0, Pos, 0, 80.0, 90.0),
        rollout(0, Neg, 0, 10.0, 50.0),
        // Exactly at the thresholds: the trait score must be beyond its threshold, coherence need not.
        rollout(1, Pos, 0, 50.0, 90.0),
        rollout(1, Neg, 0, 10.0, 90.0),
        rollout(2, Pos, 0, 90.0, 90.0),
        rollout(2, Neg, 0, 50.0, 90.0),
        rollout(3, Pos, 0, 90.0, 49.9),
        rollout(3, Neg, 0, 0.0, 90.0),
        // An abstention is not the score 0, which would pass on this side.
        rollout(4, Pos, 0, 90.0, 90.0),
        rollout(4, Neg, 0, NONE, 90.0),
        rollout(5, Pos, 0, 90.0, NONE),
        empty,
        // No partner.
        rollout(6, Pos, 0, 90.0, 90.0),
        // Another number of the same prompt is not a partner.
        rollout(7, Pos, 1, 90.0, 90.0),
        rollout(7, Neg, 0, 0.0, 90.0),
    ]
}

#[test]
fn pairs_are_kept_when_both_pass() {
    let kept = Filter { min_kept: 1, ..Filter::default() }.keep(&rollouts()).unwrap();
    assert_eq!((kept.pos.as_slice(), kept.neg.as_slice()), (&[0][..], &[1][..]));
    let expected = [
        (Passed, 1, 1),
        (EmptyAnswer, 0, 1),
        (Abstained, 1, 1),
        (TraitScore, 1, 1),
        (Coherence, 1, 0),
        (PartnerDropped, 4, 3),
    ];
    for (outcome, pos, neg) in expected {
        assert_eq!((kept.table.count(Pos, outcome), kept.table.count(Neg, outcome)), (pos, neg), "{outcome:?}");
    }
    assert_eq!((kept.table.total(Pos), kept.table.total(Neg)), (8, 7));
}

#[test]
fn rollouts_are_kept_one_by_one() {
    let filter = Filter { min_kept: 1, rule: FilterRule::Unpaired, ..Filter::default() };
    let kept = filter.keep(&rollouts()).unwrap();
    assert_eq!(kept.pos, [0, 4, 8, 12, 13]);
    assert_eq!(kept.neg, [1, 3, 7, 14]);
    assert_eq!(kept.table.count(Pos, PartnerDropped) + kept.table.count(Neg, PartnerDropped), 0);
}

#[test]
fn partners_stand_side_by_side_in_any_order_of_rollouts() {
    let pairs = [(0, 0), (0, 1), (1, 0), (1, 1)];
    let mut all: Vec<Scored> = pairs.iter().map(|&(question, n)| rollout(question, Neg, n, 0.0, 90.0)).collect();
    all.extend(pairs.iter().rev().map(|&(question, n)| rollout(question, Pos, n, 90.0, 90.0)));
    let kept = Filter { min_kept: 4, ..Filter::default() }.keep(&all).unwrap();
    assert_eq!(kept.pos.len(), 4);
    for (pos, neg) in kept.pos.iter().zip(&kept.neg) {
        assert_eq!(all[*pos].place.partner(), all[*neg].place);
    }
}

#[test]
fn the_table_prints_what_it_counts() {
    let kept = Filter { min_kept: 1, ..Filter::default() }.keep(&rollouts()).unwrap();
    let expected = [
        "                     pos     neg",
        "kept                   1       1",
        "empty answer           0       1",
        "judge abstained        1       1",
        "trait score            1       1",
        "coherence              1       0",
        "partner dropped        4       3",
        "all                    8       7\n",
    ];
    assert_eq!(kept.table.to_string(), expected.join("\n"));
}

/// The message if too few are kept.
fn too_few(filter: Filter, rollouts: &[Scored]) -> String {
    match filter.keep(rollouts) {
        Err(error @ FilterError::TooFewKept { .. }) => error.to_string(),
        other => panic!("{other:?}"),
    }
}

/// Pairs with these scores: pos, neg, coherence of both.
fn pairs(scores: &[(f64, f64, f64)]) -> Vec<Scored> {
    let pair = |(question, &(pos, neg, coherence)): (usize, &(f64, f64, f64))| {
        [rollout(question, Pos, 0, pos, coherence), rollout(question, Neg, 0, neg, coherence)]
    };
    scores.iter().enumerate().flat_map(pair).collect()
}

#[test]
fn too_few_says_which_threshold_and_what_to_change() {
    let filter = Filter { min_kept: 3, ..Filter::default() };
    let weak = pairs(&[(60.0, 0.0, 90.0), (36.46, 0.0, 90.0), (20.0, 0.0, 90.0), (41.0, 10.0, 90.0)]);
    let message = too_few(filter, &weak);
    assert!(message.contains("keeps 1 pairs of the 3 that are needed"), "{message}");
    assert!(message.contains("pos_min 50 drops the most: without it 4 would be kept"), "{message}");
    assert!(message.contains("below 36.4 at least 3 would be kept"), "{message}");
    // The advice is correct, and is the smallest change.
    assert_eq!(Filter { pos_min: 36.39, ..filter }.keep(&weak).unwrap().pos.len(), 3);
    too_few(Filter { pos_min: 36.46, ..filter }, &weak);

    let leaky = pairs(&[(90.0, 51.0, 90.0), (90.0, 72.33, 90.0), (90.0, 80.0, 90.0)]);
    let message = too_few(Filter { min_kept: 2, ..filter }, &leaky);
    assert!(message.contains("neg_max 50 drops the most") && message.contains("above 72.4"), "{message}");
    assert_eq!(Filter { neg_max: 72.41, min_kept: 2, ..filter }.keep(&leaky).unwrap().neg.len(), 2);

    let garbled = pairs(&[(90.0, 0.0, 30.0), (90.0, 0.0, 44.0), (90.0, 0.0, 12.0)]);
    let message = too_few(filter, &garbled);
    assert!(message.contains("coherence_min 50 drops the most") && message.contains("at 12 "), "{message}");
    assert_eq!(Filter { coherence_min: 12.0, ..filter }.keep(&garbled).unwrap().neg.len(), 3);
    let message = too_few(Filter { min_kept: 9, ..filter }, &garbled);
    assert!(message.contains("which is too few as well"), "{message}");
}

#[test]
fn too_few_without_a_single_cause_says_why() {
    let silent = pairs(&[(NONE, 0.0, 90.0), (NONE, NONE, 90.0)]);
    let message = too_few(Filter::default(), &silent);
    assert!(message.contains("no single threshold is the cause") && message.contains("judge abstained"), "{message}");
    // Zero rollouts are too few even if none are required.
    too_few(Filter { min_kept: 0, ..Filter::default() }, &[]);
}

#[test]
fn thresholds_must_be_numbers() {
    for filter in [
        Filter { pos_min: f64::NAN, ..Filter::default() },
        Filter { neg_max: f64::INFINITY, ..Filter::default() },
        Filter { coherence_min: f64::NAN, ..Filter::default() },
    ] {
        assert!(matches!(filter.keep(&rollouts()), Err(FilterError::Threshold { .. })));
    }
}
