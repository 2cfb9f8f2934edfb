//! The rotary angles of a pass's positions.

use std::sync::{Arc, Mutex, PoisonError};

use burn::tensor::{DType, Device, Tensor, TensorData};

use super::Window;
use crate::config::{self, DecoderConfig, RopeConfig};

/// The inverse frequencies of a model, from which a pass's tables are computed: those of `rope`, then those of
/// `local_rope` if the model has them.
#[derive(Clone, Debug)]
pub(crate) struct RotaryAngles {
    pub(super) ropes: Vec<Arc<Frequencies>>,
}

#[derive(Debug, Default)]
pub(crate) struct Frequencies {
    inverse: Vec<f32>,
    /// Those of rows longer than a number of tokens.
    long: Option<(usize, Vec<f32>)>,
    scaling: f32,
    /// Tables for other devices than the CPU, which grow with the positions.
    on_devices: Mutex<Vec<DeviceTable>>,
}

/// Cosines and sines of the positions `0..positions`, each `[positions, rotated / 2]` in f32, followed by as many rows for
/// long rows if these have other frequencies.
#[derive(Clone, Debug)]
pub(super) struct DeviceTable {
    device: Device,
    pub(super) positions: usize,
    pub(super) cos: Tensor<2>,
    pub(super) sin: Tensor<2>,
}

/// The least number of positions of a table on a device.
const LEAST_POSITIONS: usize = 512;

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
            let long = config::RotaryTable::long_frequencies(rope, config.rotated());
            Arc::new(Frequencies { inverse, long, scaling, ..Frequencies::default() })
        };
        Self { ropes: std::iter::once(&config.rope).chain(&config.local_rope).map(frequencies).collect() }
    }
}

impl Frequencies {
    /// Half the number of dimensions that are rotated.
    pub(super) fn half(&self) -> usize {
        self.inverse.len()
    }

    /// Whether the frequencies of each row of a window are those of long rows; `None` if those of none are.
    pub(super) fn long_rows(&self, window: &Window) -> Option<Vec<bool>> {
        let (limit, _) = self.long.as_ref()?;
        // The lengths with this pass.
        let end = window.column + window.seq;
        let long: Vec<bool> = window.starts.iter().map(|start| end.saturating_sub(*start) > *limit).collect();
        long.contains(&true).then_some(long)
    }

    /// The table for the positions of a window. Angles are f32 products, as in transformers.
    pub(super) fn table(&self, window: &Window) -> RotaryTable {
        let long = self.long_rows(window).unwrap_or_else(|| vec![false; window.starts.len()]);
        let long = long.into_iter().flat_map(|long| std::iter::repeat_n(long, window.seq));
        let keys: Vec<(bool, usize)> = long.zip(window.positions()).collect();
        let mut rows = keys.clone();
        rows.sort_unstable();
        rows.dedup();
        let (cos, sin) = self.cos_and_sin(rows.iter().copied());
        let offsets = keys.iter().map(|key| rows.partition_point(|row| row < key)).collect();
        RotaryTable { offsets, half: self.half(), cos, sin }
    }

    /// Cosines and sines of positions, each one after the other, with the frequencies of long rows where they are said to be
    /// of such a row.
    fn cos_and_sin(&self, positions: impl Iterator<Item = (bool, usize)>) -> (Vec<f32>, Vec<f32>) {
        let (mut cos, mut sin) = (Vec::new(), Vec::new());
        for (long, position) in positions {
            let inverse = match &self.long {
                Some((_, inverse)) if long => inverse,
                _ => &self.inverse,
            };
            for frequency in inverse {
                let (s, c) = libm::sincosf(position as f32 * frequency);
                cos.push(c * self.scaling);
                sin.push(s * self.scaling);
            }
        }
        (cos, sin)
    }

    /// The table on a device, which is kept there, with at least so many positions.
    pub(super) fn on_device(&self, device: &Device, positions: usize) -> DeviceTable {
        let device = device.clone().without_autodiff();
        let mut tables = self.on_devices.lock().unwrap_or_else(PoisonError::into_inner);
        let known = tables.iter().position(|table| table.device == device);
        if let Some(known) = known.filter(|known| tables[*known].positions >= positions) {
            return tables[known].clone();
        }
        let positions = positions.next_power_of_two().max(LEAST_POSITIONS);
        let long = if self.long.is_some() { positions } else { 0 };
        let rows = (0..positions).map(|position| (false, position)).chain((0..long).map(|position| (true, position)));
        let (cos, sin) = self.cos_and_sin(rows);
        let tensor = |values: Vec<f32>| {
            Tensor::from_data(TensorData::new(values, [positions + long, self.half()]), (&device, DType::F32))
        };
        let table = DeviceTable { device: device.clone(), positions, cos: tensor(cos), sin: tensor(sin) };
        known.into_iter().for_each(|known| drop(tables.swap_remove(known)));
        tables.push(table.clone());
        table
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_hold_the_positions_there_are() {
        let long = Some((5, vec![0.5, 0.01]));
        let frequencies =
            Frequencies { inverse: vec![1.0, 0.1], long: long.clone(), scaling: 2.0, ..Frequencies::default() };
        // Two rows of six and of four tokens, of which the pass has the last three.
        let window = Window { seq: 3, column: 3, starts: vec![0, 2] };
        let table = frequencies.table(&window);
        assert_eq!(table.offsets, [3, 4, 5, 0, 1, 2]);
        assert_eq!((table.half, table.cos.len(), table.sin.len()), (2, 12, 12));
        for (row, (position, frequency)) in [(1, 0.1), (2, 0.1), (3, 0.1), (3, 0.01), (4, 0.01)].into_iter().enumerate()
        {
            let angle = position as f32 * frequency;
            assert_eq!(table.cos[2 * row + 1], 2.0 * libm::cosf(angle));
            assert_eq!(table.sin[2 * row + 1], 2.0 * libm::sinf(angle));
        }
    }

    #[test]
    fn a_table_on_a_device_grows_and_has_the_same_rows() {
        let long = Some((5, vec![0.5, 0.01]));
        let frequencies = Frequencies { inverse: vec![1.0, 0.1], long, scaling: 2.0, ..Frequencies::default() };
        let window = Window { seq: 3, column: 3, starts: vec![0, 2] };
        let host = frequencies.table(&window);
        for (least, positions) in [(6, 512), (700, 1024), (6, 1024)] {
            let table = frequencies.on_device(&Device::flex(), least);
            assert_eq!(table.positions, positions);
            assert_eq!(table.cos.dims(), [2 * table.positions, 2]);
            for (values, expected) in [(table.cos, &host.cos), (table.sin, &host.sin)] {
                let values = crate::tensors::to_f32(values).expect("values");
                // The second row's positions 1, 2 and 3, and the first one's, which is long, from 3 on.
                assert_eq!(values[2..8], expected[..6]);
                let first = 2 * (table.positions + 3);
                assert_eq!(values[first..first + 6], expected[6..]);
            }
        }
        assert_eq!(frequencies.on_devices.lock().expect("no panic").len(), 1);
    }
}
