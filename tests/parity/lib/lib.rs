//! Reference data for tests: the folders of `tests/golden`, SmolLM2, Gemma 3, a comparison that names the first layer that differs.

mod compare;
mod golden;
mod random;

use std::path::{Path, PathBuf};

pub use compare::{Divergence, compare};
pub use golden::{Golden, golden_folders};
pub use random::Random;

/// The workspace's root: that of the checkout that contains the working directory, since a build folder that several
/// checkouts share may contain this crate as another one compiled it.
pub fn root() -> PathBuf {
    let here = std::env::current_dir().unwrap_or_default();
    let mut checkouts = here.ancestors().chain(Path::new(env!("CARGO_MANIFEST_DIR")).ancestors());
    checkouts.find(|folder| folder.join("tests/golden").is_dir()).map(Path::to_owned).unwrap_or_default()
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

/// The folder of Gemma 3 270M, created by `examples/gemma3/prepare.py`, that `PV_GEMMA3` names. Without the variable `None`, after
/// a line that says so: the model is under terms of its own.
///
/// # Panics
/// If the variable names a folder without the model.
#[allow(clippy::print_stdout, reason = "a test says that it did not run")]
pub fn gemma3() -> Option<PathBuf> {
    let Some(folder) = std::env::var_os("PV_GEMMA3").map(PathBuf::from) else {
        println!("PV_GEMMA3 names no folder of Gemma 3: NOT CHECKED");
        return None;
    };
    assert!(
        folder.join("model.gguf").is_file(),
        "PV_GEMMA3: {} holds no model; run: python3 examples/gemma3/prepare.py models/gemma3",
        folder.display()
    );
    Some(folder)
}
