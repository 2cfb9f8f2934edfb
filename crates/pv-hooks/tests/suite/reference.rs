//! Runs over generated sequences, and a recorder's expected values in f64.

use burn::tensor::{Device, Tensor};
use pv_hooks::tokens::RowSpans;
use pv_hooks::{Capture, Layer, Phase, TokenSpans};

use crate::support::{Random, SHAPE, spans, tensor};

/// A prompt with its answers; each answer is a sequence.
#[derive(Clone, Debug)]
pub(crate) struct Group {
    /// The number of prompt tokens.
    pub(crate) prompt: usize,
    /// The number of response tokens of each answer.
    pub(crate) answers: Vec<usize>,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Sequence {
    pub(crate) group: usize,
    pub(crate) prompt: usize,
    pub(crate) response: usize,
    /// Tokens after the response, for whole sequences.
    pub(crate) rest: usize,
}

/// Sequences, and a residual at every layer for each of their tokens.
#[derive(Clone, Debug)]
pub(crate) struct World {
    pub(crate) seed: u64,
    pub(crate) groups: Vec<Group>,
    pub(crate) sequences: Vec<Sequence>,
}

/// One pass of a run.
#[derive(Debug)]
pub(crate) struct Pass {
    pub(crate) phase: Phase,
    pub(crate) spans: TokenSpans,
}

impl World {
    /// Answers followed by up to `rest` tokens more.
    pub(crate) fn new(seed: u64, groups: Vec<Group>, rest: usize) -> Self {
        let mut random = Random(seed);
        let mut sequences = Vec::new();
        for (group, Group { prompt, answers }) in groups.iter().enumerate() {
            let sequence = |&response| Sequence { group, prompt: *prompt, response, rest: random.below(rest + 1) };
            sequences.extend(answers.iter().map(sequence));
        }
        Self { seed, groups, sequences }
    }

    /// The answers to a prompt.
    pub(crate) fn members(&self, group: usize) -> Vec<usize> {
        (0..self.sequences.len()).filter(|&s| self.sequences[s].group == group).collect()
    }

    /// The residual of a token. Answers to one prompt share those of the prompt.
    fn residual(&self, layer: Layer, sequence: usize, token: usize) -> Vec<f32> {
        let Sequence { group, prompt, .. } = self.sequences[sequence];
        let owner = if token < prompt { group } else { 1000 + sequence };
        let mut random = Random(self.seed ^ ((layer.index() as u64) << 48) ^ ((owner as u64) << 24) ^ token as u64);
        random.next();
        (0..SHAPE.d_model).map(|_| random.value()).collect()
    }

    /// The residual that a model would pass to a hook; padding contains `filler`.
    pub(crate) fn residuals(&self, pass: &Pass, layer: Layer, filler: f32, device: &Device) -> Tensor<3> {
        let seq = pass.spans.seq();
        let mut values = Vec::new();
        for row in pass.spans.rows() {
            values.extend(std::iter::repeat_n(filler, row.padding * SHAPE.d_model));
            for position in row.padding..seq {
                values.extend(self.residual(layer, row.sequences[0], row.offset + position - row.padding));
            }
        }
        tensor(values, [pass.spans.batch(), seq, SHAPE.d_model], device)
    }

    /// The residuals of a capture.
    pub(crate) fn captured(&self, capture: &Capture, layer: Layer, sequence: usize) -> Vec<Vec<f32>> {
        let Sequence { prompt, response, rest, .. } = self.sequences[sequence];
        let tokens = match capture {
            Capture::ResponseMean | Capture::ResponseNorm => prompt..prompt + response,
            Capture::PromptMean => 0..prompt,
            Capture::PromptLast => prompt.saturating_sub(1)..prompt,
            Capture::Position(k) if *k < prompt + response + rest => *k..k + 1,
            Capture::Position(_) => 0..0,
            Capture::Everything => 0..prompt + response + rest,
        };
        tokens.map(|token| self.residual(layer, sequence, token)).collect()
    }

    /// The mean of a capture, or `None` for a sequence without such tokens.
    pub(crate) fn mean(&self, capture: &Capture, layer: Layer, sequence: usize) -> Option<Vec<f64>> {
        let tokens = self.captured(capture, layer, sequence);
        let wide = |token: &Vec<f32>| -> Vec<f64> {
            let token = token.iter().map(|&v| f64::from(v));
            match capture {
                Capture::ResponseNorm => vec![token.map(|v| v * v).sum::<f64>().sqrt()],
                _ => token.collect(),
            }
        };
        let n = tokens.len() as f64;
        let add = |a: Vec<f64>, b: Vec<f64>| a.iter().zip(&b).map(|(a, b)| a + b).collect();
        tokens.iter().map(wide).reduce(add).map(|sum| sum.into_iter().map(|v| v / n).collect())
    }

    /// Whole sequences, in random batches and order.
    pub(crate) fn whole_passes(&self, random: &mut Random) -> Vec<Pass> {
        let mut passes = Vec::new();
        let mut left = random.shuffled((0..self.sequences.len()).collect());
        while !left.is_empty() {
            let batch = left.split_off(random.below(left.len()));
            let length = |s: usize| {
                let Sequence { prompt, response, rest, .. } = self.sequences[s];
                prompt + response + rest
            };
            let seq = batch.iter().map(|&s| length(s)).max().unwrap_or(0).max(1) + random.below(2);
            let row =
                |&s: &usize| RowSpans::whole(s, seq - length(s), self.sequences[s].prompt, self.sequences[s].response);
            let rows = batch.iter().map(row).collect();
            passes.push(Pass { phase: Phase::Full, spans: spans(rows, seq) });
        }
        passes
    }

    /// A generation: prompts are computed at random times, some of them in several windows; answers grow by one token
    /// in passes in which any of them may pause; rows are in any order, some of them unused.
    pub(crate) fn generation(&self, random: &mut Random) -> Vec<Pass> {
        let mut passes = Vec::new();
        let mut read = vec![0; self.groups.len()];
        let mut said = vec![0; self.sequences.len()];
        loop {
            let unread: Vec<usize> = (0..read.len()).filter(|&g| read[g] < self.groups[g].prompt).collect();
            let speaks = |&s: &usize| {
                let Sequence { group, prompt, response, .. } = self.sequences[s];
                read[group] == prompt && said[s] < response
            };
            let live: Vec<usize> = (0..said.len()).filter(speaks).collect();
            if unread.is_empty() && live.is_empty() {
                return passes;
            }
            let (phase, mut rows, seq);
            if live.is_empty() || (!unread.is_empty() && random.below(3) == 0) {
                phase = Phase::Prefill;
                (rows, seq) = self.prefill(random, unread, &mut read);
            } else {
                (phase, seq) = (Phase::Decode, 1);
                rows = Vec::new();
                for s in random.some(live) {
                    rows.push(RowSpans::generated(s, self.sequences[s].prompt, said[s]));
                    said[s] += 1;
                }
            }
            for _ in 0..random.below(3) {
                rows.insert(random.below(rows.len() + 1), RowSpans::unused(seq));
            }
            passes.push(Pass { phase, spans: spans(rows, seq) });
        }
    }

    fn prefill(&self, random: &mut Random, unread: Vec<usize>, read: &mut [usize]) -> (Vec<RowSpans>, usize) {
        let mut chosen = Vec::new();
        for group in random.some(unread) {
            let left = self.groups[group].prompt - read[group];
            let tokens = if random.below(2) == 0 { left } else { 1 + random.below(left) };
            chosen.push((group, read[group], tokens));
            read[group] += tokens;
        }
        let seq = chosen.iter().map(|(_, _, tokens)| *tokens).max().unwrap_or(1) + random.below(2);
        let row = |(group, offset, tokens): (usize, usize, usize)| {
            let row = RowSpans::prompt(random.shuffled(self.members(group)), seq - tokens, seq);
            let ends = offset + tokens == self.groups[group].prompt;
            RowSpans { offset, prompt_last: row.prompt_last.filter(|_| ends), ..row }
        };
        (chosen.into_iter().map(row).collect(), seq)
    }
}
