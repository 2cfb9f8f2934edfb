//! Arguments for the model and its loading.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use pv_hooks::Layer;
use pv_model::device::{default_dtype, dtype};
use pv_model::hub::{HubOptions, HubProgress};
use pv_model::weights::{Activations, WeightType};
use pv_model::{CausalLm, LoadOptions, Sampling, device};

use crate::{AdapterArgs, Bar, Result};

/// The name of the model organism.
const ORGANISM: &str = "organism";

/// The model and how it is loaded.
#[derive(clap::Args, Clone, Debug)]
pub struct ModelArgs {
    /// The model: a Hugging Face folder, a GGUF file, or org/name in the Hugging Face cache or (feature hub) on the hub. "organism"
    /// is the small model with known traits that comes with this program.
    #[arg(long, default_value = ORGANISM)]
    pub model: String,
    /// How it is loaded.
    #[command(flatten)]
    pub loading: LoadArgs,
    /// The adapters applied to it.
    #[command(flatten)]
    pub adapters: AdapterArgs,
}

/// How a model is loaded.
#[derive(clap::Args, Clone, Debug)]
pub struct LoadArgs {
    /// The device: flex (the CPU), or vulkan, wgpu, metal, cuda or rocm if the program was built with that feature.
    #[arg(long, default_value = "flex")]
    pub device: String,
    /// The compute type: f32, f16 or bf16; by default the one that suits the device.
    #[arg(long)]
    pub dtype: Option<String>,
    /// The type in which weights are stored on the CPU: f32, f16, bf16, q8 (8.5 bits) or q4 (about 4.5 bits); by default
    /// that of the model's files.
    #[arg(long, value_name = "TYPE")]
    pub weights: Option<WeightType>,
    /// The type of activations in products: f32; q8 with weights in blocks (q8, q4, GGUF files), which is several times as fast;
    /// or bf16 with weights in bf16, which reads prompts up to twice as fast on AMD's processors with AVX-512 BF16. Both change
    /// results slightly.
    #[arg(long, value_name = "TYPE", default_value_t)]
    pub activations: Activations,
    /// Load the model even if its weights are larger than the free memory.
    #[arg(long)]
    pub ignore_memory: bool,
    /// Read weights in place in a map of their file where possible: less memory and time to load, slower decoding.
    #[arg(long)]
    pub map_weights: bool,
}

impl ModelArgs {
    /// A model on the CPU.
    pub fn cpu(model: impl Into<String>) -> Self {
        let loading = LoadArgs {
            device: "flex".to_owned(),
            dtype: None,
            weights: None,
            activations: Activations::F32,
            ignore_memory: false,
            map_weights: false,
        };
        Self { model: model.into(), loading, adapters: AdapterArgs::default() }
    }

    /// Another model without adapters, loaded in the same way.
    #[must_use]
    pub fn of(&self, model: impl Into<String>) -> Self {
        Self { model: model.into(), loading: self.loading.clone(), adapters: AdapterArgs::default() }
    }

    /// Loads the model and applies its adapters.
    ///
    /// # Errors
    /// An unknown device; a folder that holds no model; an adapter that does not fit.
    pub fn load(&self) -> Result<CausalLm> {
        if self.model == "models/smollm2" && !Path::new(&self.model).exists() {
            let how = "python3 examples/smollm2/prepare.py models/smollm2";
            return Err(format!("there is no model in models/smollm2; create it in the repository with: {how}").into());
        }
        let folder = self.folder()?;
        let device = device(&self.loading.device)?;
        let dtype = self.loading.dtype.as_deref().map(dtype).transpose()?.unwrap_or_else(|| default_dtype(&device));
        let _bar = Bar::new(format!("loading {}", self.model));
        let LoadArgs { weights, activations, ignore_memory, map_weights, .. } = self.loading;
        let options = LoadOptions { weights, activations, ignore_memory, map_weights };
        let model = CausalLm::from_folder_with(&folder, &device, dtype, &options)?;
        self.adapters.apply(if folder == Path::new(&self.model) { model } else { model.named(&self.model) })
    }

    /// The model's part of run folder names: its name and those of its adapters.
    pub fn title(&self) -> String {
        let adapters = self.adapters.names().map(|name| format!("+{name}"));
        std::iter::once(self.model.clone()).chain(adapters).collect()
    }

    /// Whether this is the model organism, whose answers can be judged exactly.
    pub fn is_organism(&self) -> bool {
        self.model == ORGANISM
    }

    /// The model's folder. The organism is unpacked; with the feature `hub`, a model is downloaded under a progress
    /// bar.
    ///
    /// # Errors
    /// A name that is neither a folder nor in the cache, and cannot be downloaded.
    pub fn folder(&self) -> Result<PathBuf> {
        if self.is_organism() {
            return unpacked_organism();
        }
        let mut bar = None;
        let folder = pv_model::hub::resolve(&self.model, &HubOptions::from_env(), |progress| {
            if let HubProgress::File { name, all_done, all_total, .. } = progress {
                bar.get_or_insert_with(|| Bar::of_bytes(name.as_str())).set_counts(&name, all_done, all_total);
            }
            ControlFlow::Continue(())
        })?;
        Ok(folder)
    }
}

/// The organism's folder below the user's cache folder.
fn unpacked_organism() -> Result<PathBuf> {
    let cache = cache_folder();
    let failed = |error| format!("cannot unpack the organism below {}: {error}", cache.display());
    Ok(pv_organism::unpack_model(&cache).map_err(failed)?)
}

/// `persona-vectors` in the user's cache folder, or else in the system's temporary folder.
fn cache_folder() -> PathBuf {
    let variable = |name: &str| std::env::var_os(name).filter(|path| Path::new(path).is_absolute()).map(PathBuf::from);
    let home = || variable(if cfg!(windows) { "USERPROFILE" } else { "HOME" });
    let user = match () {
        () if cfg!(windows) => variable("LOCALAPPDATA"),
        () if cfg!(target_os = "macos") => home().map(|home| home.join("Library/Caches")),
        () => variable("XDG_CACHE_HOME").or_else(|| home().map(|home| home.join(".cache"))),
    };
    user.unwrap_or_else(std::env::temp_dir).join("persona-vectors")
}

/// The default layer to intervene at: the middle one, where such directions steer well, and for the organism the layer
/// where its directions do (docs/organism.md).
pub fn default_layer(args: &ModelArgs, model: &CausalLm) -> Layer {
    Layer::hidden_state(if args.is_organism() { 7 } else { model.config().layers.div_ceil(2) })
}

/// The default sampling of answers.
pub const SAMPLING: Sampling = Sampling::temperature(0.7);
