//! Adapter folders: `adapter_config.json` and `adapter_model.safetensors`.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;

use safetensors::tensor::{Dtype, TensorView};
use serde_json::{Map, Value};

use super::settings::{self, Settings};
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

/// One of an update's two matrices.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Half {
    A,
    B,
}

/// The values, and the width that is not the rank.
type Matrix = (Vec<f32>, usize);

/// Which matrix of which update a tensor is.
fn place(tensor: &str) -> Option<(usize, LoraTarget, Half)> {
    let names = &TensorNames::HUGGING_FACE;
    let rest = tensor.strip_prefix(PREFIX)?.strip_prefix(names.blocks)?.strip_prefix('.')?;
    let (block, rest) = rest.split_once('.')?;
    let (projection, half) = match rest.strip_suffix(".lora_A.weight") {
        Some(projection) => (projection, Half::A),
        None => (rest.strip_suffix(".lora_B.weight")?, Half::B),
    };
    let target = LoraTarget::ALL.into_iter().find(|target| target.in_block(names) == projection)?;
    Some((block.parse().ok()?, target, half))
}

fn name(block: usize, target: LoraTarget, half: Half) -> String {
    let names = &TensorNames::HUGGING_FACE;
    format!("{PREFIX}{}.lora_{half:?}.weight", names.in_block(block, target.in_block(names)))
}

impl Adapter {
    /// Reads a folder in PEFT's format. The projections and blocks that have updates are those that the file holds;
    /// values of f16 and bf16 are read into f32.
    ///
    /// # Errors
    /// [`Error::NotAnAdapterFolder`], [`Error::ConfigUnsupported`] for a kind of adapter whose arithmetic is another (DoRA,
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

        let path = folder.join(WEIGHTS);
        let files = WeightFiles::open_file(&path)?;
        let bad = |tensor: &str, reason: String| Error::AdapterTensor {
            path: path.clone(),
            tensor: tensor.to_owned(),
            reason,
        };
        let mut halves: BTreeMap<(usize, LoraTarget), [Option<Matrix>; 2]> = BTreeMap::new();
        for tensor in files.names() {
            let Some((block, target, half)) = place(tensor) else {
                return Err(bad(tensor, "only updates of the seven projections of a block are supported".into()));
            };
            let raw = files.get(tensor)?;
            let width = match (half, raw.shape.as_slice()) {
                (Half::A, &[r, inputs]) if r == rank => inputs,
                (Half::B, &[outputs, r]) if r == rank => outputs,
                (_, shape) => {
                    return Err(bad(tensor, format!("its shape is {shape:?}, which does not have the rank {rank}")));
                }
            };
            halves.entry((block, target)).or_default()[half as usize] = Some((raw.to_f32(), width));
        }
        let mut weights = BTreeMap::new();
        for ((block, target), halves) in halves {
            let [Some((a, inputs)), Some((b, outputs))] = halves else {
                let there = if halves[0].is_some() { Half::A } else { Half::B };
                return Err(bad(&name(block, target, there), "the update's other matrix is missing".into()));
            };
            weights.insert((block, target), LoraWeights { a, b, inputs, outputs });
        }
        let targets = weights.keys().map(|(_, target)| *target).collect();
        let blocks: BTreeSet<usize> = weights.keys().map(|(block, _)| *block).collect();
        // Without a gap from the first block on, all blocks are meant: how many the model has is not known here.
        let all =
            blocks.iter().copied().eq(0..blocks.len()) && json.get("layers_to_transform").is_none_or(Value::is_null);
        let config = LoraConfig { rank, alpha, rslora, dropout, targets, blocks: (!all).then_some(blocks) };
        Self::new(config, base, weights)
    }

    /// Writes a folder in PEFT's format, in f32; it is made where it does not exist. Each file is written under another
    /// name first, so that none is ever seen half-written.
    ///
    /// # Errors
    /// [`Error::Write`].
    pub fn save(&self, folder: impl AsRef<Path>) -> Result<()> {
        let folder = folder.as_ref();
        std::fs::create_dir_all(folder).map_err(|source| Error::Write { path: folder.to_owned(), source })?;
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
        let json = settings::to_json(&self.config, self.base());
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
