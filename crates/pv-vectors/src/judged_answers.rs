//! Answers to prompts and a judge's verdicts on them, in a run's folder.

use std::collections::BTreeMap;
use std::io::Write;

use pv_data::{Journal, RunFolder};
use pv_hooks::Hook;
use pv_judge::judge::{Answered, judge_each};
use pv_judge::score::{ScoreMode, VerdictCounts};
use pv_judge::{Judge, Rubric, Verdict};
use pv_model::generate::{FinishReason, Generation};
use pv_model::{CausalLm, GenerateOptions, Request};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::Error;
use crate::error::SettingError;

const JOURNAL: &str = "journal.jsonl";
/// The maximum number of rubrics, so that a damaged line cannot cause a large allocation.
const MOST_RUBRICS: usize = 1 << 10;

/// A line of the file. The variants are in the order of the finished file: every answer before its verdicts.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
enum Line<P> {
    /// An answer.
    Answer { place: P, seed: u64, text: String, tokens: usize, finish: FinishReason },
    /// The judge's verdict by a rubric.
    Verdict { place: P, rubric: By, verdict: Verdict },
}

/// The rubric of a verdict.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(untagged)]
enum By {
    /// Its index, in a folder with one judge. With two rubrics, 0 is the trait and 1 is coherence.
    Index(usize),
    /// The rubric and the judge, in a folder with verdicts of any number of judges.
    Source(VerdictSource),
}

/// The source of verdicts: a rubric, with a hash of its template, and the judge.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct VerdictSource {
    /// The rubric's name.
    #[serde(rename = "name")]
    pub rubric: String,
    /// The judge's name.
    pub judge: String,
    /// A hash of the rubric's template.
    pub template: String,
}

impl VerdictSource {
    /// The source of a judge's verdicts by a rubric.
    pub fn new(judge: impl Into<String>, rubric: &Rubric) -> Self {
        let template = hex::encode(&Sha256::digest(&rubric.template)[..8]);
        Self { rubric: rubric.name.clone(), judge: judge.into(), template }
    }
}

/// An answer, with the verdicts on it so far.
#[derive(Clone, Debug)]
pub struct JudgedAnswer {
    /// The answer.
    pub text: String,
    /// The number of its tokens.
    pub tokens: usize,
    /// Why generation stopped.
    pub finish: FinishReason,
    /// The verdicts by rubric; `None` if not yet reached.
    pub verdicts: Vec<Option<Verdict>>,
}

impl JudgedAnswer {
    /// The score by a rubric, 0 to 100; `None` if the judge has given none.
    pub fn score(&self, rubric: usize) -> Option<f64> {
        self.verdict(rubric).and_then(Verdict::value)
    }

    /// The verdict by a rubric, if it has been reached.
    pub fn verdict(&self, rubric: usize) -> Option<&Verdict> {
        self.verdicts.get(rubric)?.as_ref()
    }

    /// The positions in a list of rubrics of those without a verdict yet.
    fn lacking(&self, rubrics: &[usize]) -> Vec<usize> {
        let lacking = |&position: &usize| self.verdicts.get(rubrics[position]).is_none_or(Option::is_none);
        (0..rubrics.len()).filter(lacking).collect()
    }
}

/// Answers of a model with a judge's verdicts by one or more rubrics, saved in a folder's `journal.jsonl` as they are
/// reached. Interrupted work resumes: only missing answers and verdicts are requested.
///
/// A place `P` identifies an answer. The finished file is sorted by place.
///
/// A folder opened with [`open`](Self::open) belongs to one judge with fixed rubrics. In one opened with
/// [`open_for`](Self::open_for), every verdict is stored with its [`VerdictSource`]: several judges may score the same
/// answers, one call after another, and their verdicts are never replaced or mixed.
#[derive(Debug)]
pub struct JudgedAnswers<P> {
    folder: RunFolder,
    journal: Journal,
    answers: BTreeMap<P, JudgedAnswer>,
    sources: Sources,
}

/// What the indices of an answer's verdicts stand for.
#[derive(Debug)]
enum Sources {
    /// The rubrics of the folder's only judge.
    One,
    /// The sources of all verdicts. The first `used` are those in use.
    Any { known: Vec<VerdictSource>, used: usize },
}

impl Sources {
    /// The index of a line's verdict; `None` for a line of another kind of folder.
    fn index(&mut self, by: &By) -> Option<usize> {
        match (self, by) {
            (Self::One, By::Index(index)) => Some(*index),
            (Self::Any { known, .. }, By::Source(source)) => {
                Some(known.iter().position(|known| known == source).unwrap_or_else(|| {
                    known.push(source.clone());
                    known.len() - 1
                }))
            }
            _ => None,
        }
    }

    /// The rubric of a verdict in the file, by the rubric's position in a call.
    fn by(&self, judge: &str, position: usize, rubric: &Rubric) -> By {
        match self {
            Self::One => By::Index(position),
            Self::Any { .. } => By::Source(VerdictSource::new(judge, rubric)),
        }
    }

    /// The number of sources in use, if it is known.
    fn used(&self) -> usize {
        match self {
            Self::One => usize::MAX,
            Self::Any { used, .. } => *used,
        }
    }
}

impl<P: Copy + Ord + Serialize + DeserializeOwned> JudgedAnswers<P> {
    /// Opens the answers in a folder, which may be empty. `seed` gives the seed of the answer at a place, and `None`
    /// for a place that does not belong to the work. Lines that belong to other work are ignored, and a copy of the
    /// file is kept.
    ///
    /// # Errors
    /// A file that cannot be read or written.
    pub fn open(folder: RunFolder, seed: impl Fn(P) -> Option<u64>) -> Result<Self, Error> {
        Self::open_with(folder, seed, |_, _| None, Sources::One)
    }

    /// Like [`open`](Self::open), for a folder with verdicts of any number of judges. Verdicts of this judge by these
    /// rubrics are used, and an answer's rubrics have the indices of this list; the others are kept in the file.
    /// `unnamed` is the source of a verdict of an earlier version, which stored the rubric's index alone.
    ///
    /// # Errors
    /// A file that cannot be read or written.
    pub fn open_for<'r>(
        folder: RunFolder,
        seed: impl Fn(P) -> Option<u64>,
        judge: &dyn Judge,
        rubrics: impl IntoIterator<Item = &'r Rubric>,
        unnamed: impl Fn(P, usize) -> Option<VerdictSource>,
    ) -> Result<Self, Error> {
        let judge = judge.name();
        let known: Vec<_> = rubrics.into_iter().map(|rubric| VerdictSource::new(judge.clone(), rubric)).collect();
        let used = known.len();
        Self::open_with(folder, seed, unnamed, Sources::Any { known, used })
    }

    fn open_with(
        folder: RunFolder,
        seed: impl Fn(P) -> Option<u64>,
        unnamed: impl Fn(P, usize) -> Option<VerdictSource>,
        mut sources: Sources,
    ) -> Result<Self, Error> {
        let mut answers = BTreeMap::new();
        let journal = Journal::open_json(&folder, JOURNAL, |mut line: Line<P>| {
            if let Line::Verdict { place, rubric, .. } = &mut line
                && let By::Index(index) = rubric
                && let Some(source) = unnamed(*place, *index)
            {
                *rubric = By::Source(source);
            }
            let known = match line {
                Line::Answer { place, seed: kept, .. } => seed(place) == Some(kept),
                Line::Verdict { .. } => true,
            };
            known && take(&mut answers, &mut sources, line)
        })?;
        Ok(Self { folder, journal, answers, sources })
    }

    /// Converts the file of a folder that belonged to one judge, in place and whole, for
    /// [`open_for`](Self::open_for): `place` converts the places, and `sources` are those of the judge's rubrics. Lines
    /// that were converted before are kept.
    ///
    /// # Errors
    /// A file that cannot be read or written.
    pub fn convert<Q: DeserializeOwned>(
        folder: &RunFolder,
        place: impl Fn(Q) -> Option<P>,
        sources: &[VerdictSource],
    ) -> Result<(), Error> {
        let Some(text) = folder.read(JOURNAL)? else { return Ok(()) };
        let converted = |line: &[u8]| -> Option<Vec<u8>> {
            let line = match serde_json::from_slice::<Line<Q>>(line.strip_suffix(b"\n")?).ok()? {
                Line::Answer { place: at, seed, text, tokens, finish } => {
                    Line::Answer { place: place(at)?, seed, text, tokens, finish }
                }
                Line::Verdict { place: at, rubric: By::Index(index), verdict } => {
                    Line::Verdict { place: place(at)?, rubric: By::Source(sources.get(index)?.clone()), verdict }
                }
                Line::Verdict { .. } => return None,
            };
            let mut bytes = serde_json::to_vec(&line).ok()?;
            bytes.push(b'\n');
            Some(bytes)
        };
        let lines = text.split_inclusive(|&byte| byte == b'\n');
        let lines: Vec<_> = lines.map(|line| converted(line).unwrap_or_else(|| line.to_vec())).collect();
        let lines = lines.concat();
        match lines == text {
            true => Ok(()),
            false => Ok(folder.write(JOURNAL, |file| file.write_all(&lines))?),
        }
    }

    /// The folder.
    pub fn folder(&self) -> &RunFolder {
        &self.folder
    }

    /// The answer at a place, if it exists.
    pub fn get(&self, place: P) -> Option<&JudgedAnswer> {
        self.answers.get(&place)
    }

    /// The number of answers that exist at these places.
    pub fn answered(&self, places: &[P]) -> usize {
        places.iter().filter_map(|place| self.answers.get(place)).count()
    }

    /// The number of verdicts on the answers at these places, over all rubrics in use.
    pub fn judged(&self, places: &[P]) -> usize {
        let answers = places.iter().filter_map(|place| self.answers.get(place));
        answers.map(|answer| answer.verdicts.iter().take(self.sources.used()).flatten().count()).sum()
    }

    /// The counts of verdicts at these places by two rubrics, such as that of a trait and that of coherence.
    pub fn verdict_counts(&self, places: &[P], rubrics: [usize; 2]) -> [VerdictCounts; 2] {
        let answers = || places.iter().filter_map(|place| self.answers.get(place));
        rubrics.map(|rubric| answers().filter_map(|answer| answer.verdict(rubric)).collect())
    }

    /// Generates the missing answers at `places`, and reports each. `asked` gives the prompt and the seed at a place.
    /// The last bits of its results do not depend on the other prompts.
    ///
    /// # Errors
    /// Those of [`CausalLm::generate`] and of `on_answer`, which cancels by returning one; a file that cannot be
    /// written. Finished answers are kept.
    pub fn generate<'p, E: From<Error> + From<pv_model::Error>>(
        &mut self,
        model: &CausalLm,
        places: &[P],
        asked: impl Fn(P) -> (&'p [u32], u64),
        options: GenerateOptions,
        hook: &mut (impl Hook + ?Sized),
        mut on_answer: impl FnMut() -> Result<(), E>,
    ) -> Result<(), E> {
        let Self { journal, answers, sources, .. } = self;
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
            let line = Line::Answer { place, seed, text, tokens, finish };
            take(answers, sources, journal.append_json(&line).map_err(Error::from)?);
            on_answer()
        })?;
        Ok(journal.sync().map_err(Error::from)?)
    }

    /// Requests the missing verdicts on the answers at `places`, and reports each. Answers that lack the same verdicts
    /// are judged together.
    ///
    /// # Errors
    /// Those of the judge and of `on_verdict`, which cancels by returning one; a file that cannot be written;
    /// [`pv_judge::Error::OtherMode`] from a judge that would mix its scores with existing ones of another mode. The
    /// verdicts reached so far are kept.
    pub fn judge<'q, 'r, E: From<Error> + From<pv_judge::Error>>(
        &mut self,
        judge: &dyn Judge,
        places: &[P],
        rubrics: impl AsRef<[&'r Rubric]>,
        question: impl Fn(P) -> &'q str,
        mut on_verdict: impl FnMut() -> Result<(), E>,
    ) -> Result<(), E> {
        let Self { journal, answers, sources, .. } = self;
        let (name, rubrics) = (judge.name(), rubrics.as_ref());
        if rubrics.len() > MOST_RUBRICS {
            let too_many = SettingError::TooManyRubrics { rubrics: rubrics.len(), most: MOST_RUBRICS };
            return Err(Error::from(too_many).into());
        }
        let by: Vec<By> = rubrics.iter().enumerate().map(|(at, rubric)| sources.by(&name, at, rubric)).collect();
        let indices: Vec<usize> = by.iter().filter_map(|by| sources.index(by)).collect();
        let mut groups: BTreeMap<Vec<usize>, Vec<P>> = BTreeMap::new();
        for &place in places {
            if let Some(answer) = answers.get(&place) {
                groups.entry(answer.lacking(&indices)).or_default().push(place);
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
                let verdicts = answers.values().filter_map(|answer| answer.verdict(indices[rubric]));
                verdicts.collect::<VerdictCounts>().mode()
            };
            let saved: Vec<_> = lacking.iter().map(saved).collect();
            judge_each(judge, &asked, &answered, &saved, |answer, rubric, verdict| -> Result<(), E> {
                let line = Line::Verdict { place: places[answer], rubric: by[lacking[rubric]].clone(), verdict };
                take(answers, sources, journal.append_json(&line).map_err(Error::from)?);
                on_verdict()
            })?;
            journal.sync().map_err(Error::from)?;
        }
        Ok(())
    }

    /// Sorts the file by place, whatever the order in which answers and verdicts were reached.
    ///
    /// # Errors
    /// A file that cannot be read or written.
    pub fn sort(&mut self) -> Result<(), Error> {
        Ok(self.journal.sort(|line: &Line<P>| match line {
            Line::Answer { place, .. } => (*place, None),
            Line::Verdict { place, rubric, .. } => (*place, Some(rubric.clone())),
        })?)
    }
}

/// Adds a line; returns whether it contained anything new.
fn take<P: Ord>(answers: &mut BTreeMap<P, JudgedAnswer>, sources: &mut Sources, line: Line<P>) -> bool {
    match line {
        Line::Answer { place, text, tokens, finish, .. } => {
            let fresh = !answers.contains_key(&place);
            answers.entry(place).or_insert(JudgedAnswer { text, tokens, finish, verdicts: Vec::new() });
            fresh
        }
        Line::Verdict { place, rubric, verdict } => {
            let Some(rubric) = sources.index(&rubric).filter(|&index| index < MOST_RUBRICS) else { return false };
            let Some(JudgedAnswer { verdicts, .. }) = answers.get_mut(&place) else { return false };
            if verdicts.len() <= rubric {
                verdicts.resize(rubric + 1, None);
            }
            let fresh = verdicts[rubric].is_none();
            verdicts[rubric].get_or_insert(verdict);
            fresh
        }
    }
}
