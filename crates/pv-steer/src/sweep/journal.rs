//! Answers and verdicts, kept as they are reached.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;

use pv_judge::Verdict;
use pv_model::FinishReason;
use pv_vectors::RunFolder;
use serde::{Deserialize, Serialize};

use super::plan::{Place, SweepPlan};
use crate::{Error, Result};

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

/// The file, open for appending.
#[derive(Debug)]
pub(crate) struct Journal {
    file: File,
    /// Bytes of the file.
    length: u64,
    pub(crate) entries: BTreeMap<Place, Entry>,
}

impl Journal {
    /// Opens the file, cut to its good lines: a killed process leaves a last one that has no end.
    pub(crate) fn open(folder: &RunFolder, plan: &SweepPlan) -> Result<Self> {
        let bytes = folder.read(JOURNAL)?.unwrap_or_default();
        let (mut entries, mut length) = (BTreeMap::new(), 0);
        for bytes in whole_lines(&bytes) {
            let Some(line) = serde_json::from_slice(bytes).ok() else { break };
            if !put(plan, &mut entries, line) {
                break;
            }
            length += bytes.len() as u64 + 1;
        }
        let lost = whole_lines(&bytes[length as usize..]).count();
        if lost > 0 {
            tracing::warn!(lost, folder = %folder.path().display(), "lines of a sweep are damaged; doing them again");
        }
        Ok(Self { file: folder.append(JOURNAL, length)?, length, entries })
    }

    /// Keeps a line: what is remembered is what the file says, so that a sweep that was interrupted remembers the same.
    pub(crate) fn keep(&mut self, folder: &RunFolder, plan: &SweepPlan, line: &Line) -> Result<()> {
        let failed = |source| Error::Write { path: folder.file(JOURNAL), source };
        let mut bytes = serde_json::to_vec(line).map_err(|error| failed(error.into()))?;
        let line = serde_json::from_slice(&bytes).map_err(|error| failed(error.into()))?;
        bytes.push(b'\n');
        if let Err(error) = self.file.write_all(&bytes) {
            // A full disk may have taken a part, after which nothing must follow.
            let _ = self.file.set_len(self.length);
            return Err(failed(error));
        }
        self.length += bytes.len() as u64;
        put(plan, &mut self.entries, line);
        Ok(())
    }

    /// Brings the file to the disk.
    pub(crate) fn sync(&self, folder: &RunFolder) -> Result<()> {
        self.file.sync_data().map_err(|source| Error::Write { path: folder.file(JOURNAL), source })
    }

    /// Brings the file into one order, whatever the order in which lines were reached.
    pub(crate) fn sort(&mut self, folder: &RunFolder) -> Result<()> {
        let bytes = folder.read(JOURNAL)?.unwrap_or_default();
        // The lines as they are: numbers that are read and written again may change in their last digit.
        let line = |bytes| Some((serde_json::from_slice::<Line>(bytes).ok()?.order(), bytes));
        let sorted: BTreeMap<(Place, usize), &[u8]> = whole_lines(&bytes).filter_map(line).collect();
        let text = sorted.into_values().flat_map(|line| [line, b"\n"]).collect::<Vec<_>>().concat();
        if text != bytes {
            folder.write(JOURNAL, |file| file.write_all(&text))?;
            self.file = folder.append(JOURNAL, u64::MAX)?;
            self.length = text.len() as u64;
        }
        Ok(())
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

/// The lines that end, without their ends.
fn whole_lines(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    bytes.split_inclusive(|&byte| byte == b'\n').filter_map(|line| line.strip_suffix(b"\n"))
}
