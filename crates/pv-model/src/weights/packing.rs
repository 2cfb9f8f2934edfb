//! The type in which weights are stored in memory, and the packing of a file's tensors into it.

use burn::tensor::DType;
use pv_kernels::kept::{Format, quantize};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::{RawTensor, WeightsError};

/// The number of values that are unpacked at a time while a tensor is packed.
const STEP: usize = 4 << 20;

/// The number of rows that are packed by one task.
const ROWS: usize = 16;

/// The type in which a model's weight matrices are stored in memory. Products are computed in f32; norms and biases are
/// stored in f32.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum WeightType {
    /// 32 bits.
    F32,
    /// 16 bits, IEEE 754. Values beyond ±65504 become infinite.
    F16,
    /// 16 bits with the exponent of f32: exact for files in bf16.
    Bf16,
    /// 8 bits and a scale for each 32 values (Q8_0): 8.5 bits per weight.
    Q8,
    /// About 4.5 bits per weight (Q4_K), and 6.5 (Q6_K) for embeddings and the output head. Matrices whose rows are not a
    /// multiple of 256 values long use Q5_0 and Q8_0.
    Q4,
}

impl WeightType {
    /// All types, and their names.
    pub const ALL: [(&'static str, Self); 5] =
        [("f32", Self::F32), ("f16", Self::F16), ("bf16", Self::Bf16), ("q8", Self::Q8), ("q4", Self::Q4)];

    /// The name: `f32`, `f16`, `bf16`, `q8` or `q4`.
    pub fn name(self) -> &'static str {
        Self::ALL.into_iter().find(|(_, known)| *known == self).map_or("", |(name, _)| name)
    }

    /// The type of computation with the same values, if there is one.
    pub(crate) fn dtype(self) -> Option<DType> {
        match self {
            Self::F32 => Some(DType::F32),
            Self::F16 => Some(DType::F16),
            Self::Bf16 => Some(DType::BF16),
            Self::Q8 | Self::Q4 => None,
        }
    }

    /// The bytes of a row of a matrix, see [`format`](Self::format).
    pub(crate) fn row_bytes(self, columns: usize, table: bool) -> usize {
        self.format(columns, table).bytes(columns).expect("the format divides the row")
    }

    /// The format of a matrix with rows of so many values; `table` is true for embeddings and the output head. f16 if no
    /// format of few bits divides the rows.
    pub(crate) fn format(self, columns: usize, table: bool) -> Format {
        let first = |formats: &[Format]| {
            let fits = |format: &&Format| columns.is_multiple_of(format.block_elements());
            formats.iter().find(fits).copied().unwrap_or(Format::F16)
        };
        match self {
            Self::F32 => Format::F32,
            Self::F16 => Format::F16,
            Self::Bf16 => Format::Bf16,
            Self::Q8 => first(&[Format::Q8_0]),
            Self::Q4 if table => first(&[Format::Q6K, Format::Q8_0]),
            Self::Q4 => first(&[Format::Q4K, Format::Q5_0]),
        }
    }
}

impl std::fmt::Display for WeightType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

impl std::str::FromStr for WeightType {
    type Err = String;

    fn from_str(name: &str) -> std::result::Result<Self, String> {
        Self::ALL.into_iter().find(|(known, _)| *known == name).map(|(_, kind)| kind).ok_or_else(|| {
            let known: Vec<&str> = Self::ALL.into_iter().map(|(name, _)| name).collect();
            format!("unknown type of weights {name:?}, expected one of {}", known.join(", "))
        })
    }
}

/// The type of activations in products with weights that are stored in blocks or in bf16.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Activations {
    /// 32 bits: a product is that with the same weights in f32, to the bit.
    #[default]
    F32,
    /// Rounded to 8 bits and a scale for each 32 values in products with weights in blocks (`q8`, `q4`, blocks of GGUF files), as
    /// llama.cpp does. A product is several times as fast, and differs
    /// by at most `Σ |weight| · largest |activation| of the 32 / 254`. Gradients are those without rounding. Rounding makes
    /// steps of differences in the last bits, as other products (matrices whose rows are not a multiple of 32 long) have
    /// between few rows and many; where all matrices are in blocks, a row does not depend on its batch.
    Q8,
    /// Rounded to bf16 in products with weights in bf16, as computation in bf16 does; sums, norms, attention and the residual
    /// stream stay in f32. A product differs by at most `Σ |weight · activation| / 256`. Processors with a fast
    /// instruction for it (AMD's with AVX-512 BF16) read prompts up to twice as fast, others as fast as before. Gradients are those without rounding.
    Bf16,
}

impl Activations {
    /// All types, and their names.
    pub const ALL: [(&'static str, Self); 3] = [("f32", Self::F32), ("q8", Self::Q8), ("bf16", Self::Bf16)];

    /// Whether activations are rounded in products with weights in a format.
    pub(crate) fn round_for(self, format: Format) -> bool {
        match self {
            Self::F32 => false,
            Self::Q8 => format.block_elements() > 1,
            Self::Bf16 => format == Format::Bf16,
        }
    }

    /// The weights for which activations are rounded, in words.
    pub(crate) fn weights(self) -> &'static str {
        match self {
            Self::F32 => "no type",
            Self::Q8 => "blocks (q8, q4, or those of a GGUF file)",
            Self::Bf16 => "bf16",
        }
    }

    /// The name: `f32`, `q8` or `bf16`.
    pub fn name(self) -> &'static str {
        Self::ALL.into_iter().find(|(_, known)| *known == self).map_or("", |(name, _)| name)
    }
}

impl std::fmt::Display for Activations {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

impl std::str::FromStr for Activations {
    type Err = String;

    fn from_str(name: &str) -> std::result::Result<Self, String> {
        let found = Self::ALL.into_iter().find(|(known, _)| *known == name);
        found
            .map(|(_, kind)| kind)
            .ok_or_else(|| format!("unknown type of activations {name:?}, expected f32, q8 or bf16"))
    }
}

/// Appends a matrix of a file, packed in a format; one that is in that format already is copied. Of the values in f32, a
/// few million exist at a time.
pub(crate) fn pack(tensor: &RawTensor<'_>, format: Format, out: &mut Vec<u8>) -> Result<(), WeightsError> {
    let same = tensor.format == format;
    let (rows, columns) = (tensor.shape[0], tensor.shape[1]);
    let step = (STEP / columns.max(1)).max(1);
    let mut values = Vec::new();
    for start in (0..rows).step_by(step) {
        let part = tensor.rows(start..rows.min(start + step));
        if same {
            out.extend_from_slice(&part.bytes);
            part.release();
            continue;
        }
        values.resize(part.values(), 0.0);
        part.to_f32_into(&mut values)?;
        let tasks = values.par_chunks(columns * ROWS).map(|rows| {
            let mut packed = Vec::new();
            quantize(format, rows, &mut packed);
            packed
        });
        tasks.collect::<Vec<_>>().iter().for_each(|packed| out.extend_from_slice(packed));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_follow_from_the_rows() {
        let format = |kind: WeightType, columns, table| kind.format(columns, table);
        assert_eq!(format(WeightType::Q4, 4096, false), Format::Q4K);
        assert_eq!(format(WeightType::Q4, 4096, true), Format::Q6K);
        assert_eq!(format(WeightType::Q4, 576, false), Format::Q5_0);
        assert_eq!(format(WeightType::Q4, 576, true), Format::Q8_0);
        assert_eq!(format(WeightType::Q8, 576, false), Format::Q8_0);
        assert_eq!(format(WeightType::Q8, 20, false), Format::F16);
        assert_eq!(format(WeightType::Bf16, 20, true), Format::Bf16);
        for (name, kind) in WeightType::ALL {
            assert_eq!((name.parse(), kind.to_string()), (Ok(kind), name.to_owned()));
        }
        for (name, kind) in Activations::ALL {
            assert_eq!((name.parse(), kind.to_string()), (Ok(kind), name.to_owned()));
        }
        assert!("q4".parse::<Activations>().expect_err("not known").contains("q8"));
        assert!("q3".parse::<WeightType>().expect_err("not known").contains("q4"));
    }
}
