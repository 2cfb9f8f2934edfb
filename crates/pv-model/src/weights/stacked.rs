//! Experts in one tensor for each part of a block (gpt-oss): `gate_up_proj`, whose outputs are those of gate and up by turns, and
//! `down_proj`. Single experts' parts of them get names of their own, and are read from them one at a time.
//!
//! A matrix in a floating-point type is stored with its inputs first, `[experts, in, out]`. In MXFP4, the bytes of
//! `_blocks` `[experts, out, in / 32, 16]` have two neighbours each, and `_scales` `[experts, out, in / 32]` the exponents.

use std::ops::Range;

use pv_kernels::kept::Format;
use rayon::prelude::*;

use super::header::Entry;
use super::{Stored, WeightFiles, WeightsError};
use crate::config::{DecoderConfig, ExpertConfig, MlpBias};
use crate::gguf::Change;

/// The values that share a scale in MXFP4.
const GROUP: usize = 32;

/// The rows that one task writes.
const ROWS: usize = 16;

/// Which part of an expert's stored matrix a tensor is.
#[derive(Clone, Debug)]
pub(super) enum Slice {
    /// Of rows of so many `columns`, every column with the number `first + n · step`, as a row.
    Columns { columns: usize, first: usize, step: usize },
    /// Of rows of blocks in MXFP4, each with these bytes of scales, every row with the number `first + n · step`.
    Mxfp4 { scales: (usize, Range<usize>), first: usize, step: usize },
}

/// A tensor of all experts of a block.
struct Whole {
    shard: usize,
    dtype: String,
    bytes: Range<usize>,
}

impl Whole {
    /// The bytes of one of `count` experts.
    fn expert(&self, number: usize, count: usize) -> Range<usize> {
        let each = self.bytes.len() / count;
        self.bytes.start + number * each..self.bytes.start + (number + 1) * each
    }
}

impl WeightFiles {
    /// Gives the experts of stacked tensors names of their own.
    pub(super) fn unstack(&mut self, config: &DecoderConfig) -> Result<(), WeightsError> {
        let Some(experts) = &config.experts else { return Ok(()) };
        let names = &config.names;
        for block in (0..config.layers).filter(|block| experts.in_block(*block)) {
            let prefix = names.in_block(block, names.experts);
            let (gate_up, down) = (&[names.expert_gate, names.expert_up][..], &[names.expert_down][..]);
            let parts = [
                ("gate_up_proj", config.d_model, 2 * experts.d_ff, gate_up),
                ("down_proj", experts.d_ff, config.d_model, down),
            ];
            for (part, inputs, outputs, parts) in parts {
                let name = format!("{prefix}.{part}");
                self.unstack_matrices(&prefix, &name, (inputs, outputs), experts, parts)?;
                if config.mlp_bias == MlpBias::All {
                    let whole = self.take_whole(&format!("{name}_bias"), &[experts.count, outputs])?;
                    let slice = |_, first| Slice::Columns { columns: outputs, first, step: parts.len() };
                    let named = (prefix.as_str(), "bias", vec![outputs / parts.len()]);
                    self.add_experts(&whole, named, experts.count, parts, slice)?;
                }
            }
        }
        Ok(())
    }

    fn unstack_matrices(
        &mut self,
        prefix: &str,
        name: &str,
        (inputs, outputs): (usize, usize),
        experts: &ExpertConfig,
        parts: &[&str],
    ) -> Result<(), WeightsError> {
        let (count, step) = (experts.count, parts.len());
        let named = (prefix, "weight", vec![outputs / step, inputs]);
        let blocks = format!("{name}_blocks");
        if !self.contains(&blocks) {
            let whole = self.take_whole(name, &[count, inputs, outputs])?;
            let slice = |_, first| Slice::Columns { columns: outputs, first, step };
            return self.add_experts(&whole, named, count, parts, slice);
        }
        let groups = inputs.div_ceil(GROUP);
        let mut whole = self.take_whole(&blocks, &[count, outputs, groups, GROUP / 2])?;
        let scales = self.take_whole(&format!("{name}_scales"), &[count, outputs, groups])?;
        for (found, name) in [(&whole, blocks), (&scales, format!("{name}_scales"))] {
            let path = self.shards[found.shard].path.clone();
            if found.dtype != "U8" {
                return Err(WeightsError::TensorDtype { path, tensor: name, dtype: found.dtype.clone() });
            }
            if !inputs.is_multiple_of(GROUP) {
                let (expected, found) = (vec![count, outputs, inputs], vec![count, outputs, groups * GROUP]);
                return Err(WeightsError::TensorShape { path, tensor: name, expected, found });
            }
        }
        whole.dtype = Format::Mxfp4.name().to_owned();
        let slice = |number, first| {
            let scales = (scales.shard, scales.expert(number, count));
            Slice::Mxfp4 { scales, first, step }
        };
        self.add_experts(&whole, named, count, parts, slice)
    }

    /// Removes a stacked tensor, which must have this shape.
    fn take_whole(&mut self, name: &str, shape: &[usize]) -> Result<Whole, WeightsError> {
        let Some(Stored { shard, entry, .. }) = self.tensors.remove(name) else {
            return Err(WeightsError::MissingTensors { path: self.folder.clone(), names: vec![name.into()] });
        };
        if entry.shape != shape {
            let (path, tensor) = (self.shards[shard].path.clone(), name.into());
            return Err(WeightsError::TensorShape { path, tensor, expected: shape.into(), found: entry.shape });
        }
        Ok(Whole { shard, dtype: entry.dtype, bytes: entry.bytes })
    }

    /// Adds the parts of each expert, under names with its number.
    fn add_experts(
        &mut self,
        whole: &Whole,
        (prefix, kind, shape): (&str, &str, Vec<usize>),
        count: usize,
        parts: &[&str],
        slice: impl Fn(usize, usize) -> Slice,
    ) -> Result<(), WeightsError> {
        for number in 0..count {
            for (first, part) in parts.iter().enumerate() {
                let entry =
                    Entry { dtype: whole.dtype.clone(), shape: shape.clone(), bytes: whole.expert(number, count) };
                let slice = Some(slice(number, first));
                let stored = Stored { shard: whole.shard, entry, change: Change::None, slice };
                let name = format!("{prefix}.{number}.{part}.{kind}");
                if let Some(other) = self.tensors.get(&name) {
                    let [first, second] = [other.shard, whole.shard].map(|shard| self.shards[shard].path.clone());
                    return Err(WeightsError::DuplicateTensor { tensor: name, first, second });
                }
                self.tensors.insert(name, stored);
            }
        }
        Ok(())
    }

    /// The values of a slice of `bytes`, for a tensor of this format.
    pub(super) fn sliced(&self, slice: &Slice, format: Format, bytes: &[u8], shape: &[usize]) -> Vec<u8> {
        match slice {
            Slice::Columns { columns, first, step } if format.block_bytes() == 4 => {
                transposed::<4>(bytes, *columns, *first, *step)
            }
            Slice::Columns { columns, first, step } => transposed::<2>(bytes, *columns, *first, *step),
            Slice::Mxfp4 { scales: (shard, range), first, step } => {
                let shard = &self.shards[*shard];
                let scales = &shard.map[shard.data_start..][range.clone()];
                let groups = shape.last().copied().unwrap_or(0) / GROUP;
                in_blocks(bytes, scales, groups, *first, *step)
            }
        }
    }
}

/// Every column `first + n · step` of rows of `columns` values of `N` bytes, as a row.
fn transposed<const N: usize>(bytes: &[u8], columns: usize, first: usize, step: usize) -> Vec<u8> {
    let values = bytes.as_chunks::<N>().0;
    let rows = values.len() / columns.max(1);
    let mut out = vec![[0; N]; columns / step * rows];
    // Neighbouring columns are read together, as they are in the same lines of the cache.
    out.par_chunks_mut((ROWS * rows).max(1)).enumerate().for_each(|(task, out)| {
        let first = first + task * ROWS * step;
        for (i, row) in values.chunks_exact(columns).enumerate() {
            for (n, out) in out.chunks_exact_mut(rows).enumerate() {
                out[i] = row[first + n * step];
            }
        }
    });
    out.into_flattened()
}

/// Every row `first + n · step` of blocks of 16 bytes with two neighbours each, as blocks of [`Format::Mxfp4`], whose bytes have
/// the elements n and n + 16.
fn in_blocks(bytes: &[u8], scales: &[u8], groups: usize, first: usize, step: usize) -> Vec<u8> {
    let size = Format::Mxfp4.block_bytes();
    let rows = scales.len() / groups.max(1) / step;
    let blocks = bytes.as_chunks::<{ GROUP / 2 }>().0;
    let mut out = vec![0; rows * groups * size];
    out.par_chunks_mut((ROWS * groups * size).max(1)).enumerate().for_each(|(task, out)| {
        for (n, out) in out.chunks_exact_mut(groups * size).enumerate() {
            let from = (first + (task * ROWS + n) * step) * groups;
            let row = blocks[from..from + groups].iter().zip(&scales[from..from + groups]);
            for (out, (block, scale)) in out.chunks_exact_mut(size).zip(row) {
                out[0] = *scale;
                let element = |i: usize| block[i / 2] >> (4 * (i % 2)) & 15;
                for (i, out) in out[1..].iter_mut().enumerate() {
                    *out = element(i) | element(i + GROUP / 2) << 4;
                }
            }
        }
    });
    out
}

#[cfg(test)]
mod tests {
    use pv_kernels::kept::KeptRef;

    use super::*;

    #[test]
    fn columns_become_rows() {
        // [3, 4] of two bytes.
        let values: Vec<u8> = (0..12u16).flat_map(u16::to_le_bytes).collect();
        let read = |bytes: Vec<u8>| -> Vec<u16> {
            bytes.chunks(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]])).collect()
        };
        assert_eq!(read(transposed::<2>(&values, 4, 0, 2)), [0, 4, 8, 2, 6, 10]);
        assert_eq!(read(transposed::<2>(&values, 4, 1, 2)), [1, 5, 9, 3, 7, 11]);
        assert_eq!(read(transposed::<2>(&values, 4, 0, 1)), [0, 4, 8, 1, 5, 9, 2, 6, 10, 3, 7, 11]);
        // A vector, and more rows than a task has.
        assert_eq!(read(transposed::<2>(&values, 12, 1, 2)), [1, 3, 5, 7, 9, 11]);
        let values: Vec<u8> = (0..100u16 * 3).flat_map(u16::to_le_bytes).collect();
        let found = read(transposed::<2>(&values, 100, 1, 2));
        assert!((0..50).all(|n| (0..3).all(|i| found[n * 3 + i] as usize == i * 100 + 1 + 2 * n)));
    }

    #[test]
    fn blocks_of_neighbours_become_blocks_of_halves() {
        // Two rows by turns of two groups: the elements are 0.5, 1, 1.5, … with the scale 2^row.
        let row = |exponent: u8| {
            let block: Vec<u8> = (0..16u8).map(|i| (2 * i % 8) | (((2 * i + 1) % 8) << 4)).collect();
            (block.repeat(2), vec![127 + exponent; 2])
        };
        let rows: Vec<_> = (0..40).map(row).collect();
        let bytes: Vec<u8> = rows.iter().flat_map(|(bytes, _)| bytes.clone()).collect();
        let scales: Vec<u8> = rows.iter().flat_map(|(_, scales)| scales.clone()).collect();
        let values = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0];
        for first in 0..2 {
            let found = in_blocks(&bytes, &scales, 2, first, 2);
            let found = KeptRef { format: Format::Mxfp4, bytes: &found }.to_f32();
            assert_eq!(found.len(), 20 * 64);
            for (i, value) in found.iter().enumerate() {
                assert_eq!(*value, values[i % 8] * 2f32.powi((i / 64 * 2 + first) as i32));
            }
        }
    }
}
