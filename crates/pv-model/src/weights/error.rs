use std::path::PathBuf;

use pv_kernels::kept::Format;

use crate::folder::FolderError;
use crate::listed::listed;

/// An error of the files with a model's weights.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WeightsError {
    /// A file could not be read, or does not exist.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// A safetensors file states an impossible header length.
    #[error("{}: the header length is {header} bytes, but only {available} bytes follow (limit: {limit})", path.display())]
    Header {
        /// The weights file.
        path: PathBuf,
        /// The stated length.
        header: u64,
        /// The bytes after the length field.
        available: u64,
        /// The longest header that is read.
        limit: u64,
    },
    /// A tensor's byte range is not inside its file, which may be truncated.
    #[error("{}: tensor `{tensor}` has the bytes {start}..{end}, but only {available} follow the header; the file may be truncated", path.display())]
    TensorOffsets {
        /// The weights file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// The start of its bytes, counted from the end of the header.
        start: u64,
        /// The end of its bytes.
        end: u64,
        /// The number of bytes after the header.
        available: u64,
    },
    /// A tensor's byte range does not match its type and shape.
    #[error("{}: tensor `{tensor}` has {found} bytes, which does not match {dtype} {shape:?}", path.display())]
    TensorBytes {
        /// The weights file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// Its type, as written in the file.
        dtype: String,
        /// Its shape.
        shape: Vec<u64>,
        /// The length of its byte range.
        found: u64,
    },
    /// Two tensors of one file overlap.
    #[error("{}: tensors `{first}` and `{second}` overlap at byte {at}", path.display())]
    TensorOverlap {
        /// The weights file.
        path: PathBuf,
        /// The tensor that starts first.
        first: String,
        /// The tensor that starts before the first one ends.
        second: String,
        /// The first shared byte, counted from the end of the header.
        at: u64,
    },
    /// Bytes of a weights file belong to no tensor, which the format forbids.
    #[error("{}: bytes {start}..{end} belong to no tensor", path.display())]
    UnclaimedBytes {
        /// The weights file.
        path: PathBuf,
        /// The start of the bytes, counted from the end of the header.
        start: u64,
        /// The end of the bytes.
        end: u64,
    },
    /// A tensor is stored twice.
    #[error("tensor `{tensor}` is both in {} and in {}", first.display(), second.display())]
    DuplicateTensor {
        /// The tensor.
        tensor: String,
        /// The first file with the tensor.
        first: PathBuf,
        /// The second file; may be the same.
        second: PathBuf,
    },
    /// An index refers to a shard by something other than a bare file name.
    #[error("{}: tensor `{tensor}` is in the shard {shard:?}, expected a bare file name", path.display())]
    ShardName {
        /// The index file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// The invalid name.
        shard: String,
    },
    /// An index refers to a shard that is not in the folder.
    #[error("{}: the shard {shard} was not found in the folder", path.display())]
    ShardMissing {
        /// The index file.
        path: PathBuf,
        /// The missing shard.
        shard: String,
    },
    /// An index assigns a tensor to a shard that does not contain it.
    #[error("{}: tensor `{tensor}` was not found in the shard {shard}", path.display())]
    ShardLacksTensor {
        /// The index file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// The shard.
        shard: String,
    },
    /// Tensors of the model are missing in the folder.
    #[error("{}: {} of the model's tensors are missing: {}", path.display(), names.len(), listed(names))]
    MissingTensors {
        /// The model folder.
        path: PathBuf,
        /// The missing tensors.
        names: Vec<String>,
    },
    /// The folder contains tensors that the model does not have.
    #[error("{}: found {} tensors that the model does not have: {}", path.display(), names.len(), listed(names))]
    UnusedTensors {
        /// The model folder.
        path: PathBuf,
        /// The unexpected tensors.
        names: Vec<String>,
    },
    /// The rows of queries or keys are not those of whole heads.
    #[error("{}: tensor `{tensor}` has the shape {shape:?}, which are not {heads} heads of an even width", path.display())]
    Heads {
        /// The weights file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// The number of heads.
        heads: usize,
        /// The tensor's shape.
        shape: Vec<usize>,
    },
    /// A tensor is stored in an unsupported type.
    #[error("{}: tensor `{tensor}` is stored as {dtype}; supported: {}", path.display(), supported())]
    TensorDtype {
        /// The weights file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// Its type, as written in the file.
        dtype: String,
    },
    /// A tensor's shape differs from that of the configuration.
    #[error("{}: tensor `{tensor}` has the shape {found:?}, expected {expected:?} from the configuration", path.display())]
    TensorShape {
        /// The weights file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// The shape according to the configuration.
        expected: Vec<usize>,
        /// The shape in the file.
        found: Vec<usize>,
    },
    /// A tensor does not fit into a buffer.
    #[error("tensor `{tensor}` has {expected} values, but the buffer has length {found}")]
    TensorLength {
        /// The tensor.
        tensor: String,
        /// The number of values.
        expected: usize,
        /// The length of the buffer.
        found: usize,
    },
}

/// The names of the types that can be read; those in blocks are for GGUF files.
fn supported() -> String {
    Format::ALL.map(Format::name).join(", ")
}

impl WeightsError {
    /// The error of a file, whatever it contains.
    pub(crate) fn folder(&self) -> Option<&FolderError> {
        match self {
            Self::Folder(error) => Some(error),
            _ => None,
        }
    }
}
