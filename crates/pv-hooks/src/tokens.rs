//! The role of each token of a forward pass: padding, prompt or response.

use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use burn::tensor::{DType, Device, Tensor, TensorData};

use crate::HookError;

/// The kind of a forward pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Phase {
    /// The prompts' tokens, with an empty cache; generation follows.
    Prefill,
    /// One generated token per row.
    Decode,
    /// Whole sequences at once, without a cache (teacher forcing, training, evaluation).
    Full,
}

/// The tokens of one row of a pass, as positions in the pass's window `0..seq`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RowSpans {
    /// The numbers of the sequences that this row represents. Usually one; several while rollouts of the same prompt
    /// share its prefill.
    pub sequences: Vec<usize>,
    /// The number of tokens of the sequence in earlier passes, padding excluded.
    pub offset: usize,
    /// The number of padding positions at the start of the window.
    pub padding: usize,
    /// The prompt's tokens in this window, generation prompt included.
    pub prompt: Range<usize>,
    /// The last prompt token, if it is in this window.
    pub prompt_last: Option<usize>,
    /// The response's own tokens in this window: neither the template's tokens before them nor the end-of-turn token.
    pub response: Range<usize>,
    /// The number of response tokens in earlier passes.
    pub response_offset: usize,
}

impl RowSpans {
    /// A left-padded prompt that ends at the end of the window.
    pub fn prompt(sequences: Vec<usize>, padding: usize, seq: usize) -> Self {
        Self {
            sequences,
            offset: 0,
            padding,
            prompt: padding..seq,
            prompt_last: seq.checked_sub(1),
            response: seq..seq,
            response_offset: 0,
        }
    }

    /// A row that represents no sequence in this pass: padding only.
    pub fn unused(seq: usize) -> Self {
        Self {
            sequences: Vec::new(),
            offset: 0,
            padding: seq,
            prompt: seq..seq,
            prompt_last: None,
            response: seq..seq,
            response_offset: 0,
        }
    }

    /// One generated token: response token number `response_offset` after a prompt of `prompt_len` tokens.
    pub fn generated(sequence: usize, prompt_len: usize, response_offset: usize) -> Self {
        Self {
            sequences: vec![sequence],
            offset: prompt_len + response_offset,
            padding: 0,
            prompt: 0..0,
            prompt_last: None,
            response: 0..1,
            response_offset,
        }
    }

    /// A left-padded whole sequence: `prompt_len` prompt tokens, then `response_len` response tokens. Tokens after them
    /// (such as an end-of-turn token) belong to neither.
    pub fn whole(sequence: usize, padding: usize, prompt_len: usize, response_len: usize) -> Self {
        let end = padding + prompt_len;
        Self {
            sequences: vec![sequence],
            offset: 0,
            padding,
            prompt: padding..end,
            prompt_last: (prompt_len > 0).then(|| end - 1),
            response: end..end + response_len,
            response_offset: 0,
        }
    }
}

/// A set of token positions, by role.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TokenSet {
    /// Every token that is not padding.
    Real,
    /// The prompt's tokens.
    Prompt,
    /// The prompt's last token.
    PromptLast,
    /// The response's own tokens.
    Response,
    /// The response's own tokens from this number on; 0 is the first.
    ResponseFrom(usize),
    /// The prompt's last token and every response token: what a hook on "the last position of every forward pass" of a
    /// generation loop changes.
    Generating,
}

/// The roles of the tokens of a forward pass over `[batch, seq]` tokens.
#[derive(Debug)]
pub struct TokenSpans {
    rows: Vec<RowSpans>,
    seq: usize,
    masks: Mutex<Vec<(TokenSet, Tensor<3>)>>,
}

impl TokenSpans {
    /// Checks the rows of a pass whose window is `seq` tokens long.
    ///
    /// # Errors
    /// [`HookError::BadSpans`] when a span leaves the window, overlaps the padding or another span, when the last
    /// prompt token is not at the end of the prompt's span, or when a row that is not all padding represents no
    /// sequence.
    pub fn new(rows: Vec<RowSpans>, seq: usize) -> Result<Self, HookError> {
        for (row, spans) in rows.iter().enumerate() {
            let within = |range: &Range<usize>| range.start <= range.end && range.end <= seq;
            let bad = |reason| Err(HookError::BadSpans { row, reason });
            if spans.padding > seq || !within(&spans.prompt) || !within(&spans.response) {
                return bad("a span leaves the window");
            }
            let starts_in_padding = |range: &Range<usize>| !range.is_empty() && range.start < spans.padding;
            if starts_in_padding(&spans.prompt) || starts_in_padding(&spans.response) {
                return bad("a span overlaps the padding");
            }
            if !spans.response.is_empty() && spans.response.start < spans.prompt.end {
                return bad("the response begins inside the prompt");
            }
            if spans.prompt_last.is_some() && spans.prompt_last != spans.prompt.clone().next_back() {
                return bad("the last prompt token does not end the prompt");
            }
            if spans.sequences.is_empty() && spans.padding < seq {
                return bad("it represents no sequence");
            }
        }
        Ok(Self { rows, seq, masks: Mutex::default() })
    }

    /// The rows.
    pub fn rows(&self) -> &[RowSpans] {
        &self.rows
    }

    /// The number of rows.
    pub fn batch(&self) -> usize {
        self.rows.len()
    }

    /// The length of the window, in tokens.
    pub fn seq(&self) -> usize {
        self.seq
    }

    /// The positions of a row that belong to a set, in order.
    pub fn positions(&self, row: usize, set: TokenSet) -> impl Iterator<Item = usize> + use<> {
        let spans = &self.rows[row];
        let none = 0..0;
        let (last, range) = match set {
            TokenSet::Real => (None, spans.padding..self.seq),
            TokenSet::Prompt => (None, spans.prompt.clone()),
            TokenSet::PromptLast => (spans.prompt_last, none),
            TokenSet::Response => (None, spans.response.clone()),
            TokenSet::ResponseFrom(token) => {
                let early = token.saturating_sub(spans.response_offset).min(spans.response.len());
                (None, spans.response.start + early..spans.response.end)
            }
            TokenSet::Generating => (spans.prompt_last, spans.response.clone()),
        };
        last.into_iter().chain(range)
    }

    /// The number of positions of a row that belong to a set.
    pub fn count(&self, row: usize, set: TokenSet) -> usize {
        self.positions(row, set).count()
    }

    /// How much of the window a set covers.
    pub fn coverage(&self, set: TokenSet) -> Coverage {
        let counts = || (0..self.rows.len()).map(|row| self.count(row, set));
        if counts().all(|n| n == 0) {
            Coverage::Nothing
        } else if counts().all(|n| n == self.seq) {
            Coverage::Everything
        } else {
            Coverage::Some
        }
    }

    /// A mask, `[batch, seq, 1]` in f32: 1 where a position belongs to the set, 0 elsewhere. It is cached for the pass,
    /// since hooks request the same mask at every layer. It is a constant without autodiff and can be combined with
    /// tensors that have autodiff.
    pub fn mask(&self, set: TokenSet, device: &Device) -> Tensor<3> {
        let mut masks = self.masks.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, mask)) = masks.iter().find(|(known, mask)| *known == set && mask.device() == *device) {
            return mask.clone();
        }
        let mut values = vec![0f32; self.rows.len() * self.seq];
        for row in 0..self.rows.len() {
            for position in self.positions(row, set) {
                values[row * self.seq + position] = 1.0;
            }
        }
        let data = TensorData::new(values, [self.rows.len(), self.seq, 1]);
        let mask = Tensor::from_data(data, (&device.clone().without_autodiff(), DType::F32));
        masks.push((set, mask.clone()));
        mask
    }
}

/// How much of a window a [`TokenSet`] covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Coverage {
    /// No position.
    Nothing,
    /// Some positions: a mask is needed.
    Some,
    /// Every position of every row.
    Everything,
}
