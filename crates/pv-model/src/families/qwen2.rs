//! Qwen2 and Qwen2.5: biases on query, key and value, whatever the configuration says.

use super::{Absent, Family, common, qwen_windows};
use crate::config::{AttentionBias, DecoderConfig, Fields};
use crate::error::Result;

pub(super) const FAMILY: Family = Family { model_type: "qwen2", read };

fn read(fields: &Fields<'_>) -> Result<DecoderConfig> {
    let absent = Absent { kv_heads: Some(32), head_dim: None, max_positions: 32_768, bos: None, eos: None };
    let config = common(fields, absent)?;
    let windows = qwen_windows(fields, config.layers)?;
    Ok(DecoderConfig { attention_bias: AttentionBias::Qkv, windows, ..config })
}
