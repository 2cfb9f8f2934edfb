//! A tensor in an archive: a strided view of a storage, checked before anything is read.

use std::rc::Rc;

use half::{bf16, f16};

use super::Fault;

/// The maximum number of dimensions, more than any tensor of vectors has.
pub(super) const MAX_DIMENSIONS: usize = 8;

/// The type of the values of a storage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dtype {
    F64,
    F32,
    F16,
    BF16,
}

impl Dtype {
    /// The type of torch's storage class, if a vector can be made of its values.
    pub(super) fn of_storage(class: &str) -> Option<Self> {
        Some(match class {
            "DoubleStorage" => Self::F64,
            "FloatStorage" => Self::F32,
            "HalfStorage" => Self::F16,
            "BFloat16Storage" => Self::BF16,
            _ => return None,
        })
    }

    pub(super) fn bytes(self) -> usize {
        match self {
            Self::F64 => 8,
            Self::F32 => 4,
            Self::F16 | Self::BF16 => 2,
        }
    }

    /// The value in these bytes, little-endian. There must be as many bytes as the type has.
    fn read(self, bytes: &[u8]) -> f64 {
        match *bytes {
            [a, b, c, d, e, f, g, h] => f64::from_le_bytes([a, b, c, d, e, f, g, h]),
            [a, b, c, d] => f32::from_le_bytes([a, b, c, d]).into(),
            [a, b] if self == Self::F16 => f16::from_le_bytes([a, b]).into(),
            [a, b] => bf16::from_le_bytes([a, b]).into(),
            _ => f64::NAN,
        }
    }
}

/// The values that a tensor is a view of: an entry of the archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Storage {
    /// The entry's name below `data/`.
    pub(super) key: Rc<str>,
    pub(super) dtype: Dtype,
    /// The number of values.
    pub(super) numbers: usize,
}

/// A strided view within a storage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Tensor {
    pub(super) storage: Storage,
    offset: usize,
    pub(crate) shape: Vec<usize>,
    strides: Vec<usize>,
}

impl Tensor {
    /// The view, if it is within its storage and has no more values than the storage: a tensor with repeated values
    /// could be of any size, whatever the size of its file.
    pub(super) fn new(storage: Storage, offset: i64, shape: &[i64], strides: &[i64]) -> Result<Self, Fault> {
        let bad = |what: &str| {
            let tensor = format!("a tensor of shape {shape:?}, strides {strides:?} and offset {offset}");
            Err(Fault::Bad(format!("{tensor} {what}")))
        };
        let sizes = |values: &[i64]| -> Option<Vec<usize>> {
            values.iter().map(|value| usize::try_from(*value).ok()).collect()
        };
        if shape.len() != strides.len() {
            return bad("has not one stride per dimension");
        }
        let (Ok(start), Some(lengths), Some(steps)) = (usize::try_from(offset), sizes(shape), sizes(strides)) else {
            return bad("has negative ones among them");
        };
        let numbers = lengths.iter().try_fold(1usize, |product, size| product.checked_mul(*size));
        let Some(numbers) = numbers else { return bad("has more numbers than can be counted") };
        if numbers > storage.numbers {
            return bad(&format!("shows {numbers} numbers of the {} that its storage contains", storage.numbers));
        }
        let last = lengths
            .iter()
            .zip(&steps)
            .try_fold(start, |last, (size, stride)| last.checked_add(size.saturating_sub(1).checked_mul(*stride)?));
        if numbers > 0 && last.is_none_or(|last| last >= storage.numbers) {
            return bad(&format!("reaches outside of its storage of {} numbers", storage.numbers));
        }
        Ok(Self { storage, offset: start, shape: lengths, strides: steps })
    }

    /// The view's values in row-major order, from the storage's bytes, whose length the caller has checked.
    pub(super) fn gather(&self, bytes: &[u8]) -> Vec<f64> {
        let numbers = self.shape.iter().product();
        let width = self.storage.dtype.bytes();
        let mut values = Vec::with_capacity(numbers);
        let mut index = vec![0; self.shape.len()];
        for _ in 0..numbers {
            let at = self.offset + index.iter().zip(&self.strides).map(|(i, stride)| i * stride).sum::<usize>();
            values.push(bytes.get(at * width..(at + 1) * width).map_or(f64::NAN, |b| self.storage.dtype.read(b)));
            for (i, size) in index.iter_mut().zip(&self.shape).rev() {
                *i += 1;
                if *i < *size {
                    break;
                }
                *i = 0;
            }
        }
        values
    }
}
