//! What the tests share: reference data, the comparison that names the first layer that differs, models.

mod chat;
mod compare;
mod golden;
mod killed;
mod memory;

use std::path::PathBuf;

pub use chat::{STOP_TOKENS, chat_model};
pub use compare::{Divergence, compare};
pub use golden::{Golden, golden_folders};
pub use killed::{Random, run_and_kill, tell};
pub use memory::{measured_apart, peak_memory, tell_bytes};

/// The workspace's root.
pub fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).parent().map(PathBuf::from).unwrap_or_default()
}

/// The folder of SmolLM2-135M-Instruct, which `examples/smollm2/prepare.py` makes; `PV_SMOLLM2` names another place.
///
/// # Panics
/// When it is not there: a test that needs it must not pass without it.
pub fn smollm2() -> PathBuf {
    let folder = std::env::var_os("PV_SMOLLM2").map_or_else(|| root().join("models/smollm2"), PathBuf::from);
    assert!(
        folder.join("model.safetensors").is_file(),
        "{} holds no model; run: python3 examples/smollm2/prepare.py models/smollm2",
        folder.display()
    );
    folder
}
