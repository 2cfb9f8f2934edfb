//! Shared by the tests: reference data, a comparison that names the first layer that differs, models.

mod chat;
mod judges;
mod killed;
mod memory;

use std::sync::OnceLock;

use burn::tensor::{Device, Tensor};
use pv_model::CausalLm;

pub use chat::{STOP_TOKENS, chat_model};
pub use judges::RuleJudge;
pub use killed::{run_and_kill, tell};
pub use memory::{measured_apart, peak_memory, tell_bytes};
pub use pv_parity::{Divergence, Golden, Random, compare, gemma3, golden_folders, root, smollm2};

/// The model organism, loaded once in a process.
///
/// # Panics
/// If its folder is not a model.
pub fn organism() -> &'static CausalLm {
    static MODEL: OnceLock<CausalLm> = OnceLock::new();
    MODEL.get_or_init(|| {
        let device = pv_model::device("flex").expect("the CPU");
        let dtype = pv_model::device::default_dtype(&device);
        CausalLm::from_folder(pv_organism::model_folder(), &device, dtype).expect("the organism")
    })
}

/// The model organism's architecture, for tests that change it.
pub fn decoder_config() -> pv_model::DecoderConfig {
    organism().config().clone()
}

/// The seed of an experiment's questions or answers. `PV_TEST_SEED`, a number, changes all of them, because assertions must
/// hold for other samples too.
///
/// # Panics
/// If the variable is not a number.
pub fn seed(own: u64) -> u64 {
    let moved = std::env::var("PV_TEST_SEED").map_or(0, |moved| moved.parse().expect("PV_TEST_SEED is a number"));
    own + 10_000 * moved
}

/// Frees the graphs of passes on a device with autodiff that no backward pass followed. Burn keeps every operation on such
/// a device until a later backward pass of any thread, which then takes a time quadratic in their number.
pub fn free_graphs(device: &Device) {
    if device.is_autodiff() {
        drop(Tensor::<1>::ones([1], device).require_grad().sum().backward());
    }
}
