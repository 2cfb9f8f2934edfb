//! Verdicts on a run's rollouts, saved as they are reached.
//!
//! A verdict is identified by the rollout's place, the rubric with its template, and the judge. Several judges may
//! score the same rollouts: their verdicts share one file and are never replaced or mixed.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::ops::ControlFlow;

use pv_data::{Journal, RunFolder};
use pv_judge::judge::{Answered, judge_each};
use pv_judge::score::VerdictCounts;
use pv_judge::{Judge, Rubric, Verdict};
use serde::{Deserialize, Serialize};

use super::{Place, Plan, Record};
use crate::error::RunPart;
use crate::judged_answers::VerdictSource as Source;
use crate::progress::Progress;
use crate::{Error, Result};

pub(super) const SCORES: &str = "scores.jsonl";

/// A line of the file.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Line {
    /// The rollout's place. Earlier versions wrote its index in the plan instead.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    place: Option<Place>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    index: Option<usize>,
    rubric: String,
    judge: String,
    /// A hash of the rubric's template.
    template: String,
    verdict: Verdict,
}

impl Line {
    /// The line with its place, if the place is in the plan.
    fn placed(self, plan: &Plan) -> Option<(Place, Self)> {
        let place =
            self.place.or_else(|| self.index.filter(|&index| index < plan.len()).map(|index| plan.place(index)));
        let place = place.filter(|&place| plan.index(place).is_some())?;
        Some((place, Self { place: Some(place), index: None, ..self }))
    }
}

/// The verdicts of a run.
#[derive(Debug)]
pub(super) struct Scores {
    file: Journal,
    found: BTreeMap<Source, BTreeMap<Place, Verdict>>,
    /// The selected source of each rubric, if one was selected.
    chosen: BTreeMap<String, Source>,
}

impl Scores {
    pub(super) fn open(folder: &RunFolder, plan: &Plan) -> Result<Self> {
        let mut lines = Vec::new();
        let mut earlier = false;
        let mut file = Journal::open_json(folder, SCORES, |line: Line| {
            earlier |= line.place.is_none();
            let placed = line.placed(plan);
            let known = placed.is_some();
            lines.extend(placed);
            known
        })?;
        if earlier {
            // An index is valid for this plan only, and a run can be extended.
            folder.write(SCORES, |file| {
                lines.iter().try_for_each(|(_, line)| {
                    serde_json::to_writer(&mut *file, line)?;
                    file.write_all(b"\n")
                })
            })?;
            file = Journal::open_json(folder, SCORES, |_: Line| true)?;
        }
        let mut scores = Self { file, found: BTreeMap::new(), chosen: BTreeMap::new() };
        lines.into_iter().for_each(|(place, line)| scores.take(place, line));
        Ok(scores)
    }

    fn take(&mut self, place: Place, Line { rubric, judge, template, verdict, .. }: Line) {
        self.found.entry(Source { rubric, judge, template }).or_default().entry(place).or_insert(verdict);
    }

    /// The source that is used for a rubric: the selected one, or the only one.
    fn source(&self, rubric: &str) -> Option<&Source> {
        self.chosen.get(rubric).or_else(|| {
            let mut sources = self.found.keys().filter(|source| source.rubric == rubric);
            sources.next().filter(|_| sources.next().is_none())
        })
    }

    /// Refuses a rubric with several sources if none is selected.
    pub(super) fn check(&self, rubric: &str) -> Result<()> {
        let judges: BTreeSet<&str> = self.judges(rubric).collect();
        match self.source(rubric) {
            None if !judges.is_empty() => {
                let judges = judges.into_iter().map(str::to_owned).collect();
                Err(Error::SeveralJudges { rubric: rubric.to_owned(), judges })
            }
            _ => Ok(()),
        }
    }

    pub(super) fn get(&self, rubric: &str, place: Place) -> Option<&Verdict> {
        self.found.get(self.source(rubric)?)?.get(&place)
    }

    /// The judge whose verdicts by a rubric are used.
    pub(super) fn judge(&self, rubric: &str) -> Option<&str> {
        self.source(rubric).map(|source| source.judge.as_str())
    }

    /// The judges that have scored by a rubric.
    pub(super) fn judges(&self, rubric: &str) -> impl Iterator<Item = &str> {
        self.found.keys().filter(move |source| source.rubric == rubric).map(|source| source.judge.as_str())
    }

    /// Selects a judge for every rubric that it has scored with exactly one template.
    pub(super) fn choose(&mut self, judge: &str) -> bool {
        let sources: Vec<Source> = self.found.keys().filter(|source| source.judge == judge).cloned().collect();
        for source in &sources {
            let one = sources.iter().filter(|other| other.rubric == source.rubric).count() == 1;
            match one {
                true => _ = self.chosen.insert(source.rubric.clone(), source.clone()),
                false => _ = self.chosen.remove(&source.rubric),
            }
        }
        !sources.is_empty()
    }

    /// The counts of the verdicts in use, over all rubrics.
    pub(super) fn counts(&self) -> VerdictCounts {
        let rubrics: BTreeSet<&str> = self.found.keys().map(|source| source.rubric.as_str()).collect();
        let sources = rubrics.into_iter().filter_map(|rubric| self.source(rubric));
        sources.filter_map(|source| self.found.get(source)).flat_map(BTreeMap::values).collect()
    }

    /// Requests the missing verdicts and selects the judge. Empty answers are not judged.
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
            self.chosen.insert(rubric.name.clone(), Source::new(&name, rubric));
        }
        // Answers that lack the same verdicts are judged together.
        let mut groups: BTreeMap<Vec<usize>, Vec<usize>> = BTreeMap::new();
        for (index, record) in records.iter().enumerate().filter(|(_, record)| !record.is_empty()) {
            let lacking = |rubric: &usize| self.get(&rubrics[*rubric].name, record.place).is_none();
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
                let verdicts = self.source(&rubric.name).and_then(|source| self.found.get(source));
                verdicts.into_iter().flat_map(BTreeMap::values).collect::<VerdictCounts>().mode()
            });
            let saved: Vec<_> = saved.collect();
            judge_each(judge, &asked, &answered, &saved, |answer, rubric, verdict| {
                let (place, rubric) = (records[answers[answer]].place, &asked[rubric]);
                if self.get(&rubric.name, place).is_some() {
                    return Ok(());
                }
                let Source { rubric, judge, template } = Source::new(&name, rubric);
                let line = Line { place: Some(place), index: None, rubric, judge, template, verdict };
                let line = self.file.append_json(&line)?;
                self.take(place, line);
                done += 1;
                let broken = on_progress(Progress::Judging { done, total }).is_break();
                if broken { Err(Error::Cancelled) } else { Ok(()) }
            })?;
        }
        if done < total {
            let part = RunPart::VerdictsOf { judge: name };
            return Err(Error::IncompleteRun { path: folder.path().to_owned(), part, done, total });
        }
        // After every call, since the call that reached the last verdict may have been killed before this step.
        Ok(self
            .file
            .sort(|line: &Line| (line.rubric.clone(), line.judge.clone(), line.template.clone(), line.place))?)
    }
}
