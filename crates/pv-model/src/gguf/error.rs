use std::path::PathBuf;

use pv_data::gguf::GgufError;

/// The reason why a GGUF file cannot be used as a model.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GgufModelError {
    /// A file could not be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The error of the operating system.
        source: std::io::Error,
    },
    /// A damaged file, or one of another version.
    #[error("cannot read the GGUF file {}", path.display())]
    Container {
        /// The file.
        path: PathBuf,
        /// The reason.
        source: Box<GgufError>,
    },
    /// The parts of a split model do not fit together.
    #[error(
        "{} should be part {} of {count}, {}",
        path.display(), number + 1,
        found.map_or("but states no parts".to_owned(), |(number, count)| format!("but is part {} of {count}", number + 1))
    )]
    Part {
        /// The file.
        path: PathBuf,
        /// Its number according to its name, from 0.
        number: usize,
        /// The number of parts.
        count: usize,
        /// The number and the number of parts that it states.
        found: Option<(usize, usize)>,
    },
    /// The parts of a split model contain more or fewer tensors than they state.
    #[error("the parts state {stated} tensors in all, but contain {found}")]
    TensorCount {
        /// The stated number.
        stated: usize,
        /// The number that was found.
        found: usize,
    },
    /// A value of another type than the key's.
    #[error(transparent)]
    Metadata(#[from] GgufError),
    /// A required key or tensor is missing.
    #[error("`{name}` is missing")]
    Missing {
        /// The key, or the tensor's name.
        name: String,
    },
    /// A value is invalid.
    #[error("`{key}` is {value}, expected {expected}")]
    Value {
        /// The key.
        key: String,
        /// Its value.
        value: String,
        /// The valid values.
        expected: String,
    },
    /// A value needs something that is not implemented.
    #[error("`{key}` is {value}, which is not supported; supported: {supported}")]
    Unsupported {
        /// The key.
        key: String,
        /// Its value.
        value: String,
        /// The values that are supported.
        supported: String,
    },
    /// Two tokens of one text.
    #[error("the tokens {first} and {second} are both {token:?}")]
    DuplicateToken {
        /// The text.
        token: String,
        /// The first id.
        first: usize,
        /// The second id.
        second: usize,
    },
    /// A token too long to find the merges that form it.
    #[error("the token {id} is {bytes} bytes long, more than the limit of {most}")]
    LongToken {
        /// The id.
        id: usize,
        /// The length.
        bytes: usize,
        /// The greatest length.
        most: usize,
    },
    /// The factors of the rotary frequencies are not those of a known scaling.
    #[error("`rope_freqs.weight` has {factors} factors up to {greatest}, which are not those of Llama 3.1's scaling")]
    RopeFactors {
        /// The number of factors.
        factors: usize,
        /// The greatest one.
        greatest: f32,
    },
}

impl GgufModelError {
    pub(super) fn missing(name: impl Into<String>) -> Self {
        Self::Missing { name: name.into() }
    }

    pub(super) fn value(key: impl Into<String>, value: impl Into<String>, expected: impl Into<String>) -> Self {
        Self::Value { key: key.into(), value: value.into(), expected: expected.into() }
    }

    pub(super) fn unsupported(key: impl Into<String>, value: impl Into<String>, supported: impl Into<String>) -> Self {
        Self::Unsupported { key: key.into(), value: value.into(), supported: supported.into() }
    }
}
