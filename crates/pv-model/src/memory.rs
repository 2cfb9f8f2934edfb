//! Checks whether a model fits into the available memory.

use std::path::Path;

use burn::tensor::{DType, Device};
use sysinfo::System;

use crate::config::{DecoderConfig, ExpectedTensor, expected_tensors};
use crate::device::is_cpu;
use crate::weights::WeightType;
use crate::{Error, Result};

/// The bytes that this process can still allocate, according to the system and the limits of its control group.
fn available() -> Option<u64> {
    if !sysinfo::IS_SUPPORTED_SYSTEM {
        return None;
    }
    let mut system = System::new();
    system.refresh_memory();
    // A control group's own count of free memory counts cached files as used.
    let limit = system.cgroup_limits().map_or(u64::MAX, |limits| limits.total_memory.saturating_sub(limits.rss));
    Some(system.available_memory().min(limit)).filter(|bytes| *bytes > 0)
}

/// Rejects a model whose weights alone exceed the available memory; `kept` is their size if it does not follow from the
/// type. GPU memory is not known here; the weights of a
/// model on a GPU pass through this machine's memory tensor by tensor.
pub(crate) fn check(
    folder: &Path,
    config: &DecoderConfig,
    device: &Device,
    dtype: DType,
    packed: Option<WeightType>,
    kept: Option<u64>,
) -> Result<()> {
    if !is_cpu(device) {
        return Ok(());
    }
    available().map_or(Ok(()), |available| compare(folder, config, (dtype, packed, kept), available))
}

impl DecoderConfig {
    /// The bytes that the weights take in memory: matrices except routers in `weights`, if that is given, and everything
    /// else in the compute type.
    pub fn weight_bytes(&self, dtype: DType, weights: Option<WeightType>) -> u64 {
        let tables = [self.names.embedding, self.names.output_head];
        let bytes = |tensor: ExpectedTensor| match (weights, &tensor.shape[..]) {
            (Some(weights), &[rows, columns]) if !self.names.is_router(&tensor.name) => {
                let row = weights.row_bytes(columns, tables.contains(&&*tensor.name));
                (rows as u64).saturating_mul(row as u64)
            }
            (_, shape) => shape.iter().fold(dtype.size() as u64, |bytes, size| bytes.saturating_mul(*size as u64)),
        };
        expected_tensors(self).map(bytes).fold(0, u64::saturating_add)
    }
}

fn compare(
    folder: &Path,
    config: &DecoderConfig,
    (dtype, packed, kept): (DType, Option<WeightType>, Option<u64>),
    available: u64,
) -> Result<()> {
    let converted = config.weight_bytes(dtype, packed);
    let needed = kept.unwrap_or(converted);
    if needed <= available {
        return Ok(());
    }
    let fits = |kind: &(&str, WeightType)| config.weight_bytes(DType::F32, Some(kind.1)) <= available;
    let smaller = WeightType::ALL.iter().filter(|kind| fits(kind)).map(|(name, _)| *name).collect();
    let dtype = match packed {
        Some(packed) => packed.to_string(),
        None if needed != converted => "the types of its files".to_owned(),
        None => format!("{dtype:?}").to_lowercase(),
    };
    Err(Error::NotEnoughMemory { folder: folder.to_owned(), dtype, needed, available, smaller })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_free_is_known_and_compared() {
        let config = DecoderConfig::from_json(&serde_json::json!({
            "model_type": "llama", "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32,
            "num_attention_heads": 32, "vocab_size": 32000,
        }));
        let config = config.expect("Llama 2 7B");
        let gib = 1 << 30;
        let refused = |dtype, packed, available| compare(Path::new("llama"), &config, (dtype, packed, None), available);
        assert!(refused(DType::BF16, None, 13 * gib).is_ok());
        let error = refused(DType::F32, None, 13 * gib).expect_err("25 GiB");
        assert!(matches!(error, Error::NotEnoughMemory { needed, .. } if needed == 6_738_415_616 * 4));
        assert!(error.to_string().contains("25.1 GiB") && error.to_string().contains("13.0 GiB"), "{error}");
        assert!(error.to_string().contains("bf16, q8, q4"), "{error}");
        let stored = compare(Path::new("llama"), &config, (DType::F32, None, Some(14 * gib)), 13 * gib);
        assert!(stored.expect_err("14 GiB").to_string().contains("14.0 GiB of memory in the types of its files"));
        // 6.6 GB of matrices at 8.5 bits.
        assert!(refused(DType::F32, Some(WeightType::Q8), 7 * gib).is_ok());
        assert!(refused(DType::F32, Some(WeightType::Q8), 6 * gib).is_err());
        assert!(refused(DType::F32, Some(WeightType::Q4), 4 * gib).is_ok());
        let free = available().expect("this system says");
        assert!(free > 100 << 20, "{free}");
    }
}
