//! Text generation: batched, with hooks, streamed, cancellable.

mod row;
mod schedule;
mod shared;

use std::ops::ControlFlow;

use pv_hooks::Hook;
use serde::{Deserialize, Serialize};

use crate::{CausalLm, Error, Message, Result, Sampling};

pub use crate::ops::CacheType;

/// The settings of a generation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct GenerateOptions {
    /// The greatest number of tokens of an answer. Answers are also limited by the model's number of positions.
    pub max_new_tokens: usize,
    /// How tokens are chosen.
    pub sampling: Sampling,
    /// Tokens that end an answer; `None` uses the model's own.
    pub stop_tokens: Option<Vec<u32>>,
    /// Strings that end an answer. The answer's text ends before the string.
    pub stop_strings: Vec<String>,
    /// The greatest number of rows that are decoded together.
    pub batch_size: usize,
    /// The greatest number of prompt tokens, including padding, in one pass; a longer prompt has a pass of its own. With 0,
    /// last bits depend on no other prompt on any device: every prompt has a pass of its own, except with the CPU's kernels in
    /// f32 and a hook that agrees to share prefixes, where passes change no bit.
    pub prefill_tokens: usize,
    /// Whether the last token of every answer is fed back, so that hooks see complete answers. Answers do not change;
    /// answers that end by [`FinishReason::Length`] or a stop string need one more decoding step.
    pub feed_last_token: bool,
    /// Whether changes by a hook are kept out of the KV cache. Every token is chosen from a pass with the hook, and the
    /// cache contains the keys and values of a pass without it. A change then affects the choice of the next token, and
    /// later ones through the chosen tokens, but not through the keys and values of all changed tokens, whose effects
    /// accumulate over a long answer.
    ///
    /// The hook sees each token once, in the pass that yields the token after it. A prompt is computed in one pass with
    /// the hook, so that changes at prompt tokens before the last affect only an answer's first token.
    ///
    /// The cost: blocks above the hook's lowest layer are computed twice for every token of prompts and answers; a hook
    /// at all layers doubles the time. Without a hook there is neither a difference nor a cost.
    pub clean_cache: bool,
    /// The type in which keys and values are cached. In settings that are written, the default is left out.
    ///
    /// A key or a value beyond the type's range ends the run with [`Error::CacheOverflow`] at the end of its pass.
    #[serde(skip_serializing_if = "CacheType::is_compute")]
    pub cache: CacheType,
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
            cache: CacheType::Compute,
        }
    }
}

/// A prompt, and one seed for each of its answers.
///
/// Answers are numbered over all requests in order; that number is the sequence that hooks see.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// The rendered prompt's tokens.
    pub prompt: Vec<u32>,
    /// The seed of each answer. The answers of one request share the prefill of its prompt.
    pub seeds: Vec<u64>,
}

impl Request {
    /// A request for one answer.
    pub fn new(prompt: Vec<u32>, seed: u64) -> Self {
        Self { prompt, seeds: vec![seed] }
    }

    /// The greatest number of answers in one call of [`CausalLm::generate`].
    pub const MAX_ANSWERS: usize = 1 << 22;

    /// A request for `n` answers with the seeds `seed`, `seed + 1`, … More than [`MAX_ANSWERS`](Self::MAX_ANSWERS)
    /// cannot be generated at once: for a larger `n`, the request has one seed more than that, and is rejected later.
    pub fn rollouts(prompt: Vec<u32>, n: usize, seed: u64) -> Self {
        let n = n.min(Self::MAX_ANSWERS + 1) as u64;
        Self { prompt, seeds: (0..n).map(|i| seed.wrapping_add(i)).collect() }
    }

    /// The number of answers to this many prompts, or an error if there are too many: the answers are held in memory,
    /// and the run would take years.
    ///
    /// # Errors
    /// [`Error::TooManyAnswersEach`] for more than [`MAX_ANSWERS`](Self::MAX_ANSWERS).
    pub fn count(prompts: usize, answers_each: usize) -> Result<usize> {
        let count = prompts.checked_mul(answers_each).filter(|count| *count <= Self::MAX_ANSWERS);
        count.ok_or(Error::TooManyAnswersEach { prompts, answers_each, limit: Self::MAX_ANSWERS })
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
    /// The answer reached its greatest number of tokens, or the model's number of positions.
    Length,
    /// The callback cancelled the run.
    Cancelled,
}

/// One answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Generation {
    /// The answer's tokens, without the stop token.
    pub tokens: Vec<u32>,
    /// The answer's text, without special tokens and without the stop string.
    pub text: String,
    /// The reason why the answer ended.
    pub finish: FinishReason,
}

/// A progress event of a run.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum Event<'a> {
    /// Prompts were computed.
    Prefill {
        /// The number of rows.
        prompts: usize,
        /// The number of tokens that were computed for them, including padding; a prefix that several prompts share counts
        /// where it is computed.
        tokens: usize,
    },
    /// A token was added to a sequence.
    Token {
        /// The sequence.
        sequence: usize,
        /// The token.
        token: u32,
        /// The text that became final with it; empty while a character or a possible stop string is incomplete.
        text: &'a str,
    },
    /// A sequence ended.
    Finished {
        /// The sequence.
        sequence: usize,
        /// The answer.
        generation: &'a Generation,
    },
}

impl CausalLm {
    /// Answers one conversation with the seed 0, like [`generate`](Self::generate) for one request. The prompt is that
    /// of [`prompt`](Self::prompt).
    ///
    /// # Errors
    /// Those of [`prompt`](Self::prompt) and [`generate`](Self::generate).
    pub fn answer(
        &self,
        messages: &[Message],
        options: &GenerateOptions,
        hook: &mut (impl Hook + ?Sized),
    ) -> Result<Generation> {
        let request = Request::new(self.prompt(messages)?, 0);
        let answers = self.generate(&[request], options, hook, |_| ControlFlow::Continue(()))?;
        answers.into_iter().next().ok_or(Error::EmptyPrompt { index: 0 })
    }

    /// Answers all requests. The answers are returned in the order of their numbers.
    ///
    /// Finished rows leave the batch and waiting rows join it; a sequence's tokens do not depend on the other rows. The
    /// callback receives each [`Event`] and may cancel the run: unfinished answers are then
    /// [`FinishReason::Cancelled`], with the tokens so far.
    ///
    /// # Shared prefixes
    /// A prefix that several prompts begin with, such as a system prompt, is computed once if that saves at least 128 tokens
    /// and the hook agrees ([`Hook::shares_prefix`]). Of the shipped hooks, only those disagree that record single prompt
    /// tokens before the last, and mixtures that treat prompts differently. The order of requests does not matter. Answers do
    /// not change: with the CPU's kernels to the bit, elsewhere like those of other batches; there, nothing is shared with
    /// [`prefill_tokens`](GenerateOptions::prefill_tokens) 0. Prefixes for later prompts are kept up to 4096 tokens, or `prefill_tokens` if that is more.
    ///
    /// # Hooks
    /// A hook sees each prompt in a [`Phase::Prefill`](pv_hooks::Phase::Prefill) pass and each answer token that is fed
    /// back in a [`Phase::Decode`](pv_hooks::Phase::Decode) pass. The last token of an answer that ended by
    /// [`FinishReason::Length`] or a stop string is fed back only with [`GenerateOptions::feed_last_token`]. When
    /// [`Event::Finished`] is reported, the hook has seen all passes of that answer.
    ///
    /// # Errors
    /// Invalid options, prompts without tokens or with ids outside the vocabulary, a hook that does not fit or never
    /// fired, logits that are not finite.
    pub fn generate(
        &self,
        requests: &[Request],
        options: &GenerateOptions,
        hook: &mut (impl Hook + ?Sized),
        on_event: impl FnMut(Event<'_>) -> ControlFlow<()>,
    ) -> Result<Vec<Generation>> {
        self.check_requests(requests, options)?;
        pv_hooks::hook::check(hook, &self.shape(), None)?;
        if requests.iter().all(|request| request.seeds.is_empty()) {
            return Ok(Vec::new());
        }
        let (answers, cancelled) = schedule::Run::new(self, requests, options, hook, on_event).answer_all(hook)?;
        match hook.finish() {
            // A cancelled run may have ended before the hook could act.
            Err(_) if cancelled => Ok(answers),
            Err(error) => Err(error.into()),
            Ok(()) => Ok(answers),
        }
    }

    /// Like [`generate`](Self::generate), for callers that process complete answers and may fail. `on_answer` receives
    /// each answer and its number when it ends; its first error cancels the run and is returned.
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
        options.sampling.validate()?;
        for (name, value) in [("max_new_tokens", options.max_new_tokens), ("batch_size", options.batch_size)] {
            if value == 0 {
                return Err(Error::BadOption { name, value: value.to_string(), expected: "at least 1" });
            }
        }
        let answers: usize = requests.iter().map(|request| request.seeds.len()).sum();
        if answers > Request::MAX_ANSWERS {
            return Err(Error::TooManyAnswers { answers, limit: Request::MAX_ANSWERS });
        }
        if options.stop_strings.iter().any(String::is_empty) {
            let (name, value) = ("a stop string", "empty".to_owned());
            return Err(Error::BadOption { name, value, expected: "at least one character" });
        }
        if !options.stop_strings.is_empty() {
            self.tokenizer()?;
        }
        for (index, request) in requests.iter().enumerate() {
            if request.prompt.is_empty() {
                return Err(Error::EmptyPrompt { index });
            }
            self.check_ids(&request.prompt)?;
            let (tokens, needed) = (request.prompt.len(), request.prompt.len().saturating_add(options.max_new_tokens));
            if let Some(limit) = self.config().rotary_limit().filter(|limit| (tokens..needed).contains(limit)) {
                return Err(Error::RotaryLimit { index, tokens, needed, limit });
            }
            let (needed, limit) =
                (request.prompt.len().saturating_add(options.max_new_tokens), self.config().max_positions);
            if needed > limit {
                tracing::warn!(index, needed, limit, "prompt and answer may exceed the model's number of positions");
            }
        }
        Ok(())
    }
}
