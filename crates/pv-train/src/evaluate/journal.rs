//! Answers and verdicts, kept as they are reached.

use std::collections::BTreeMap;

use pv_judge::Verdict;
use pv_model::FinishReason;
use pv_vectors::{LineJournal, RunFolder};
use serde::{Deserialize, Serialize};

use super::plan::{EvaluationPlan, Place};
use crate::measure::Result;

const JOURNAL: &str = "journal.jsonl";

/// A line of the file. The order is that of the file when an evaluation is complete: every answer before its verdicts.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub(super) enum Line {
    /// An answer.
    Answer { place: Place, seed: u64, text: String, tokens: usize, finish: FinishReason },
    /// What the judge says of it by a rubric, 0 the trait, 1 coherence.
    Verdict { place: Place, rubric: usize, verdict: Verdict },
}

/// An answer and its verdicts so far.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) text: String,
    pub(super) tokens: usize,
    pub(super) finish: FinishReason,
    pub(super) verdicts: [Option<Verdict>; 2],
}

impl Entry {
    pub(super) fn value(&self, rubric: usize) -> Option<f64> {
        self.verdicts[rubric].as_ref().and_then(Verdict::value)
    }
}

/// The file and what it says.
pub(super) struct Answers {
    journal: LineJournal,
    pub(super) entries: BTreeMap<Place, Entry>,
}

impl Answers {
    pub(super) fn open(folder: &RunFolder, plan: &EvaluationPlan) -> Result<Self> {
        let mut entries = BTreeMap::new();
        let journal = LineJournal::open(folder, JOURNAL, |line| put(plan, &mut entries, line))?;
        Ok(Self { journal, entries })
    }

    pub(super) fn keep(&mut self, folder: &RunFolder, plan: &EvaluationPlan, line: &Line) -> Result<()> {
        let line = self.journal.keep(folder, line)?;
        put(plan, &mut self.entries, line);
        Ok(())
    }

    pub(super) fn sync(&self, folder: &RunFolder) -> Result<()> {
        Ok(self.journal.sync(folder)?)
    }

    pub(super) fn sort(&mut self, folder: &RunFolder) -> Result<()> {
        let order = |line: &Line| match line {
            Line::Answer { place, .. } => (*place, 0),
            Line::Verdict { place, rubric, .. } => (*place, 1 + rubric),
        };
        Ok(self.journal.sort(folder, order)?)
    }
}

/// Takes a line in; whether it belongs to the plan and has not been there yet.
fn put(plan: &EvaluationPlan, entries: &mut BTreeMap<Place, Entry>, line: Line) -> bool {
    match line {
        Line::Answer { place, seed, text, tokens, finish } => {
            let good = plan.contains(place) && seed == plan.seed(place) && !entries.contains_key(&place);
            if good {
                entries.insert(place, Entry { text, tokens, finish, verdicts: [None, None] });
            }
            good
        }
        Line::Verdict { place, rubric, verdict } => {
            let free = entries.get_mut(&place).and_then(|entry| entry.verdicts.get_mut(rubric));
            let Some(free) = free.filter(|free| free.is_none()) else { return false };
            *free = Some(verdict);
            true
        }
    }
}
