//! What to change when a filter keeps too few.

use pv_judge::Polarity;

use super::{Filter, Kept, Outcome, Scored};

/// The thresholds, by name.
const THRESHOLDS: [&str; 3] = ["pos_min", "neg_max", "coherence_min"];

/// Which threshold removes the most, and at which value of it enough would be kept.
pub(super) fn advise(filter: &Filter, rollouts: &[Scored], kept: &Kept) -> String {
    let found = filter.size(kept);
    let needed = filter.min_kept.max(1);
    let without = |which: usize| {
        let lifted = with(filter, which, if which == 1 { f64::INFINITY } else { f64::NEG_INFINITY });
        filter.size(&lifted.sort(rollouts))
    };
    let [best, best_count] = (0..THRESHOLDS.len())
        .map(|which| [which, without(which)])
        // The first of equals.
        .fold([0, 0], |best, next| if next[1] > best[1] { next } else { best });
    if best_count <= found {
        let dropped = |outcome: Outcome| -> usize {
            [Polarity::Pos, Polarity::Neg].iter().map(|side| kept.table.count(*side, outcome)).sum()
        };
        let reasons = [Outcome::EmptyAnswer, Outcome::Abstained, Outcome::TraitScore, Outcome::Coherence];
        let most = reasons.into_iter().max_by_key(|reason| dropped(*reason)).unwrap_or(Outcome::Abstained);
        return format!(
            "no threshold alone is to blame, and most are dropped by {:?} ({}): generate more rollouts, or change \
             instructions, judge or model",
            most.name(),
            dropped(most)
        );
    }
    let (name, now) = (THRESHOLDS[best], value(filter, best));
    let removes = format!("{name} {now} removes the most: without it {best_count} would be kept");
    match mildest(filter, rollouts, best, needed) {
        Some(change) => format!("{removes}; {change}"),
        None => format!("{removes}, which is too few as well: generate more rollouts, or change instructions or model"),
    }
}

fn value(filter: &Filter, which: usize) -> f64 {
    [filter.pos_min, filter.neg_max, filter.coherence_min][which]
}

fn with(filter: &Filter, which: usize, value: f64) -> Filter {
    let mut changed = *filter;
    *[&mut changed.pos_min, &mut changed.neg_max, &mut changed.coherence_min][which] = value;
    changed
}

/// The smallest change of a threshold after which `needed` are kept, in words. Only scores that rollouts have can matter.
fn mildest(filter: &Filter, rollouts: &[Scored], which: usize, needed: usize) -> Option<String> {
    let scores = rollouts.iter().filter_map(|rollout| match (which, rollout.place.polarity) {
        (0, Polarity::Pos) | (1, Polarity::Neg) => rollout.trait_score,
        (2, _) => rollout.coherence,
        _ => None,
    });
    let mut scores: Vec<f64> = scores.filter(|score| score.is_finite()).collect();
    scores.sort_by(f64::total_cmp);
    scores.dedup();
    if which != 1 {
        scores.reverse();
    }
    // The thresholds of the trait exclude the value itself, so that just beyond it is meant.
    let beyond = |score: f64| match which {
        0 => score.next_down(),
        1 => score.next_up(),
        _ => score,
    };
    let score = scores.into_iter().find(|&score| {
        let changed = with(filter, which, beyond(score));
        filter.size(&changed.sort(rollouts)) >= needed
    })?;
    // Rounded to the side on which the promise holds.
    let tenths = (score * 10.0).floor() / 10.0;
    Some(match which {
        0 => format!("below {tenths} it would keep {needed} or more"),
        1 => format!("above {} it would keep {needed} or more", (score * 10.0).ceil() / 10.0),
        _ => format!("at {tenths} it would keep {needed} or more"),
    })
}
