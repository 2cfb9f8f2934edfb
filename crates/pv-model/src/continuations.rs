//! The log-probabilities of given continuations of prompts.

mod tree;

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use pv_hooks::tokens::RowSpans;
use pv_hooks::{Hook, Phase, TokenSpans};
use serde::{Deserialize, Serialize};

use crate::batch::Batch;
use crate::decoder::{KvCache, Logits, Pass, Way};
use crate::prefixes::{self, Continued, Least, Prefix, continued};
use crate::tensors::to_f32;
use crate::{CausalLm, Error, Result};
use tree::{Node, tree};

/// A prompt and its possible continuations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Continuations<'a> {
    /// The rendered prompt's tokens.
    pub prompt: &'a [u32],
    /// The tokens of each continuation; at least one continuation.
    ///
    /// Continuations are numbered over all prompts in order; that number is the sequence that hooks see.
    pub continuations: &'a [Vec<u32>],
}

/// Settings for scoring continuations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ScoreOptions {
    /// The greatest number of rows in a batch.
    pub batch_size: usize,
    /// The greatest number of prompt tokens, including padding, in one pass; a longer prompt has a pass of its own.
    pub prefill_tokens: usize,
}

impl Default for ScoreOptions {
    fn default() -> Self {
        Self { batch_size: 16, prefill_tokens: 4096 }
    }
}

/// The scores of a prompt's continuations.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct ScoredContinuations {
    /// The prompt's index.
    pub prompt: usize,
    /// For each continuation and each of its tokens: ln p(token | prompt, preceding tokens of the continuation).
    pub log_probs: Vec<Vec<f64>>,
}

impl CausalLm {
    /// Computes the log-probability of every token of every continuation, given the prompt and the preceding tokens.
    ///
    /// A prompt is computed once for all its continuations, and so are common prefixes of continuations; a
    /// continuation's last token is not an input. A prefix that prompts share is computed once as well, under the
    /// conditions of [`generate`](Self::generate). The softmax over the vocabulary is in f64. Prompts are reported as they
    /// are completed: those that share a prefix first, and shorter ones first among them; the callback may cancel the run.
    ///
    /// A hook sees each prompt in a [`Phase::Prefill`] pass and the continuations' tokens in [`Phase::Decode`] passes,
    /// in which a row represents all continuations that share it.
    ///
    /// # Errors
    /// Invalid options, prompts without tokens or without continuations, ids outside the vocabulary, a hook that does
    /// not fit or never fired, logits that are not finite.
    pub fn score_continuations(
        &self,
        prompts: &[Continuations<'_>],
        options: &ScoreOptions,
        hook: &mut (impl Hook + ?Sized),
        on_scored: impl FnMut(ScoredContinuations) -> ControlFlow<()>,
    ) -> Result<()> {
        self.score_continuations_after(&[], prompts, options, hook, on_scored)
    }

    /// Like [`score_continuations`](Self::score_continuations), for prompts with a common prefix `beginning`, such as
    /// the same examples; each prompt follows it. With a hook that does not agree to share it, the prefix is computed once
    /// nevertheless, in a [`Phase::Prefill`] pass of its own whose row represents all sequences; only prompts of equal
    /// length then share a pass.
    ///
    /// # Errors
    /// Those of [`score_continuations`](Self::score_continuations).
    pub fn score_continuations_after(
        &self,
        beginning: &[u32],
        prompts: &[Continuations<'_>],
        options: &ScoreOptions,
        hook: &mut (impl Hook + ?Sized),
        on_scored: impl FnMut(ScoredContinuations) -> ControlFlow<()>,
    ) -> Result<()> {
        self.check_continuations(beginning, prompts, options)?;
        pv_hooks::hook::check(hook, &self.shape(), None)?;
        if prompts.is_empty() {
            return Ok(());
        }
        let count = prompts.iter().map(|prompt| prompt.continuations.len()).sum();
        if !beginning.is_empty() && hook.shares_prefix(&(0..count).collect::<Vec<_>>()) {
            let whole: Vec<Vec<u32>> = prompts.iter().map(|prompt| [beginning, prompt.prompt].concat()).collect();
            let joined = prompts.iter().zip(&whole).map(|(prompt, whole)| Continuations { prompt: whole, ..*prompt });
            return self.score_all(&[], &joined.collect::<Vec<_>>(), options, hook, on_scored);
        }
        self.score_all(beginning, prompts, options, hook, on_scored)
    }

    fn score_all(
        &self,
        beginning: &[u32],
        prompts: &[Continuations<'_>],
        options: &ScoreOptions,
        hook: &mut (impl Hook + ?Sized),
        mut on_scored: impl FnMut(ScoredContinuations) -> ControlFlow<()>,
    ) -> Result<()> {
        let exact = prompts.len() > 1 && prefixes::exact(self.decoder());
        let least = if exact { Least::exact(self.config()) } else { Least::default() };
        let mut scoring = Scoring { model: self, prompts, options, least, on_scored: &mut on_scored };
        let mut alone: BTreeSet<usize> = (0..prompts.len()).collect();
        let shared = if beginning.is_empty() { scoring.groups(hook) } else { Vec::new() };
        for (group, sequences) in shared {
            group.members.iter().for_each(|member| _ = alone.remove(member));
            let ids = &prompts[group.members[0]].prompt[..group.tokens];
            let prefix = Prefix::read(self, ids, sequences, (self.decoder().dtype(), least), hook)?;
            if scoring.score(group.members, Start::Shared(&prefix), hook)?.is_break() {
                // A cancelled run may have ended before the hook could act.
                let _ = hook.finish();
                return Ok(());
            }
        }
        let beginning = Beginning::read(self, beginning, prompts, hook)?;
        let start = beginning.as_ref().map_or(Start::Nothing, Start::After);
        if scoring.score(alone.into_iter().collect(), start, hook)?.is_break() {
            let _ = hook.finish();
            return Ok(());
        }
        Ok(hook.finish()?)
    }

    fn check_continuations(
        &self,
        beginning: &[u32],
        prompts: &[Continuations<'_>],
        options: &ScoreOptions,
    ) -> Result<()> {
        self.check_ids(beginning)?;
        for (name, value) in [("batch_size", options.batch_size), ("prefill_tokens", options.prefill_tokens)] {
            if value == 0 {
                return Err(Error::BadOption { name, value: value.to_string(), expected: "at least 1" });
            }
        }
        for (index, Continuations { prompt, continuations }) in prompts.iter().enumerate() {
            if prompt.is_empty() {
                return Err(Error::EmptyPrompt { index });
            }
            if continuations.is_empty() {
                return Err(Error::NoContinuations { index });
            }
            self.check_ids(prompt)?;
            continuations.iter().try_for_each(|continuation| self.check_ids(continuation))?;
            let longest = continuations.iter().map(Vec::len).max().unwrap_or(0);
            let (tokens, needed) = (beginning.len() + prompt.len(), beginning.len() + prompt.len() + longest);
            // The first pass, whose keys all later ones use.
            let first = if beginning.is_empty() { tokens } else { beginning.len() };
            if let Some(limit) = self.config().rotary_limit().filter(|limit| (first..needed).contains(limit)) {
                return Err(Error::RotaryLimit { index, tokens, needed, limit });
            }
            let limit = self.config().max_positions;
            if needed > limit {
                tracing::warn!(index, needed, limit, "prompt and continuation may exceed the model's positions");
            }
        }
        Ok(())
    }
}

/// A run.
struct Scoring<'a, F> {
    model: &'a CausalLm,
    prompts: &'a [Continuations<'a>],
    options: &'a ScoreOptions,
    /// The sizes of passes over prompts.
    least: Least,
    on_scored: &'a mut F,
}

impl<F: FnMut(ScoredContinuations) -> ControlFlow<()>> Scoring<'_, F> {
    /// Prompts that share a prefix to which the hook agrees, and the numbers of their continuations.
    fn groups(&self, hook: &(impl Hook + ?Sized)) -> Vec<(prefixes::Group, Vec<usize>)> {
        let config = self.model.config();
        let mut first = 0;
        let mut numbers = Vec::with_capacity(self.prompts.len());
        for prompt in self.prompts {
            numbers.push(first..first + prompt.continuations.len());
            first += prompt.continuations.len();
        }
        let ids: Vec<&[u32]> = self.prompts.iter().map(|prompt| prompt.prompt).collect();
        let apart = |i: usize| config.rotary_limit().is_some_and(|limit| ids[i].len() > limit);
        let groups = prefixes::groups(&ids, Least::exact(config), usize::MAX, apart);
        let with_sequences = groups.into_iter().map(|group| {
            let sequences: Vec<usize> = group.members.iter().flat_map(|&member| numbers[member].clone()).collect();
            (group, sequences)
        });
        with_sequences.filter(|(_, sequences)| hook.shares_prefix(sequences)).collect()
    }

    /// Scores some prompts. Those of similar length share a batch, so that there is little padding.
    fn score(
        &mut self,
        mut order: Vec<usize>,
        start: Start<'_>,
        hook: &mut (impl Hook + ?Sized),
    ) -> Result<ControlFlow<()>> {
        let Self { model, prompts, options, least, .. } = *self;
        order.sort_by_key(|&prompt| prompts[prompt].prompt.len());
        let mut rest = order.as_slice();
        while !rest.is_empty() {
            let length = |n: usize| prompts[rest[n]].prompt.len() - start.shared();
            let alike = |n: usize| match start {
                Start::Nothing => true,
                // Padding would be between a prefix and the tokens that follow it.
                Start::After(_) => length(n - 1) == length(0),
                // Shorter ones compute part of the prefix again.
                Start::Shared(_) => 2 * n * length(n - 1) <= 3 * (0..n).map(length).sum::<usize>(),
            };
            let fits = |n: &usize| alike(*n) && length(n - 1) * n <= options.prefill_tokens;
            let most = options.batch_size.min(rest.len());
            let (group, later) = rest.split_at((1..=most).take_while(fits).last().unwrap_or(1));
            rest = later;
            for scored in Group::new(model, start, prompts, group, (options, least)).read(hook)? {
                if (self.on_scored)(scored).is_break() {
                    return Ok(ControlFlow::Break(()));
                }
            }
        }
        Ok(ControlFlow::Continue(()))
    }
}

/// What has been read when the pass of some prompts begins.
#[derive(Clone, Copy)]
enum Start<'a> {
    Nothing,
    /// What precedes every prompt.
    After(&'a Beginning),
    /// The prefix of every prompt.
    Shared(&'a Prefix),
}

impl Start<'_> {
    /// The number of tokens of a prompt that have been read.
    fn shared(self) -> usize {
        if let Self::Shared(prefix) = self { prefix.tokens } else { 0 }
    }

    /// The number of tokens before a prompt.
    fn before(self) -> usize {
        if let Self::After(beginning) = self { beginning.tokens } else { 0 }
    }
}

/// A node whose pass is pending.
#[derive(Clone, Copy)]
struct Unread {
    /// The index of its prompt in the group.
    place: usize,
    node: usize,
    /// The row of the cache that contains all but its last token, and that token.
    row: usize,
    token: u32,
}

/// The common prefix of all prompts, computed once.
struct Beginning {
    tokens: usize,
    /// One row, with capacity for the longest prompt and continuation.
    cache: KvCache,
}

impl Beginning {
    fn read(
        model: &CausalLm,
        ids: &[u32],
        prompts: &[Continuations<'_>],
        hook: &mut (impl Hook + ?Sized),
    ) -> Result<Option<Self>> {
        let tokens = ids.len();
        if tokens == 0 {
            return Ok(None);
        }
        let needed = |prompt: &Continuations<'_>| {
            prompt.prompt.len() + prompt.continuations.iter().map(Vec::len).max().unwrap_or(0)
        };
        let room = tokens + prompts.iter().map(needed).max().unwrap_or(0);
        let sequences = prompts.iter().map(|prompt| prompt.continuations.len()).sum();
        let row = RowSpans { prompt_last: None, ..RowSpans::prompt((0..sequences).collect(), 0, tokens) };
        let spans = TokenSpans::new(vec![row], tokens)?;
        let decoder = model.decoder();
        let mut cache = KvCache::new(decoder.config(), 1, room, &decoder.device(), decoder.dtype());
        let pass = Pass { ids, spans: &spans, phase: Phase::Prefill, stop_at: None, logits: Logits::None };
        decoder.pass(&pass, Some(&mut cache), hook);
        Ok(Some(Self { tokens, cache }))
    }

    /// Prompts of one length that follow the prefix, and a cache with the prefix in every row.
    fn follow(&self, prompts: &[&[u32]], sequences: Vec<Vec<usize>>) -> Result<(Batch, KvCache)> {
        let seq = prompts.first().map_or(0, |prompt| prompt.len());
        let row = |sequences| RowSpans { offset: self.tokens, ..RowSpans::prompt(sequences, 0, seq) };
        let spans = TokenSpans::new(sequences.into_iter().map(row).collect(), seq)?;
        let mut cache = self.cache.clone();
        cache.select_rows(&vec![0; prompts.len()]);
        Ok((Batch { ids: prompts.concat(), spans }, cache))
    }
}

/// Prompts that share passes.
struct Group<'a> {
    model: &'a CausalLm,
    start: Start<'a>,
    options: &'a ScoreOptions,
    least: Least,
    /// Each prompt with its index and the number of its first continuation.
    prompts: Vec<(usize, Continuations<'a>, usize)>,
    trees: Vec<Vec<Node>>,
    /// Per prompt, continuation and token.
    log_probs: Vec<Vec<Vec<f64>>>,
}

impl<'a> Group<'a> {
    fn new(
        model: &'a CausalLm,
        start: Start<'a>,
        all: &[Continuations<'a>],
        group: &[usize],
        (options, least): (&'a ScoreOptions, Least),
    ) -> Self {
        let first = |prompt: usize| all[..prompt].iter().map(|earlier| earlier.continuations.len()).sum();
        let prompts: Vec<_> = group.iter().map(|&prompt| (prompt, all[prompt], first(prompt))).collect();
        let trees = prompts.iter().map(|(_, prompt, _)| tree(prompt.continuations)).collect();
        let log_probs = prompts.iter().map(|(_, prompt, _)| vec![Vec::new(); prompt.continuations.len()]).collect();
        Self { model, start, options, least, prompts, trees, log_probs }
    }

    fn read(mut self, hook: &mut (impl Hook + ?Sized)) -> Result<Vec<ScoredContinuations>> {
        let ids: Vec<&[u32]> = self.prompts.iter().map(|(_, prompt, _)| prompt.prompt).collect();
        let sequences = (0..ids.len()).map(|place| self.sequences(place, 0));
        let (batch, mut cache) = match self.start {
            Start::After(beginning) => beginning.follow(&ids, sequences.collect())?,
            Start::Nothing | Start::Shared(_) => {
                let prefix = if let Start::Shared(prefix) = self.start { Some(prefix) } else { None };
                let continue_one = |(prompt, sequences)| Continued { prompt, prefix, sequences };
                let prompts = ids.iter().copied().zip(sequences).map(continue_one).collect();
                let deepest = self.trees.iter().flatten().map(|node| node.depth).max().unwrap_or(0);
                continued(self.model, prompts, (self.model.decoder().dtype(), self.least), deepest)?
            }
        };
        let roots: Vec<(usize, usize)> = (0..ids.len()).map(|place| (place, 0)).collect();
        let unread = self.pass(&batch.ids, &batch.spans, Phase::Prefill, &mut cache, &roots, hook)?;
        if !unread.is_empty() {
            self.descend(cache, unread, hook)?;
        }
        let places = self.prompts.iter().zip(self.log_probs);
        Ok(places.map(|((prompt, ..), log_probs)| ScoredContinuations { prompt: *prompt, log_probs }).collect())
    }

    /// The numbers, over all prompts, of the continuations that contain a node.
    fn sequences(&self, place: usize, node: usize) -> Vec<usize> {
        let first = self.prompts[place].2;
        self.trees[place][node].continuations.iter().map(|continuation| first + continuation).collect()
    }

    /// Computes nodes and all their descendants, a batch at a time. At most one batch of rows per level is held, and a
    /// level without pending nodes is released. A continuation without branches continues in the same cache.
    fn descend(&mut self, cache: KvCache, unread: Vec<Unread>, hook: &mut (impl Hook + ?Sized)) -> Result<()> {
        let mut levels = vec![(cache, unread)];
        while let Some((mut cache, mut batch)) = levels.pop() {
            if batch.len() > self.options.batch_size {
                let later = batch.split_off(self.options.batch_size);
                levels.push((cache.clone(), later));
            }
            cache.select_rows(&batch.iter().map(|unread| unread.row).collect::<Vec<_>>());
            let ids: Vec<u32> = batch.iter().map(|unread| unread.token).collect();
            let rows = batch.iter().map(|&Unread { place, node, .. }| {
                let (prompt, depth) =
                    (self.start.before() + self.prompts[place].1.prompt.len(), self.trees[place][node].depth);
                let sequences = self.sequences(place, node);
                RowSpans { sequences, ..RowSpans::generated(0, prompt, depth - 1) }
            });
            let spans = TokenSpans::new(rows.collect(), 1)?;
            let nodes: Vec<(usize, usize)> = batch.iter().map(|unread| (unread.place, unread.node)).collect();
            let next = self.pass(&ids, &spans, Phase::Decode, &mut cache, &nodes, hook)?;
            if !next.is_empty() {
                levels.push((cache, next));
            }
        }
        Ok(())
    }

    /// Runs a pass whose row `r` ends in `nodes[r]` (the index of a prompt in the group, and its node). Records the
    /// log-probabilities of the following tokens and returns the nodes with one more token.
    fn pass(
        &mut self,
        ids: &[u32],
        spans: &TokenSpans,
        phase: Phase,
        cache: &mut KvCache,
        nodes: &[(usize, usize)],
        hook: &mut (impl Hook + ?Sized),
    ) -> Result<Vec<Unread>> {
        let pass = Pass { ids, spans, phase, stop_at: None, logits: Logits::Last };
        let way = Way { least_rows: self.least.rows_in(phase), ..Way::default() };
        let output = self.model.decoder().pass_by(way, &pass, cache, hook);
        let logits = output.logits.map(to_f32).transpose()?.unwrap_or_default();
        let mut unread = Vec::new();
        let rows = logits.chunks(self.model.config().vocab).zip(nodes);
        for (row, (logits, &(place, node))) in rows.enumerate() {
            let total = log_sum_exp(logits).ok_or_else(|| Error::BadLogits { sequence: self.prompts[place].2 })?;
            let Node { depth, children, continuations } = &self.trees[place][node];
            for &continuation in continuations {
                if let Some(&token) = self.prompts[place].1.continuations[continuation].get(*depth) {
                    self.log_probs[place][continuation].push(f64::from(logits[token as usize]) - total);
                }
            }
            unread.extend(children.iter().map(|(&token, &node)| Unread { place, node, row, token }));
        }
        Ok(unread)
    }
}

/// ln Σ exp, or `None` if there is a NaN or all values are −∞.
fn log_sum_exp(logits: &[f32]) -> Option<f64> {
    let peak = f64::from(logits.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    let sum: f64 = logits.iter().map(|&logit| (f64::from(logit) - peak).exp()).sum();
    // A NaN, or a maximum that is not finite, makes the sum a NaN.
    let total = peak + sum.ln();
    total.is_finite().then_some(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_softmax_refuses_what_is_no_distribution() {
        let total = log_sum_exp(&[1000.0, 1000.0, f32::NEG_INFINITY]).expect("a distribution");
        assert!((total - 1000.0 - 2f64.ln()).abs() < 1e-12);
        assert_eq!(log_sum_exp(&[0.0, f32::NAN]), None);
        assert_eq!(log_sum_exp(&[f32::NEG_INFINITY; 2]), None);
        assert_eq!(log_sum_exp(&[f32::INFINITY, 0.0]), None);
        assert_eq!(log_sum_exp(&[]), None);
    }
}
