//! Prefixes that several prompts share: which they are, and the passes that continue them.
//!
//! The CPU's kernels give a token the same bits whichever passes read its prompt, as long as each pass uses the methods for
//! many rows. [`Least`] has every pass do so.

use burn::tensor::{DType, Device};
use pv_hooks::tokens::RowSpans;
use pv_hooks::{Hook, Phase, TokenSpans};
use pv_kernels::attention::QUERIES_IN_PLACE;
use pv_kernels::linear::ROWS_IN_PLACE;

use crate::batch::Batch;
use crate::config::DecoderConfig;
use crate::decoder::{Decoder, KvCache, Logits, Pass, Way};
use crate::{CausalLm, Result};

/// A prefix is shared if this many tokens less are computed, which is worth a pass of its own.
const WORTH: usize = 128;

/// The least sizes of passes over prompts. Below them, products and attention may use their methods for few rows, with
/// other last bits.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Least {
    /// The tokens of a prefix.
    prefix: usize,
    /// The tokens of a prompt after its prefix.
    rest: usize,
    /// The length of a window.
    window: usize,
    /// The rows of products, see [`Way::least_rows`].
    rows: usize,
}

impl Default for Least {
    /// Passes of any size.
    fn default() -> Self {
        Self { prefix: 1, rest: 1, window: 1, rows: 0 }
    }
}

impl Least {
    /// The sizes with which results do not depend on how prompts are divided into passes.
    pub(crate) fn exact(config: &DecoderConfig) -> Self {
        match &config.experts {
            None => {
                Self { prefix: QUERIES_IN_PLACE + 1, window: QUERIES_IN_PLACE + 1, rows: ROWS_IN_PLACE + 1, rest: 1 }
            }
            // A repeated token would not do here: the method depends on the number of tokens for all experts together.
            Some(experts) => {
                let tokens = ROWS_IN_PLACE * experts.count.div_ceil(experts.per_token.max(1)) + 1;
                Self { prefix: tokens, rest: tokens, ..Self::default() }
            }
        }
    }

    /// Whether every pass has these sizes, whatever its prompts.
    pub(crate) fn for_any_prompt(self) -> bool {
        self.rows > 0
    }

    /// The rows of products in a pass: only prompts are read in passes of these sizes.
    pub(crate) fn rows_in(self, phase: Phase) -> usize {
        if phase == Phase::Prefill { self.rows } else { 0 }
    }

    /// The length of the window of a pass, from the numbers of tokens that have not been read.
    pub(crate) fn window(self, rests: impl IntoIterator<Item = usize>) -> usize {
        rests.into_iter().fold(self.window, usize::max)
    }
}

/// Whether results on this model's device do not depend on how prompts are divided into passes of the [`Least`] sizes: with
/// the CPU's kernels. Elsewhere, last bits may depend on the shapes of passes.
pub(crate) fn exact(decoder: &Decoder) -> bool {
    let device = decoder.device();
    // Devices with and without autodiff are equal.
    !device.is_autodiff() && device == Device::flex() && decoder.dtype() == DType::F32
}

/// Prompts that share a prefix, by their indices.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Group {
    /// The length of the prefix, in tokens.
    pub(crate) tokens: usize,
    pub(crate) members: Vec<usize>,
}

/// The groups of prompts that share a prefix that is worth it, of at most `most` tokens; prompts for which `apart` holds are
/// in no group.
pub(crate) fn groups(prompts: &[&[u32]], least: Least, most: usize, apart: impl Fn(usize) -> bool) -> Vec<Group> {
    let Least { prefix, rest, .. } = least;
    let long = |i: usize| prompts[i].len() >= prefix + rest;
    let mut order: Vec<usize> = (0..prompts.len()).filter(|&i| long(i) && !apart(i)).collect();
    order.sort_by_key(|&i| prompts[i]);
    let common = |a: usize, b: usize| {
        let equal = prompts[a].iter().zip(prompts[b]).take_while(|(a, b)| a == b).count();
        equal.min(prompts[a].len() - rest).min(prompts[b].len() - rest).min(most)
    };
    let mut groups = Vec::new();
    let mut open = Group { tokens: 0, members: Vec::new() };
    let mut close = |group: Group| {
        if group.tokens >= prefix && group.tokens * group.members.len().saturating_sub(1) >= WORTH {
            groups.push(group);
        }
    };
    for next in order {
        // Neighbours in the order of the tokens have the most in common.
        let shared = open.members.last().map_or(0, |&last| common(last, next));
        if open.members.len() == 1 && shared >= prefix {
            open.tokens = shared;
        } else if open.members.len() > 1 && shared >= 2 * open.tokens {
            // The last prompt has much more in common with this one than with those before it.
            let last = open.members.pop();
            close(std::mem::replace(&mut open, Group { tokens: shared, members: last.into_iter().collect() }));
        } else if shared < prefix || 2 * shared < open.tokens {
            close(std::mem::replace(&mut open, Group { tokens: 0, members: Vec::new() }));
        } else {
            open.tokens = open.tokens.min(shared);
        }
        open.members.push(next);
    }
    close(open);
    groups
}

/// A prefix that has been read, in a cache of one row.
#[derive(Debug)]
pub(crate) struct Prefix {
    pub(crate) tokens: usize,
    cache: KvCache,
}

impl Prefix {
    /// Reads a prefix for all of these sequences.
    pub(crate) fn read(
        model: &CausalLm,
        ids: &[u32],
        sequences: Vec<usize>,
        (dtype, least): (DType, Least),
        hook: &mut (impl Hook + ?Sized),
    ) -> Result<Self> {
        let tokens = ids.len();
        let row = RowSpans { prompt_last: None, ..RowSpans::prompt(sequences, 0, tokens) };
        let spans = TokenSpans::new(vec![row], tokens)?;
        let decoder = model.decoder();
        let mut cache = KvCache::new(decoder.config(), 1, tokens, &decoder.device(), dtype);
        let pass = Pass { ids, spans: &spans, phase: Phase::Prefill, stop_at: None, logits: Logits::None };
        decoder.pass_by(Way { least_rows: least.rows_in(pass.phase), ..Way::default() }, &pass, &mut cache, hook);
        cache.check()?;
        Ok(Self { tokens, cache })
    }
}

/// A prompt, and its prefix if that has been read.
pub(crate) struct Continued<'a> {
    pub(crate) prompt: &'a [u32],
    pub(crate) prefix: Option<&'a Prefix>,
    pub(crate) sequences: Vec<usize>,
}

impl Continued<'_> {
    /// The number of tokens after the prefix.
    pub(crate) fn rest(&self) -> usize {
        self.prompt.len() - self.prefix.map_or(0, |prefix| prefix.tokens)
    }
}

/// The last tokens of some prompts as one window, and a cache with those before it and room for `room` tokens more. All rows
/// have a window of the same length, since padding cannot be between a prefix and what follows it: a prompt with a shorter
/// rest computes some tokens of its prefix again.
pub(crate) fn continued(
    model: &CausalLm,
    prompts: Vec<Continued<'_>>,
    (dtype, least): (DType, Least),
    room: usize,
) -> Result<(Batch, KvCache)> {
    let seq = least.window(prompts.iter().map(Continued::rest));
    let decoder = model.decoder();
    let (device, config) = (decoder.device(), decoder.config());
    let before = |prompt: &Continued<'_>| prompt.prompt.len().saturating_sub(seq);
    let rows: Vec<_> =
        prompts.iter().map(|prompt| prompt.prefix.map(|prefix| (&prefix.cache, before(prompt)))).collect();
    let padding: Vec<usize> = prompts.iter().map(|prompt| seq.saturating_sub(prompt.prompt.len())).collect();
    let longest = prompts.iter().map(before).max().unwrap_or(0);
    let mut cache = KvCache::new(config, prompts.len(), longest + seq + room, &device, dtype);
    cache.begin(longest, &rows, &padding);
    let mut ids = Vec::with_capacity(prompts.len() * seq);
    let mut spans = Vec::with_capacity(prompts.len());
    for (prompt, padding) in prompts.into_iter().zip(padding) {
        let offset = before(&prompt);
        ids.extend(std::iter::repeat_n(prompt.prompt[0], padding));
        ids.extend_from_slice(&prompt.prompt[offset..]);
        spans.push(RowSpans { offset, ..RowSpans::prompt(prompt.sequences, padding, seq) });
    }
    Ok((Batch { ids, spans: TokenSpans::new(spans, seq)? }, cache))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Some tokens that are equal for equal names, and some more.
    fn prompt(system: u32, tokens: usize, own: u32, rest: usize) -> Vec<u32> {
        std::iter::repeat_n(system, tokens).chain((0..rest as u32).map(|i| own * 1000 + i)).collect()
    }

    fn found(prompts: &[Vec<u32>], least: usize, most: usize) -> Vec<(usize, Vec<usize>)> {
        found_after(prompts, Least { prefix: least, rest: least, ..Least::default() }, most)
    }

    fn found_after(prompts: &[Vec<u32>], least: Least, most: usize) -> Vec<(usize, Vec<usize>)> {
        let prompts: Vec<&[u32]> = prompts.iter().map(Vec::as_slice).collect();
        let mut groups: Vec<_> = groups(&prompts, least, most, |_| false)
            .into_iter()
            .map(|Group { tokens, mut members }| {
                members.sort_unstable();
                (tokens, members)
            })
            .collect();
        groups.sort_by_key(|(_, members)| members.clone());
        groups
    }

    #[test]
    fn prompts_with_a_long_common_prefix_are_a_group() {
        // Two system prompts that take turns, and a prompt of its own.
        let turns = [(1, 200, 20), (2, 100, 30), (3, 0, 50), (1, 200, 60), (2, 100, 25), (1, 200, 40), (2, 100, 90)];
        let prompts: Vec<_> =
            (1..).zip(turns).map(|(own, (system, tokens, rest))| prompt(system, tokens, own, rest)).collect();
        assert_eq!(found(&prompts, 17, 1000), [(200, vec![0, 3, 5]), (100, vec![1, 4, 6])]);
        // At least 17 tokens remain of every prompt, and a prefix has a limit.
        let short = [prompt(1, 200, 1, 3), prompt(1, 200, 2, 30), prompt(1, 200, 3, 30)];
        assert_eq!(found(&short, 17, 1000), [(186, vec![0, 1, 2])]);
        assert_eq!(found(&short, 17, 150), [(150, vec![0, 1, 2])]);
        let equal = [prompt(1, 300, 0, 0), prompt(1, 300, 0, 0)];
        assert_eq!(found(&equal, 17, 1000), [(283, vec![0, 1])]);
        assert_eq!(found_after(&equal, Least { prefix: 17, ..Least::default() }, 1000), [(299, vec![0, 1])]);
    }

    #[test]
    fn a_prefix_that_spares_little_is_not_shared() {
        let pair = |tokens| [prompt(1, tokens, 1, 30), prompt(1, tokens, 2, 30)];
        assert_eq!(found(&pair(127), 17, 1000), []);
        assert_eq!(found(&pair(128), 17, 1000), [(128, vec![0, 1])]);
        let many: Vec<_> = (0..9).map(|own| prompt(1, 16, own, 30)).collect();
        assert_eq!(found(&many, 17, 1000), [], "fewer tokens than a pass needs");
        assert_eq!(found(&many, 16, 1000).len(), 1);
        assert_eq!(found(&[], 17, 1000), []);
        assert_eq!(found(&[vec![], vec![1]], 17, 1000), []);
    }

    #[test]
    fn a_longer_prefix_of_some_prompts_is_preferred() {
        // The first prompts have 30 tokens in common with the others, which have 300.
        let mut prompts: Vec<_> = (0..3).map(|own| prompt(1, 30, 1 + own, 40)).collect();
        let inner = |own| [prompt(1, 30, 0, 0), prompt(9000, 270, own, 40)].concat();
        prompts.extend((10..14).map(inner));
        assert_eq!(found(&prompts, 17, 1000), [(300, vec![3, 4, 5, 6])]);
        prompts.extend((20..24).map(|own| prompt(1, 30, own, 40)));
        let groups = found(&prompts, 17, 1000);
        assert!(groups.contains(&(300, vec![3, 4, 5, 6])), "{groups:?}");
    }
}
