mod first;
mod kept;

use std::fmt;
use std::ops::ControlFlow;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Mutex, MutexGuard, PoisonError};

use futures_util::StreamExt;
use futures_util::stream;

use super::cache::Cache;
use super::client::Failure;
use super::ledger::Tokens;
use super::plan::{Job, Plan};
use super::reply::Reply;
use super::tally::Tally;
use super::thread::on_own_thread;
use super::wire::{Mode, estimated_tokens, scoring, snippet};
use super::{Client, Forecast, HttpError, HttpOptions, JudgeReport, RequestForm, Spent};
use crate::{Abstention, Answered, Error, Judge, Judged, Result, Rubric, ScoreMode, Verdict, VerdictCounts, Verdicts};

/// After so many refusals in a row that do not say what they are about, it is not the prompts.
const UNEXPLAINED: usize = 8;

/// A judge behind an OpenAI-compatible server: OpenAI's own, Azure's, vLLM, llama.cpp, and others.
///
/// Each answer and rubric makes one request: the filled rubric as the user's message, one token, temperature 0, the 20
/// most likely tokens with their probabilities. The first few prompts are asked one after the other, and show in which form
/// the server takes requests and how its model gives numbers; that holds for the judge's life, and is told by
/// [`report`](Self::report) and by every score ([`Evidence`](crate::Evidence)):
///
/// - tokens that are whole numbers: their distribution ([`ScoreMode::Distribution`]);
/// - numbers of several tokens, or with something before them: the distributions along the reply ([`ScoreMode::Digits`]);
/// - no probabilities: the number that is written ([`ScoreMode::Sampled`]; see [`Logprobs`](crate::Logprobs));
/// - a model that thinks, and cannot be asked not to: the number after the thought ([`ScoreMode::Reasoned`]).
///
/// A prompt that the server declines, by a content filter or for its length, is an abstention of its own kind
/// ([`Abstention::Refused`]). A judge that gives no number for the first few answers ends with what it wrote
/// ([`HttpError::NoNumbers`]), before anything else is asked.
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
pub struct HttpJudge {
    client: Client,
    cache: Option<Cache>,
    consent: Option<Consent>,
    state: Mutex<State>,
}

/// Asked before a run that would make requests.
type Consent = Box<dyn Fn(&Forecast) -> bool + Send + Sync>;

/// What the requests have shown.
#[derive(Debug, Default)]
struct State {
    mode: Option<Mode>,
    /// How the scores were got with which the judge's are to be compared.
    wanted: Option<Mode>,
    /// Whether there was a number.
    numbered: bool,
    /// How many answers had none, before the first one that had.
    numberless: usize,
    /// What was written in place of the first one.
    wrote: Option<String>,
    /// How many refusals in a row did not say what they are about.
    unexplained: usize,
    /// Whether the server has given any reply.
    answered: bool,
    tried_forms: bool,
    verdicts: VerdictCounts,
}

/// What came of one prompt.
#[derive(Debug)]
pub(super) enum Outcome {
    /// A verdict.
    Reached {
        verdict: Verdict,
        /// The reply, and the mode in which it may be kept.
        reply: Option<(Mode, Box<Reply>)>,
        /// What was written, for people.
        quote: String,
    },
    /// A refusal that does not say what it is about.
    Unknown { status: u16, message: String },
}

impl Outcome {
    /// A verdict that leaves the mode open.
    pub(super) fn open(verdict: Verdict) -> Self {
        let quote = match &verdict {
            Verdict::Abstained(Abstention::NotANumber { text }) => snippet(text),
            Verdict::Abstained(Abstention::Refused { status, message }) => format!("status {status}: {message}"),
            _ => String::new(),
        };
        Self::Reached { verdict, reply: None, quote }
    }

    pub(super) fn quoting(self, said: String) -> Self {
        match self {
            Self::Reached { verdict, reply, .. } => Self::Reached { verdict, reply, quote: said },
            unknown => unknown,
        }
    }

    pub(super) fn has_number(&self) -> bool {
        matches!(self, Self::Reached { verdict: Verdict::Scored(_), .. })
    }
}

impl HttpJudge {
    /// A judge that has asked nothing yet.
    ///
    /// # Errors
    /// [`HttpError::Setting`], [`HttpError::Cache`].
    pub fn new(options: HttpOptions) -> Result<Self> {
        let cache = options.cache.as_deref().map(Cache::open).transpose()?;
        Ok(Self { client: Client::new(options)?, cache, consent: None, state: Mutex::default() })
    }

    /// Asks `agree` before every call that would make requests, with what it would take; without agreement nothing is asked:
    /// [`HttpError::NotAgreed`].
    #[must_use]
    pub fn with_consent(self, agree: impl Fn(&Forecast) -> bool + Send + Sync + 'static) -> Self {
        Self { consent: Some(Box::new(agree)), ..self }
    }

    /// What was spent since the judge was made.
    pub fn spent(&self) -> Spent {
        self.client.spent()
    }

    /// Whether the server is on this machine.
    pub fn is_local(&self) -> bool {
        self.client.is_local()
    }

    /// What was found out about the server, and what was done so far.
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

    /// What it would take to judge these answers. Makes no request.
    pub fn forecast(&self, rubrics: &[Rubric], answers: &[Answered<'_>]) -> Forecast {
        self.forecast_of(&Plan::new(rubrics, answers))
    }

    fn forecast_of(&self, plan: &Plan<'_>) -> Forecast {
        let known = self.state().mode;
        // The first of the usable ones is tried first.
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
            false => Err(HttpError::NotAgreed { forecast: Box::new(forecast) }.into()),
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
            // What is under way is brought to its end, as it has been paid for; nothing new is begun.
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

    /// One prompt in the mode that was found.
    async fn ask(&self, plan: &Plan<'_>, job: &Job, mode: Mode, stopping: &AtomicBool) -> Result<Outcome, HttpError> {
        match self.send(plan, job, mode, u32::MAX, stopping).await {
            // What it gave before, it does not give any more.
            Ok(reply) if mode.wants_logprobs() && reply.top.is_none() && reply.declined.is_none() => {
                Err(self.no_logprobs())
            }
            Ok(reply) => {
                self.keep(job, mode, &reply)?;
                let quote = reply.quote();
                Ok(Outcome::open(reply.verdict(mode)).quoting(quote))
            }
            Err(failure) => self.failed(failure),
        }
    }

    /// Sends one request.
    pub(super) async fn send(
        &self,
        plan: &Plan<'_>,
        job: &Job,
        mode: Mode,
        falls: u32,
        stopping: &AtomicBool,
    ) -> Result<Reply, Failure> {
        let (options, prompt) = (self.options(), plan.prompt(job));
        let estimate = self.estimate(&prompt, mode);
        let request = scoring(&options.model, prompt, mode, options.thought_tokens);
        // A thought takes as long as it takes.
        let timeout = if mode == Mode::Reasoned { options.timeout * 5 } else { options.timeout };
        let mut reply = self.client.ask(&request, estimate, timeout, falls, stopping).await?;
        self.state().answered = true;
        if mode != Mode::Digits {
            reply.positions.clear();
        }
        if !mode.wants_logprobs() {
            reply.top = None;
        }
        Ok(reply)
    }

    /// What a failure means for the verdict.
    pub(super) fn failed(&self, failure: Failure) -> Result<Outcome, HttpError> {
        match failure {
            Failure::Prompt { status, message } => {
                Ok(Outcome::open(Verdict::Abstained(Abstention::Refused { status, message })))
            }
            Failure::Unknown { status, message } => Ok(Outcome::Unknown { status, message }),
            Failure::Room => {
                let text = "a thought that took all tokens".to_owned();
                Ok(Outcome::open(Verdict::Abstained(Abstention::NotANumber { text })))
            }
            Failure::Parameter { name, .. } if name.ends_with("logprobs") => Err(self.no_logprobs()),
            other => Err(other.into_error(self.client.server())),
        }
    }

    /// Remembers how to ask, by a reply that shows it.
    pub(super) fn found(&self, mode: Mode, reply: Reply) -> Outcome {
        if self.state().mode.replace(mode) != Some(mode) {
            tracing::info!(judge = self.name(), mode = %mode.score_mode(), "scores are got");
        }
        let (verdict, quote) = (reply.verdict(mode), reply.quote());
        Outcome::Reached { verdict, reply: Some((mode, Box::new(reply))), quote }
    }

    /// By what was written: the mode is found if it is a number.
    pub(super) fn written(&self, mode: Mode, reply: Reply) -> Outcome {
        let verdict = reply.verdict(mode);
        match verdict.value() {
            Some(_) => self.found(mode, reply),
            None => Outcome::open(verdict).quoting(reply.quote()),
        }
    }

    /// Whether other forms have been tried; from now on, they have.
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

    /// The server's and the model's.
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

    /// A judge whose mode is not known yet keeps to this one; [`ScoreMode::Distribution`] has to show itself again, since the
    /// first digits of numbers pass for it.
    fn keep_to(&self, mode: ScoreMode) -> Result<()> {
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
