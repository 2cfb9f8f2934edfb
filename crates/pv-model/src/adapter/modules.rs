//! The modules of a model's files that adapters update.

use super::LoraTarget;
use crate::config::DecoderConfig;

/// The projections that are one module in a model's files, as in Phi-3. An adapter's update of such a module is kept
/// under the first of its projections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Fused {
    pub(super) qkv: bool,
    pub(super) gate_up: bool,
}

/// A module's path within a block, and the projection under which its update is kept.
const MODULES: [(&str, LoraTarget); 9] = [
    ("self_attn.q_proj", LoraTarget::Query),
    ("self_attn.k_proj", LoraTarget::Key),
    ("self_attn.v_proj", LoraTarget::Value),
    ("self_attn.o_proj", LoraTarget::Output),
    ("mlp.gate_proj", LoraTarget::Gate),
    ("mlp.up_proj", LoraTarget::Up),
    ("mlp.down_proj", LoraTarget::Down),
    (QKV, LoraTarget::Query),
    (GATE_UP, LoraTarget::Gate),
];

const QKV: &str = "self_attn.qkv_proj";
const GATE_UP: &str = "mlp.gate_up_proj";

impl Fused {
    pub(super) fn of(config: &DecoderConfig) -> Self {
        let names = &config.names;
        Self { qkv: names.query == names.key, gate_up: names.gate == names.up }
    }

    /// The projections of the module that contains `target`; the first is the one under which its update is kept.
    pub(super) fn together(self, target: LoraTarget) -> &'static [LoraTarget] {
        use LoraTarget::{Down, Gate, Key, Output, Query, Up, Value};
        match target {
            Query | Key | Value if self.qkv => &[Query, Key, Value],
            Gate | Up if self.gate_up => &[Gate, Up],
            Query => &[Query],
            Key => &[Key],
            Value => &[Value],
            Output => &[Output],
            Gate => &[Gate],
            Up => &[Up],
            Down => &[Down],
        }
    }

    /// Whether updates are kept under this projection.
    pub(super) fn is_first(self, target: LoraTarget) -> bool {
        self.together(target).first() == Some(&target)
    }

    /// The path of a projection's module within a block.
    pub(super) fn in_block(self, target: LoraTarget) -> &'static str {
        match self.together(target) {
            [LoraTarget::Query, _, _] => QKV,
            [LoraTarget::Gate, _] => GATE_UP,
            _ => MODULES.iter().find(|(_, known)| *known == target).map_or("", |(path, _)| path),
        }
    }

    /// The path of a projection's module in the model.
    pub(super) fn module(self, block: usize, target: LoraTarget) -> String {
        format!("model.layers.{block}.{}", self.in_block(target))
    }

    /// The projection of a module's path within a block, and what the path says about the model.
    pub(super) fn parse(path: &str) -> Option<(LoraTarget, Self)> {
        let (path, target) = MODULES.iter().find(|(known, _)| *known == path)?;
        Some((*target, Self { qkv: *path == QKV, gate_up: *path == GATE_UP }))
    }

    pub(super) fn or(self, other: Self) -> Self {
        Self { qkv: self.qkv || other.qkv, gate_up: self.gate_up || other.gate_up }
    }
}
