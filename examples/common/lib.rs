//! What the examples share: how they begin and end, the model's arguments, traits, folders, progress bars.

mod adapters;
mod advice;
pub mod calibrating;
pub mod capping;
pub mod finetuning;
pub mod folder;
#[cfg(feature = "http")]
pub mod http_judging;
pub mod judging;
pub mod noise;
pub mod organism;
pub mod program;
pub mod progress;
pub mod prompts;
pub mod proxies;
pub mod reading;
pub mod rendering;
pub mod samples;
pub mod separation;
pub mod sweeping;
pub mod traits;
pub mod vectors;

use std::error::Error;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use pv_hooks::Layer;
use pv_model::{
    CausalLm, GenerateOptions, HubOptions, HubProgress, LoadOptions, Sampling, default_dtype, device, dtype,
};
use pv_vectors::{Contrast, Extraction};

pub use adapters::AdapterArgs;
pub use folder::OutArgs;
pub use program::{note, run};
pub use progress::{Bar, generate};
pub use reading::ReadingArgs;
pub use rendering::RenderArgs;
pub use traits::TraitArgs;

// All examples and benchmarks of this package allocate alike.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The result of an example.
pub type Result<T = (), E = Box<dyn Error + Send + Sync>> = std::result::Result<T, E>;

/// The name of the model organism.
const ORGANISM: &str = "organism";

/// Which model, and how it is loaded.
#[derive(clap::Args, Clone, Debug)]
pub struct ModelArgs {
    /// The model: a Hugging Face folder, or org/name in the Hugging Face cache or (feature hub) on the hub; "organism" is
    /// the small model with known traits in examples/organism/model.
    #[arg(long, default_value = ORGANISM)]
    pub model: String,
    /// How it is loaded.
    #[command(flatten)]
    pub loading: LoadArgs,
    /// The adapters on it.
    #[command(flatten)]
    pub adapters: AdapterArgs,
}

/// How a model is loaded.
#[derive(clap::Args, Clone, Debug)]
pub struct LoadArgs {
    /// The device: flex (the CPU), or vulkan, wgpu, metal, cuda, rocm where the example was built with that feature.
    #[arg(long, default_value = "flex")]
    pub device: String,
    /// The compute type: f32, f16 or bf16; by default what suits the device.
    #[arg(long)]
    pub dtype: Option<String>,
    /// Load the model even when its weights are larger than the memory that is free.
    #[arg(long)]
    pub ignore_memory: bool,
}

impl ModelArgs {
    /// A model on the CPU.
    pub fn cpu(model: impl Into<String>) -> Self {
        let loading = LoadArgs { device: "flex".to_owned(), dtype: None, ignore_memory: false };
        Self { model: model.into(), loading, adapters: AdapterArgs::default() }
    }

    /// Another model without adapters, loaded in the same way.
    #[must_use]
    pub fn of(&self, model: impl Into<String>) -> Self {
        Self { model: model.into(), loading: self.loading.clone(), adapters: AdapterArgs::default() }
    }

    /// Loads the model and puts its adapters on.
    ///
    /// # Errors
    /// An unknown device, or a folder that holds no model; for SmolLM2's, how to make it. An adapter that does not fit.
    pub fn load(&self) -> Result<CausalLm> {
        if !Path::new(&self.model).exists() && self.model == "models/smollm2" {
            let how = "python3 examples/smollm2/prepare.py models/smollm2";
            return Err(format!("there is no model in models/smollm2 yet; make it with: {how}").into());
        }
        if self.is_organism() && !pv_organism::model_folder().is_dir() {
            let how = "cargo run --release -p pv-examples --example train_organism -- --out examples/organism/model";
            return Err(format!("the organism has not been trained yet; train it with: {how}").into());
        }
        let folder = self.folder()?;
        let device = device(&self.loading.device)?;
        let dtype = self.loading.dtype.as_deref().map(dtype).transpose()?.unwrap_or_else(|| default_dtype(&device));
        let _bar = Bar::new(format!("loading {}", self.model));
        let options = LoadOptions { ignore_memory: self.loading.ignore_memory };
        let model = CausalLm::from_folder_with(&folder, &device, dtype, &options)?;
        self.adapters.apply(if folder == Path::new(&self.model) { model } else { model.named(&self.model) })
    }

    /// What folders of runs on this model are called after: its name and those of its adapters.
    pub fn title(&self) -> String {
        let adapters = self.adapters.names().map(|name| format!("+{name}"));
        std::iter::once(self.model.clone()).chain(adapters).collect()
    }

    /// Whether this is the model organism, whose answers can be judged exactly.
    pub fn is_organism(&self) -> bool {
        self.model == ORGANISM
    }

    /// The folder that the name stands for, downloaded under a progress bar where the feature `hub` is on.
    ///
    /// # Errors
    /// A name that is neither a folder nor in the cache, nor can be downloaded.
    pub fn folder(&self) -> Result<PathBuf> {
        if self.is_organism() {
            return Ok(pv_organism::model_folder().to_owned());
        }
        let mut bar = None;
        let folder = pv_model::resolve(&self.model, &HubOptions::from_env(), |progress| {
            if let HubProgress::File { name, all_done, all_total, .. } = progress {
                bar.get_or_insert_with(|| Bar::of_bytes(name.as_str())).set_counts(&name, all_done, all_total);
            }
            ControlFlow::Continue(())
        })?;
        Ok(folder)
    }
}

/// The layer to act at when none is given: the middle, where such directions steer well, and for the organism the one where
/// they do (docs/organism.md).
pub fn default_layer(args: &ModelArgs, model: &CausalLm) -> Layer {
    Layer::hidden_state(if args.is_organism() { 7 } else { model.config().layers.div_ceil(2) })
}

/// How the examples sample when nothing else is asked for.
pub const SAMPLING: Sampling = Sampling::temperature(0.7);

/// Extracts a trait's vector under a progress bar.
///
/// # Errors
/// Those of [`Contrast::extract`].
pub fn extract(model: &CausalLm, contrast: &Contrast, max_new_tokens: usize, seed: u64) -> Result<Extraction> {
    let bar = Bar::new(format!("extracting {}", contrast.name));
    let options = GenerateOptions { max_new_tokens, sampling: SAMPLING, ..GenerateOptions::default() };
    Ok(contrast.extract(model, &options, seed, |progress| {
        bar.show(&contrast.name, progress);
        ControlFlow::Continue(())
    })?)
}
