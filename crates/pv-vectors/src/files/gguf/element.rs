//! The values of the GGML types in which directions are stored.

use half::{bf16, f16};
use pv_data::gguf::TensorType;

/// The values in these bytes, little-endian; `None` for another type.
pub(super) fn values(kind: TensorType, bytes: &[u8]) -> Option<Vec<f32>> {
    Some(match kind.name() {
        "F32" => bytes.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect(),
        "F16" => bytes.as_chunks().0.iter().map(|bytes| f16::from_le_bytes(*bytes).to_f32()).collect(),
        "BF16" => bytes.as_chunks().0.iter().map(|bytes| bf16::from_le_bytes(*bytes).to_f32()).collect(),
        "F64" => bytes.as_chunks().0.iter().map(|bytes| f64::from_le_bytes(*bytes) as f32).collect(),
        // Blocks of 32 signed bytes after their common factor.
        "Q8_0" => {
            let blocks = bytes.as_chunks::<34>().0.iter();
            let values = blocks.flat_map(|block| {
                let factor = f16::from_le_bytes([block[0], block[1]]).to_f32();
                block[2..].iter().map(move |value| factor * f32::from(*value as i8))
            });
            values.collect()
        }
        _ => return None,
    })
}
