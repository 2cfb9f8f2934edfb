//! One stored tensor, and its conversion to the compute type.

use std::borrow::Cow;
use std::sync::Arc;

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use memmap2::Mmap;
use pv_kernels::kept::{Format, dequantize};

use super::{WeightsError, release_pages};
use crate::mapped::Bytes;

/// Values converted before their pages are released; a few MiB, so that the cost of the call is negligible, and whole
/// blocks of every format.
const STEP: usize = 1 << 20;

/// Values converted at a time by a conversion with an intermediate type; small enough for the first-level cache, and whole
/// blocks of every format.
const CHUNK: usize = 2048;

/// A stored tensor: little-endian values or blocks of them in row-major order, at any alignment.
///
/// Conversions round to the nearest value, ties to even, as PyTorch does. They work in chunks and release the pages
/// that they have read (see [`WeightFiles::release`](super::WeightFiles::release)), so that only the destination is as
/// large as the tensor.
#[derive(Clone, Debug)]
pub struct RawTensor<'a> {
    /// The name in the checkpoint.
    pub name: &'a str,
    /// The format of the values.
    pub format: Format,
    /// The shape; that of a projection is `[out, in]`.
    pub shape: Vec<usize>,
    /// The values.
    pub bytes: Cow<'a, [u8]>,
    /// The map with the bytes, and their offset in it; `None` for bytes from elsewhere.
    pub(super) pages: Option<(&'a Arc<Mmap>, usize)>,
}

impl RawTensor<'_> {
    /// The number of values.
    pub fn values(&self) -> usize {
        self.bytes.len() / self.format.block_bytes() * self.format.block_elements()
    }

    /// Some rows of a tensor of at least one dimension.
    pub(crate) fn rows(&self, rows: std::ops::Range<usize>) -> RawTensor<'_> {
        let row = self.bytes.len() / self.shape[0].max(1);
        let mut shape = self.shape.clone();
        shape[0] = rows.len();
        let bytes = &self.bytes[rows.start * row..rows.end * row];
        let pages = self.pages.map(|(map, offset)| (map, offset + rows.start * row));
        RawTensor { name: self.name, format: self.format, shape, bytes: Cow::Borrowed(bytes), pages }
    }

    /// The bytes of tensors that are one after the other in a file, without a copy; `None` if these are not.
    pub(crate) fn in_place(tensors: &[RawTensor<'_>]) -> Option<Bytes> {
        let (map, start) = tensors.first()?.pages?;
        let mut end = start;
        for tensor in tensors {
            tensor.pages.filter(|(other, offset)| Arc::ptr_eq(map, other) && *offset == end)?;
            end += tensor.bytes.len();
        }
        Some(Bytes::mapped(map, start..end))
    }

    /// Releases the pages of the bytes from memory; they are read from the file again when needed.
    pub(crate) fn release(&self) {
        if let Some((map, offset)) = self.pages {
            release_pages(map, offset, self.bytes.len());
        }
    }

    /// Converts to f32 into `out`, whose length must be the number of values.
    ///
    /// # Errors
    /// [`WeightsError::TensorLength`] for another length.
    pub fn to_f32_into(&self, out: &mut [f32]) -> Result<(), WeightsError> {
        self.convert(out, |format, bytes, out| match format {
            Format::F32 => copy(bytes, out, f32::from_le_bytes),
            Format::F16 => chunked(bytes, out, f16::from_le_bytes, |from, to| from.convert_to_f32_slice(to)),
            Format::Bf16 => chunked(bytes, out, bf16::from_le_bytes, |from, to| from.convert_to_f32_slice(to)),
            blocks => dequantize(blocks, bytes, out),
        })
    }

    /// Converts to f16 into `out`, whose length must be the number of values. Values out of range become infinite.
    ///
    /// # Errors
    /// [`WeightsError::TensorLength`] for another length.
    pub fn to_f16_into(&self, out: &mut [f16]) -> Result<(), WeightsError> {
        let rounded = |from: &[f32], to: &mut [f16]| to.convert_from_f32_slice(from);
        self.convert(out, |format, bytes, out| match format {
            Format::F32 => chunked(bytes, out, f32::from_le_bytes, rounded),
            Format::F16 => copy(bytes, out, f16::from_le_bytes),
            Format::Bf16 => chunked(bytes, out, |bytes| bf16::from_le_bytes(bytes).to_f32(), rounded),
            blocks => unpacked(blocks, bytes, out, rounded),
        })
    }

    /// Converts to bf16 into `out`, whose length must be the number of values.
    ///
    /// # Errors
    /// [`WeightsError::TensorLength`] for another length.
    pub fn to_bf16_into(&self, out: &mut [bf16]) -> Result<(), WeightsError> {
        let rounded = |from: &[f32], to: &mut [bf16]| to.convert_from_f32_slice(from);
        self.convert(out, |format, bytes, out| match format {
            Format::F32 => chunked(bytes, out, f32::from_le_bytes, rounded),
            Format::F16 => chunked(bytes, out, |bytes| f16::from_le_bytes(bytes).to_f32(), rounded),
            Format::Bf16 => copy(bytes, out, bf16::from_le_bytes),
            blocks => unpacked(blocks, bytes, out, rounded),
        })
    }

    /// Converts to f32.
    pub fn to_f32(&self) -> Vec<f32> {
        let mut out = vec![0.0; self.values()];
        self.to_f32_into(&mut out).expect("the buffer was made to fit");
        out
    }

    /// Converts to f16. Values out of range become infinite.
    pub fn to_f16(&self) -> Vec<f16> {
        let mut out = vec![f16::ZERO; self.values()];
        self.to_f16_into(&mut out).expect("the buffer was made to fit");
        out
    }

    /// Converts to bf16.
    pub fn to_bf16(&self) -> Vec<bf16> {
        let mut out = vec![bf16::ZERO; self.values()];
        self.to_bf16_into(&mut out).expect("the buffer was made to fit");
        out
    }

    /// Converts in steps and releases the pages that have been read.
    fn convert<T>(&self, out: &mut [T], convert: impl Fn(Format, &[u8], &mut [T])) -> Result<(), WeightsError> {
        if out.len() != self.values() {
            return Err(WeightsError::TensorLength {
                tensor: self.name.into(),
                expected: self.values(),
                found: out.len(),
            });
        }
        let step = STEP / self.format.block_elements() * self.format.block_bytes();
        for (i, (bytes, out)) in self.bytes.chunks(step).zip(out.chunks_mut(STEP)).enumerate() {
            convert(self.format, bytes, out);
            if let Some((map, offset)) = self.pages {
                release_pages(map, offset + i * step, bytes.len());
            }
        }
        Ok(())
    }
}

/// Reads values that need no conversion. On a little-endian machine the compiler turns this into a copy.
fn copy<T, const N: usize>(bytes: &[u8], out: &mut [T], read: impl Fn([u8; N]) -> T) {
    for (value, bytes) in out.iter_mut().zip(bytes.as_chunks().0) {
        *value = read(*bytes);
    }
}

/// Reads values a chunk at a time and converts each chunk.
fn chunked<From: Copy + Default, To, const N: usize>(
    bytes: &[u8],
    out: &mut [To],
    read: impl Fn([u8; N]) -> From,
    convert: impl Fn(&[From], &mut [To]),
) {
    let mut buffer = [From::default(); CHUNK];
    for (bytes, out) in bytes.chunks(CHUNK * N).zip(out.chunks_mut(CHUNK)) {
        let values = &mut buffer[..out.len()];
        copy(bytes, values, &read);
        convert(values, out);
    }
}

/// Unpacks blocks a chunk at a time and converts each chunk.
fn unpacked<To>(format: Format, bytes: &[u8], out: &mut [To], convert: impl Fn(&[f32], &mut [To])) {
    let mut buffer = [0.0; CHUNK];
    let step = CHUNK / format.block_elements() * format.block_bytes();
    for (bytes, out) in bytes.chunks(step).zip(out.chunks_mut(CHUNK)) {
        let values = &mut buffer[..out.len()];
        dequantize(format, bytes, values);
        convert(values, out);
    }
}
