use std::fmt;
use std::path::PathBuf;

use pv_data::FileError;

use super::LoraTarget;
use crate::config::ConfigError;
use crate::folder::FolderError;
use crate::listed::listed;
use crate::weights::WeightsError;

/// An error of a low-rank adapter or its files.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AdapterError {
    /// A file could not be written.
    #[error(transparent)]
    File(#[from] FileError),
    /// A file could not be read.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// A setting in the adapter's file is missing, invalid or not supported.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The file with the adapter's tensors is invalid.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// A folder contains no adapter that can be loaded.
    #[error("{}: {wanted} not found: {found}", path.display())]
    NotAnAdapter {
        /// The folder.
        path: PathBuf,
        /// The expected file.
        wanted: &'static str,
        /// What was found instead.
        found: AdapterFolder,
    },
    /// A tensor is not part of a low-rank update of a block's projection.
    #[error("{}: tensor `{tensor}`: {problem}", path.display())]
    Tensor {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// Why it cannot be used.
        problem: TensorProblem,
    },
    /// The file contains other updates than its settings specify for the model.
    #[error("{}: {}", path.display(), mismatch(missing, unexpected))]
    Mismatch {
        /// The adapter's folder.
        path: PathBuf,
        /// The modules whose update is missing.
        missing: Vec<String>,
        /// The modules with an unexpected update.
        unexpected: Vec<String>,
    },
    /// A regular expression in the settings is invalid, or takes too many steps.
    #[error("{}: a regular expression cannot be applied", path.display())]
    Pattern {
        /// The adapter's folder.
        path: PathBuf,
        /// The error of the expression.
        source: Box<fancy_regex::Error>,
    },
    /// A setting is invalid.
    #[error("the adapter's {name} is {value}, expected {expected}")]
    Setting {
        /// The setting.
        name: &'static str,
        /// Its value.
        value: f64,
        /// The valid values.
        expected: &'static str,
    },
    /// Some projections of one module of the model have updates, and others do not.
    #[error("the model stores {target} and {missing} in one module, {module}: update all of its projections or none")]
    SharedModule {
        /// The module within a block.
        module: &'static str,
        /// A projection with updates.
        target: LoraTarget,
        /// A projection without.
        missing: LoraTarget,
    },
    /// The adapter has no updates.
    #[error("the adapter updates no projection")]
    Empty,
    /// The adapter updates a block that the model does not have.
    #[error("the adapter does not fit: it updates block {block} of a model with {blocks} blocks")]
    BlockOutOfRange {
        /// The block, from 0.
        block: usize,
        /// The model's number of blocks.
        blocks: usize,
    },
    /// The adapter updates an MLP's projection in a block that has experts in its place.
    #[error(
        "block {block} has experts in place of an MLP with {target}: adapters of experts are not supported; update \
         q_proj, k_proj, v_proj and o_proj only, or blocks without experts"
    )]
    Experts {
        /// The block, from 0.
        block: usize,
        /// The projection.
        target: LoraTarget,
    },
    /// An update's projection has other widths in the model.
    #[error(
        "the adapter does not fit: block {block}, {target}: found {} inputs and {} outputs, expected {} and {} from the \
         model", found.0, found.1, expected.0, expected.1
    )]
    Widths {
        /// The block, from 0.
        block: usize,
        /// The projection.
        target: LoraTarget,
        /// The model's inputs and outputs.
        expected: (usize, usize),
        /// The update's inputs and outputs.
        found: (usize, usize),
    },
    /// The lengths of an update's matrices do not match its rank and widths.
    #[error("block {block}, {target}: A has {a} values and B {b}, expected rank {rank} times {inputs} and {outputs}")]
    Sizes {
        /// The block, from 0.
        block: usize,
        /// The projection.
        target: LoraTarget,
        /// The number of values in A.
        a: usize,
        /// The number of values in B.
        b: usize,
        /// The rank.
        rank: usize,
        /// The projection's inputs.
        inputs: usize,
        /// The projection's outputs.
        outputs: usize,
    },
    /// An update contains a NaN or an infinity.
    #[error("block {block}, {target}: found the value {value}")]
    NotFinite {
        /// The block, from 0.
        block: usize,
        /// The projection.
        target: LoraTarget,
        /// The value.
        value: f32,
    },
    /// The decoder has no adapter of this number.
    #[error("adapter {number} not found; the decoder has {adapters} adapters")]
    NotFound {
        /// The requested number, from 0.
        number: usize,
        /// The number of adapters.
        adapters: usize,
    },
}

/// Why a tensor in an adapter's file cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TensorProblem {
    /// It has magnitudes of DoRA.
    Dora,
    /// It updates the embedding.
    Embedding,
    /// It is an update's bias.
    Bias,
    /// It is a weight of the model.
    ModelWeight,
    /// It updates a module other than the seven projections of a block.
    OtherModule,
    /// It updates an expert.
    Expert,
    /// It belongs to another adapter than the tensors before it.
    OtherAdapter {
        /// Its adapter's name, if it has one.
        adapter: Option<Box<str>>,
        /// A tensor of the other adapter.
        other_tensor: Box<str>,
        /// The other adapter's name, if it has one.
        other: Option<Box<str>>,
    },
    /// Its shape does not match the rank in the settings.
    Shape {
        /// The shape.
        shape: Vec<usize>,
        /// The rank.
        rank: usize,
    },
    /// Another tensor is the same matrix under another name.
    Duplicate,
    /// The update's other matrix is missing.
    OtherMatrixMissing {
        /// The missing tensor.
        name: String,
    },
}

impl fmt::Display for TensorProblem {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dora => out.write_str("magnitudes of DoRA are not supported"),
            Self::Embedding => out.write_str("updates of the embedding are not supported"),
            Self::Bias => out.write_str("biases of updates are not supported"),
            Self::ModelWeight => out.write_str("expected a matrix of a low-rank update, found a weight of the model"),
            Self::OtherModule => out.write_str("only updates of the seven projections of a block are supported"),
            Self::Expert => out.write_str("updates of experts are not supported"),
            Self::OtherAdapter { adapter, other_tensor, other } => {
                let [adapter, other] = [adapter, other].map(|name| name.as_deref().unwrap_or("without a name"));
                write!(out, "it belongs to the adapter {adapter}, but {other_tensor} belongs to the adapter {other}")
            }
            Self::Shape { shape, rank } => write!(out, "the shape is {shape:?}, expected the rank {rank}"),
            Self::Duplicate => {
                out.write_str("duplicate: another tensor of the file is the same matrix under another name")
            }
            Self::OtherMatrixMissing { name } => write!(out, "the update's other matrix is missing: {name}"),
        }
    }
}

/// The content of a folder without an adapter that can be loaded. Its text says what to do about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum AdapterFolder {
    /// There is no folder.
    NotAFolder,
    /// The weights are a pickle.
    Pickle,
    /// A model.
    Model,
    /// Nothing of an adapter.
    Nothing,
}

impl fmt::Display for AdapterFolder {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::NotAFolder => "not a folder",
            Self::Pickle => {
                "the weights are a pickle (adapter_model.bin), which is not supported; save them as safetensors with PEFT"
            }
            Self::Model => "the folder contains a model, not an adapter",
            Self::Nothing => "the folder contains nothing that an adapter can be loaded from",
        })
    }
}

fn mismatch(missing: &[String], unexpected: &[String]) -> String {
    let part = |what: &str, names: &[String]| {
        (!names.is_empty()).then(|| format!("{what} {}: {}", names.len(), listed(names)))
    };
    let missing = part("updates that target_modules specifies are missing for", missing);
    let unexpected = part("found updates that target_modules does not specify for", unexpected);
    [missing, unexpected].into_iter().flatten().collect::<Vec<_>>().join("; ")
}
