//! A judge behind a server: its options, its limits, and consent to its cost.

use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use clap::ValueEnum;
use pv_judge::artifacts::{TraitRequest, WrittenTrait, write_trait};
use pv_judge::http::{ApiKey, Budget, Forecast, Logprobs, Prices, RateLimits, Thinking};
use pv_judge::{HttpJudge, HttpOptions};
use serde_json::Value;

use crate::Result;
use crate::progress::suspend;

/// Options of a judge behind a server.
#[derive(clap::Args, Clone, Debug, Default)]
#[command(next_help_heading = "A judge behind a server")]
pub struct HttpArgs {
    /// Send requests without asking for consent. By default, a remote server receives requests only after consent to
    /// the forecast.
    #[arg(long)]
    pub yes: bool,
    /// The maximum number of requests, each attempt counted.
    #[arg(long)]
    pub judge_requests: Option<u64>,
    /// The maximum number of tokens, prompts and replies together.
    #[arg(long)]
    pub judge_tokens: Option<u64>,
    /// The prices of a million prompt tokens and of a million reply tokens, for the forecast: 0.4,1.6
    #[arg(long, value_parser = prices)]
    pub judge_prices: Option<Prices>,
    /// The maximum number of concurrent requests.
    #[arg(long)]
    pub judge_concurrency: Option<usize>,
    /// The maximum number of requests per minute.
    #[arg(long)]
    pub judge_rpm: Option<u32>,
    /// The maximum number of tokens per minute (estimated).
    #[arg(long)]
    pub judge_tpm: Option<u32>,
    /// Whether scores are computed from token probabilities.
    #[arg(long, value_enum)]
    pub judge_logprobs: Option<LogprobsKind>,
    /// Whether the judging model thinks before it replies.
    #[arg(long, value_enum)]
    pub judge_thinking: Option<ThinkingKind>,
    /// The maximum number of tokens in a reply that begins with a thought.
    #[arg(long)]
    pub judge_thought_tokens: Option<u32>,
    /// An additional field of every request: KEY=JSON, such as reasoning_effort='"low"'; null removes a default field.
    #[arg(long, value_name = "KEY=JSON", value_parser = field)]
    pub judge_body: Vec<(String, Value)>,
    /// An additional header of every request: NAME=VALUE, or NAME=$VARIABLE for a value that other users of this
    /// machine must not see.
    #[arg(long, value_name = "NAME=VALUE", value_parser = header)]
    pub judge_header: Vec<(String, ApiKey)>,
    /// How many seconds to wait for a server that restarts or is not up yet.
    #[arg(long)]
    pub judge_wait: Option<u64>,
}

/// Whether scores are computed from token probabilities.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogprobsKind {
    /// Use probabilities if the server returns them.
    Prefer,
    /// Fail if the server returns no probabilities.
    Require,
    /// Never use probabilities, only the written number.
    Ignore,
}

/// Whether a model thinks before it replies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ThinkingKind {
    /// Start with the model's default, and ask it not to think if it does.
    Auto,
    /// Ask it not to think from the start.
    Off,
    /// Allow thinking; the score is the number after the thought.
    On,
}

impl HttpArgs {
    /// The options of a model on the server that the environment names. Replies are cached in a file.
    ///
    /// # Errors
    /// A key that is invalid in a request.
    pub fn options(&self, model: &str, cache: PathBuf) -> Result<HttpOptions> {
        let mut options = HttpOptions { cache: Some(cache), ..HttpOptions::from_env(model)? };
        options.budget = Budget { requests: self.judge_requests, tokens: self.judge_tokens };
        options.rate = RateLimits { requests_per_minute: self.judge_rpm, tokens_per_minute: self.judge_tpm };
        options.concurrency = self.judge_concurrency.unwrap_or(options.concurrency);
        options.thought_tokens = self.judge_thought_tokens.unwrap_or(options.thought_tokens);
        options.body.extend(self.judge_body.iter().cloned());
        options.headers.extend(self.judge_header.iter().cloned());
        options.logprobs = match self.judge_logprobs {
            None | Some(LogprobsKind::Prefer) => Logprobs::Prefer,
            Some(LogprobsKind::Require) => Logprobs::Require,
            Some(LogprobsKind::Ignore) => Logprobs::Ignore,
        };
        options.thinking = match self.judge_thinking {
            None | Some(ThinkingKind::Auto) => Thinking::Auto,
            Some(ThinkingKind::Off) => Thinking::Off,
            Some(ThinkingKind::On) => Thinking::On,
        };
        if let Some(seconds) = self.judge_wait {
            let wait = Duration::from_secs(seconds);
            (options.patience, options.patience_at_start) = (wait, wait);
        }
        Ok(options)
    }

    /// Has a model write a trait, after consent to its maximum cost.
    ///
    /// # Errors
    /// Those of [`options`](Self::options) and of [`write_trait`]; missing consent.
    pub(crate) fn written_trait(&self, model: &str, wanted: &TraitRequest) -> Result<WrittenTrait> {
        let options = HttpOptions { cache: None, ..self.options(model, PathBuf::new())? };
        let requests = 1 + wanted.repairs as usize;
        let completion_tokens = u64::from(wanted.max_tokens) * requests as u64;
        // A repair request repeats the trait written so far.
        let forecast =
            Forecast { requests, prompt_tokens: 1000 + completion_tokens, completion_tokens, ..Forecast::default() };
        let local = HttpJudge::new(options.clone())?.is_local();
        if !(self.yes || local || asked("author", &forecast, self.judge_prices.as_ref())) {
            return Err("no request was sent, because there was no consent".into());
        }
        Ok(write_trait(options, wanted)?)
    }

    /// The judge. A remote server receives no request before there is consent, which is asked for once per program.
    ///
    /// # Errors
    /// Those of [`options`](Self::options), and invalid options.
    pub fn judge(&self, model: &str, cache: PathBuf) -> Result<HttpJudge> {
        let judge = HttpJudge::new(self.options(model, cache)?)?;
        if self.yes || judge.is_local() {
            return Ok(judge);
        }
        let (prices, agreed) = (self.judge_prices, AtomicBool::new(false));
        Ok(judge.with_consent(move |forecast| {
            if !agreed.load(Ordering::Relaxed) {
                agreed.store(asked("judge", forecast, prices.as_ref()), Ordering::Relaxed);
            }
            agreed.load(Ordering::Relaxed)
        }))
    }
}

/// Shows a forecast and asks for consent.
fn asked(who: &str, forecast: &Forecast, prices: Option<&Prices>) -> bool {
    crate::progress::waiting(|| suspend(|| asked_now(who, forecast, prices)))
}

#[allow(clippy::print_stderr, reason = "a question of a program")]
fn asked_now(who: &str, forecast: &Forecast, prices: Option<&Prices>) -> bool {
    let Forecast { requests, prompt_tokens, completion_tokens, .. } = forecast;
    let cost = prices.map(|prices| format!(", about {:.2}", forecast.cost(prices))).unwrap_or_default();
    eprintln!(
        "The {who} will receive {requests} requests: about {prompt_tokens} prompt tokens and at most \
         {completion_tokens} reply tokens{cost}."
    );
    eprintln!("More may follow later in the run; set limits with --judge-requests and --judge-tokens.");
    if !std::io::stdin().is_terminal() {
        eprintln!("Standard input is not a terminal, so consent cannot be asked for; --yes gives it.");
        return false;
    }
    eprint!("Continue? [y/N] ");
    let _ = std::io::stderr().flush();
    let mut line = String::new();
    let read = std::io::stdin().read_line(&mut line);
    read.is_ok() && matches!(line.trim(), "y" | "Y" | "yes")
}

fn prices(text: &str) -> std::result::Result<Prices, String> {
    let parts: Option<Vec<f64>> = text.split(',').map(|part| part.trim().parse().ok()).collect();
    match parts.as_deref() {
        Some(&[prompt, completion]) if prompt >= 0.0 && completion >= 0.0 => Ok(Prices { prompt, completion }),
        _ => Err("expected two prices, such as 0.4,1.6".into()),
    }
}

fn field(text: &str) -> std::result::Result<(String, Value), String> {
    let (key, value) = text.split_once('=').ok_or("KEY=JSON is missing its =")?;
    let value = serde_json::from_str(value).map_err(|error| format!("{value:?} is not JSON ({error})"))?;
    Ok((key.trim().to_owned(), value))
}

fn header(text: &str) -> std::result::Result<(String, ApiKey), String> {
    // The value is not repeated: it may be secret.
    let (name, value) = text.split_once('=').ok_or("NAME=VALUE is missing its =")?;
    let value = match value.strip_prefix('$') {
        Some(variable) => std::env::var(variable).map_err(|_| format!("the variable {variable} is not set"))?,
        None => value.to_owned(),
    };
    Ok((name.trim().to_owned(), ApiKey::of_header(&value).map_err(|error| error.to_string())?))
}
