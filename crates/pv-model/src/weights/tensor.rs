//! One stored tensor, and its conversion to the type that the model computes in.

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use memmap2::Mmap;
use serde::Serialize;

use super::release_pages;
use crate::error::{Error, Result};

/// Values converted before their pages are released; a few MiB, so that the call costs nothing in comparison.
const STEP: usize = 1 << 20;

/// Values converted at a time where a conversion needs an intermediate; small enough for the first-level cache.
const CHUNK: usize = 2048;

/// The types that weights may be stored in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum StoredDtype {
    /// IEEE single precision.
    F32,
    /// IEEE half precision.
    F16,
    /// The upper half of single precision.
    BF16,
}

impl StoredDtype {
    /// Bytes per value.
    pub fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::BF16 => 2,
        }
    }

    /// The type that a safetensors header spells so.
    pub(super) fn from_header(dtype: &str) -> Option<Self> {
        match dtype {
            "F32" => Some(Self::F32),
            "F16" => Some(Self::F16),
            "BF16" => Some(Self::BF16),
            _ => None,
        }
    }
}

/// A tensor as it is stored: little-endian values in row-major order, at any alignment.
///
/// Conversions round to the nearest value, ties to even, as PyTorch does. They go chunk by chunk and release the pages
/// that they have read (see [`WeightFiles::release`](super::WeightFiles::release)), so that nothing but the destination
/// is ever as large as the tensor.
#[derive(Clone, Debug)]
pub struct RawTensor<'a> {
    /// Its name in the checkpoint.
    pub name: &'a str,
    /// What its bytes are.
    pub dtype: StoredDtype,
    /// Its shape; a projection's is `[out, in]`.
    pub shape: Vec<usize>,
    /// Its bytes.
    pub bytes: &'a [u8],
    /// The map that the bytes lie in, and where; `None` where they come from elsewhere.
    pub(super) pages: Option<(&'a Mmap, usize)>,
}

impl RawTensor<'_> {
    /// How many values it has.
    pub fn values(&self) -> usize {
        self.bytes.len() / self.dtype.bytes()
    }

    /// Converts to f32 into `out`, which must have room for exactly all values.
    pub fn to_f32_into(&self, out: &mut [f32]) -> Result<()> {
        self.convert(out, |dtype, bytes, out| match dtype {
            StoredDtype::F32 => copy(bytes, out, f32::from_le_bytes),
            StoredDtype::F16 => chunked(bytes, out, f16::from_le_bytes, |from, to| from.convert_to_f32_slice(to)),
            StoredDtype::BF16 => chunked(bytes, out, bf16::from_le_bytes, |from, to| from.convert_to_f32_slice(to)),
        })
    }

    /// Converts to f16 into `out`, which must have room for exactly all values. Values out of range become infinite.
    pub fn to_f16_into(&self, out: &mut [f16]) -> Result<()> {
        let rounded = |from: &[f32], to: &mut [f16]| to.convert_from_f32_slice(from);
        self.convert(out, |dtype, bytes, out| match dtype {
            StoredDtype::F32 => chunked(bytes, out, f32::from_le_bytes, rounded),
            StoredDtype::F16 => copy(bytes, out, f16::from_le_bytes),
            StoredDtype::BF16 => chunked(bytes, out, |bytes| bf16::from_le_bytes(bytes).to_f32(), rounded),
        })
    }

    /// Converts to bf16 into `out`, which must have room for exactly all values.
    pub fn to_bf16_into(&self, out: &mut [bf16]) -> Result<()> {
        let rounded = |from: &[f32], to: &mut [bf16]| to.convert_from_f32_slice(from);
        self.convert(out, |dtype, bytes, out| match dtype {
            StoredDtype::F32 => chunked(bytes, out, f32::from_le_bytes, rounded),
            StoredDtype::F16 => chunked(bytes, out, |bytes| f16::from_le_bytes(bytes).to_f32(), rounded),
            StoredDtype::BF16 => copy(bytes, out, bf16::from_le_bytes),
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

    /// Converts step by step, releasing what has been read.
    fn convert<T>(&self, out: &mut [T], convert: impl Fn(StoredDtype, &[u8], &mut [T])) -> Result<()> {
        if out.len() != self.values() {
            return Err(Error::TensorLength { tensor: self.name.into(), expected: self.values(), found: out.len() });
        }
        let step = STEP * self.dtype.bytes();
        for (i, (bytes, out)) in self.bytes.chunks(step).zip(out.chunks_mut(STEP)).enumerate() {
            convert(self.dtype, bytes, out);
            if let Some((map, offset)) = self.pages {
                release_pages(map, offset + i * step, bytes.len());
            }
        }
        Ok(())
    }
}

/// Reads values that need no conversion. On a little-endian machine the compiler makes this a plain copy.
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
