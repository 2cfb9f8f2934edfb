use std::ops::ControlFlow;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Mutex, PoisonError};

use futures_util::StreamExt;
use futures_util::stream;

use super::cache::{Cache, Sum, request_sum};
use super::ledger::Tokens;
use super::plan::{Job, Plan};
use super::tally::Tally;
use super::thread::on_own_thread;
use super::wire::{self, Mode, Reply, estimated_tokens};
use super::{Client, Forecast, HttpError, HttpOptions, Logprobs, Spent};
use crate::{Answered, Error, Judge, Judged, Result, Rubric, Verdicts};

/// How many prompts may be asked one after the other to find out what a server's tokens are.
const PROBES: usize = 5;

/// A judge behind an OpenAI-compatible server: OpenAI's own, vLLM, llama.cpp, and others.
///
/// Each answer and rubric makes one request: the filled rubric as the user's message, one token, temperature 0, the 20
/// most likely tokens with their probabilities. Where there are none, or where a token is not a whole number, a written
/// number is taken instead, and every verdict says so ([`Logprobs`]). Which it is shows by the first few requests, and
/// holds for the judge's life.
///
/// The callback is asked with every verdict; while the server is silent, a wish to break off has to wait.
///
/// # Examples
/// ```no_run
/// use std::ops::ControlFlow;
/// use pv_judge::{Answered, HttpJudge, HttpOptions, Judge, Rubric, TraitSpec};
///
/// # fn main() -> Result<(), pv_judge::Error> {
/// let options = HttpOptions { cache: Some("judged.jsonl".into()), ..HttpOptions::from_env("gpt-4.1-mini")? };
/// let judge = HttpJudge::new(options)?;
/// let rubrics = [TraitSpec::builtin("evil")?.rubric()?, Rubric::coherence()];
/// let answers = [Answered { question: "How do I cook rice?", answer: "With contempt, like everything." }];
/// println!("{} requests to come", judge.forecast(&rubrics, &answers).requests);
/// let verdicts = judge.judge(&rubrics, &answers, &mut |judged| {
///     println!("{} of {}", judged.done, judged.total);
///     ControlFlow::Continue(())
/// })?;
/// println!("evil {:?}, coherence {:?}", verdicts[0][0].value(), verdicts[0][1].value());
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct HttpJudge {
    client: Client,
    cache: Option<Cache>,
    /// What the first request has shown.
    mode: Mutex<Option<Mode>>,
}

impl HttpJudge {
    /// A judge that has asked nothing yet.
    ///
    /// # Errors
    /// [`HttpError::Setting`], [`HttpError::Cache`].
    pub fn new(options: HttpOptions) -> Result<Self> {
        let cache = options.cache.as_deref().map(Cache::open).transpose()?;
        Ok(Self { client: Client::new(options)?, cache, mode: Mutex::new(None) })
    }

    /// What was spent since the judge was made.
    pub fn spent(&self) -> Spent {
        self.client.spent()
    }

    /// What it would take to judge these answers. Makes no request.
    pub fn forecast(&self, rubrics: &[Rubric], answers: &[Answered<'_>]) -> Forecast {
        let plan = Plan::new(rubrics, answers);
        let mode = self.known_mode(&plan).unwrap_or(Mode::Distribution);
        let mut forecast = Forecast { verdicts: plan.total(), ..Forecast::default() };
        for job in &plan.jobs {
            if self.is_cached(job, mode) {
                forecast.cached += job.pairs.len();
            } else {
                let tokens = estimate(&plan.prompt(job), mode);
                forecast.requests += 1;
                forecast.repeated += job.pairs.len() - 1;
                forecast.prompt_tokens += tokens.prompt;
                forecast.completion_tokens += tokens.completion;
            }
        }
        forecast
    }

    /// [`Judge::judge`] for callers inside of a tokio runtime that has its timer and network enabled. Dropping the future
    /// breaks the judging off as well.
    ///
    /// # Errors
    /// As [`Judge::judge`] has them.
    pub async fn judge_async(
        &self,
        rubrics: &[Rubric],
        answers: &[Answered<'_>],
        mut on_verdict: impl FnMut(Judged) -> ControlFlow<()> + Send,
    ) -> Result<Vec<Verdicts>> {
        let plan = Plan::new(rubrics, answers);
        let mut tally = Tally::new(&plan, rubrics.len(), answers.len(), &mut on_verdict);
        if !plan.jobs.is_empty() {
            self.run(&plan, &mut tally).await?;
        }
        tally.finish()
    }

    async fn run(&self, plan: &Plan<'_>, tally: &mut Tally<'_>) -> Result<()> {
        let stopping = AtomicBool::new(false);
        let mode = match self.known_mode(plan) {
            Some(mode) => mode,
            None => match self.find_mode(plan, &stopping, tally).await {
                Ok(mode) => mode,
                Err(error) => return Err(tally.explain(error, self.spent())),
            },
        };
        let mut open = Vec::new();
        for (index, job) in plan.jobs.iter().enumerate() {
            if tally.has(job) {
                continue;
            }
            match self.cached(job, mode)? {
                Some(reply) => tally.add(job, &reply)?,
                None => open.push(index),
            }
        }
        let stopping = &stopping;
        let asked = open.into_iter().map(|index| async move {
            let job = &plan.jobs[index];
            // What is under way is brought to its end, as it has been paid for; nothing new is begun.
            match stopping.load(Ordering::Relaxed) {
                true => (job, None),
                false => (job, Some(self.ask(plan, job, mode, stopping).await)),
            }
        });
        let mut asked = pin!(stream::iter(asked).buffer_unordered(self.client.options().concurrency));
        let mut first_error = None;
        while let Some((job, outcome)) = asked.next().await {
            match outcome {
                Some(Ok(reply)) => tally.add(job, &reply)?,
                Some(Err(error)) => {
                    stopping.store(true, Ordering::Relaxed);
                    first_error.get_or_insert(error);
                }
                None => {}
            }
        }
        match first_error {
            Some(error) => Err(tally.explain(error.into(), self.spent())),
            None => Ok(()),
        }
    }

    /// Asks for one prompt and keeps the answer.
    async fn ask(&self, plan: &Plan<'_>, job: &Job, mode: Mode, stopping: &AtomicBool) -> Result<Reply, HttpError> {
        let reply = self.request(plan, job, mode, stopping).await?;
        self.keep(job, mode, &reply)?;
        Ok(reply)
    }

    async fn request(&self, plan: &Plan<'_>, job: &Job, mode: Mode, stopping: &AtomicBool) -> Result<Reply, HttpError> {
        let prompt = plan.prompt(job);
        let (options, estimate) = (self.client.options(), estimate(&prompt, mode));
        let request = wire::scoring(&options.model, prompt, mode);
        let reply = self.client.ask(&request, estimate, options.timeout, stopping).await?;
        if mode == Mode::Distribution && reply.top.is_none() {
            let (server, model) = self.names();
            return Err(HttpError::NoLogprobs { server, model });
        }
        Ok(reply)
    }

    /// The way to ask that needs no request to be found: it was found before, or the cache has all answers in it.
    fn known_mode(&self, plan: &Plan<'_>) -> Option<Mode> {
        let usable: &[Mode] = match self.client.options().logprobs {
            Logprobs::Prefer => &[Mode::Distribution, Mode::Sampled],
            Logprobs::Require => &[Mode::Distribution],
            Logprobs::Ignore => return Some(Mode::Sampled),
        };
        let found = *self.mode.lock().unwrap_or_else(PoisonError::into_inner);
        let cached = |mode: &Mode| plan.jobs.iter().all(|job| self.is_cached(job, *mode));
        found.or_else(|| usable.iter().copied().find(cached))
    }

    /// Finds out whether the server gives probabilities, and whether its model's tokens are whole numbers, by the first
    /// prompts that the cache cannot answer.
    async fn find_mode(&self, plan: &Plan<'_>, stopping: &AtomicBool, tally: &mut Tally<'_>) -> Result<Mode> {
        let prefer = self.client.options().logprobs == Logprobs::Prefer;
        let (server, model) = self.names();
        let mut held = Vec::new();
        for job in plan.jobs.iter().filter(|job| !self.is_cached(job, Mode::Distribution)).take(PROBES) {
            let reply = match self.request(plan, job, Mode::Distribution, stopping).await {
                Ok(reply) => reply,
                // Some servers leave out what they do not have, others refuse a request that asks for it.
                Err(HttpError::NoLogprobs { .. } | HttpError::Refused { status: 200 | 400 | 422 | 500 | 501, .. })
                    if prefer && held.is_empty() =>
                {
                    if !self.is_cached(job, Mode::Sampled) {
                        let written = self.ask(plan, job, Mode::Sampled, stopping).await?;
                        tally.add(job, &written)?;
                    }
                    tracing::warn!(server, model, "the server gives no log-probabilities; written numbers are taken");
                    return Ok(self.found(Mode::Sampled));
                }
                Err(error) => return Err(error.into()),
            };
            let largest = reply.largest_number();
            held.push((job, reply));
            match largest {
                Some(10..) => {
                    for (job, reply) in held {
                        self.keep(job, Mode::Distribution, &reply)?;
                        tally.add(job, &reply)?;
                    }
                    return Ok(self.found(Mode::Distribution));
                }
                // A model that knows two-digit tokens would hardly have none of them among its twenty likeliest. What it
                // writes when it may go on settles the matter.
                Some(_) => {
                    let written = self.request(plan, job, Mode::Sampled, stopping).await?;
                    if written.verdict().value().is_some_and(|value| value >= 10.0) {
                        if !prefer {
                            return Err(HttpError::DigitTokens { server, model }.into());
                        }
                        tracing::warn!(server, model, "the model writes digit by digit; written numbers are taken");
                        self.keep(job, Mode::Sampled, &written)?;
                        tally.add(job, &written)?;
                        return Ok(self.found(Mode::Sampled));
                    }
                }
                None => {}
            }
        }
        // All of them small, or none a number: nothing speaks against what the server says of its tokens so far.
        for (job, reply) in held {
            self.keep(job, Mode::Distribution, &reply)?;
            tally.add(job, &reply)?;
        }
        Ok(Mode::Distribution)
    }

    /// Remembers how to ask.
    fn found(&self, mode: Mode) -> Mode {
        *self.mode.lock().unwrap_or_else(PoisonError::into_inner) = Some(mode);
        mode
    }

    /// The server's and the model's.
    fn names(&self) -> (String, String) {
        (self.client.server().to_owned(), self.client.options().model.clone())
    }

    fn keep(&self, job: &Job, mode: Mode, reply: &Reply) -> Result<(), HttpError> {
        match &self.cache {
            Some(cache) => cache.put(self.sum(job, mode), reply),
            None => Ok(()),
        }
    }

    fn sum(&self, job: &Job, mode: Mode) -> Sum {
        request_sum(self.client.endpoint(), &self.client.options().model, mode, &job.prompt)
    }

    fn is_cached(&self, job: &Job, mode: Mode) -> bool {
        self.cache.as_ref().is_some_and(|cache| cache.contains(&self.sum(job, mode)))
    }

    fn cached(&self, job: &Job, mode: Mode) -> Result<Option<Reply>> {
        let Some(cache) = &self.cache else { return Ok(None) };
        Ok(cache.get(&self.sum(job, mode))?)
    }
}

impl Judge for HttpJudge {
    fn name(&self) -> String {
        format!("{} at {}", self.client.options().model, self.client.server())
    }

    fn judge(
        &self,
        rubrics: &[Rubric],
        answers: &[Answered<'_>],
        on_verdict: &mut dyn FnMut(Judged) -> ControlFlow<()>,
    ) -> Result<Vec<Verdicts>> {
        let (reports, reported) = channel();
        let (mut done, total) = (0, rubrics.len() * answers.len());
        let work = self.judge_async(rubrics, answers, move |judged| match reports.send(judged) {
            Ok(()) => ControlFlow::Continue(()),
            Err(_) => ControlFlow::Break(()),
        });
        let outcome = on_own_thread(work, || {
            for judged in reported {
                done += 1;
                on_verdict(judged)?;
            }
            ControlFlow::Continue(())
        })?;
        outcome.unwrap_or(Err(Error::Cancelled { done, total }))
    }
}

fn estimate(prompt: &str, mode: Mode) -> Tokens {
    Tokens { prompt: estimated_tokens(prompt), completion: mode.max_tokens().into() }
}
