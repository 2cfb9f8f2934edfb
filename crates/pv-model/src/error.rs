//! The error of this crate, which passes on those of its modules.

use std::path::PathBuf;

use crate::adapter::AdapterError;
use crate::chat::TemplateError;
use crate::config::ConfigError;
use crate::device::DeviceError;
use crate::folder::FolderError;
use crate::hub::HubError;
use crate::tokenizer::TokenizerError;
use crate::weights::WeightsError;

const GIB: f64 = (1u64 << 30) as f64;

/// What a model that does not fit into memory can be loaded as.
fn smaller_types(types: &[&str]) -> String {
    match types {
        [] => "no type of weights is small enough".to_owned(),
        types => format!("weights in {} would fit on the CPU", types.join(", ")),
    }
}

/// The result of this crate's fallible functions.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error of this crate. Variants carry the values that a caller needs to act on them.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file could not be written.
    #[error(transparent)]
    File(#[from] pv_data::FileError),
    /// A file of a model folder could not be read.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// An invalid or unsupported configuration.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Invalid or unsupported weights.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// A tokenizer cannot be loaded, or failed.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// A chat template cannot be loaded, or failed.
    #[error(transparent)]
    Template(#[from] TemplateError),
    /// A device or compute type is not available, or the device failed.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// A low-rank adapter cannot be loaded, or does not match the model.
    #[error(transparent)]
    Adapter(#[from] AdapterError),
    /// A model name could not be resolved to a local folder.
    #[error(transparent)]
    Hub(#[from] HubError),
    /// A hook does not fit the model, or never fired.
    #[error(transparent)]
    Hook(#[from] pv_hooks::HookError),
    /// The weights belong to another architecture than the model.
    #[error("the weights belong to another architecture: `{key}` is {found}, expected {expected}")]
    OtherArchitecture {
        /// The first key of the configuration that differs.
        key: String,
        /// The model's value.
        expected: String,
        /// The weights' value.
        found: String,
    },
    /// A stop token is not in the model's vocabulary.
    #[error("{}: the stop token {id} is outside the model's vocabulary of {vocab} tokens", folder.display())]
    StopTokenOutOfRange {
        /// The model folder.
        folder: PathBuf,
        /// The token.
        id: u32,
        /// The size of the vocabulary.
        vocab: usize,
    },
    /// A model does not fit into the available memory.
    #[error(
        "{} needs {:.1} GiB of memory in {dtype}, and {:.1} GiB are available; {}; the check can be disabled",
        folder.display(), *needed as f64 / GIB, *available as f64 / GIB, smaller_types(smaller)
    )]
    NotEnoughMemory {
        /// The model folder.
        folder: PathBuf,
        /// The type in which the weights would be stored.
        dtype: String,
        /// The number of bytes that the weights need.
        needed: u64,
        /// The number of bytes available.
        available: u64,
        /// The types of weights that would fit on the CPU.
        smaller: Vec<&'static str>,
    },
    /// A type of weights is for computation in f32 on the CPU only.
    #[error("weights in {weights} are for computation in f32 on the CPU, not in {dtype} on {device}")]
    PackedWeights {
        /// The type of the weights.
        weights: &'static str,
        /// The device.
        device: String,
        /// The compute type.
        dtype: String,
    },
    /// A type of activations is for weights of another type than the model's.
    #[error("activations in {activations} are for weights in {weights}, and this model has none")]
    UnusedActivations {
        /// The type of the activations.
        activations: &'static str,
        /// The weights that it is for.
        weights: &'static str,
    },
    /// A key or a value is beyond the range of the cache's type. The compute type has no such limit.
    #[error(
        "a key or value of {value:.4e} is beyond the cache's type, f16 (±{limit}); cache in the compute type instead"
    )]
    CacheOverflow {
        /// The absolute value.
        value: f32,
        /// The greatest value of the type.
        limit: f32,
    },
    /// An invalid option.
    #[error("{name} is {value}, expected {expected}")]
    BadOption {
        /// The option.
        name: &'static str,
        /// Its value.
        value: String,
        /// The valid values.
        expected: &'static str,
    },
    /// The decoder's weights are quantized already.
    #[error("the weights are already quantized")]
    AlreadyQuantized,
    /// The blocks of a quantization do not divide the inputs of a projection.
    #[error("the block of {block} weights does not divide the {inputs} inputs of a projection")]
    QuantizationBlock {
        /// The number of weights in a block.
        block: usize,
        /// The number of inputs.
        inputs: usize,
    },
    /// More answers than one call can return.
    #[error("{answers} answers exceed the limit of {limit} answers per call")]
    TooManyAnswers {
        /// The requested number.
        answers: usize,
        /// The greatest number.
        limit: usize,
    },
    /// A run of more answers than one can have.
    #[error("{prompts} prompts with {answers_each} answers each exceed the limit of {limit} answers per run")]
    TooManyAnswersEach {
        /// The number of prompts.
        prompts: usize,
        /// The requested number of answers to each.
        answers_each: usize,
        /// The greatest number of answers in all.
        limit: usize,
    },
    /// A decoder with adapters cannot be saved as a model.
    #[error("the decoder has {adapters} adapter(s): merge them, or save the adapters separately")]
    UnmergedAdapters {
        /// The number of adapters.
        adapters: usize,
    },
    /// A prompt without tokens.
    #[error("prompt {index} has no tokens")]
    EmptyPrompt {
        /// The prompt's index.
        index: usize,
    },
    /// The rotary frequencies would change in the middle of an answer.
    #[error(
        "prompt {index} has {tokens} tokens, and {needed} with all new ones: this model has other rotary frequencies \
         beyond {limit} tokens; ask for fewer new tokens"
    )]
    RotaryLimit {
        /// The prompt's index.
        index: usize,
        /// The tokens of the prompt.
        tokens: usize,
        /// The tokens of the prompt and of the longest answer.
        needed: usize,
        /// See [`DecoderConfig::rotary_limit`](crate::DecoderConfig::rotary_limit).
        limit: usize,
    },
    /// A prompt without continuations.
    #[error("prompt {index} has no continuations")]
    NoContinuations {
        /// The prompt's index.
        index: usize,
    },
    /// A token id is outside the model's vocabulary.
    #[error("token id {id} is outside the model's vocabulary of {vocab} tokens")]
    TokenOutOfRange {
        /// The id.
        id: u32,
        /// The size of the vocabulary.
        vocab: usize,
    },
    /// The logits contain NaN or infinity, so that no token can be chosen.
    #[error(
        "sequence {sequence}: the logits are not finite; a steering coefficient or the compute type may be out of range"
    )]
    BadLogits {
        /// The sequence.
        sequence: usize,
    },
}

impl Error {
    /// The error of a file in the model's folder, whatever part of the model was read.
    pub fn folder(&self) -> Option<&FolderError> {
        match self {
            Self::Folder(error)
            | Self::Tokenizer(TokenizerError::Folder(error))
            | Self::Template(TemplateError::Folder(error))
            | Self::Adapter(AdapterError::Folder(error)) => Some(error),
            Self::Config(error)
            | Self::Tokenizer(TokenizerError::Config(error))
            | Self::Adapter(AdapterError::Config(error)) => error.folder(),
            Self::Weights(error) | Self::Adapter(AdapterError::Weights(error)) | Self::Hub(HubError::Index(error)) => {
                error.folder()
            }
            _ => None,
        }
    }
}
