//! Attention over the caches.

mod decode;
mod prefill;

use decode::Keys;

/// The sizes of one attention call.
#[derive(Clone, Copy, Debug)]
pub struct AttentionShape {
    /// Batch rows.
    pub batch: usize,
    /// New tokens of each batch row.
    pub seq: usize,
    /// Query heads.
    pub heads: usize,
    /// Divides `heads`; each key head serves `heads / kv_heads` consecutive query heads.
    pub kv_heads: usize,
    /// Elements of a head.
    pub head_dim: usize,
    /// Columns that the caches have room for.
    pub capacity: usize,
    /// Cache column of the first new token.
    pub column: usize,
    /// A query sees at most this many columns, including its own.
    pub window: Option<usize>,
    /// Factor of the scores.
    pub scale: f32,
    /// The bound `c` of a score `s`, which becomes `c tanh(s / c)` (Gemma 2).
    pub softcap: Option<f32>,
}

impl AttentionShape {
    /// Elements of a row of the fused buffer.
    pub fn row_stride(&self) -> usize {
        (self.heads + 2 * self.kv_heads) * self.head_dim
    }

    /// Query heads per key head.
    pub(super) fn group(&self) -> usize {
        self.heads / self.kv_heads
    }

    /// The columns that query `i` sees, given the first valid column of its batch row; empty for a padding query.
    pub(super) fn visible(&self, start: usize, i: usize) -> std::ops::Range<usize> {
        let end = self.column + i + 1;
        let first = self.window.map_or(0, |window| end.saturating_sub(window));
        start.max(first).min(end)..end
    }

    pub(super) fn check<E>(&self, qkv: &[f32], keys: &[E], values: &[E]) {
        assert!(
            self.kv_heads > 0 && self.heads.is_multiple_of(self.kv_heads) && self.head_dim > 0,
            "attention: heads do not divide"
        );
        assert!(self.column + self.seq <= self.capacity, "attention: past the capacity");
        assert_eq!(qkv.len(), self.batch * self.seq * self.row_stride(), "attention: qkv size");
        let cache = self.batch * self.kv_heads * self.capacity * self.head_dim;
        assert!(keys.len() == cache && values.len() == cache, "attention: cache size");
    }
}

/// Up to this many queries of a key head, [`attention`] reads the keys and values in place.
pub const QUERIES_IN_PLACE: usize = 16;

/// Causal attention of the new queries over the caches, which already contain the new keys and values.
///
/// `qkv` is the fused `[batch * seq, (heads + 2 kv_heads) * head_dim]` buffer. Only the queries (the first `heads *
/// head_dim` columns) are read. `keys` and `values` are `[batch, kv_heads, capacity, head_dim]`, `out` is `[batch *
/// seq, heads * head_dim]`. Query `i` of row `b` sees the columns `max(starts[b], column + i + 1 - window)..=column +
/// i`; a query that sees no column (left padding) gets zeros.
///
/// `sinks` has a number for each query head, as if it were the score of one more column whose value is zero: it joins the
/// softmax's sum. `shape.softcap` bounds the other scores, not the sinks.
///
/// The result of a query depends on the columns that it sees and on their distance from the row's first one: neither on the
/// other rows of the batch, nor on the number of padding columns, nor on how many columns were in the cache before. The
/// exception is the choice between the two methods below, which depends on the shape only: many queries (more than
/// [`QUERIES_IN_PLACE`] of a key head, in more than one column) have other last bits than few.
///
/// # Panics
/// If the length of a slice does not match the shapes above.
pub fn attention(
    shape: &AttentionShape,
    qkv: &[f32],
    keys: &[f32],
    values: &[f32],
    starts: &[usize],
    sinks: Option<&[f32]>,
    out: &mut [f32],
) {
    over(shape, qkv, (keys, values), starts, sinks, out);
}

/// [`attention`] over keys and values in f16, given as their bits: read in place, with the bits of the result over the same
/// values in `f32`.
///
/// # Panics
/// Like [`attention`].
pub fn attention_f16(
    shape: &AttentionShape,
    qkv: &[f32],
    keys: &[u16],
    values: &[u16],
    starts: &[usize],
    sinks: Option<&[f32]>,
    out: &mut [f32],
) {
    over(shape, qkv, (keys, values), starts, sinks, out);
}

fn over<E: Keys>(
    shape: &AttentionShape,
    qkv: &[f32],
    (keys, values): (&[E], &[E]),
    starts: &[usize],
    sinks: Option<&[f32]>,
    out: &mut [f32],
) {
    shape.check(qkv, keys, values);
    assert!(sinks.is_none_or(|sinks| sinks.len() == shape.heads), "attention: one sink per query head");
    assert_eq!(starts.len(), shape.batch, "attention: one start per batch row");
    assert_eq!(out.len(), shape.batch * shape.seq * shape.heads * shape.head_dim, "attention: out");
    if out.is_empty() {
        return;
    }
    // With few queries per key, rearranging the keys costs more than it saves.
    if shape.seq * shape.group() <= QUERIES_IN_PLACE || shape.seq == 1 {
        decode::attention(shape, qkv, keys, values, starts, sinks, out);
    } else {
        prefill::attention(shape, qkv, keys, values, starts, sinks, out);
    }
}
