//! Dense Qwen3: normalised queries and keys, and heads whose width is independent of the residual stream's.

use super::{Absent, Family, attention_bias, common, qwen_windows};
use crate::config::{DecoderConfig, Fields, QkNorm};
use crate::error::Result;

pub(super) const FAMILY: Family = Family { model_type: "qwen3", read };

fn read(fields: &Fields<'_>) -> Result<DecoderConfig> {
    // An absent head_dim is 128 here, not hidden_size / num_attention_heads.
    let absent = Absent { kv_heads: Some(32), head_dim: Some(128), max_positions: 32_768, bos: None, eos: None };
    let config = common(fields, absent)?;
    Ok(DecoderConfig {
        attention_bias: attention_bias(fields)?,
        qk_norm: QkNorm::PerHead,
        windows: qwen_windows(fields, config.layers)?,
        ..config
    })
}
