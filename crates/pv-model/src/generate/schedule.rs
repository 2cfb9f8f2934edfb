//! Assigns rows to the batch: finished rows leave, waiting ones join.

use std::collections::VecDeque;
use std::ops::ControlFlow;

use burn::tensor::{DType, Tensor};
use pv_hooks::tokens::RowSpans;
use pv_hooks::{Hook, Phase, TokenSpans};
use pv_kernels::pool::in_pool;
use rayon::prelude::*;

use super::row::{Row, RowLogits, Step};
use super::shared::SharedPrefixes;
use super::{Event, FinishReason, GenerateOptions, Generation, Request};
use crate::decoder::{KvCache, Logits, Pass, Way};
use crate::device::is_cpu;
use crate::prefixes::{Continued, continued};
use crate::sampling::{MAX_BEST, best_tokens};
use crate::{CausalLm, Result, Sampling};

/// An answer that has not started.
#[derive(Clone, Copy)]
struct Waiting {
    sequence: usize,
    request: usize,
    seed: u64,
}

/// A prompt whose prefill is done while some of its answers still wait for a slot.
struct ReadPrompt {
    request: usize,
    cache: KvCache,
    logits: LastLogits,
}

/// The logits of each row's last position, on the host; of a device other than the CPU, only what is needed of them.
enum LastLogits {
    /// `[rows, vocab]`.
    All { values: Vec<f32>, vocab: usize },
    /// The most likely token of each row; `None` if its logits cannot be used.
    Best(Vec<Option<u32>>),
}

impl LastLogits {
    fn of(logits: Option<Tensor<3>>, sampling: &Sampling) -> Result<Self> {
        let Some(logits) = logits else { return Ok(Self::Best(Vec::new())) };
        let [_, _, vocab] = logits.dims();
        if sampling.takes_best() && vocab <= MAX_BEST && !is_cpu(&logits.device()) {
            return Ok(Self::Best(best_tokens(logits)?));
        }
        Ok(Self::All { values: crate::tensors::to_f32(logits)?, vocab })
    }

    fn row(&self, row: usize) -> RowLogits<'_> {
        match self {
            Self::All { values, vocab } => RowLogits::All(&values[row * vocab..(row + 1) * vocab]),
            Self::Best(tokens) => RowLogits::Best(tokens[row]),
        }
    }

    /// Those of one row.
    fn only(&self, row: usize) -> Self {
        match self.row(row) {
            RowLogits::All(values) => Self::All { values: values.to_vec(), vocab: values.len() },
            RowLogits::Best(token) => Self::Best(vec![token]),
        }
    }
}

pub(super) struct Run<'a, F> {
    model: &'a CausalLm,
    requests: &'a [Request],
    options: &'a GenerateOptions,
    stop_tokens: &'a [u32],
    on_event: F,
    waiting: VecDeque<Waiting>,
    shared: SharedPrefixes,
    read: Option<ReadPrompt>,
    /// Free slots are `None`.
    slots: Vec<Option<Row<'a>>>,
    cache: Option<KvCache>,
    done: Vec<Option<Generation>>,
    cancelled: bool,
}

impl<'a, F: FnMut(Event<'_>) -> ControlFlow<()>> Run<'a, F> {
    pub(super) fn new(
        model: &'a CausalLm,
        requests: &'a [Request],
        options: &'a GenerateOptions,
        hook: &(impl Hook + ?Sized),
        on_event: F,
    ) -> Self {
        let seeds = requests.iter().enumerate().flat_map(|(i, request)| request.seeds.iter().map(move |&s| (i, s)));
        let waiting: VecDeque<_> =
            seeds.enumerate().map(|(sequence, (request, seed))| Waiting { sequence, request, seed }).collect();
        let total = waiting.len();
        Self {
            model,
            requests,
            options,
            stop_tokens: options.stop_tokens.as_deref().unwrap_or(model.stop_ids()),
            on_event,
            waiting,
            shared: SharedPrefixes::of(model, requests, options, hook),
            read: None,
            slots: (0..options.batch_size.min(total)).map(|_| None).collect(),
            cache: None,
            done: vec![None; total],
            cancelled: false,
        }
    }

    /// The answers in order, and whether the run was cancelled.
    pub(super) fn answer_all(mut self, hook: &mut (impl Hook + ?Sized)) -> Result<(Vec<Generation>, bool)> {
        while !self.cancelled {
            self.fill(hook)?;
            if self.cancelled || self.slots.iter().all(Option::is_none) {
                break;
            }
            self.decode(hook)?;
        }
        for slot in self.slots.iter_mut().filter_map(Option::take) {
            let sequence = slot.sequence;
            self.done[sequence] = Some(slot.into_generation(FinishReason::Cancelled));
        }
        let unstarted = || Generation { tokens: Vec::new(), text: String::new(), finish: FinishReason::Cancelled };
        Ok((self.done.into_iter().map(|answer| answer.unwrap_or_else(unstarted)).collect(), self.cancelled))
    }

    fn report(&mut self, event: Event<'_>) {
        if (self.on_event)(event).is_break() {
            self.cancelled = true;
        }
    }

    /// Assigns free slots to waiting answers and computes their prompts.
    fn fill(&mut self, hook: &mut (impl Hook + ?Sized)) -> Result<()> {
        while !self.cancelled && !self.waiting.is_empty() {
            let free = self.slots.iter().filter(|slot| slot.is_none()).count();
            if free == 0 {
                break;
            }
            // Answers of a prompt whose prefill is done come first.
            if let Some(read) = self.read.take() {
                let take = self.take_waiting(free, |_, request| request == read.request);
                let starters: Vec<_> = take.into_iter().map(|waiting| (waiting, 0)).collect();
                self.start(&read.cache, &read.logits, starters)?;
                if self.waiting.front().is_some_and(|next| next.request == read.request) {
                    self.read = Some(read);
                }
                continue;
            }
            self.read_prompts(free, hook)?;
        }
        Ok(())
    }

    /// Takes up to `most` answers from the front of the queue while `accept(distinct prompts so far, request)` holds.
    fn take_waiting(&mut self, most: usize, accept: impl Fn(&[usize], usize) -> bool) -> Vec<Waiting> {
        let mut taken = Vec::new();
        let mut prompts = Vec::new();
        while taken.len() < most {
            let Some(next) = self.waiting.front().copied().filter(|next| accept(&prompts, next.request)) else { break };
            if prompts.last() != Some(&next.request) {
                prompts.push(next.request);
            }
            taken.push(next);
            self.waiting.pop_front();
        }
        taken
    }

    /// Runs a pass and returns the logits of each row's last position, on the host.
    fn logits(&self, pass: &Pass<'_>, cache: &mut KvCache, hook: &mut (impl Hook + ?Sized)) -> Result<LastLogits> {
        let way = Way { clean_cache: self.options.clean_cache, least_rows: self.shared.least.rows_in(pass.phase) };
        let output = self.model.decoder().pass_by(way, pass, cache, hook);
        let logits = LastLogits::of(output.logits, &self.options.sampling)?;
        cache.check()?;
        Ok(logits)
    }

    /// The type of cached keys and values.
    fn cache_type(&self) -> DType {
        self.options.cache.dtype(self.model.decoder().dtype())
    }

    fn read_prompts(&mut self, free: usize, hook: &mut (impl Hook + ?Sized)) -> Result<()> {
        let requests = self.requests;
        let mut shared = std::mem::take(&mut self.shared);
        let taken = self.take_waiting(free, |prompts, request| {
            let first = prompts.is_empty() || prompts.last() == Some(&request);
            first || shared.fits(requests, prompts, request)
        });
        let mut prompts: Vec<usize> = taken.iter().map(|waiting| waiting.request).collect();
        prompts.dedup();
        // All sequences of a prompt, including those that still wait for a slot: it is computed once for all of them.
        let first = |request: usize| requests[..request].iter().map(|r| r.seeds.len()).sum::<usize>();
        let sequences = |p: usize| (first(p)..first(p) + requests[p].seeds.len()).collect();
        let dtype = self.cache_type();
        let tokens_of_prefixes = shared.read(self.model, requests, &prompts, dtype, hook)?;
        let of_prompt =
            |&p: &usize| Continued { prompt: &requests[p].prompt, prefix: shared.prefix(p), sequences: sequences(p) };
        let (batch, mut cache) =
            continued(self.model, prompts.iter().map(of_prompt).collect(), (dtype, shared.least), 0)?;
        shared.done(&prompts);
        self.shared = shared;
        let pass =
            Pass { ids: &batch.ids, spans: &batch.spans, phase: Phase::Prefill, stop_at: None, logits: Logits::Last };
        let logits = self.logits(&pass, &mut cache, hook)?;
        self.report(Event::Prefill { prompts: prompts.len(), tokens: tokens_of_prefixes + batch.ids.len() });
        let row_of = |request: usize| prompts.iter().position(|&p| p == request).unwrap_or(0);
        let starters = taken.iter().map(|waiting| (*waiting, row_of(waiting.request))).collect();
        self.start(&cache, &logits, starters)?;
        let (last_row, last) = (prompts.len() - 1, prompts[prompts.len() - 1]);
        if self.waiting.front().is_some_and(|next| next.request == last) {
            cache.select_rows(&[last_row]);
            self.read = Some(ReadPrompt { request: last, cache, logits: logits.only(last_row) });
        }
        Ok(())
    }

    /// Chooses the first token of each answer and assigns it a slot, unless that token ended it.
    fn start(&mut self, cache: &KvCache, logits: &LastLogits, starters: Vec<(Waiting, usize)>) -> Result<()> {
        let lengths = starters.iter().map(|(waiting, _)| self.requests[waiting.request].prompt.len());
        let longest = lengths.max().unwrap_or(0);
        for (Waiting { sequence, request, seed }, row) in starters {
            let prompt = &self.requests[request].prompt;
            let mut answer = Row::new(self.model, sequence, prompt, seed, self.options);
            let token = answer.choose(logits.row(row))?;
            let Some(answer) = self.advance(answer, token)? else { continue };
            let Some(slot) = self.slots.iter().position(Option::is_none) else { break };
            let decoder = self.model.decoder();
            let room = longest + self.options.max_new_tokens.min(256);
            let (places, dtype) = (self.slots.len(), self.cache_type());
            let main = self
                .cache
                .get_or_insert_with(|| KvCache::new(decoder.config(), places, room, &decoder.device(), dtype));
            main.make_room(longest);
            main.replace_row(slot, cache, row);
            self.slots[slot] = Some(answer);
        }
        Ok(())
    }

    /// Appends a row's next token; returns the row if it continues.
    fn advance(&mut self, mut row: Row<'a>, token: u32) -> Result<Option<Row<'a>>> {
        let (sequence, before) = (row.sequence, row.tokens.len());
        let (step, text) = row.advance(token, self.stop_tokens, self.options)?;
        let text = text.to_owned();
        let grown = row.tokens.get(before).copied();
        if let Some(token) = grown {
            self.report(Event::Token { sequence, token, text: &text });
        }
        Ok(match step {
            Step::Grown => Some(row),
            Step::Ended(finish) if grown.is_some() && self.options.feed_last_token => {
                row.ended = Some(finish);
                Some(row)
            }
            Step::Ended(finish) => {
                self.finish(row, finish);
                None
            }
        })
    }

    fn finish(&mut self, row: Row<'a>, finish: FinishReason) {
        let sequence = row.sequence;
        let generation = row.into_generation(finish);
        self.report(Event::Finished { sequence, generation: &generation });
        self.done[sequence] = Some(generation);
    }

    /// Decodes one token for every row.
    fn decode(&mut self, hook: &mut (impl Hook + ?Sized)) -> Result<()> {
        let Some(mut cache) = self.cache.take() else { return Ok(()) };
        let live: Vec<usize> = (0..self.slots.len()).filter(|&slot| self.slots[slot].is_some()).collect();
        // Free slots are computed too, which costs little; when most are free and nothing waits, they are removed.
        if self.waiting.is_empty() && live.len() * 2 <= self.slots.len() {
            cache.select_rows(&live);
            self.slots.retain(Option::is_some);
        } else {
            (0..self.slots.len()).filter(|&slot| self.slots[slot].is_none()).for_each(|slot| cache.clear_row(slot));
            cache.trim(&live);
        }
        let ids: Vec<u32> = self
            .slots
            .iter()
            .map(|slot| slot.as_ref().and_then(|row| row.tokens.last()).copied().unwrap_or(0))
            .collect();
        let spans = self.slots.iter().map(|slot| match slot {
            Some(row) => RowSpans::generated(row.sequence, row.prompt.len(), row.tokens.len() - 1),
            None => RowSpans::unused(1),
        });
        let spans = TokenSpans::new(spans.collect(), 1)?;
        let pass = Pass { ids: &ids, spans: &spans, phase: Phase::Decode, stop_at: None, logits: Logits::Last };
        let logits = self.logits(&pass, &mut cache, hook)?;
        self.cache = Some(cache);
        let choose = |(slot, row): (usize, &mut Option<Row<'a>>)| {
            let row = row.as_mut().filter(|row| row.ended.is_none())?;
            Some(row.choose(logits.row(slot)))
        };
        let slots = &mut self.slots;
        let chosen: Vec<Option<Result<u32>>> = in_pool(|| slots.par_iter_mut().enumerate().map(choose).collect());
        for (slot, token) in chosen.into_iter().enumerate() {
            let Some(row) = self.slots[slot].take() else { continue };
            match (row.ended, token) {
                (Some(finish), _) => self.finish(row, finish),
                (None, Some(token)) => self.slots[slot] = self.advance(row, token?)?,
                (None, None) => {}
            }
        }
        Ok(())
    }
}
