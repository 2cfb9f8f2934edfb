//! Whether a model fits in the memory that is free.

use std::path::Path;

use burn::tensor::{DType, Device};
use sysinfo::System;

use crate::config::DecoderConfig;
use crate::{Error, Result};

/// The bytes that this process can still take, by the system and by the limits of its control group.
fn available() -> Option<u64> {
    if !sysinfo::IS_SUPPORTED_SYSTEM {
        return None;
    }
    let mut system = System::new();
    system.refresh_memory();
    // A group's own account of what is free counts cached files as used.
    let limit = system.cgroup_limits().map_or(u64::MAX, |limits| limits.total_memory.saturating_sub(limits.rss));
    Some(system.available_memory().min(limit)).filter(|bytes| *bytes > 0)
}

/// Refuses a model whose weights alone are more than what is free. Of a GPU's memory nothing is known here, and such a model
/// passes through this machine's tensor by tensor.
pub(crate) fn check(folder: &Path, config: &DecoderConfig, device: &Device, dtype: DType) -> Result<()> {
    if device.clone().without_autodiff() != Device::flex() {
        return Ok(());
    }
    available().map_or(Ok(()), |available| compare(folder, config, dtype, available))
}

fn compare(folder: &Path, config: &DecoderConfig, dtype: DType, available: u64) -> Result<()> {
    let needed = u64::try_from(config.parameters()).unwrap_or(u64::MAX).saturating_mul(dtype.size() as u64);
    if needed <= available {
        return Ok(());
    }
    let dtype = format!("{dtype:?}").to_lowercase();
    Err(Error::NotEnoughMemory { folder: folder.to_owned(), dtype, needed, available })
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
        let refused = |dtype, available| compare(Path::new("llama"), &config, dtype, available);
        assert!(refused(DType::BF16, 13 * gib).is_ok());
        let error = refused(DType::F32, 13 * gib).expect_err("25 GiB");
        assert!(matches!(error, Error::NotEnoughMemory { needed, .. } if needed == 6_738_415_616 * 4));
        assert!(error.to_string().contains("25.1 GiB") && error.to_string().contains("13.0 GiB"), "{error}");
        let free = available().expect("this system says");
        assert!(free > 100 << 20, "{free}");
    }
}
