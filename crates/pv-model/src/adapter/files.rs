//! Adapter folders: `adapter_config.json` and `adapter_model.safetensors`.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;

use pv_data::FileError;
use safetensors::tensor::{Dtype, TensorView};
use serde_json::{Map, Value};

use super::settings::{self, Settings};
use super::targets::{self, Targets};
use super::{Adapter, LoraConfig, LoraTarget, LoraWeights};
use crate::config::DecoderConfig;
use crate::families::TensorNames;
use crate::save::write_with;
use crate::weights::{WeightFiles, read_limited};
use crate::{Error, Result};

const SETTINGS: &str = "adapter_config.json";
const WEIGHTS: &str = "adapter_model.safetensors";
const PREFIX: &str = "base_model.model.";
const MAX_SETTINGS_BYTES: u64 = 16 << 20;

/// What wrappers around a model and its modules put into the names of tensors (PEFT, torch.compile, data parallelism, FSDP,
/// checkpointing), and the name of the model itself, which a wrapper may repeat or leave out.
const WRAPPERS: [&str; 6] =
    ["base_model", "model", "module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"];

/// One of an update's two matrices.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Half {
    A,
    B,
}

/// The values, and the width that is not the rank.
type Matrix = (Vec<f32>, usize);

/// Which matrix of which update a tensor is.
struct Place<'a> {
    block: usize,
    target: LoraTarget,
    half: Half,
    /// The adapter's name, where the file has it in its tensors' names.
    adapter: Option<&'a str>,
}

impl<'a> Place<'a> {
    /// `Err` says why the tensor is no part of an update.
    fn parse(tensor: &'a str) -> Result<Self, &'static str> {
        let parts: Vec<&str> = tensor.split('.').filter(|part| !WRAPPERS.contains(part)).collect();
        let (half, adapter) = match parts.as_slice() {
            [.., "lora_magnitude_vector" | "lora_magnitude_vector_", _] | [.., "lora_magnitude_vector", _, _] => {
                return Err("the magnitudes of DoRA are not supported");
            }
            [.., "lora_embedding_A" | "lora_embedding_B"] | [.., "lora_embedding_A" | "lora_embedding_B", _] => {
                return Err("updates of the embedding are not supported");
            }
            [.., "lora_B", "bias"] | [.., "lora_B", _, "bias"] => return Err("biases of updates are not supported"),
            [.., "lora_A", "weight"] => (Half::A, None),
            [.., "lora_B", "weight"] => (Half::B, None),
            [.., "lora_A", name, "weight"] => (Half::A, Some(*name)),
            [.., "lora_B", name, "weight"] => (Half::B, Some(*name)),
            _ => return Err("it is no matrix of a low-rank update, but a weight of the model's own"),
        };
        let other = "only updates of the seven projections of a block are supported";
        let ["layers", block, part, projection, ..] = parts.as_slice() else { return Err(other) };
        let names = &TensorNames::HUGGING_FACE;
        let projection = format!("{part}.{projection}");
        let target = LoraTarget::ALL.into_iter().find(|target| target.in_block(names) == projection).ok_or(other)?;
        let suffix = if adapter.is_some() { 3 } else { 2 };
        match block.parse() {
            Ok(block) if parts.len() == 4 + suffix => Ok(Self { block, target, half, adapter }),
            _ => Err(other),
        }
    }
}

fn name(block: usize, target: LoraTarget, half: Half) -> String {
    format!("{PREFIX}{}.lora_{half:?}.weight", targets::module(block, target))
}

impl Adapter {
    /// Reads a folder in PEFT's format. The projections and blocks that have updates are those that the file holds, which must be
    /// those that `target_modules` and its kin ask for, as far as that is known without the model ([`check`](Self::check)
    /// tells the rest); values of f16 and bf16 are read into f32. The name of the adapter and what wrappers add may stand
    /// in the tensors' names.
    ///
    /// # Errors
    /// [`Error::NotAnAdapterFolder`], [`Error::AdapterMismatch`], [`Error::ConfigUnsupported`] for a kind of adapter whose arithmetic is another (DoRA,
    /// trained biases, patterns of ranks, …), [`Error::AdapterTensor`], and anything wrong with the files.
    pub fn load(folder: impl AsRef<Path>) -> Result<Self> {
        let folder = folder.as_ref();
        for wanted in [SETTINGS, WEIGHTS] {
            if !folder.join(wanted).is_file() {
                return Err(Error::NotAnAdapterFolder { path: folder.to_owned(), wanted, found: instead(folder) });
            }
        }
        let path = folder.join(SETTINGS);
        let bytes = read_limited(&path, MAX_SETTINGS_BYTES)?;
        let json: Map<String, Value> =
            serde_json::from_slice(&bytes).map_err(|source| Error::Json { path: path.clone(), source })?;
        let Settings { rank, alpha, rslora, dropout, base } = Settings::parse(&path, &json)?;
        let declared = Targets::parse(&path, &json)?;

        let path = folder.join(WEIGHTS);
        let files = WeightFiles::open_file(&path)?;
        let bad = |tensor: &str, reason: String| Error::AdapterTensor {
            path: path.clone(),
            tensor: tensor.to_owned(),
            reason,
        };
        let mut halves: BTreeMap<(usize, LoraTarget), [Option<Matrix>; 2]> = BTreeMap::new();
        let mut named: Option<(Option<&str>, &str)> = None;
        for tensor in files.names() {
            let Place { block, target, half, adapter } =
                Place::parse(tensor).map_err(|reason| bad(tensor, reason.to_owned()))?;
            let (first, of) = *named.get_or_insert((adapter, tensor));
            if first != adapter {
                let name = |adapter: Option<&str>| adapter.unwrap_or("without a name").to_owned();
                let (this, other) = (name(adapter), name(first));
                return Err(bad(tensor, format!("it is of the adapter {this}, while {of} is of the adapter {other}")));
            }
            let raw = files.get(tensor)?;
            let width = match (half, raw.shape.as_slice()) {
                (Half::A, &[r, inputs]) if r == rank => inputs,
                (Half::B, &[outputs, r]) if r == rank => outputs,
                (_, shape) => {
                    return Err(bad(tensor, format!("its shape is {shape:?}, which does not have the rank {rank}")));
                }
            };
            let held = &mut halves.entry((block, target)).or_default()[half as usize];
            if held.replace((raw.to_f32(), width)).is_some() {
                return Err(bad(tensor, "another tensor of the file is the same matrix under another name".into()));
            }
        }
        let mut weights = BTreeMap::new();
        for ((block, target), halves) in halves {
            let [Some((a, inputs)), Some((b, outputs))] = halves else {
                let (there, other) = if halves[0].is_some() { (Half::A, Half::B) } else { (Half::B, Half::A) };
                let reason = format!("the update's other matrix is missing: {}", name(block, target, other));
                return Err(bad(&name(block, target, there), reason));
            };
            weights.insert((block, target), LoraWeights { a, b, inputs, outputs });
        }
        // What a model has beyond the last block of the file is found out when it is known.
        let blocks = weights.keys().map(|(block, _)| block + 1).max().unwrap_or(0);
        declared.check(&weights.keys().copied().collect(), blocks.min(crate::config::MAX_BLOCKS))?;
        let targets = weights.keys().map(|(_, target)| *target).collect();
        let blocks: BTreeSet<usize> = weights.keys().map(|(block, _)| *block).collect();
        // Without a gap from the first block on, all blocks are meant: how many the model has is not known here.
        let all =
            blocks.iter().copied().eq(0..blocks.len()) && json.get("layers_to_transform").is_none_or(Value::is_null);
        let config = LoraConfig { rank, alpha, rslora, dropout, targets, blocks: (!all).then_some(blocks) };
        Ok(Self { declared: Some(declared), ..Self::new(config, base, weights)? })
    }

    /// Writes a folder in PEFT's format, in f32; it is made where it does not exist. Each file is written under another
    /// name first, so that none is ever seen half-written.
    ///
    /// # Errors
    /// [`FileError::Write`](pv_data::FileError::Write).
    pub fn save(&self, folder: impl AsRef<Path>) -> Result<()> {
        let folder = folder.as_ref();
        std::fs::create_dir_all(folder).map_err(|source| FileError::Write { path: folder.to_owned(), source })?;
        let bytes = |values: &[f32]| values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>();
        let mut tensors = Vec::with_capacity(2 * self.weights.len());
        for (&(block, target), LoraWeights { a, b, inputs, outputs }) in &self.weights {
            tensors.push((name(block, target, Half::A), vec![self.config.rank, *inputs], bytes(a)));
            tensors.push((name(block, target, Half::B), vec![*outputs, self.config.rank], bytes(b)));
        }
        write_with(&folder.join(WEIGHTS), |path| {
            let views = tensors
                .iter()
                .map(|(name, shape, bytes)| Ok((name, TensorView::new(Dtype::F32, shape.clone(), bytes)?)));
            let views = views.collect::<std::result::Result<Vec<_>, safetensors::SafeTensorError>>();
            let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
            views
                .and_then(|views| safetensors::serialize_to_file(views, Some(metadata), path))
                .map_err(std::io::Error::other)
        })?;
        let json = settings::to_json(&self.config, self.base(), self.weights.keys().copied());
        let path = folder.join(SETTINGS);
        let json = serde_json::to_vec_pretty(&json).map_err(|source| Error::Json { path: path.clone(), source })?;
        write_with(&path, |path| std::fs::write(path, &json))
    }

    /// What [`load`](Self::load) and [`check`](Self::check) do one after the other.
    ///
    /// # Errors
    /// Those of both.
    pub fn load_for(folder: impl AsRef<Path>, config: &DecoderConfig) -> Result<Self> {
        let adapter = Self::load(folder)?;
        adapter.check(config)?;
        Ok(adapter)
    }
}

/// What a folder that holds no adapter holds.
fn instead(folder: &Path) -> String {
    if !folder.is_dir() {
        return "it is no folder".into();
    }
    if folder.join("adapter_model.bin").is_file() {
        return "its weights are a pickle (adapter_model.bin); save them as safetensors with PEFT".into();
    }
    if folder.join("config.json").is_file() {
        return "it is a model's folder, not an adapter's".into();
    }
    "nor anything else that an adapter could be read from".into()
}
