//! The rotary angles of a pass's positions.

use super::Window;
use crate::config::{self, DecoderConfig, RopeConfig};

/// The inverse frequencies of a model, from which a pass's tables are computed: those of `rope`, then those of
/// `local_rope` if the model has them.
#[derive(Clone, Debug)]
pub(crate) struct RotaryAngles {
    ropes: Vec<Frequencies>,
}

#[derive(Clone, Debug)]
struct Frequencies {
    inverse: Vec<f32>,
    /// Those of rows longer than a number of tokens.
    long: Option<(usize, Vec<f32>)>,
    scaling: f32,
}

/// Cosines and sines of the positions of a pass, each `[rows, rotated / 2]`.
#[derive(Clone, Debug)]
pub(crate) struct RotaryTable {
    /// The row of each of the pass's positions.
    pub(crate) offsets: Vec<usize>,
    pub(crate) half: usize,
    pub(crate) cos: Vec<f32>,
    pub(crate) sin: Vec<f32>,
}

impl RotaryAngles {
    pub(crate) fn new(config: &DecoderConfig) -> Self {
        let frequencies = |rope: &RopeConfig| {
            let (inverse, scaling) = config::RotaryTable::inverse_frequencies(rope, config.rotated());
            Frequencies { inverse, long: config::RotaryTable::long_frequencies(rope, config.rotated()), scaling }
        };
        Self { ropes: std::iter::once(&config.rope).chain(&config.local_rope).map(frequencies).collect() }
    }

    /// The tables for the positions of a window. Angles are f32 products, as in transformers.
    pub(super) fn tables(&self, window: &Window) -> Vec<RotaryTable> {
        self.ropes.iter().map(|frequencies| frequencies.table(window)).collect()
    }
}

impl Frequencies {
    fn table(&self, window: &Window) -> RotaryTable {
        let positions = window.positions();
        // The length of each position's row with this pass.
        let end = window.column + window.seq;
        let lengths =
            window.starts.iter().flat_map(|start| std::iter::repeat_n(end.saturating_sub(*start), window.seq));
        let is_long = |length: usize| self.long.as_ref().is_some_and(|(limit, _)| length > *limit);
        let keys: Vec<(bool, usize)> = lengths.map(is_long).zip(positions).collect();
        let mut rows = keys.clone();
        rows.sort_unstable();
        rows.dedup();
        let half = self.inverse.len();
        let mut cos = Vec::with_capacity(rows.len() * half);
        let mut sin = Vec::with_capacity(rows.len() * half);
        for (long, position) in &rows {
            let inverse = match &self.long {
                Some((_, inverse)) if *long => inverse,
                _ => &self.inverse,
            };
            for frequency in inverse {
                let (s, c) = libm::sincosf(*position as f32 * frequency);
                cos.push(c * self.scaling);
                sin.push(s * self.scaling);
            }
        }
        let offsets = keys.iter().map(|key| rows.partition_point(|row| row < key)).collect();
        RotaryTable { offsets, half, cos, sin }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_hold_the_positions_there_are() {
        let long = Some((5, vec![0.5, 0.01]));
        let angles = RotaryAngles { ropes: vec![Frequencies { inverse: vec![1.0, 0.1], long, scaling: 2.0 }] };
        // Two rows of six and of four tokens, of which the pass has the last three.
        let window = Window { seq: 3, column: 3, starts: vec![0, 2] };
        let tables = angles.tables(&window);
        let [table] = tables.as_slice() else { panic!("one table") };
        assert_eq!(table.offsets, [3, 4, 5, 0, 1, 2]);
        assert_eq!((table.half, table.cos.len(), table.sin.len()), (2, 12, 12));
        for (row, (position, frequency)) in [(1, 0.1), (2, 0.1), (3, 0.1), (3, 0.01), (4, 0.01)].into_iter().enumerate()
        {
            let angle = position as f32 * frequency;
            assert_eq!(table.cos[2 * row + 1], 2.0 * libm::cosf(angle));
            assert_eq!(table.sin[2 * row + 1], 2.0 * libm::sinf(angle));
        }
    }
}
