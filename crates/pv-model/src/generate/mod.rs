//! Text from prompts: batched, hooked, streamed, cancellable.

mod row;
mod schedule;

use std::ops::ControlFlow;

use pv_hooks::Hook;
use serde::{Deserialize, Serialize};

use crate::{CausalLm, Error, Result, Sampling};

/// What to generate for each prompt, and how.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct GenerateOptions {
    /// The most tokens that an answer may have. It never has more than the model has positions, so that a run ends.
    pub max_new_tokens: usize,
    /// How tokens are chosen.
    pub sampling: Sampling,
    /// Tokens that end an answer; `None` takes the model's own.
    pub stop_tokens: Option<Vec<u32>>,
    /// Strings that end an answer. The answer's text ends before the string.
    pub stop_strings: Vec<String>,
    /// The most rows that are decoded together.
    pub batch_size: usize,
    /// The most prompt tokens, padding included, that are read in one pass; a longer prompt is read alone.
    pub prefill_tokens: usize,
    /// Feeds the last token of every answer back too, so that hooks see whole answers. It changes no answer, and costs a
    /// step of decoding for those that end by [`FinishReason::Length`] or a stop string.
    pub feed_last_token: bool,
    /// Keeps what a hook changes out of the KV cache: every token is chosen from a pass with the hook, and the cache keeps
    /// the keys and values of a pass without it. A change then acts on the choice of the next token and through the
    /// tokens chosen, but no longer through the keys and values of all tokens changed before, which add up over a long
    /// answer.
    ///
    /// The hook sees each token once, in the pass from which the token after it is chosen. A prompt is read in one pass
    /// with the hook, so that changes at prompt tokens before the last act on an answer's first token, and on no other.
    ///
    /// The cost: blocks above the lowest layer that the hook wants are computed twice for every token, of prompts and
    /// answers; a hook at all layers doubles the time. Without a hook there is neither a difference nor a cost.
    pub clean_cache: bool,
}

impl Default for GenerateOptions {
    fn default() -> Self {
        Self {
            max_new_tokens: 256,
            sampling: Sampling::GREEDY,
            stop_tokens: None,
            stop_strings: Vec::new(),
            batch_size: 16,
            prefill_tokens: 4096,
            feed_last_token: false,
            clean_cache: false,
        }
    }
}

/// A prompt, and one seed for each answer that is wanted of it.
///
/// Answers are numbered over all requests in order; that number is the sequence that hooks see.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// The rendered prompt's tokens.
    pub prompt: Vec<u32>,
    /// The seed of each answer. Answers of one request share the reading of its prompt.
    pub seeds: Vec<u64>,
}

impl Request {
    /// One answer.
    pub fn new(prompt: Vec<u32>, seed: u64) -> Self {
        Self { prompt, seeds: vec![seed] }
    }

    /// The most answers of one call of [`CausalLm::generate`].
    pub const MAX_ANSWERS: usize = 1 << 22;

    /// `n` answers with the seeds `seed`, `seed + 1`, … More than [`MAX_ANSWERS`](Self::MAX_ANSWERS) are not generated at once:
    /// for a larger `n`, the request has one seed more than that, and is refused.
    pub fn rollouts(prompt: Vec<u32>, n: usize, seed: u64) -> Self {
        let n = n.min(Self::MAX_ANSWERS + 1) as u64;
        Self { prompt, seeds: (0..n).map(|i| seed.wrapping_add(i)).collect() }
    }

    /// How many answers there are to so many prompts, or why they cannot be generated: a plan of more holds them in memory, and
    /// would take years.
    ///
    /// # Errors
    /// [`Error::BadOption`] for more than [`MAX_ANSWERS`](Self::MAX_ANSWERS).
    pub fn count(prompts: usize, answers_each: usize) -> Result<usize> {
        let count = prompts.checked_mul(answers_each).filter(|count| *count <= Self::MAX_ANSWERS);
        count.ok_or_else(|| Error::BadOption {
            reason: format!(
                "{prompts} prompts with {answers_each} answers each are more than the {} that one run can have",
                Self::MAX_ANSWERS
            ),
        })
    }
}

/// Why an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FinishReason {
    /// The model chose a stop token, which is not part of the answer.
    StopToken,
    /// A stop string appeared.
    StopString,
    /// The answer has as many tokens as it may, or as the model has positions.
    Length,
    /// The callback broke the run off.
    Cancelled,
}

/// One answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Generation {
    /// The answer's tokens, without the stop token.
    pub tokens: Vec<u32>,
    /// The answer's text, without special tokens and without the stop string.
    pub text: String,
    /// Why it ended.
    pub finish: FinishReason,
}

/// What a run reports while it goes on.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum Event<'a> {
    /// Prompts were read.
    Prefill {
        /// How many rows.
        prompts: usize,
        /// How many tokens, padding included.
        tokens: usize,
    },
    /// A sequence has grown by a token.
    Token {
        /// The sequence.
        sequence: usize,
        /// The token.
        token: u32,
        /// The text that became certain with it; empty while a character or a possible stop string is incomplete.
        text: &'a str,
    },
    /// A sequence has ended.
    Finished {
        /// The sequence.
        sequence: usize,
        /// The answer.
        generation: &'a Generation,
    },
}

impl CausalLm {
    /// Answers every request, in the order of their numbers whatever the order in which they end.
    ///
    /// Finished rows leave the batch and waiting ones join; a sequence's tokens do not depend on its neighbours. The
    /// callback sees each [`Event`] and may break the run off: answers that had not ended are then
    /// [`FinishReason::Cancelled`], with what they had.
    ///
    /// A hook sees each prompt in a [`Phase::Prefill`](pv_hooks::Phase::Prefill) pass and each answer token that is fed
    /// back in a [`Phase::Decode`](pv_hooks::Phase::Decode) pass. The last token of an answer that ended by
    /// [`FinishReason::Length`] or a stop string is fed back only where [`GenerateOptions::feed_last_token`] asks for it.
    /// When [`Event::Finished`] is reported, the hook has seen all that it will see of that answer.
    ///
    /// # Errors
    /// Impossible options, empty prompts or prompts with ids beyond the vocabulary, a hook that does not fit or never
    /// fired, logits that are not numbers.
    pub fn generate(
        &self,
        requests: &[Request],
        options: &GenerateOptions,
        hook: &mut (impl Hook + ?Sized),
        on_event: impl FnMut(Event<'_>) -> ControlFlow<()>,
    ) -> Result<Vec<Generation>> {
        self.check_requests(requests, options)?;
        pv_hooks::check(hook, &self.shape(), None)?;
        if requests.iter().all(|request| request.seeds.is_empty()) {
            return Ok(Vec::new());
        }
        let (answers, cancelled) = schedule::Run::new(self, requests, options, on_event).answer_all(hook)?;
        match hook.finish() {
            // What was broken off may have ended before the hook's turn came.
            Err(_) if cancelled => Ok(answers),
            Err(error) => Err(error.into()),
            Ok(()) => Ok(answers),
        }
    }

    /// As [`generate`](Self::generate), for what takes whole answers and may fail: `on_answer` is handed each answer with its
    /// number as it ends; its error breaks the run off and is returned.
    ///
    /// # Errors
    /// Those of [`generate`](Self::generate) and of `on_answer`.
    pub fn generate_each<E: From<Error>>(
        &self,
        requests: &[Request],
        options: &GenerateOptions,
        hook: &mut (impl Hook + ?Sized),
        mut on_answer: impl FnMut(usize, &Generation) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut failure = None;
        self.generate(requests, options, hook, |event| {
            if let Event::Finished { sequence, generation } = event {
                let outcome = on_answer(sequence, generation);
                failure = failure.take().or(outcome.err());
            }
            if failure.is_none() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        })?;
        failure.map_or(Ok(()), Err)
    }

    fn check_requests(&self, requests: &[Request], options: &GenerateOptions) -> Result<()> {
        if let Some(reason) = options.sampling.objection() {
            return Err(Error::BadOption { reason });
        }
        for (name, value) in [("max_new_tokens", options.max_new_tokens), ("batch_size", options.batch_size)] {
            if value == 0 {
                return Err(Error::BadOption { reason: format!("{name} is 0") });
            }
        }
        let answers = requests.iter().fold(0, |sum: usize, request| sum.saturating_add(request.seeds.len()));
        if answers > Request::MAX_ANSWERS {
            let most = Request::MAX_ANSWERS;
            let reason = format!("the requests ask for more than {most} answers, the most of one call");
            return Err(Error::BadOption { reason });
        }
        if options.stop_strings.iter().any(String::is_empty) {
            return Err(Error::BadOption { reason: "a stop string is empty".to_owned() });
        }
        if !options.stop_strings.is_empty() {
            self.tokenizer()?;
        }
        for (index, request) in requests.iter().enumerate() {
            if request.prompt.is_empty() {
                return Err(Error::EmptyPrompt { index });
            }
            self.check_ids(&request.prompt)?;
            let (needed, limit) =
                (request.prompt.len().saturating_add(options.max_new_tokens), self.config().max_positions);
            if needed > limit {
                tracing::warn!(
                    index,
                    needed,
                    limit,
                    "prompt and answer may exceed the positions that the model was made for"
                );
            }
        }
        Ok(())
    }
}
