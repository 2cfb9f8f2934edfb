//! Keys and values of earlier tokens, outside the model.

use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use pv_hooks::TokenSpans;

use super::Window;
use crate::config::DecoderConfig;

/// One layer's keys and values, each `[rows, kv_heads, capacity, head_dim]`.
#[derive(Clone, Debug)]
pub(crate) struct LayerCache {
    /// Taken while a pass writes to them, so that each buffer has one owner and is written in place.
    pub(crate) kv: Option<(Tensor<4>, Tensor<4>)>,
}

/// The KV cache of a batch.
///
/// All rows write at the same column. A row that started later, or is shorter, has a later first column: row `r`
/// occupies the columns `starts[r]..column`, and a token's position is its distance from the start. Keys are stored
/// after the rotary embedding, so that a row can be moved along the columns.
#[derive(Clone, Debug)]
pub struct KvCache {
    layers: Vec<LayerCache>,
    starts: Vec<usize>,
    column: usize,
    capacity: usize,
    kv_heads: usize,
    head_dim: usize,
    device: Device,
    dtype: DType,
}

impl KvCache {
    /// An empty cache for `rows` rows of up to `capacity` tokens. It grows when a pass needs more.
    pub fn new(config: &DecoderConfig, rows: usize, capacity: usize, device: &Device, dtype: DType) -> Self {
        let mut cache = Self {
            layers: Vec::new(),
            starts: vec![0; rows],
            column: 0,
            capacity,
            kv_heads: config.kv_heads,
            head_dim: config.head_dim,
            device: device.clone(),
            dtype,
        };
        cache.layers = (0..config.layers)
            .map(|_| LayerCache { kv: Some((cache.empty(rows, capacity), cache.empty(rows, capacity))) })
            .collect();
        cache
    }

    /// The number of rows.
    pub fn rows(&self) -> usize {
        self.starts.len()
    }

    /// The next column to write.
    pub fn column(&self) -> usize {
        self.column
    }

    /// The number of tokens in a row.
    pub fn len(&self, row: usize) -> usize {
        self.column.saturating_sub(self.starts[row])
    }

    /// Empties a row. It stays empty, whatever later passes write, until [`replace_row`](Self::replace_row) fills it.
    pub fn clear_row(&mut self, row: usize) {
        self.starts[row] = usize::MAX;
    }

    /// Whether no token has been written.
    pub fn is_empty(&self) -> bool {
        self.column == 0
    }

    fn empty(&self, rows: usize, capacity: usize) -> Tensor<4> {
        Tensor::zeros([rows, self.kv_heads, capacity, self.head_dim], (&self.device, self.dtype))
    }

    pub(crate) fn layer(&mut self, index: usize) -> &mut LayerCache {
        &mut self.layers[index]
    }

    /// Reserves the columns of a pass's window and advances the column; returns the window.
    pub(crate) fn advance(&mut self, spans: &TokenSpans) -> Window {
        assert_eq!(spans.batch(), self.rows(), "the pass and its cache must have the same rows");
        if self.column == 0 {
            self.starts = spans.rows().iter().map(|row| row.padding).collect();
        }
        let end = self.column + spans.seq();
        if end > self.capacity {
            self.resize(end.max(self.capacity + self.capacity / 2), 0);
        }
        let starts = self.starts.iter().map(|&start| start.min(end)).collect();
        let window = Window { seq: spans.seq(), column: self.column, starts };
        self.column = end;
        window
    }

    /// Applies `change` to every layer's keys and values.
    fn map(&mut self, mut change: impl FnMut(Tensor<4>) -> Tensor<4>) {
        for layer in &mut self.layers {
            if let Some((k, v)) = layer.kv.take() {
                layer.kv = Some((change(k), change(v)));
            }
        }
    }

    /// Changes the capacity and moves the content `shift` columns to the right.
    fn resize(&mut self, capacity: usize, shift: usize) {
        let (rows, column, fresh) = (self.rows(), self.column, self.empty(self.rows(), capacity));
        let (heads, width) = (self.kv_heads, self.head_dim);
        self.map(|tensor| {
            if column == 0 {
                return fresh.clone();
            }
            let held = tensor.slice([0..rows, 0..heads, 0..column, 0..width]);
            fresh.clone().slice_assign([0..rows, 0..heads, shift..shift + column, 0..width], held)
        });
        self.capacity = capacity;
        self.column += shift;
        for start in &mut self.starts {
            *start = start.saturating_add(shift);
        }
    }

    /// Keeps these rows, in this order; a row may occur more than once.
    pub fn select_rows(&mut self, rows: &[usize]) {
        if rows.iter().copied().eq(0..self.rows()) {
            return;
        }
        let indices: Vec<i64> = rows.iter().map(|&row| row as i64).collect();
        let indices = Tensor::<1, Int>::from_data(TensorData::new(indices, [rows.len()]), &self.device);
        self.map(|tensor| tensor.select(0, indices.clone()));
        self.starts = rows.iter().map(|&row| self.starts[row]).collect();
    }

    /// Replaces row `slot` with row `row` of another cache of the same model, aligned so that both write next at the
    /// same column.
    pub fn replace_row(&mut self, slot: usize, other: &Self, row: usize) {
        let len = other.len(row);
        if len > self.column {
            // The new row is longer than all rows here: move the others to the right.
            let shift = len - self.column;
            self.resize(self.capacity.max(self.column + shift), shift);
        }
        let (start, end) = (self.column - len, self.column);
        let (heads, width) = (self.kv_heads, self.head_dim);
        for (mine, theirs) in self.layers.iter_mut().zip(&other.layers) {
            let (Some((k, v)), Some((their_k, their_v))) = (mine.kv.take(), &theirs.kv) else { continue };
            let put = |to: Tensor<4>, from: &Tensor<4>| {
                let from = from.clone().slice([row..row + 1, 0..heads, other.starts[row]..other.column, 0..width]);
                to.slice_assign([slot..slot + 1, 0..heads, start..end, 0..width], from)
            };
            mine.kv = Some((put(k, their_k), put(v, their_v)));
        }
        self.starts[slot] = start;
    }

    /// Drops columns that no row of `live` uses any more, so that memory does not grow with the length of a run.
    pub fn trim(&mut self, live: &[usize]) {
        let Some(first) = live.iter().map(|&row| self.starts[row]).min() else { return };
        if first < self.column / 2 {
            return;
        }
        let (rows, heads, width) = (self.rows(), self.kv_heads, self.head_dim);
        let (column, fresh) = (self.column, self.empty(rows, self.capacity));
        self.map(|tensor| {
            let held = tensor.slice([0..rows, 0..heads, first..column, 0..width]);
            fresh.clone().slice_assign([0..rows, 0..heads, 0..column - first, 0..width], held)
        });
        self.column -= first;
        for start in self.starts.iter_mut().filter(|start| **start != usize::MAX) {
            *start = start.saturating_sub(first);
        }
    }
}
