//! Adapter folders: `adapter_config.json` and `adapter_model.safetensors`.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;

use pv_data::FileError;
use pv_data::files::write_whole_with;
use safetensors::tensor::{Dtype, TensorView};
use serde_json::{Map, Value};

use super::modules::Fused;
use super::settings::{self, Settings};
use super::targets::Targets;
use super::{Adapter, AdapterError, AdapterFolder, LoraConfig, LoraTarget, LoraWeights, TensorProblem};
use crate::config::DecoderConfig;
use crate::folder::{FolderError, read_limited};
use crate::weights::WeightFiles;

const SETTINGS: &str = "adapter_config.json";
const WEIGHTS: &str = "adapter_model.safetensors";
const PREFIX: &str = "base_model.model.";
const MAX_SETTINGS_BYTES: u64 = 16 << 20;

/// Prefixes in tensor names that wrappers around a model and its modules add (PEFT, torch.compile, data parallelism,
/// FSDP, checkpointing), and the name of the model itself, which a wrapper may repeat or omit.
const WRAPPERS: [&str; 7] = [
    "base_model",
    "model",
    "language_model",
    "module",
    "_orig_mod",
    "_fsdp_wrapped_module",
    "_checkpoint_wrapped_module",
];

/// One of the two matrices of an update.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Half {
    A,
    B,
}

/// The values, and the dimension that is not the rank.
type Matrix = (Vec<f32>, usize);

/// The update and matrix of a tensor.
struct Place<'a> {
    block: usize,
    target: LoraTarget,
    fused: Fused,
    half: Half,
    /// The adapter's name, if the tensor names contain it.
    adapter: Option<&'a str>,
}

impl<'a> Place<'a> {
    /// Returns the reason as an error if the tensor is not part of an update.
    fn parse(tensor: &'a str) -> Result<Self, TensorProblem> {
        let parts: Vec<&str> = tensor.split('.').filter(|part| !WRAPPERS.contains(part)).collect();
        let (half, adapter) = match parts.as_slice() {
            [.., "lora_magnitude_vector" | "lora_magnitude_vector_", _] | [.., "lora_magnitude_vector", _, _] => {
                return Err(TensorProblem::Dora);
            }
            [.., "lora_embedding_A" | "lora_embedding_B"] | [.., "lora_embedding_A" | "lora_embedding_B", _] => {
                return Err(TensorProblem::Embedding);
            }
            [.., "lora_B", "bias"] | [.., "lora_B", _, "bias"] => return Err(TensorProblem::Bias),
            [.., "lora_A", "weight"] => (Half::A, None),
            [.., "lora_B", "weight"] => (Half::B, None),
            [.., "lora_A", name, "weight"] => (Half::A, Some(*name)),
            [.., "lora_B", name, "weight"] => (Half::B, Some(*name)),
            _ => return Err(TensorProblem::ModelWeight),
        };
        let other = TensorProblem::OtherModule;
        if parts.contains(&"experts") {
            return Err(TensorProblem::Expert);
        }
        let ["layers", block, part, projection, ..] = parts.as_slice() else { return Err(other) };
        let Some((target, fused)) = Fused::parse(&format!("{part}.{projection}")) else { return Err(other) };
        let suffix = if adapter.is_some() { 3 } else { 2 };
        match block.parse() {
            Ok(block) if parts.len() == 4 + suffix => Ok(Self { block, target, fused, half, adapter }),
            _ => Err(other),
        }
    }
}

fn name(fused: Fused, block: usize, target: LoraTarget, half: Half) -> String {
    format!("{PREFIX}{}.lora_{half:?}.weight", fused.module(block, target))
}

impl Adapter {
    /// Loads an adapter folder in PEFT's format. The projections and blocks with updates are those in the file. They
    /// must be those that `target_modules` and the related settings specify, as far as that is known without the model
    /// ([`check`](Self::check) checks the rest). Values in f16 and bf16 are converted to f32. Tensor names may contain
    /// the adapter's name and the prefixes of wrappers.
    ///
    /// # Errors
    /// [`AdapterError::NotAnAdapter`], [`AdapterError::Mismatch`],
    /// [`ConfigError::Unsupported`](crate::config::ConfigError::Unsupported) for a kind of adapter with other
    /// arithmetic (DoRA, trained biases, rank patterns, …), [`AdapterError::Tensor`], and every problem with the files.
    pub fn load(folder: impl AsRef<Path>) -> Result<Self, AdapterError> {
        let folder = folder.as_ref();
        for wanted in [SETTINGS, WEIGHTS] {
            if !folder.join(wanted).is_file() {
                return Err(AdapterError::NotAnAdapter { path: folder.to_owned(), wanted, found: content(folder) });
            }
        }
        let path = folder.join(SETTINGS);
        let bytes = read_limited(&path, MAX_SETTINGS_BYTES)?;
        let json: Map<String, Value> =
            serde_json::from_slice(&bytes).map_err(|source| FolderError::Json { path: path.clone(), source })?;
        let Settings { rank, alpha, rslora, dropout, base } = Settings::parse(&path, &json)?;
        let declared = Targets::parse(&path, &json)?;

        let path = folder.join(WEIGHTS);
        let files = WeightFiles::open_file(&path)?;
        let bad =
            |tensor: &str, problem| AdapterError::Tensor { path: path.clone(), tensor: tensor.to_owned(), problem };
        let mut halves: BTreeMap<(usize, LoraTarget), [Option<Matrix>; 2]> = BTreeMap::new();
        let mut named: Option<(Option<&str>, &str)> = None;
        let mut fused = Fused::default();
        for tensor in files.names() {
            let place = Place::parse(tensor).map_err(|problem| bad(tensor, problem))?;
            let Place { block, target, half, adapter, .. } = place;
            fused = fused.or(place.fused);
            let (first, of) = *named.get_or_insert((adapter, tensor));
            if first != adapter {
                let (adapter, other) = (adapter.map(Box::from), first.map(Box::from));
                let other_tensor = Box::from(of);
                return Err(bad(tensor, TensorProblem::OtherAdapter { adapter, other_tensor, other }));
            }
            let raw = files.get(tensor)?;
            let width = match (half, raw.shape.as_slice()) {
                (Half::A, &[r, inputs]) if r == rank => inputs,
                (Half::B, &[outputs, r]) if r == rank => outputs,
                (_, shape) => {
                    return Err(bad(tensor, TensorProblem::Shape { shape: shape.to_vec(), rank }));
                }
            };
            let held = &mut halves.entry((block, target)).or_default()[half as usize];
            if held.replace((raw.to_f32(), width)).is_some() {
                return Err(bad(tensor, TensorProblem::Duplicate));
            }
        }
        let mut weights = BTreeMap::new();
        for ((block, target), halves) in halves {
            let [Some((a, inputs)), Some((b, outputs))] = halves else {
                let (there, other) = if halves[0].is_some() { (Half::A, Half::B) } else { (Half::B, Half::A) };
                let missing = TensorProblem::OtherMatrixMissing { name: name(fused, block, target, other) };
                return Err(bad(&name(fused, block, target, there), missing));
            };
            weights.insert((block, target), LoraWeights { a, b, inputs, outputs });
        }
        // Missing updates after the last block of the file are detected when the model is known. So are those of all MLPs:
        // the model may have experts in their place, which PEFT passes over.
        let blocks = weights.keys().map(|(block, _)| block + 1).max().unwrap_or(0);
        let in_mlp = |target| matches!(target, LoraTarget::Gate | LoraTarget::Up | LoraTarget::Down);
        let mlps = weights.keys().any(|(_, target)| in_mlp(*target));
        let exists = |_, target| mlps || !in_mlp(target);
        declared.check(&weights.keys().copied().collect(), fused, blocks.min(crate::config::MAX_BLOCKS), exists)?;
        let targets = weights.keys().flat_map(|(_, target)| fused.together(*target)).copied().collect();
        let blocks: BTreeSet<usize> = weights.keys().map(|(block, _)| *block).collect();
        // Without a gap from the first block on, all blocks are meant; the model's number of blocks is not known here.
        let all =
            blocks.iter().copied().eq(0..blocks.len()) && json.get("layers_to_transform").is_none_or(Value::is_null);
        let config = LoraConfig { rank, alpha, rslora, dropout, targets, blocks: (!all).then_some(blocks) };
        Ok(Self { declared: Some(declared), fused, ..Self::new(config, base, weights)? })
    }

    /// Saves an adapter folder in PEFT's format, in f32. The folder is created if it does not exist. Each file is
    /// written under a temporary name and renamed when it is complete.
    ///
    /// # Errors
    /// [`FileError::Write`].
    pub fn save(&self, folder: impl AsRef<Path>) -> Result<(), AdapterError> {
        let folder = folder.as_ref();
        std::fs::create_dir_all(folder).map_err(|source| FileError::Write { path: folder.to_owned(), source })?;
        let bytes = |values: &[f32]| values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>();
        let mut tensors = Vec::with_capacity(2 * self.weights.len());
        for (&(block, target), LoraWeights { a, b, inputs, outputs }) in &self.weights {
            tensors.push((name(self.fused, block, target, Half::A), vec![self.config.rank, *inputs], bytes(a)));
            tensors.push((name(self.fused, block, target, Half::B), vec![*outputs, self.config.rank], bytes(b)));
        }
        write_whole_with(&folder.join(WEIGHTS), |path| {
            let views = tensors
                .iter()
                .map(|(name, shape, bytes)| Ok((name, TensorView::new(Dtype::F32, shape.clone(), bytes)?)));
            let views = views.collect::<Result<Vec<_>, safetensors::SafeTensorError>>();
            let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
            views
                .and_then(|views| safetensors::serialize_to_file(views, Some(metadata), path))
                .map_err(std::io::Error::other)
        })?;
        let json = settings::to_json(&self.config, self.base(), self.fused, self.weights.keys().copied());
        let path = folder.join(SETTINGS);
        let json =
            serde_json::to_vec_pretty(&json).map_err(|source| FolderError::Json { path: path.clone(), source })?;
        Ok(write_whole_with(&path, |path| std::fs::write(path, &json))?)
    }

    /// Calls [`load`](Self::load) and then [`check`](Self::check).
    ///
    /// # Errors
    /// Those of both.
    pub fn load_for(folder: impl AsRef<Path>, config: &DecoderConfig) -> Result<Self, AdapterError> {
        let adapter = Self::load(folder)?;
        adapter.check(config)?;
        Ok(adapter)
    }
}

/// The content of a folder without an adapter.
fn content(folder: &Path) -> AdapterFolder {
    let has = |file: &str| folder.join(file).is_file();
    match () {
        () if !folder.is_dir() => AdapterFolder::NotAFolder,
        () if has("adapter_model.bin") => AdapterFolder::Pickle,
        () if has("config.json") => AdapterFolder::Model,
        () => AdapterFolder::Nothing,
    }
}
