//! A tensor in an archive: a strided view of a storage, checked before anything is read.

use std::rc::Rc;

use half::{bf16, f16};

use super::Fault;

/// No tensor of vectors has more dimensions.
pub(super) const MAX_DIMENSIONS: usize = 8;

/// What the numbers of a storage are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dtype {
    F64,
    F32,
    F16,
    BF16,
}

impl Dtype {
    /// The type of torch's class of storages, if it holds numbers that a vector may be made of.
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

    /// The number in these bytes, which are as many as one has; little end first.
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

/// The numbers that a tensor is a view of: an entry of the archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Storage {
    /// The entry's name below `data/`.
    pub(super) key: Rc<str>,
    pub(super) dtype: Dtype,
    /// How many numbers it holds.
    pub(super) numbers: usize,
}

/// A strided view of a storage that stays inside of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Tensor {
    pub(super) storage: Storage,
    offset: usize,
    pub(crate) shape: Vec<usize>,
    strides: Vec<usize>,
}

impl Tensor {
    /// The view, if it lies within its storage and holds no more numbers than that: a tensor that repeats numbers could
    /// be of any size, whatever the size of its file.
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
            return bad(&format!("shows {numbers} numbers of the {} that its storage holds", storage.numbers));
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

    /// The view's numbers in row-major order, out of the storage's bytes, whose length the caller has checked.
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
