//! The judge behind a server: its interface, and the run over all prompts.

mod cached;
mod first;
mod send;

use std::fmt;
use std::ops::ControlFlow;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Mutex, MutexGuard, PoisonError};

use futures_util::{StreamExt, stream};

use super::cache::Cache;
use super::plan::Plan;
use super::tally::Tally;
use super::thread::on_own_thread;
use super::wire::{Mode, estimated_tokens};
use super::{Client, Forecast, HttpError, HttpOptions, JudgeReport, RequestForm, Spent};
use crate::cost::Tokens;
use crate::judge::{Answered, Judged, Verdicts};
use crate::score::{ScoreMode, VerdictCounts};
use crate::{Error, Judge, Result, Rubric};

pub(super) use send::Outcome;

/// After this many consecutive refusals without a stated reason, the prompts are not the cause.
const UNEXPLAINED: usize = 8;

/// A judge behind an OpenAI-compatible server: OpenAI's own, Azure's, vLLM, llama.cpp, and others.
///
/// Each answer and rubric is one request: the filled rubric as the user's message, one token, temperature 0, the 20
/// most likely tokens with their probabilities. The first few prompts are sent one after the other; they show the form
/// of requests that the server accepts and how its model gives numbers. That mode is kept for the judge's lifetime;
/// [`report`](Self::report) and every score ([`Evidence`](crate::score::Evidence)) state it:
///
/// - Tokens that are whole numbers: their distribution ([`ScoreMode::Distribution`]).
/// - Numbers of several tokens, or with text before them: the distributions along the reply ([`ScoreMode::Digits`]).
/// - No probabilities: the written number ([`ScoreMode::Sampled`]; see [`Logprobs`](crate::http::Logprobs)).
/// - A model with reasoning that cannot be disabled: the number after the reasoning ([`ScoreMode::Reasoned`]).
///
/// A prompt that the server refuses, by a content filter or because of its length, is an abstention of its own kind
/// ([`Abstention::Refused`](crate::score::Abstention::Refused)). A judge that gives no number for the first few answers stops with an error that quotes
/// its reply ([`HttpError::NoNumbers`]), before further requests.
///
/// The callback is called with every verdict; while the server is silent, cancellation has to wait.
///
/// # Examples
/// ```no_run
/// use std::ops::ControlFlow;
/// use pv_judge::judge::Answered;
/// use pv_judge::{HttpJudge, HttpOptions, Judge, Rubric, TraitSpec};
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
pub struct HttpJudge {
    client: Client,
    cache: Option<Cache>,
    consent: Option<Consent>,
    state: Mutex<State>,
}

/// Called before a run that would make requests.
type Consent = Box<dyn Fn(&Forecast) -> bool + Send + Sync>;

/// The findings from the requests so far.
#[derive(Debug, Default)]
struct State {
    mode: Option<Mode>,
    /// The mode of the existing scores with which the judge's scores will be compared.
    wanted: Option<Mode>,
    /// Whether there was a number.
    numbered: bool,
    /// The number of answers without a number before the first one with a number.
    numberless: usize,
    /// The reply to the first of them.
    wrote: Option<String>,
    /// The number of consecutive refusals without a stated reason.
    unexplained: usize,
    /// Whether the server has given any reply.
    answered: bool,
    tried_forms: bool,
    verdicts: VerdictCounts,
}

impl HttpJudge {
    /// A judge that has not sent a request yet.
    ///
    /// # Errors
    /// [`HttpError::Setting`], [`HttpError::Cache`].
    pub fn new(options: HttpOptions) -> Result<Self> {
        let cache = options.cache.as_deref().map(Cache::open).transpose()?;
        Ok(Self { client: Client::new(options)?, cache, consent: None, state: Mutex::default() })
    }

    /// Calls `agree` with the forecast before every call that would make requests; without consent no request is made:
    /// [`HttpError::NoConsent`].
    #[must_use]
    pub fn with_consent(self, agree: impl Fn(&Forecast) -> bool + Send + Sync + 'static) -> Self {
        Self { consent: Some(Box::new(agree)), ..self }
    }

    /// The amount spent since the judge was created.
    pub fn spent(&self) -> Spent {
        self.client.spent()
    }

    /// Whether the server is on this machine.
    pub fn is_local(&self) -> bool {
        self.client.is_local()
    }

    /// The findings about the server, and the work so far.
    pub fn report(&self) -> JudgeReport {
        let (form, found) = self.client.form();
        let state = self.state();
        JudgeReport {
            mode: state.mode.map(Mode::score_mode),
            form,
            found,
            requests: self.spent().requests,
            verdicts: state.verdicts.clone(),
        }
    }

    /// The forecast for judging these answers. Makes no request.
    pub fn forecast(&self, rubrics: &[Rubric], answers: &[Answered<'_>]) -> Forecast {
        self.forecast_of(&Plan::new(rubrics, answers))
    }

    fn forecast_of(&self, plan: &Plan<'_>) -> Forecast {
        let known = self.state().mode;
        // The first of the usable modes is tried first.
        let mode = known.or_else(|| self.cached_mode(plan)).or(self.usable().first().copied());
        let mode = mode.unwrap_or(Mode::Distribution);
        let mut forecast = Forecast { verdicts: plan.total(), ..Forecast::default() };
        for job in &plan.jobs {
            if self.is_cached(job, mode) {
                forecast.cached += job.pairs.len();
            } else {
                let tokens = self.estimate(&plan.prompt(job), mode);
                forecast.requests += 1;
                forecast.repeated += job.pairs.len() - 1;
                forecast.prompt_tokens += tokens.prompt;
                forecast.completion_tokens += tokens.completion;
            }
        }
        forecast
    }

    /// [`Judge::judge`] for callers inside of a tokio runtime with timer and network enabled. Dropping the future
    /// cancels the judging.
    ///
    /// # Errors
    /// Those of [`Judge::judge`].
    pub async fn judge_async(
        &self,
        rubrics: &[Rubric],
        answers: &[Answered<'_>],
        mut on_verdict: impl FnMut(Judged) -> ControlFlow<()> + Send,
    ) -> Result<Vec<Verdicts>> {
        let plan = Plan::new(rubrics, answers);
        let mut tally = Tally::new(&plan, rubrics.len(), answers.len(), &mut on_verdict);
        if !plan.jobs.is_empty() {
            self.ask_consent(&plan)?;
            if let Err(error) = self.run(&plan, &mut tally).await {
                return Err(tally.explain(error, self.spent()));
            }
        }
        tally.finish()
    }

    fn ask_consent(&self, plan: &Plan<'_>) -> Result<()> {
        let Some(agree) = &self.consent else { return Ok(()) };
        let forecast = self.forecast_of(plan);
        match forecast.requests == 0 || agree(&forecast) {
            true => Ok(()),
            false => Err(HttpError::NoConsent { forecast: Box::new(forecast) }.into()),
        }
    }

    async fn run(&self, plan: &Plan<'_>, tally: &mut Tally<'_>) -> Result<()> {
        let stopping = AtomicBool::new(false);
        if self.state().mode.is_none() {
            let cached = self.cached_mode(plan);
            self.state().mode = cached;
        }
        let Some(mode) = self.begin(plan, &stopping, tally).await? else { return Ok(()) };
        let mut open = Vec::new();
        for (index, job) in plan.jobs.iter().enumerate() {
            if tally.has(job) {
                continue;
            }
            match self.cached(job, mode)? {
                Some(reply) => self.hand(tally, job, reply.verdict(mode))?,
                None => open.push(index),
            }
        }
        let stopping = &stopping;
        let asked = open.into_iter().map(|index| async move {
            let job = &plan.jobs[index];
            // Running requests are completed, since they are paid for; no new ones are started.
            match stopping.load(Ordering::Relaxed) {
                true => (job, None),
                false => (job, Some(self.ask(plan, job, mode, stopping).await)),
            }
        });
        let mut asked = pin!(stream::iter(asked).buffer_unordered(self.options().concurrency));
        let mut first_error = None;
        while let Some((job, outcome)) = asked.next().await {
            match outcome.map(|outcome| outcome.and_then(|outcome| self.explained(outcome))) {
                Some(Ok(verdict)) => self.hand(tally, job, verdict)?,
                Some(Err(error)) => {
                    stopping.store(true, Ordering::Relaxed);
                    first_error.get_or_insert(error);
                }
                None => {}
            }
        }
        match first_error {
            Some(error) => Err(error.into()),
            None => Ok(()),
        }
    }

    /// Marks other forms as tried, and returns whether they had been tried before.
    pub(super) fn has_tried_forms(&self) -> bool {
        std::mem::replace(&mut self.state().tried_forms, true)
    }

    pub(super) fn note(&self, what: &str) {
        self.client.note(what.to_owned());
    }

    pub(super) fn form(&self) -> RequestForm {
        self.client.form().0
    }

    pub(super) fn change_form(&self, change: impl FnOnce(&mut RequestForm)) {
        self.client.change_form(change);
    }

    pub(super) fn options(&self) -> &HttpOptions {
        self.client.options()
    }

    pub(super) fn no_logprobs(&self) -> HttpError {
        let (server, model) = self.names();
        HttpError::NoLogprobs { server, model }
    }

    /// The names of the server and the model.
    pub(super) fn names(&self) -> (String, String) {
        (self.client.server().to_owned(), self.options().model.clone())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn estimate(&self, prompt: &str, mode: Mode) -> Tokens {
        let completion = mode.max_tokens(self.options().thought_tokens);
        Tokens { prompt: estimated_tokens(prompt), completion: completion.into() }
    }
}

impl fmt::Debug for HttpJudge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.state();
        f.debug_struct("HttpJudge").field("client", &self.client).field("mode", &state.mode).finish_non_exhaustive()
    }
}

impl Judge for HttpJudge {
    fn name(&self) -> String {
        format!("{} at {}", self.client.options().model, self.client.server())
    }

    /// A judge whose mode is not known yet uses this one; [`ScoreMode::Distribution`] must be detected again, since the
    /// first digits of numbers look like it.
    fn require_mode(&self, mode: ScoreMode) -> Result<()> {
        let mut state = self.state();
        let wanted = Mode::of(mode).filter(|wanted| self.usable().contains(wanted));
        let given = match (wanted, state.mode) {
            (Some(wanted), Some(known)) if wanted == known => return Ok(()),
            (Some(wanted), None) => {
                state.wanted = Some(wanted);
                if wanted != Mode::Distribution {
                    state.mode = Some(wanted);
                }
                return Ok(());
            }
            (_, known) => known.or(self.usable().first().copied()).unwrap_or(Mode::Distribution).score_mode(),
        };
        drop(state);
        Err(self.other_mode(mode, given))
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
