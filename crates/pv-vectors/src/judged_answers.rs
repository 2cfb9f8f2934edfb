//! Answers to prompts and a judge's verdicts on them, in a run's folder.

use std::collections::BTreeMap;

use pv_data::{Journal, RunFolder};
use pv_hooks::Hook;
use pv_judge::{Answered, Judge, Rubric, ScoreMode, Verdict, VerdictCounts, judge_each};
use pv_model::{CausalLm, FinishReason, GenerateOptions, Generation, Request};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::Error;

const JOURNAL: &str = "journal.jsonl";
/// A damaged line must not ask for more memory than that.
const MOST_RUBRICS: usize = 1 << 10;

/// A line of the file. The order is that of the file when all is done: every answer before its verdicts.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
enum Line<P> {
    /// An answer.
    Answer { place: P, seed: u64, text: String, tokens: usize, finish: FinishReason },
    /// What the judge says of it by a rubric: where there are two, 0 the trait, 1 coherence.
    Verdict { place: P, rubric: usize, verdict: Verdict },
}

/// An answer, and what a judge has said of it so far.
#[derive(Clone, Debug)]
pub struct JudgedAnswer {
    /// The answer.
    pub text: String,
    /// How many tokens it has.
    pub tokens: usize,
    /// Why it ended.
    pub finish: FinishReason,
    /// The verdicts by rubric, where they have been reached.
    pub verdicts: Vec<Option<Verdict>>,
}

impl JudgedAnswer {
    /// The score by a rubric, 0 to 100; `None` where the judge has given none.
    pub fn score(&self, rubric: usize) -> Option<f64> {
        self.verdict(rubric).and_then(Verdict::value)
    }

    /// The verdict by a rubric, where it has been reached.
    pub fn verdict(&self, rubric: usize) -> Option<&Verdict> {
        self.verdicts.get(rubric)?.as_ref()
    }

    /// Those of so many rubrics by which there is no verdict yet.
    fn lacking(&self, rubrics: usize) -> Vec<usize> {
        (0..rubrics).filter(|&rubric| self.verdicts.get(rubric).is_none_or(Option::is_none)).collect()
    }
}

/// Answers of a model with a judge's verdicts by one rubric or several, kept in a folder's `journal.jsonl` as they are reached: work that
/// was broken off or killed generates and asks about what is missing only.
///
/// A place `P` says which of the work's answers one is; the order of places is that of the file at the end.
#[derive(Debug)]
pub struct JudgedAnswers<P> {
    folder: RunFolder,
    journal: Journal,
    answers: BTreeMap<P, JudgedAnswer>,
}

impl<P: Copy + Ord + Serialize + DeserializeOwned> JudgedAnswers<P> {
    /// Opens those of a folder, and begins where there are none. `seed` gives the seed of the answer at a place, and `None` at a
    /// place that does not belong to the work: from the first line on that is another work's, lines are dropped.
    ///
    /// # Errors
    /// A file that cannot be read or written.
    pub fn open(folder: RunFolder, seed: impl Fn(P) -> Option<u64>) -> Result<Self, Error> {
        let mut answers = BTreeMap::new();
        let journal = Journal::open_json(&folder, JOURNAL, |line: Line<P>| {
            let known = match line {
                Line::Answer { place, seed: kept, .. } => seed(place) == Some(kept),
                Line::Verdict { .. } => true,
            };
            known && take(&mut answers, line)
        })?;
        Ok(Self { folder, journal, answers })
    }

    /// The folder.
    pub fn folder(&self) -> &RunFolder {
        &self.folder
    }

    /// The answer at a place, where there is one.
    pub fn get(&self, place: P) -> Option<&JudgedAnswer> {
        self.answers.get(&place)
    }

    /// How many of some answers there are.
    pub fn answered(&self, places: &[P]) -> usize {
        places.iter().filter_map(|place| self.answers.get(place)).count()
    }

    /// How many verdicts on some answers there are, by all rubrics together.
    pub fn judged(&self, places: &[P]) -> usize {
        let answers = places.iter().filter_map(|place| self.answers.get(place));
        answers.map(|answer| answer.verdicts.iter().flatten().count()).sum()
    }

    /// How the verdicts on some answers were got: by the trait's rubric, and by that of coherence.
    pub fn verdict_counts(&self, places: &[P]) -> [VerdictCounts; 2] {
        let answers = || places.iter().filter_map(|place| self.answers.get(place));
        [0, 1].map(|rubric| answers().filter_map(|answer| answer.verdict(rubric)).collect())
    }

    /// Generates those answers at `places` that are missing, and says so after each. `asked` gives the prompt and the seed at a
    /// place. Every prompt is read by itself: in a batch, its answers would depend on its neighbours in their last bits.
    ///
    /// # Errors
    /// Those of [`CausalLm::generate`] and of `on_answer`, which breaks off by one; a file that cannot be written. The answers
    /// that had ended are kept.
    pub fn generate<'p, E: From<Error> + From<pv_model::Error>>(
        &mut self,
        model: &CausalLm,
        places: &[P],
        asked: impl Fn(P) -> (&'p [u32], u64),
        options: GenerateOptions,
        hook: &mut (impl Hook + ?Sized),
        mut on_answer: impl FnMut() -> Result<(), E>,
    ) -> Result<(), E> {
        let Self { journal, answers, .. } = self;
        let missing: Vec<P> = places.iter().copied().filter(|place| !answers.contains_key(place)).collect();
        if missing.is_empty() {
            return Ok(());
        }
        let mut requests: Vec<Request> = Vec::new();
        for &place in &missing {
            let (prompt, seed) = asked(place);
            match requests.last_mut() {
                Some(request) if request.prompt == prompt => request.seeds.push(seed),
                _ => requests.push(Request::new(prompt.to_vec(), seed)),
            }
        }
        let options = GenerateOptions { prefill_tokens: 0, ..options };
        model.generate_each(&requests, &options, hook, |sequence, generation| -> Result<(), E> {
            let Generation { tokens, text, finish } = generation;
            let place = missing[sequence];
            let (seed, text, tokens, finish) = (asked(place).1, text.clone(), tokens.len(), *finish);
            take(
                answers,
                journal.append_json(&Line::Answer { place, seed, text, tokens, finish }).map_err(Error::from)?,
            );
            on_answer()
        })?;
        Ok(journal.sync().map_err(Error::from)?)
    }

    /// Asks a judge for those verdicts on the answers at `places` that are missing, and says so after each. Answers that lack
    /// the same ones are judged together.
    ///
    /// # Errors
    /// Those of the judge and of `on_verdict`, which breaks off by one; a file that cannot be written;
    /// [`pv_judge::Error::OtherMode`] from a judge that would mix its scores with those that are there, got in another way. The
    /// verdicts that had been reached are kept.
    pub fn judge<'q, 'r, E: From<Error> + From<pv_judge::Error>>(
        &mut self,
        judge: &dyn Judge,
        places: &[P],
        rubrics: impl AsRef<[&'r Rubric]>,
        question: impl Fn(P) -> &'q str,
        mut on_verdict: impl FnMut() -> Result<(), E>,
    ) -> Result<(), E> {
        let Self { journal, answers, .. } = self;
        let rubrics = rubrics.as_ref();
        if rubrics.len() > MOST_RUBRICS {
            let reason = format!("{} rubrics; {MOST_RUBRICS} are the most", rubrics.len());
            return Err(Error::BadSetting { reason }.into());
        }
        let mut groups: BTreeMap<Vec<usize>, Vec<P>> = BTreeMap::new();
        for &place in places {
            if let Some(answer) = answers.get(&place) {
                groups.entry(answer.lacking(rubrics.len())).or_default().push(place);
            }
        }
        groups.remove(&Vec::new());
        for (lacking, places) in groups {
            let asked: Vec<Rubric> = lacking.iter().map(|&rubric| rubrics[rubric].clone()).collect();
            let texts: Vec<String> = places.iter().map(|place| answers[place].text.clone()).collect();
            let answered = places.iter().zip(&texts);
            let answered: Vec<Answered<'_>> =
                answered.map(|(&place, answer)| Answered { question: question(place), answer }).collect();
            let saved = |&rubric: &usize| -> Option<ScoreMode> {
                let verdicts = answers.values().filter_map(|answer| answer.verdict(rubric));
                verdicts.collect::<VerdictCounts>().mode()
            };
            let saved: Vec<_> = lacking.iter().map(saved).collect();
            judge_each(judge, &asked, &answered, &saved, |answer, rubric, verdict| -> Result<(), E> {
                let (place, rubric) = (places[answer], lacking[rubric]);
                take(answers, journal.append_json(&Line::Verdict { place, rubric, verdict }).map_err(Error::from)?);
                on_verdict()
            })?;
            journal.sync().map_err(Error::from)?;
        }
        Ok(())
    }

    /// Brings the file into the order of places, whatever the order in which answers and verdicts were reached.
    ///
    /// # Errors
    /// A file that cannot be read or written.
    pub fn sort(&mut self) -> Result<(), Error> {
        Ok(self.journal.sort(|line: &Line<P>| match *line {
            Line::Answer { place, .. } => (place, 0),
            Line::Verdict { place, rubric, .. } => (place, 1 + rubric),
        })?)
    }
}

/// Takes a line in; whether it says anything new.
fn take<P: Ord>(answers: &mut BTreeMap<P, JudgedAnswer>, line: Line<P>) -> bool {
    match line {
        Line::Answer { place, text, tokens, finish, .. } => {
            let fresh = !answers.contains_key(&place);
            answers.entry(place).or_insert(JudgedAnswer { text, tokens, finish, verdicts: Vec::new() });
            fresh
        }
        Line::Verdict { place, rubric, verdict } => {
            let Some(JudgedAnswer { verdicts, .. }) = answers.get_mut(&place).filter(|_| rubric < MOST_RUBRICS) else {
                return false;
            };
            if verdicts.len() <= rubric {
                verdicts.resize(rubric + 1, None);
            }
            let fresh = verdicts[rubric].is_none();
            verdicts[rubric].get_or_insert(verdict);
            fresh
        }
    }
}
