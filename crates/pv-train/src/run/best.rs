//! The choice of a run's best checkpoint.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::StepMetrics;
use crate::run_hook::LoopShift;
use crate::{Error, Result};

/// The checkpoint of a run that is kept beside the last two and becomes its result.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Keep {
    /// The last one.
    Last,
    /// The best one. The last one is in `checkpoints/` too.
    Best(BestRule),
}

/// The rule for a run's best checkpoint. Candidates are the steps with a measurement.
///
/// A candidate is within bounds if the absolute value of every measured finetuning shift is within its bound. A
/// candidate within bounds is better than one outside. Of two within bounds, the one with the lower held-out loss is
/// better; if their losses are equal or were not measured, the one whose largest absolute shift is smaller. Of two
/// outside, the one with the smaller excess is better, which is the largest ratio of a shift to its bound. If two
/// candidates are equal, the earlier one is kept.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BestRule {
    /// The bound on the absolute value of every shift, those of a run's probes and those that closed loops follow, in
    /// activation units. `None` sets no such bound.
    pub max_shift: Option<f64>,
    /// A further bound on the absolute value of the shift that a closed loop follows, as a multiple of its vector's
    /// length.
    pub max_loop_shift: f64,
}

impl Default for BestRule {
    /// A closed loop's shift may be a quarter of its vector's length; there is no other bound.
    fn default() -> Self {
        Self { max_shift: None, max_loop_shift: 0.25 }
    }
}

/// Refuses invalid settings.
///
/// # Errors
/// [`Error::BadOption`].
pub(super) fn validate(keep: Option<Keep>, stop_after: Option<usize>) -> Result<()> {
    let bad = |name, value: String, expected| Err(Error::BadOption { name, value, expected });
    if stop_after == Some(0) {
        return bad("stop_after", "0".to_owned(), "at least 1");
    }
    if stop_after.is_some() && keep == Some(Keep::Last) {
        return bad("keep", "last".to_owned(), "the best checkpoint, since the run may stop early");
    }
    let Some(Keep::Best(BestRule { max_shift, max_loop_shift })) = keep else { return Ok(()) };
    for (name, bound) in [("max_shift", max_shift.unwrap_or(0.0)), ("max_loop_shift", max_loop_shift)] {
        if !(bound.is_finite() && bound >= 0.0) {
            return bad(name, bound.to_string(), "a finite number from 0");
        }
    }
    Ok(())
}

/// The best step of a run so far, by its [`BestRule`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct BestStep {
    /// The step, from 1.
    pub step: usize,
    /// The held-out loss after the step in nats, if it was measured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub held_out_loss: Option<f64>,
    /// The finetuning shifts after the step, by name, in activation units.
    pub shifts: BTreeMap<String, f64>,
    /// Whether the shifts are within the rule's bounds.
    pub within_bounds: bool,
}

/// Tracks the best step of a run from its metrics alone, so that a resumed run makes the same choice as an
/// uninterrupted one.
pub(super) struct Best {
    rule: BestRule,
    /// The lengths of closed loops' vectors in activation units, by the names of their shifts.
    lengths: BTreeMap<String, f64>,
    /// Earlier steps have no checkpoint that was kept as the best.
    from: usize,
    /// The step from which measurements without improvement are counted.
    counted_from: usize,
    best: Option<BestStep>,
    /// The number of measurements since the best one.
    since: usize,
}

/// Replaces a bound of 0, so that ratios to it are finite.
const SMALLEST_BOUND: f64 = 1e-290;

/// The rank of a step; smaller is better.
#[derive(PartialEq, PartialOrd)]
struct Rank(f64, f64, f64);

impl Best {
    pub(super) fn new(rule: BestRule, loops: &[LoopShift], from: usize, counted_from: usize) -> Self {
        let lengths = loops.iter().map(|shift| (shift.name.clone(), shift.length)).collect();
        Self { rule, lengths, from, counted_from, best: None, since: 0 }
    }

    /// Adds a step's metrics, and returns whether the step is the best so far.
    pub(super) fn add(&mut self, line: &StepMetrics) -> bool {
        let measured = line.held_out_loss.is_some() || !line.shifts.is_empty();
        if !measured || line.step == 0 || line.step < self.from {
            return false;
        }
        let step = BestStep {
            step: line.step,
            held_out_loss: line.held_out_loss,
            shifts: line.shifts.clone(),
            within_bounds: self.excess(&line.shifts) <= 1.0,
        };
        let better = self.best.as_ref().is_none_or(|best| self.rank(&step) < self.rank(best));
        if better {
            self.best = Some(step);
        }
        self.since = if better || line.step <= self.counted_from { 0 } else { self.since + 1 };
        better
    }

    pub(super) fn best(&self) -> Option<&BestStep> {
        self.best.as_ref()
    }

    pub(super) fn since(&self) -> usize {
        self.since
    }

    /// The largest ratio of a shift to its bound; 0 without bounds.
    fn excess(&self, shifts: &BTreeMap<String, f64>) -> f64 {
        let ratio = |(name, shift): (&String, &f64)| {
            let looped = self.lengths.get(name).map(|length| length * self.rule.max_loop_shift);
            let bounds = self.rule.max_shift.into_iter().chain(looped);
            // Shifts remain comparable under a bound of 0.
            bounds.map(|bound| shift.abs() / bound.max(SMALLEST_BOUND)).fold(0.0, f64::max)
        };
        shifts.iter().map(ratio).fold(0.0, f64::max)
    }

    fn rank(&self, step: &BestStep) -> Rank {
        let greatest = step.shifts.values().map(|shift| shift.abs()).fold(0.0, f64::max);
        match step.within_bounds {
            true => Rank(0.0, step.held_out_loss.unwrap_or(0.0), greatest),
            false => Rank(1.0, self.excess(&step.shifts), step.held_out_loss.unwrap_or(0.0)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(step: usize, loss: Option<f64>, shifts: &[(&str, f64)]) -> StepMetrics {
        let shifts = shifts.iter().map(|(name, shift)| ((*name).to_owned(), *shift)).collect();
        StepMetrics { step, held_out_loss: loss, shifts, ..StepMetrics::default() }
    }

    fn chosen(rule: BestRule, loops: &[LoopShift], lines: &[StepMetrics]) -> (Option<usize>, usize) {
        let mut best = Best::new(rule, loops, 0, 0);
        for line in lines {
            best.add(line);
        }
        (best.best().map(|best| best.step), best.since())
    }

    #[test]
    fn the_lowest_loss_within_bounds_is_the_best() {
        let bound = |max_shift| BestRule { max_shift, ..BestRule::default() };
        let lines = [
            line(0, Some(0.1), &[("a", 0.0), ("b", 0.0)]),
            line(2, Some(3.0), &[("a", 0.2), ("b", -0.3)]),
            line(4, Some(2.0), &[("a", 0.9), ("b", -0.4)]),
            line(5, None, &[]),
            line(6, Some(1.0), &[("a", 0.1), ("b", -1.2)]),
            line(8, Some(1.5), &[("a", 0.4), ("b", 0.1)]),
        ];
        // Not the base model; without a bound on the shift, the loss alone decides.
        assert_eq!(chosen(bound(None), &[], &lines), (Some(6), 1));
        assert_eq!(chosen(bound(Some(1.0)), &[], &lines), (Some(8), 0));
        assert_eq!(chosen(bound(Some(1.0)), &[], &lines[..4]), (Some(4), 0));
        assert_eq!(chosen(bound(Some(0.35)), &[], &lines), (Some(2), 3));
        // All outside: the smallest excess.
        assert_eq!(chosen(bound(Some(0.01)), &[], &lines), (Some(2), 3));
        assert_eq!(chosen(bound(Some(0.0)), &[], &lines[1..2]), (Some(2), 0));
        // Equal losses: the smaller shift. No loss: the smallest shift. All equal: the first.
        let even =
            [line(2, Some(1.0), &[("a", 0.5)]), line(4, Some(1.0), &[("a", -0.2)]), line(6, Some(1.0), &[("a", 0.2)])];
        assert_eq!(chosen(bound(None), &[], &even), (Some(4), 1));
        let blind: Vec<StepMetrics> = even.iter().map(|l| StepMetrics { held_out_loss: None, ..l.clone() }).collect();
        assert_eq!(chosen(bound(None), &[], &blind), (Some(4), 1));
        assert_eq!(chosen(bound(None), &[], &[line(1, None, &[])]), (None, 0));
    }

    #[test]
    fn a_closed_loops_shift_is_bounded_by_its_vectors_length() {
        let loops = [LoopShift { name: "regime_0".to_owned(), shift: 0.0, length: 2.0 }];
        let lines = [
            line(2, Some(3.0), &[("evil@3", 9.0), ("regime_0", 0.49)]),
            line(4, Some(2.0), &[("evil@3", 9.0), ("regime_0", -0.51)]),
        ];
        assert_eq!(chosen(BestRule::default(), &loops, &lines).0, Some(2));
        let wide = BestRule { max_loop_shift: 0.3, ..BestRule::default() };
        assert_eq!(chosen(wide, &loops, &lines).0, Some(4));
        assert_eq!(chosen(BestRule { max_shift: Some(0.5), ..wide }, &loops, &lines[..1]).0, Some(2));
    }

    #[test]
    fn a_grown_run_chooses_among_what_was_kept_and_has_its_patience_anew() {
        let lines: Vec<StepMetrics> =
            [1.0, 2.0, 3.0, 2.5, 2.6, 2.7].iter().enumerate().map(|(i, loss)| line(i + 1, Some(*loss), &[])).collect();
        let mut best = Best::new(BestRule::default(), &[], 3, 4);
        let seen: Vec<bool> = lines.iter().map(|line| best.add(line)).collect();
        assert_eq!(seen, [false, false, true, true, false, false]);
        assert_eq!((best.best().map(|best| best.step), best.since()), (Some(4), 2));
        let mut best = Best::new(BestRule::default(), &[], 0, 4);
        for line in &lines {
            best.add(line);
        }
        assert_eq!((best.best().map(|best| best.step), best.since()), (Some(1), 2), "two since it has grown");
    }

    #[test]
    fn rules_are_read_with_their_defaults() {
        let read: Keep = serde_json::from_str(r#"{"best": {"max_shift": 2.0}}"#).expect("a rule");
        assert_eq!(read, Keep::Best(BestRule { max_shift: Some(2.0), ..BestRule::default() }));
        assert_eq!(serde_json::to_value(Keep::Last).expect("JSON"), "last");
        assert!(serde_json::from_str::<Keep>(r#"{"best": {"shift": 2.0}}"#).is_err());
    }
}
