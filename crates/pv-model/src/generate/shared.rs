//! The prefixes that the prompts of a run share.

use std::ops::Range;

use burn::tensor::DType;
use pv_hooks::{Hook, LayerSet};
use pv_kernels::linear::ROWS_IN_PLACE;

use super::{GenerateOptions, Request};
use crate::prefixes::{Group, Least, Prefix, exact, groups};
use crate::{CausalLm, Result};

/// Prefixes that wait for later prompts contain no more tokens than this, or than a pass if that is more.
const KEPT: usize = 4096;

/// The greatest number of tokens of a pass over several prompts for who wants last bits that do not depend on other prompts:
/// more would not be faster.
const TOGETHER: usize = 512;

/// Which requests share a prefix, and the prefixes that have been read.
#[derive(Debug, Default)]
pub(super) struct SharedPrefixes {
    groups: Vec<Shared>,
    /// The group of each request.
    of: Vec<Option<usize>>,
    /// The sequences of each request.
    ranges: Vec<Range<usize>>,
    /// The groups whose prefix has been read, the last used one at the end.
    used: Vec<usize>,
    kept: usize,
    /// The sizes of passes.
    pub(super) least: Least,
    /// The greatest number of tokens and of prompts in a pass over several prompts.
    together: (usize, usize),
}

#[derive(Debug)]
struct Shared {
    group: Group,
    /// The number of requests whose prompts have not been read.
    unread: usize,
    prefix: Option<Prefix>,
}

impl SharedPrefixes {
    pub(super) fn of(
        model: &CausalLm,
        requests: &[Request],
        options: &GenerateOptions,
        hook: &(impl Hook + ?Sized),
    ) -> Self {
        let alone = options.prefill_tokens == 0;
        let exact = exact(model.decoder());
        let mut shared = Self { of: vec![None; requests.len()], ..Self::default() };
        if exact && (alone || requests.len() > 1) {
            shared.least = Least::exact(model.config());
        }
        for request in requests {
            let first = shared.ranges.last().map_or(0, |range| range.end);
            shared.ranges.push(first..first + request.seeds.len());
        }
        let all = 0..shared.ranges.last().map_or(0, |range| range.end);
        shared.together = match alone {
            false => (options.prefill_tokens, usize::MAX),
            // The output head has one row for each prompt.
            true if exact && shared.least.for_any_prompt() && hook.shares_prefix(&all.collect::<Vec<_>>()) => {
                (TOGETHER, ROWS_IN_PLACE)
            }
            true => (0, 1),
        };
        // A hook's changes at a prefix act on the first token after it through keys and values that a clean cache lacks.
        let unclean = !options.clean_cache || hook.layers() == LayerSet::none();
        // Who reads every prompt alone wants last bits that do not depend on other prompts.
        if requests.len() < 2 || !unclean || (alone && !exact) {
            return shared;
        }
        let prompts: Vec<&[u32]> = requests.iter().map(|request| request.prompt.as_slice()).collect();
        shared.kept = KEPT.max(options.prefill_tokens);
        let limit = model.config().rotary_limit();
        // The keys of longer sequences have other frequencies than those of their prefixes.
        let apart = |i: usize| requests[i].seeds.is_empty() || limit.is_some_and(|limit| prompts[i].len() > limit);
        for group in groups(&prompts, Least::exact(model.config()), shared.kept, apart) {
            if !hook.shares_prefix(&sequences(&shared.ranges, &group)) {
                continue;
            }
            group.members.iter().for_each(|&member| shared.of[member] = Some(shared.groups.len()));
            shared.groups.push(Shared { unread: group.members.len(), group, prefix: None });
        }
        shared
    }

    /// The group whose prefix a request's prompt may continue: it has been read, or more than one prompt needs it.
    fn group(&self, request: usize) -> Option<usize> {
        let usable = |&group: &usize| self.groups[group].prefix.is_some() || self.groups[group].unread > 1;
        self.of.get(request).copied().flatten().filter(usable)
    }

    /// Whether a prompt may join others in a pass.
    pub(super) fn fits(&self, requests: &[Request], prompts: &[usize], next: usize) -> bool {
        let length = |request: usize| requests[request].prompt.len();
        let rest = |request: usize| length(request) - self.group(request).map_or(0, |g| self.groups[g].group.tokens);
        let all = || prompts.iter().copied().chain([next]);
        let seq = self.least.window(all().map(rest));
        let computed: usize = all().map(|request| length(request).min(seq)).sum();
        let needed: usize = all().map(|request| self.least.window([rest(request)]).min(length(request))).sum();
        let (tokens, most) = self.together;
        // Prompts with a shorter rest would compute much of their prefixes again.
        prompts.len() < most && seq * (prompts.len() + 1) <= tokens && 2 * computed <= 3 * needed
    }

    /// Reads the prefixes that these requests need and that have not been read; returns the number of tokens.
    pub(super) fn read(
        &mut self,
        model: &CausalLm,
        requests: &[Request],
        prompts: &[usize],
        dtype: DType,
        hook: &mut (impl Hook + ?Sized),
    ) -> Result<usize> {
        let (mut tokens, ranges, least) = (0, &self.ranges, self.least);
        let mut needed: Vec<usize> = prompts.iter().filter_map(|&prompt| self.group(prompt)).collect();
        needed.sort_unstable();
        needed.dedup();
        self.used.retain(|group| !needed.contains(group));
        for &group in &needed {
            let shared = &mut self.groups[group];
            if shared.prefix.is_none() {
                let ids = &requests[shared.group.members[0]].prompt[..shared.group.tokens];
                shared.prefix = Some(Prefix::read(model, ids, sequences(ranges, &shared.group), (dtype, least), hook)?);
                tokens += ids.len();
            }
        }
        self.used.extend(needed.iter().copied());
        let size = |shared: &Self| shared.used.iter().map(|&group| shared.groups[group].group.tokens).sum::<usize>();
        while self.used.len() > needed.len() && size(self) > self.kept {
            let oldest = self.used.remove(0);
            self.groups[oldest].prefix = None;
        }
        Ok(tokens)
    }

    /// The prefix of a request, if it has been read.
    pub(super) fn prefix(&self, request: usize) -> Option<&Prefix> {
        self.groups[self.group(request)?].prefix.as_ref()
    }

    /// Takes note that prompts have been read.
    pub(super) fn done(&mut self, prompts: &[usize]) {
        for group in prompts.iter().filter_map(|&prompt| self.of.get(prompt).copied().flatten()) {
            let shared = &mut self.groups[group];
            shared.unread -= 1;
            if shared.unread == 0 {
                shared.prefix = None;
                self.used.retain(|used| *used != group);
            }
        }
    }
}

/// The sequences of a group's requests, from the ranges of all requests.
fn sequences(ranges: &[Range<usize>], group: &Group) -> Vec<usize> {
    let mut all: Vec<usize> = group.members.iter().flat_map(|&member| ranges[member].clone()).collect();
    all.sort_unstable();
    all
}
