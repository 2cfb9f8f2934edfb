//! Keys and values of earlier tokens, outside the model.

use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use pv_hooks::TokenSpans;
use serde::{Deserialize, Serialize};

use super::Window;
use crate::config::DecoderConfig;
use crate::tensors::to_f32;
use crate::{Error, Result};

/// The type in which keys and values are cached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum CacheType {
    /// The compute type: the cache changes no result.
    #[default]
    Compute,
    /// f16: half the memory of f32, and less to read for every token of a long context. Keys and values are rounded to 11
    /// significant bits, and results are those of attention over the rounded values.
    F16,
}

impl CacheType {
    /// All types, and their names.
    pub const ALL: [(&'static str, Self); 2] = [("compute", Self::Compute), ("f16", Self::F16)];

    /// The type of the cached values for a compute type.
    pub fn dtype(self, compute: DType) -> DType {
        match self {
            Self::Compute => compute,
            Self::F16 => DType::F16,
        }
    }

    /// The bytes of a token's keys and values in all layers.
    pub fn bytes(self, config: &DecoderConfig, compute: DType) -> u64 {
        2 * (config.layers * config.kv_heads * config.head_dim * self.dtype(compute).size()) as u64
    }

    /// Whether this is the default. Settings with the default are written as they were before there was a choice.
    pub fn is_compute(&self) -> bool {
        *self == Self::Compute
    }
}

impl std::fmt::Display for CacheType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(Self::ALL.into_iter().find(|(_, known)| known == self).map_or("", |(name, _)| name))
    }
}

impl std::str::FromStr for CacheType {
    type Err = String;

    fn from_str(name: &str) -> std::result::Result<Self, String> {
        let found = Self::ALL.into_iter().find(|(known, _)| *known == name);
        found.map(|(_, kind)| kind).ok_or_else(|| format!("unknown type of cache {name:?}, expected compute or f16"))
    }
}

/// One layer's keys and values, each `[rows, kv_heads, capacity, head_dim]`.
#[derive(Clone, Debug)]
pub(crate) struct LayerCache {
    /// Taken while a pass writes to them, so that each buffer has one owner and is written in place.
    pub(crate) kv: Option<(Tensor<4>, Tensor<4>)>,
    /// The largest absolute value that was to be written, `[1]` in f32, where it may be beyond the range of the cache.
    pub(crate) largest: Option<Tensor<1>>,
}

impl LayerCache {
    fn new(kv: (Tensor<4>, Tensor<4>)) -> Self {
        Self { kv: Some(kv), largest: None }
    }

    /// Takes note of an absolute value, `[1]` in f32.
    pub(crate) fn note(&mut self, largest: Tensor<1>) {
        self.largest = Some(match self.largest.take() {
            Some(before) => before.max_pair(largest),
            None => largest,
        });
    }
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
            .map(|_| LayerCache::new((cache.empty(rows, capacity), cache.empty(rows, capacity))))
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

    /// Rejects a cache that could not hold a key or a value: one beyond ±65504 in f16. The outputs of the passes that wrote
    /// it are of no use either. Reads from the device only for a cache whose type has a smaller range than the compute
    /// type.
    ///
    /// # Errors
    /// [`Error::CacheOverflow`]; a device that fails.
    pub fn check(&mut self) -> Result<()> {
        let noted: Vec<Tensor<1>> = self.layers.iter_mut().filter_map(|layer| layer.largest.take()).collect();
        if noted.is_empty() {
            return Ok(());
        }
        let limit = half::f16::MAX.to_f32();
        // Values up to the middle between the greatest and the next one would be rounded to the greatest.
        let largest = to_f32(Tensor::cat(noted, 0))?.into_iter().find(|value| *value >= limit + 16.0);
        largest.map_or(Ok(()), |value| Err(Error::CacheOverflow { value, limit }))
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
        let (rows, column) = (self.rows(), self.column);
        let (heads, width) = (self.kv_heads, self.head_dim);
        // An empty cache of that capacity has nothing to move.
        if column > 0 || capacity != self.capacity {
            let fresh = self.empty(rows, capacity);
            self.map(|tensor| {
                if column == 0 {
                    return fresh.clone();
                }
                let held = tensor.slice([0..rows, 0..heads, 0..column, 0..width]);
                fresh.clone().slice_assign([0..rows, 0..heads, shift..shift + column, 0..width], held)
            });
        }
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

    /// Makes an empty cache one in which the next column is `column`, and each row begins with the first tokens of the row of
    /// another cache, so many of them, or with padding in the next window.
    pub(crate) fn begin(&mut self, column: usize, rows: &[Option<(&Self, usize)>], padding: &[usize]) {
        self.column = column;
        for (slot, (row, padding)) in rows.iter().zip(padding).enumerate() {
            match row {
                Some((other, len)) if *len > 0 => self.put(slot, other, 0, *len),
                _ => self.starts[slot] = column + padding,
            }
        }
    }

    /// Replaces row `slot` with row `row` of another cache of the same model and type, aligned so that both write next at
    /// the same column.
    pub fn replace_row(&mut self, slot: usize, other: &Self, row: usize) {
        self.put(slot, other, row, other.len(row));
    }

    /// Moves the rows to the right if they are all shorter than `len` tokens, so that a row of that length can be put beside
    /// them. Before several rows, room for the longest of them is made at once.
    pub(crate) fn make_room(&mut self, len: usize) {
        if len > self.column {
            self.resize(self.capacity.max(len), len - self.column);
        }
    }

    /// Replaces row `slot` with the first `len` tokens of row `row` of another cache.
    fn put(&mut self, slot: usize, other: &Self, row: usize, len: usize) {
        self.make_room(len);
        let (start, end) = (self.column - len, self.column);
        let (heads, width) = (self.kv_heads, self.head_dim);
        for (mine, theirs) in self.layers.iter_mut().zip(&other.layers) {
            let (Some((k, v)), Some((their_k, their_v))) = (mine.kv.take(), &theirs.kv) else { continue };
            let put = |to: Tensor<4>, from: &Tensor<4>| {
                let first = other.starts[row];
                let from = from.clone().slice([row..row + 1, 0..heads, first..first + len, 0..width]);
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
