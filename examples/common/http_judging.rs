//! A judge behind a server: what it may cost, and how it is asked.

use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use clap::ValueEnum;
use pv_judge::{ApiKey, Budget, Forecast, HttpJudge, HttpOptions, Logprobs, Prices, RateLimits, Thinking};
use serde_json::Value;

use crate::Result;

/// How a judge behind a server is asked.
#[derive(clap::Args, Clone, Debug, Default)]
#[command(next_help_heading = "A judge behind a server")]
pub struct HttpArgs {
    /// Make the requests without asking first. Without it, a server elsewhere is asked only after consent to the forecast.
    #[arg(long)]
    pub yes: bool,
    /// The most requests, each attempt counted.
    #[arg(long)]
    pub judge_requests: Option<u64>,
    /// The most tokens, of prompts and replies together.
    #[arg(long)]
    pub judge_tokens: Option<u64>,
    /// What a million tokens of prompts and a million of replies cost, for the forecast: 0.4,1.6
    #[arg(long, value_parser = prices)]
    pub judge_prices: Option<Prices>,
    /// How many requests may be under way at once.
    #[arg(long)]
    pub judge_concurrency: Option<usize>,
    /// The most requests in a minute.
    #[arg(long)]
    pub judge_rpm: Option<u32>,
    /// The most tokens in a minute, estimated.
    #[arg(long)]
    pub judge_tpm: Option<u32>,
    /// Whether scores are made of probabilities.
    #[arg(long, value_enum)]
    pub judge_logprobs: Option<LogprobsKind>,
    /// Whether the judging model thinks before it writes.
    #[arg(long, value_enum)]
    pub judge_thinking: Option<ThinkingKind>,
    /// The most tokens of a reply that begins with a thought.
    #[arg(long)]
    pub judge_thought_tokens: Option<u32>,
    /// A further field of every request: KEY=JSON, such as reasoning_effort='"low"'; null leaves one of ours out.
    #[arg(long, value_name = "KEY=JSON", value_parser = field)]
    pub judge_body: Vec<(String, Value)>,
    /// A further header of every request: NAME=VALUE, or NAME=$VARIABLE for one that no other user of this machine should see.
    #[arg(long, value_name = "NAME=VALUE", value_parser = header)]
    pub judge_header: Vec<(String, ApiKey)>,
    /// How many seconds a server that restarts, or is not up yet, is waited for.
    #[arg(long)]
    pub judge_wait: Option<u64>,
}

/// Whether scores are made of probabilities.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogprobsKind {
    /// Where they can be had.
    Prefer,
    /// Or not at all.
    Require,
    /// Never: of written numbers.
    Ignore,
}

/// Whether a model thinks before it writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ThinkingKind {
    /// As the model does; it is asked not to, where it does.
    Auto,
    /// It is asked not to from the beginning.
    Off,
    /// It may, and the number after the thought is taken.
    On,
}

impl HttpArgs {
    /// The options of a model on the environment's server, whose answers are kept in a file.
    ///
    /// # Errors
    /// A key that cannot stand in a request.
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

    /// The judge. A server elsewhere is asked nothing before there is consent, once for the whole program.
    ///
    /// # Errors
    /// As [`options`](Self::options), and options that cannot be used.
    pub fn judge(&self, model: &str, cache: PathBuf) -> Result<HttpJudge> {
        let judge = HttpJudge::new(self.options(model, cache)?)?;
        if self.yes || judge.is_local() {
            return Ok(judge);
        }
        let (prices, agreed) = (self.judge_prices, AtomicBool::new(false));
        Ok(judge.with_consent(move |forecast| {
            if !agreed.load(Ordering::Relaxed) {
                agreed.store(asked(forecast, prices.as_ref()), Ordering::Relaxed);
            }
            agreed.load(Ordering::Relaxed)
        }))
    }
}

/// Shows a forecast, and asks for consent to it.
#[allow(clippy::print_stderr, reason = "a question of a program")]
fn asked(forecast: &Forecast, prices: Option<&Prices>) -> bool {
    let Forecast { requests, prompt_tokens, completion_tokens, .. } = forecast;
    let cost = prices.map(|prices| format!(", about {:.2}", forecast.cost(prices))).unwrap_or_default();
    eprintln!(
        "The judge is about to be asked: {requests} requests, about {prompt_tokens} tokens of prompts and at most"
    );
    eprintln!(
        "{completion_tokens} of replies{cost}. More may follow as the work goes on; --judge-requests and --judge-tokens set"
    );
    eprintln!("limits.");
    if !std::io::stdin().is_terminal() {
        eprintln!("There is nobody to ask: --yes agrees.");
        return false;
    }
    eprint!("Go on? [y/N] ");
    let _ = std::io::stderr().flush();
    let mut line = String::new();
    let read = std::io::stdin().read_line(&mut line);
    read.is_ok() && matches!(line.trim(), "y" | "Y" | "yes")
}

fn prices(text: &str) -> std::result::Result<Prices, String> {
    let parts: Option<Vec<f64>> = text.split(',').map(|part| part.trim().parse().ok()).collect();
    match parts.as_deref() {
        Some(&[prompt, completion]) if prompt >= 0.0 && completion >= 0.0 => Ok(Prices { prompt, completion }),
        _ => Err("two prices, such as 0.4,1.6".into()),
    }
}

fn field(text: &str) -> std::result::Result<(String, Value), String> {
    let (key, value) = text.split_once('=').ok_or("KEY=JSON is missing its =")?;
    let value = serde_json::from_str(value).map_err(|error| format!("{value:?} is no JSON ({error})"))?;
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
