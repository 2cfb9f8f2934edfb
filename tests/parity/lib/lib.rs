//! Reference data for tests: the folders of `tests/golden`, SmolLM2, a comparison that names the first layer that differs.

mod compare;
mod golden;
mod random;

use std::path::PathBuf;

pub use compare::{Divergence, compare};
pub use golden::{Golden, golden_folders};
pub use random::Random;

/// The workspace's root.
pub fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).map(PathBuf::from).unwrap_or_default()
}

/// The folder of SmolLM2-135M-Instruct, created by `examples/smollm2/prepare.py`; `PV_SMOLLM2` names another place.
///
/// # Panics
/// If it does not exist: a test that needs it must not pass without it.
pub fn smollm2() -> PathBuf {
    let folder = std::env::var_os("PV_SMOLLM2").map_or_else(|| root().join("models/smollm2"), PathBuf::from);
    assert!(
        folder.join("model.safetensors").is_file(),
        "{} holds no model; run: python3 examples/smollm2/prepare.py models/smollm2",
        folder.display()
    );
    folder
}
