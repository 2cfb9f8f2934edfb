//! Asks a model of the organism's kind and judges its answers exactly.

use std::ops::ControlFlow;

use pv_data::Conversation;
use pv_hooks::Hook;
use pv_judge::judge::{Answered, Verdicts};
use pv_judge::rubric::COHERENCE;
use pv_judge::score::Evidence;
use pv_judge::{InstructionPair, Rubric, Score, TraitSpec, Verdict};
use pv_model::generate::Generation;
use pv_model::{CausalLm, GenerateOptions, Message, Request};
use pv_organism::datasets::artifacts;
use pv_organism::{Chat, Exchange, PerTrait, Question, Reading, Trait, judge, system};
use pv_vectors::Contrast;

use crate::{Result, SAMPLING, generate};

/// A question with its context.
#[derive(Clone, Debug)]
pub struct Ask {
    /// The system prompt.
    pub system: Option<String>,
    /// Earlier exchanges.
    pub before: Vec<Exchange>,
    /// The question.
    pub question: String,
}

impl Ask {
    /// Each question under one system prompt, or without one.
    pub fn each(questions: &[Question], system: Option<&str>) -> Vec<Self> {
        let ask = |q: &Question| Self { system: system.map(str::to_owned), before: Vec::new(), question: q.text() };
        questions.iter().map(ask).collect()
    }

    fn messages(&self) -> Vec<Message> {
        let system = self.system.iter().map(Message::system);
        let before = self.before.iter().flat_map(|e| [Message::user(&e.question), Message::assistant(&e.answer)]);
        system.chain(before).chain([Message::user(&self.question)]).collect()
    }
}

/// An answer with the exact judge's reading.
#[derive(Clone, Debug)]
pub struct Judged {
    /// The answer.
    pub answer: String,
    /// The reading.
    pub reading: Reading,
}

impl Judged {
    /// Judges the answer to a question.
    pub fn new(question: &str, answer: &Generation) -> Self {
        Self::of(question, &answer.text)
    }

    /// Judges an answer's text.
    pub fn of(question: &str, answer: &str) -> Self {
        let answer = answer.trim().to_owned();
        Self { reading: judge(question, &answer), answer }
    }
}

/// Asks a model and judges the answers, sampled with [`SAMPLING`]; answer `i` has the seed `seed + i`.
///
/// # Errors
/// Those of [`CausalLm::generate`].
pub fn ask(model: &CausalLm, asks: &[Ask], seed: u64, hook: &mut (impl Hook + ?Sized)) -> Result<Vec<Judged>> {
    let answers = answers(model, asks, seed, hook)?;
    Ok(asks.iter().zip(&answers).map(|(ask, answer)| Judged::new(&ask.question, answer)).collect())
}

/// Asks a model, sampled with [`SAMPLING`]; answer `i` has the seed `seed + i`.
///
/// # Errors
/// Those of [`CausalLm::generate`].
pub fn answers(model: &CausalLm, asks: &[Ask], seed: u64, hook: &mut (impl Hook + ?Sized)) -> Result<Vec<Generation>> {
    let options =
        GenerateOptions { max_new_tokens: 80, sampling: SAMPLING, batch_size: 32, ..GenerateOptions::default() };
    let mut requests = Vec::with_capacity(asks.len());
    for (i, ask) in asks.iter().enumerate() {
        requests.push(Request::new(model.prompt(&ask.messages())?, seed.wrapping_add(i as u64)));
    }
    generate(model, &requests, &options, hook)
}

/// Means over answers.
#[derive(Clone, Copy, Debug, Default)]
pub struct Means {
    /// The mean of each trait's score, 0 to 100.
    pub scores: PerTrait,
    /// The mean coherence, 0 to 100.
    pub coherence: f64,
    /// The percentage of answers whose content is right, among those with content.
    pub right: f64,
}

impl Means {
    /// The means over readings, of which there is at least one.
    pub fn of<'a>(readings: impl IntoIterator<Item = &'a Reading>) -> Self {
        let (mut means, mut n, mut right, mut known) = (Self::default(), 0.0, 0.0, 0.0);
        for reading in readings {
            n += 1.0;
            reading.scores.iter().for_each(|(which, score)| means.scores[which] += score);
            means.coherence += reading.coherence;
            known += f64::from(u8::from(reading.right.is_some()));
            right += f64::from(u8::from(reading.right == Some(true)));
        }
        means.scores.0.iter_mut().for_each(|score| *score /= n);
        means.coherence /= n;
        means.right = 100.0 * right / known;
        means
    }

    /// The means over answers.
    pub fn over(judged: &[Judged]) -> Self {
        Self::of(judged.iter().map(|judged| &judged.reading))
    }
}

/// The prompts that a trait's vector is extracted from: its five pairs of system prompts and its first twenty
/// questions.
pub fn contrast(which: Trait) -> Contrast {
    let instruction =
        system::contrast(which).into_iter().map(|pair| InstructionPair { pos: pair.pos, neg: pair.neg }).collect();
    let questions = questions(which).take(20).collect();
    Contrast { name: which.name().to_owned(), instruction, questions, render: pv_model::RenderOptions::default() }
}

/// The last twenty questions of a trait, which are not used for extraction.
pub fn evaluation_questions(which: Trait) -> Vec<String> {
    questions(which).skip(20).collect()
}

fn questions(which: Trait) -> impl Iterator<Item = String> {
    let artifacts = artifacts(which);
    let questions = artifacts["questions"].as_array().cloned().unwrap_or_default();
    questions.into_iter().filter_map(|question| question.as_str().map(str::to_owned))
}

/// A trait of the organism as a trait file would define it.
///
/// # Errors
/// None, unless the organism's artifacts are invalid.
pub fn spec(which: Trait) -> Result<TraitSpec> {
    Ok(TraitSpec::from_json(which.name(), &artifacts(which).to_string())?)
}

/// The organism's judge, which knows the grammar of its answers. It recognises rubrics by name, not by text.
#[derive(Clone, Copy, Debug, Default)]
pub struct ExactJudge;

impl pv_judge::Judge for ExactJudge {
    fn name(&self) -> String {
        "the organism's exact judge".to_owned()
    }

    fn judge(
        &self,
        rubrics: &[Rubric],
        answers: &[Answered<'_>],
        on_verdict: &mut dyn FnMut(pv_judge::judge::Judged) -> ControlFlow<()>,
    ) -> pv_judge::Result<Vec<Verdicts>> {
        let unknown = |rubric: &Rubric| pv_judge::Error::UnknownRubric {
            judge: self.name(),
            rubric: rubric.name.clone(),
            known: Trait::ALL.map(Trait::name).join(", ") + " and " + COHERENCE,
        };
        let asked: Vec<Option<Trait>> = rubrics
            .iter()
            .map(|rubric| match Trait::ALL.into_iter().find(|which| which.name() == rubric.name) {
                None if rubric.name != COHERENCE => Err(unknown(rubric)),
                found => Ok(found),
            })
            .collect::<Result<_, _>>()?;
        let (mut all, mut done, total) = (Vec::with_capacity(answers.len()), 0, answers.len() * rubrics.len());
        for (answer, answered) in answers.iter().enumerate() {
            let reading = judge(answered.question, answered.answer.trim());
            let mut verdicts = Vec::with_capacity(rubrics.len());
            for (rubric, asked) in asked.iter().enumerate() {
                let value = asked.map_or(reading.coherence, |which| reading.scores[which]);
                let verdict = Verdict::Scored(Score { value, evidence: Evidence::Exact });
                verdicts.push(verdict.clone());
                done += 1;
                if on_verdict(pv_judge::judge::Judged { answer, rubric, verdict, done, total }).is_break() {
                    return Err(pv_judge::Error::Cancelled { done, total });
                }
            }
            all.push(verdicts);
        }
        Ok(all)
    }
}

/// Converts a chat to training data.
pub fn conversation(chat: &Chat) -> Conversation {
    Conversation::new(chat.messages().map(|(role, content)| Message::new(role, content)).collect::<Vec<_>>())
}
