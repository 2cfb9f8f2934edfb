//! Shows a model's architecture and memory use, merges adapters into a model, and saves a model in another type.

mod memory;

use std::path::{Path, PathBuf};

use burn::tensor::DType;
use comfy_table::{Table, presets};
use pv_model::chat::TemplateError;
use pv_model::config::ExpertConfig;
use pv_model::tokenizer::TokenizerError;
use pv_model::weights::{StoredDtype, WeightFiles};
use pv_model::{CausalLm, ChatTemplate, DecoderConfig, Tokenizer, device};
use serde_json::{Value, json};

use crate::program::say;
use crate::{AdapterArgs, Bar, LoadArgs, ModelArgs, Result};

/// The subcommands of `persona model`.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// Show a model's family, sizes, files, template and stop tokens, without loading its weights.
    Info(Named),
    /// Show how much memory a model takes, by type and by use.
    ///
    /// The numbers include what grows with the model: weights, keys and values, gradients and moments. Temporary values
    /// of a forward pass are not included.
    Memory(memory::Args),
    /// Merge adapters into a model's weights and save the result as a new model.
    Merge(Merge),
    /// Save a model in another type.
    Save(Save),
}

impl Command {
    pub(super) fn run(self) -> Result<Value> {
        match self {
            Self::Info(args) => info(&args),
            Self::Memory(args) => memory::run(&args),
            Self::Merge(args) => args.run(),
            Self::Save(args) => args.saved.run(&AdapterArgs::default()),
        }
    }
}

/// A model's name.
#[derive(Debug, clap::Args)]
pub(super) struct Named {
    /// The model: a Hugging Face folder, a GGUF file, org/name, or "organism".
    #[arg(value_name = "MODEL", default_value = "organism")]
    model: String,
}

/// The folder and type in which a model is saved.
#[derive(Debug, clap::Args)]
pub(super) struct Saved {
    /// The model: a Hugging Face folder, a GGUF file, org/name, or "organism".
    #[arg(value_name = "MODEL")]
    model: String,
    /// The folder of the new model. It must be empty or not exist.
    #[arg(value_name = "FOLDER")]
    folder: PathBuf,
    /// The type of the saved weights: f32, f16 or bf16; by default the type of the model's own files.
    #[arg(long = "as", value_name = "DTYPE")]
    as_dtype: Option<String>,
    #[command(flatten)]
    loading: LoadArgs,
}

/// The arguments of `persona model merge`.
#[derive(Debug, clap::Args)]
pub(super) struct Merge {
    #[command(flatten)]
    saved: Saved,
    #[command(flatten)]
    adapters: AdapterArgs,
}

/// The arguments of `persona model save`.
#[derive(Debug, clap::Args)]
pub(super) struct Save {
    #[command(flatten)]
    saved: Saved,
}

impl Merge {
    fn run(&self) -> Result<Value> {
        if self.adapters.adapters.is_empty() {
            return Err("--adapter FOLDER is required".into());
        }
        self.saved.run(&self.adapters)
    }
}

impl Saved {
    fn run(&self, adapters: &AdapterArgs) -> Result<Value> {
        let as_dtype = self.as_dtype.as_deref().map(device::dtype).transpose()?;
        if std::fs::read_dir(&self.folder).is_ok_and(|mut entries| entries.next().is_some()) {
            return Err(format!("{} is not empty; existing files are never overwritten", self.folder.display()).into());
        }
        let args = ModelArgs { model: self.model.clone(), loading: self.loading.clone(), adapters: adapters.clone() };
        let model = args.load()?;
        let name = model.name().to_owned();
        let dtype = as_dtype.unwrap_or_else(|| stored_as(&model));
        let merged = model.decoder().merged();
        let _bar = Bar::new(format!("saving {}", self.folder.display()));
        model.with_decoder(merged)?.save(&self.folder, dtype)?;
        let dtype = format!("{dtype:?}").to_lowercase();
        say!("saved {name} in {dtype} as {}", self.folder.display());
        Ok(json!({ "model": name, "folder": self.folder, "dtype": dtype }))
    }
}

/// The type in which a model's own weights are stored if that is f16 or bf16, otherwise f32.
fn stored_as(model: &CausalLm) -> DType {
    match model.config().stored_dtype {
        Some(StoredDtype::F16) => DType::F16,
        Some(StoredDtype::BF16) => DType::BF16,
        _ => DType::F32,
    }
}

fn info(args: &Named) -> Result<Value> {
    let folder = ModelArgs::cpu(args.model.as_str()).folder()?;
    let config = DecoderConfig::from_folder(&folder)?;
    let weights = WeightFiles::open_for(&folder, &config)?;
    let files = files(&weights)?;
    let formats: Vec<&str> = weights.formats().into_iter().map(|format| format.name()).collect();
    let bytes: u64 = files.iter().map(|(_, bytes)| bytes).sum();
    let tokenizer = match Tokenizer::from_folder(&folder) {
        Ok(tokenizer) => Some(tokenizer),
        Err(TokenizerError::NotFound { .. }) => None,
        Err(error) => return Err(error.into()),
    };
    let template = match ChatTemplate::from_folder(&folder) {
        Ok(template) => Some(template),
        Err(TemplateError::NotFound { .. }) => None,
        Err(error) => return Err(error.into()),
    };
    let templates: Vec<&str> = template.iter().flat_map(ChatTemplate::names).collect();
    let known = tokenizer.as_ref().map(Tokenizer::stop_ids).filter(|ids| !ids.is_empty());
    let stops = known.unwrap_or(&config.tokens.eos);
    let text = |id: &u32| tokenizer.as_ref().and_then(|tokenizer| tokenizer.decode(&[*id], false).ok());
    let stops: Vec<(u32, Option<String>)> = stops.iter().map(|id| (*id, text(id))).collect();
    let parameters = config.parameters();

    let mut table = Table::new();
    table.load_preset(presets::NOTHING);
    let shown_stops: Vec<String> =
        stops.iter().map(|(id, text)| format!("{id} {}", text.as_deref().unwrap_or("?"))).collect();
    let window = config.windows.iter().flatten().min();
    let experts = config.experts.as_ref().map_or_else(
        || "none".to_owned(),
        |ExpertConfig { count, per_token, d_ff, dense_blocks, .. }| match dense_blocks.len() {
            0 => format!("{count} of width {d_ff}, {per_token} for each token"),
            dense => format!("{count} of width {d_ff}, {per_token} for each token; none in {dense} blocks"),
        },
    );
    let rows = [
        ("model", args.model.clone()),
        ("folder", folder.display().to_string()),
        ("family", config.model_type.clone()),
        ("parameters", format!("{parameters}")),
        ("layers", format!("{} blocks; hidden states 0 to {}", config.layers, config.layers)),
        ("width", config.d_model.to_string()),
        ("heads", format!("{} of {}, {} of keys and values", config.heads, config.head_dim, config.kv_heads)),
        ("feed-forward width", config.d_ff.to_string()),
        ("experts", experts),
        ("vocabulary", config.vocab.to_string()),
        ("positions", config.max_positions.to_string()),
        ("window", window.map_or_else(|| "none".to_owned(), ToString::to_string)),
        ("weights", format!("{} files, {:.1} MiB", files.len(), bytes as f64 / f64::from(1 << 20))),
        ("stored as", formats.join(", ")),
        ("tokenizer", tokenizer.as_ref().map_or("none".to_owned(), |found| format!("{} tokens", found.vocab_size()))),
        ("chat templates", if templates.is_empty() { "none".to_owned() } else { templates.join(", ") }),
        ("stop tokens", shown_stops.join(", ")),
    ];
    for (what, value) in rows {
        table.add_row([what.to_owned(), value]);
    }
    say!("{table}");
    let stop = |(id, text): &(u32, Option<String>)| json!({ "id": id, "text": text });
    let file = |(name, bytes): &(String, u64)| json!({ "file": name, "bytes": bytes });
    Ok(json!({
        "model": args.model,
        "folder": folder,
        "family": config.model_type,
        "parameters": u64::try_from(parameters).ok(),
        "config": config,
        "weights": files.iter().map(file).collect::<Vec<_>>(),
        "bytes": bytes,
        "formats": formats,
        "vocabulary_of_tokenizer": tokenizer.as_ref().map(Tokenizer::vocab_size),
        "chat_templates": templates,
        "stop_tokens": stops.iter().map(stop).collect::<Vec<_>>(),
    }))
}

/// The files of a model's weights, with their sizes in bytes.
fn files(files: &WeightFiles) -> Result<Vec<(String, u64)>> {
    let file = |path: &Path| {
        let bytes = std::fs::metadata(path).map_err(|error| format!("cannot read {}: {error}", path.display()))?.len();
        let name = path.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
        Ok((name, bytes))
    };
    files.paths().map(file).collect()
}
