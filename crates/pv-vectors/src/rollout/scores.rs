//! Verdicts on a run's rollouts, kept as they are reached.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use pv_data::{Journal, RunError, RunFolder};
use pv_judge::{Answered, Judge, Rubric, Verdict, VerdictCounts, judge_each};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

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
    file: Journal,
    /// By rubric and rollout.
    found: BTreeMap<(String, usize), Line>,
}

impl Scores {
    pub(super) fn open(folder: &RunFolder, plan: &Plan) -> Result<Self> {
        let mut found = BTreeMap::new();
        let file = Journal::open_json(folder, SCORES, |line: Line| {
            let known = line.index < plan.len();
            if known {
                found.entry((line.rubric.clone(), line.index)).or_insert(line);
            }
            known
        })?;
        Ok(Self { file, found })
    }

    pub(super) fn get(&self, rubric: &str, index: usize) -> Option<&Verdict> {
        self.found.get(&(rubric.to_owned(), index)).map(|line| &line.verdict)
    }

    /// Who judged by a rubric, where anybody did.
    pub(super) fn judge(&self, rubric: &str) -> Option<&str> {
        self.of(rubric).next().map(|line| line.judge.as_str())
    }

    /// How the verdicts by all rubrics were got.
    pub(super) fn counts(&self) -> VerdictCounts {
        self.found.values().map(|line| &line.verdict).collect()
    }

    fn of(&self, rubric: &str) -> impl Iterator<Item = &Line> {
        self.found.range((rubric.to_owned(), 0)..=(rubric.to_owned(), usize::MAX)).map(|(_, line)| line)
    }

    fn keep(&mut self, line: &Line) -> Result<()> {
        let line = self.file.append_json(line)?;
        self.found.insert((line.rubric.clone(), line.index), line);
        Ok(())
    }

    /// Asks the judge for the verdicts that are missing. Answers without tokens are not judged.
    pub(super) fn fill(
        &mut self,
        folder: &RunFolder,
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
            let saved = asked.iter().map(|rubric| {
                let verdicts = self.of(&rubric.name).map(|line| &line.verdict);
                verdicts.collect::<VerdictCounts>().mode()
            });
            let saved: Vec<_> = saved.collect();
            judge_each(judge, &asked, &answered, &saved, |answer, rubric, verdict| {
                let (index, rubric) = (answers[answer], &asked[rubric]);
                if self.get(&rubric.name, index).is_some() {
                    return Ok(());
                }
                let (judge, template) = (name.clone(), hash(&rubric.template));
                self.keep(&Line { index, rubric: rubric.name.clone(), judge, template, verdict })?;
                done += 1;
                let broken = on_progress(Progress::Judging { done, total }).is_break();
                if broken { Err(Error::Cancelled) } else { Ok(()) }
            })?;
        }
        if done < total {
            let what = format!("verdicts of {name}");
            return Err(Error::IncompleteRun { path: folder.path().to_owned(), what, done, total });
        }
        // At the end of every call, since the one that reached the last verdict may have been killed before it came to this.
        Ok(self.file.sort(|line: &Line| (line.rubric.clone(), line.index))?)
    }

    /// Refuses a judge or a rubric that is not the one of the verdicts that are there: they would not be comparable.
    fn check_same(&self, folder: &RunFolder, rubric: &Rubric, judge: &str) -> Result<()> {
        let template = hash(&rubric.template);
        for line in self.of(&rubric.name) {
            for (what, saved, given) in
                [("judge", line.judge.as_str(), judge), ("rubric's template", &line.template, &template)]
            {
                if saved != given {
                    return Err(RunError::OtherRun {
                        path: folder.path().to_owned(),
                        what: format!("{what} for {:?}", rubric.name),
                        saved: saved.to_owned(),
                        given: given.to_owned(),
                    }
                    .into());
                }
            }
        }
        Ok(())
    }
}

fn hash(template: &str) -> String {
    hex::encode(&Sha256::digest(template)[..8])
}
