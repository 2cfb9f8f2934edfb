//! What the examples share: the model's arguments, progress bars, reading a trait.

pub mod calibrating;
pub mod finetuning;
pub mod judging;
pub mod noise;
pub mod organism;
pub mod prompts;
pub mod proxies;
pub mod rendering;
pub mod samples;
pub mod sweeping;

use std::error::Error;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use pv_hooks::Layer;
use pv_model::{CausalLm, HubOptions, HubProgress, Sampling, default_dtype, device, dtype};
use pv_organism::Trait;
use pv_vectors::{Contrast, Extraction, Progress};

// All examples and benchmarks of this package allocate alike.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The result of an example.
pub type Result<T = (), E = Box<dyn Error + Send + Sync>> = std::result::Result<T, E>;

/// The name of the model organism.
const ORGANISM: &str = "organism";

/// Which model, and where it runs.
#[derive(clap::Args, Clone, Debug)]
pub struct ModelArgs {
    /// The model: a Hugging Face folder, or org/name in the Hugging Face cache or (feature hub) on the hub; "organism" is
    /// the small model with known traits in examples/organism/model.
    #[arg(long, default_value = ORGANISM)]
    pub model: String,
    /// The device: flex (the CPU), or vulkan, wgpu, metal, cuda, rocm where the example was built with that feature.
    #[arg(long, default_value = "flex")]
    pub device: String,
    /// The compute type: f32, f16 or bf16; by default what suits the device.
    #[arg(long)]
    pub dtype: Option<String>,
}

impl ModelArgs {
    /// Loads the model.
    ///
    /// # Errors
    /// An unknown device, or a folder that holds no model; for SmolLM2's, how to make it.
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
        let device = device(&self.device)?;
        let dtype = self.dtype.as_deref().map(dtype).transpose()?.unwrap_or_else(|| default_dtype(&device));
        let spinner = ProgressBar::new_spinner().with_message(format!("loading {}", self.model));
        spinner.enable_steady_tick(std::time::Duration::from_millis(100));
        let model = CausalLm::from_folder(&folder, &device, dtype)?;
        spinner.finish_and_clear();
        Ok(if folder == Path::new(&self.model) { model } else { model.named(&self.model) })
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
        let style = ProgressStyle::with_template("{msg} {bar:40} {bytes}/{total_bytes} [{eta} left]")?;
        let bar = ProgressBar::hidden().with_style(style);
        let folder = pv_model::resolve(&self.model, &HubOptions::from_env(), |progress| {
            if let HubProgress::File { name, all_done, all_total, .. } = progress {
                bar.set_draw_target(ProgressDrawTarget::stderr());
                bar.set_message(name);
                bar.set_length(all_total);
                bar.set_position(all_done);
            }
            ControlFlow::Continue(())
        })?;
        bar.finish_and_clear();
        Ok(folder)
    }
}

/// Which trait.
#[derive(clap::Args, Debug)]
pub struct TraitArgs {
    /// The trait: a JSON file with `name`, `instruction` (pairs of `pos` and `neg`) and `questions`, or one of the
    /// organism's: evil, sycophancy, hallucination, impoliteness, optimism. The default is optimism for the organism, and
    /// poetic, which small models show plainly, for others.
    #[arg(long = "trait")]
    which: Option<String>,
}

impl TraitArgs {
    /// What the trait is extracted from.
    ///
    /// # Errors
    /// A file that cannot be read or does not hold a trait.
    pub fn read(&self, model: &ModelArgs) -> Result<Contrast> {
        match (self.organisms(model), &self.which) {
            (Some(which), _) => Ok(organism::contrast(which)),
            (None, Some(file)) => read_contrast(Path::new(file)),
            (None, None) => read_contrast(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/traits/poetic.json"))),
        }
    }

    /// The organism's trait, if it is one.
    pub fn organisms(&self, model: &ModelArgs) -> Option<Trait> {
        match &self.which {
            None => model.is_organism().then_some(Trait::Optimism),
            Some(name) => Trait::ALL.into_iter().find(|which| which.name() == name),
        }
    }
}

/// Reads a trait's contrastive instructions and questions from JSON.
fn read_contrast(path: &Path) -> Result<Contrast> {
    let text = std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
    Ok(serde_json::from_str(&text).map_err(|error| format!("{}: {error}", path.display()))?)
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
    let bar = ProgressBar::new(0).with_style(ProgressStyle::with_template("{msg} {bar:40} {pos}/{len} [{eta} left]")?);
    let options =
        pv_model::GenerateOptions { max_new_tokens, sampling: SAMPLING, ..pv_model::GenerateOptions::default() };
    let extraction = contrast.extract(model, &options, seed, |progress| {
        show(&bar, progress);
        ControlFlow::Continue(())
    })?;
    bar.finish_and_clear();
    Ok(extraction)
}

/// Shows on a bar how far an extraction is.
pub fn show(bar: &ProgressBar, progress: Progress) {
    let (what, done, total) = match progress {
        Progress::Answering { done, total } => ("answering", done, total),
        Progress::Judging { done, total } => ("judging  ", done, total),
        Progress::Reading { done, total } => ("reading  ", done, total),
        _ => return,
    };
    bar.set_message(what);
    bar.set_length(total as u64);
    bar.set_position(done as u64);
}
