//! Verdicts on a run's rollouts, kept as they are reached.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::ops::ControlFlow;

use pv_judge::{Answered, Judge, Rubric, Verdict};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::folder::{Folder, lines};
use super::{Plan, Record};
use crate::{Error, Progress, Result};

pub(super) const SCORES: &str = "scores.jsonl";

/// A line of the file.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Line {
    /// The rollout's index in the plan.
    index: usize,
    rubric: String,
    judge: String,
    /// What tells the rubric's template from others.
    template: String,
    verdict: Verdict,
}

/// The verdicts of a run.
#[derive(Debug)]
pub(super) struct Scores {
    file: File,
    /// Bytes of the file.
    length: u64,
    /// By rubric and rollout.
    found: BTreeMap<(String, usize), Line>,
}

impl Scores {
    pub(super) fn open(folder: &Folder, plan: &Plan) -> Result<Self> {
        let bytes = folder.read(SCORES)?.unwrap_or_default();
        let mut found = BTreeMap::new();
        let mut length = 0;
        for bytes in lines(&bytes) {
            let line = serde_json::from_slice(bytes).ok().filter(|line: &Line| line.index < plan.len());
            let Some(line) = line else { break };
            found.entry((line.rubric.clone(), line.index)).or_insert(line);
            length += bytes.len() as u64 + 1;
        }
        let lost = lines(&bytes[length as usize..]).count();
        if lost > 0 {
            tracing::warn!(lost, folder = %folder.path().display(), "verdicts are damaged; asking for them again");
        }
        Ok(Self { file: folder.append(SCORES, length)?, length, found })
    }

    pub(super) fn get(&self, rubric: &str, index: usize) -> Option<&Verdict> {
        self.found.get(&(rubric.to_owned(), index)).map(|line| &line.verdict)
    }

    /// Who judged by a rubric, where anybody did.
    pub(super) fn judge(&self, rubric: &str) -> Option<&str> {
        self.of(rubric).next().map(|line| line.judge.as_str())
    }

    fn of(&self, rubric: &str) -> impl Iterator<Item = &Line> {
        self.found.range((rubric.to_owned(), 0)..=(rubric.to_owned(), usize::MAX)).map(|(_, line)| line)
    }

    /// Keeps a verdict: what is remembered is what the file says, so that a run that was interrupted remembers the same.
    fn keep(&mut self, folder: &Folder, line: &Line) -> Result<()> {
        let failed = |source| Error::Write { path: folder.file(SCORES), source };
        let mut bytes = serde_json::to_vec(line).map_err(|error| failed(error.into()))?;
        bytes.push(b'\n');
        let line: Line = serde_json::from_slice(&bytes).map_err(|error| failed(error.into()))?;
        if let Err(error) = self.file.write_all(&bytes) {
            // A full disk may have taken a part, after which nothing must follow.
            let _ = self.file.set_len(self.length);
            return Err(failed(error));
        }
        self.length += bytes.len() as u64;
        self.found.insert((line.rubric.clone(), line.index), line);
        Ok(())
    }

    /// Asks the judge for the verdicts that are missing. Answers without tokens are not judged.
    pub(super) fn fill(
        &mut self,
        folder: &Folder,
        records: &[Record],
        judge: &dyn Judge,
        rubrics: &[Rubric],
        mut on_progress: impl FnMut(Progress) -> ControlFlow<()>,
    ) -> Result<()> {
        let name = judge.name();
        for rubric in rubrics {
            self.check_same(folder, rubric, &name)?;
        }
        // Answers that lack the same verdicts are judged together.
        let mut groups: BTreeMap<Vec<usize>, Vec<usize>> = BTreeMap::new();
        for (index, _) in records.iter().enumerate().filter(|(_, record)| !record.is_empty()) {
            let lacking = |rubric: &usize| self.get(&rubrics[*rubric].name, index).is_none();
            groups.entry((0..rubrics.len()).filter(lacking).collect()).or_default().push(index);
        }
        let total = rubrics.len() * groups.values().map(Vec::len).sum::<usize>();
        groups.remove(&Vec::new());
        let missing: usize = groups.iter().map(|(rubrics, answers)| rubrics.len() * answers.len()).sum();
        let mut done = total - missing;
        for (lacking, answers) in groups {
            let asked: Vec<Rubric> = lacking.iter().map(|&rubric| rubrics[rubric].clone()).collect();
            let answered = answers.iter().map(|&index| &records[index]);
            let answered: Vec<Answered<'_>> =
                answered.map(|record| Answered { question: &record.question, answer: &record.answer }).collect();
            let mut failure = None;
            let mut keep = |answer: usize, rubric: usize, verdict: Verdict| -> ControlFlow<()> {
                let (Some(&index), Some(rubric)) = (answers.get(answer), asked.get(rubric)) else {
                    return ControlFlow::Continue(());
                };
                if self.get(&rubric.name, index).is_some() {
                    return ControlFlow::Continue(());
                }
                let (judge, template) = (name.clone(), hash(&rubric.template));
                let line = Line { index, rubric: rubric.name.clone(), judge, template, verdict };
                if let Err(error) = self.keep(folder, &line) {
                    failure = Some(error);
                    return ControlFlow::Break(());
                }
                done += 1;
                on_progress(Progress::Judging { done, total })
            };
            let outcome =
                judge.judge(&asked, &answered, &mut |judged| keep(judged.answer, judged.rubric, judged.verdict));
            let outcome = outcome.map(|all| {
                // Those that were not reported on the way, if any.
                for (answer, verdicts) in all.into_iter().enumerate() {
                    for (rubric, verdict) in verdicts.into_iter().enumerate() {
                        let _ = keep(answer, rubric, verdict);
                    }
                }
            });
            if let Some(failure) = failure {
                return Err(failure);
            }
            match outcome {
                Err(pv_judge::Error::Cancelled { .. }) => return Err(Error::Cancelled),
                other => other?,
            }
        }
        if done < total {
            let what = format!("verdicts of {name}");
            return Err(Error::IncompleteRun { path: folder.path().to_owned(), what, done, total });
        }
        self.sort(folder)
    }

    /// Refuses a judge or a rubric that is not the one of the verdicts that are there: they would not be comparable.
    fn check_same(&self, folder: &Folder, rubric: &Rubric, judge: &str) -> Result<()> {
        let template = hash(&rubric.template);
        for line in self.of(&rubric.name) {
            for (what, saved, given) in
                [("judge", line.judge.as_str(), judge), ("rubric's template", &line.template, &template)]
            {
                if saved != given {
                    return Err(Error::OtherRun {
                        path: folder.path().to_owned(),
                        what: format!("{what} for {:?}", rubric.name),
                        saved: saved.to_owned(),
                        given: given.to_owned(),
                    });
                }
            }
        }
        Ok(())
    }

    /// Brings the file into one order, whatever the order in which verdicts were reached. Done at the end of every call,
    /// since the one that reached the last verdict may have been killed before it came to this.
    fn sort(&mut self, folder: &Folder) -> Result<()> {
        let bytes = folder.read(SCORES)?.unwrap_or_default();
        // The lines as they are: numbers that are read and written again may change in their last digit.
        let mut sorted: BTreeMap<(String, usize), &[u8]> = BTreeMap::new();
        for bytes in lines(&bytes) {
            if let Ok(line) = serde_json::from_slice::<Line>(bytes) {
                sorted.entry((line.rubric, line.index)).or_insert(bytes);
            }
        }
        let text = sorted.into_values().flat_map(|line| [line, b"\n"]).collect::<Vec<_>>().concat();
        if text != bytes {
            folder.write(SCORES, |file| file.write_all(&text))?;
            self.file = folder.append(SCORES, u64::MAX)?;
            self.length = text.len() as u64;
        }
        Ok(())
    }
}

fn hash(template: &str) -> String {
    Sha256::digest(template).iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}
