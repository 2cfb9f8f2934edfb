//! Mistral: Llama without biases, with one sliding window for all blocks or none.

use super::{Absent, Family, common, refuse_other_layer_types};
use crate::config::{DecoderConfig, Fields, MAX_POSITIONS};
use crate::error::Result;

pub(super) const FAMILY: Family = Family { model_type: "mistral", read };

fn read(fields: &Fields<'_>) -> Result<DecoderConfig> {
    let absent = Absent { kv_heads: Some(8), head_dim: None, max_positions: 131_072, bos: Some(1), eos: Some(2) };
    let config = common(fields, absent)?;
    let window = fields.optional_size("sliding_window", Some(4096), MAX_POSITIONS)?;
    let config = DecoderConfig { windows: vec![window; config.layers], ..config };
    refuse_other_layer_types(fields, &config)?;
    Ok(config)
}
