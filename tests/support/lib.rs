//! What the tests share: reference data, the comparison that names the first layer that differs, models.

mod chat;
mod compare;
mod golden;
mod killed;
mod memory;

use std::path::PathBuf;
use std::sync::OnceLock;

use pv_model::CausalLm;

pub use chat::{STOP_TOKENS, chat_model};
pub use compare::{Divergence, compare};
pub use golden::{Golden, golden_folders};
pub use killed::{Random, run_and_kill, tell};
pub use memory::{measured_apart, peak_memory, tell_bytes};

/// The workspace's root.
pub fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).parent().map(PathBuf::from).unwrap_or_default()
}

/// The model organism, loaded once in a process.
///
/// # Panics
/// When its folder holds no model.
pub fn organism() -> &'static CausalLm {
    static MODEL: OnceLock<CausalLm> = OnceLock::new();
    MODEL.get_or_init(|| {
        let device = pv_model::device("flex").expect("the CPU");
        let dtype = pv_model::default_dtype(&device);
        CausalLm::from_folder(pv_organism::model_folder(), &device, dtype).expect("the organism")
    })
}

/// The model organism's architecture, for tests that change it.
pub fn decoder_config() -> pv_model::DecoderConfig {
    organism().config().clone()
}

/// The seed of an experiment's questions or answers. `PV_TEST_SEED`, a number, moves all of them: what a test asserts must
/// hold of other samples too.
///
/// # Panics
/// When the variable holds something else.
pub fn seed(own: u64) -> u64 {
    let moved = std::env::var("PV_TEST_SEED").map_or(0, |moved| moved.parse().expect("PV_TEST_SEED is a number"));
    own + 10_000 * moved
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
