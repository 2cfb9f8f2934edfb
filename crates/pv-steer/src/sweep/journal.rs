//! Answers and verdicts, kept as they are reached.

use std::collections::BTreeMap;

use pv_judge::Verdict;
use pv_model::FinishReason;
use pv_vectors::{LineJournal, RunFolder};
use serde::{Deserialize, Serialize};

use super::plan::{Place, SweepPlan};
use crate::Result;

pub(crate) const JOURNAL: &str = "journal.jsonl";

/// A line of the file. The order is that of the file when a sweep is complete: every answer before its verdicts.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub(crate) enum Line {
    /// An answer.
    Answer { place: Place, seed: u64, text: String, tokens: usize, finish: FinishReason },
    /// What the judge says of it by a rubric, 0 the trait, 1 coherence.
    Verdict { place: Place, rubric: usize, verdict: Verdict },
}

impl Line {
    fn order(&self) -> (Place, usize) {
        match self {
            Self::Answer { place, .. } => (*place, 0),
            Self::Verdict { place, rubric, .. } => (*place, 1 + rubric),
        }
    }
}

/// An answer and its verdicts so far.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) text: String,
    pub(crate) tokens: usize,
    pub(crate) finish: FinishReason,
    pub(crate) verdicts: [Option<Verdict>; 2],
}

impl Entry {
    pub(crate) fn value(&self, rubric: usize) -> Option<f64> {
        self.verdicts[rubric].as_ref().and_then(Verdict::value)
    }
}

/// The file and what it says.
#[derive(Debug)]
pub(crate) struct Journal {
    file: LineJournal,
    pub(crate) entries: BTreeMap<Place, Entry>,
}

impl Journal {
    pub(crate) fn open(folder: &RunFolder, plan: &SweepPlan) -> Result<Self> {
        let mut entries = BTreeMap::new();
        let file = LineJournal::open(folder, JOURNAL, |line| put(plan, &mut entries, line))?;
        Ok(Self { file, entries })
    }

    pub(crate) fn keep(&mut self, folder: &RunFolder, plan: &SweepPlan, line: &Line) -> Result<()> {
        let line = self.file.keep(folder, line)?;
        put(plan, &mut self.entries, line);
        Ok(())
    }

    pub(crate) fn sync(&self, folder: &RunFolder) -> Result<()> {
        Ok(self.file.sync(folder)?)
    }

    pub(crate) fn sort(&mut self, folder: &RunFolder) -> Result<()> {
        Ok(self.file.sort(folder, Line::order)?)
    }
}

/// Takes a line in; whether it belongs to the plan and has not been there yet.
fn put(plan: &SweepPlan, entries: &mut BTreeMap<Place, Entry>, line: Line) -> bool {
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
