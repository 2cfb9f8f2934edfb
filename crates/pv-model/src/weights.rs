//! The tensors of a model folder, memory-mapped and checked before the first one is used.

mod error;
mod gguf;
mod header;
mod index;
mod packing;
mod stacked;
mod tensor;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use burn::tensor::DType;
use memmap2::Mmap;
use pv_kernels::kept::Format;

use crate::config::{DecoderConfig, ExpectedTensor, OutputHead, TensorNames, expected_tensors};
use crate::folder::{self, FolderError};
use crate::gguf::{Change, is_gguf, unpermuted};
use crate::mapped;

pub use crate::config::StoredDtype;
pub use error::WeightsError;
use header::Entry;
pub(crate) use index::read_index;
pub(crate) use packing::pack;
pub use packing::{Activations, WeightType};
use stacked::Slice;
pub use tensor::RawTensor;

/// The weights of a model folder: `model.safetensors`, or the shards in `model.safetensors.index.json`; or those of a GGUF
/// file, or of the parts of a split one, under the names that such a folder has. The experts of a family whose files have all
/// of a block in one tensor get names of their own, such as `model.layers.0.mlp.experts.3.up_proj.weight`.
///
/// Opening checks every header, so that afterwards a tensor is either absent or complete. The files must not be changed
/// while this value exists: they are mapped, not copied.
#[derive(Debug)]
pub struct WeightFiles {
    folder: PathBuf,
    shards: Vec<Shard>,
    tensors: BTreeMap<String, Stored>,
}

#[derive(Debug)]
struct Shard {
    path: PathBuf,
    map: Arc<Mmap>,
    /// The size of the length field and the header.
    data_start: usize,
}

#[derive(Debug)]
struct Stored {
    shard: usize,
    entry: Entry,
    /// How the values differ from those of a checkpoint.
    change: Change,
    /// The part of the bytes of an expert that this is, if a file has all experts of a block in one tensor.
    slice: Option<Slice>,
}

impl Stored {
    /// The number of bytes in the format of the file.
    fn size(&self) -> Option<u64> {
        let [rows, columns] = *self.entry.shape else { return None };
        let row = Format::from_name(&self.entry.dtype)?.bytes(columns)?;
        Some((row as u64).saturating_mul(rows as u64))
    }
}

impl WeightFiles {
    /// Opens and checks the weights in `folder`, which may be a GGUF file.
    ///
    /// # Errors
    /// [`FolderError::NotAModel`] without weights, and every problem with the
    /// index or a header.
    pub fn open(folder: impl AsRef<Path>) -> Result<Self, WeightsError> {
        let folder = folder.as_ref();
        if is_gguf(folder) {
            return Self::open_gguf(folder);
        }
        let mut files = Self { folder: folder.into(), shards: Vec::new(), tensors: BTreeMap::new() };
        let single = folder.join("model.safetensors");
        if single.is_file() {
            files.add_shard(single)?;
            return Ok(files);
        }
        let index = folder.join("model.safetensors.index.json");
        if !index.is_file() {
            let (wanted, found) = ("model.safetensors", folder::content(folder)?);
            return Err(FolderError::NotAModel { path: folder.into(), wanted, found }.into());
        }
        let weight_map = read_index(&index)?;
        let mut numbers = BTreeMap::new();
        for shard in weight_map.values().collect::<BTreeSet<_>>() {
            let path = folder.join(shard);
            if !path.is_file() {
                return Err(WeightsError::ShardMissing { path: index, shard: shard.clone() });
            }
            numbers.insert(shard, files.shards.len());
            files.add_shard(path)?;
        }
        for (tensor, shard) in &weight_map {
            if files.tensors.get(tensor).is_none_or(|stored| stored.shard != numbers[shard]) {
                return Err(WeightsError::ShardLacksTensor {
                    path: index,
                    tensor: tensor.clone(),
                    shard: shard.clone(),
                });
            }
        }
        Ok(files)
    }

    /// Opens and checks one safetensors file.
    ///
    /// # Errors
    /// [`WeightsError::Folder`], and every problem with its header.
    pub fn open_file(path: impl AsRef<Path>) -> Result<Self, WeightsError> {
        let path = path.as_ref();
        let folder = path.parent().unwrap_or(Path::new("")).to_owned();
        let mut files = Self { folder, shards: Vec::new(), tensors: BTreeMap::new() };
        files.add_shard(path.to_owned())?;
        Ok(files)
    }

    fn add_shard(&mut self, path: PathBuf) -> Result<(), WeightsError> {
        let map = mapped::map(&path).map_err(|source| FolderError::read(&path, source))?;
        let (data_start, entries) = header::parse(&path, &map)?;
        let shard = self.shards.len();
        for (name, entry) in entries {
            if let Some(earlier) = self.tensors.get(&name) {
                let first = self.shards[earlier.shard].path.clone();
                return Err(WeightsError::DuplicateTensor { tensor: name, first, second: path });
            }
            self.tensors.insert(name, Stored { shard, entry, change: Change::None, slice: None });
        }
        self.shards.push(Shard { path, map: Arc::new(map), data_start });
        Ok(())
    }

    /// Like [`open`](Self::open), with the tensors of a model's decoder, under the names of its configuration.
    ///
    /// # Errors
    /// Those of [`open`](Self::open), and of tensors with all experts of a block.
    pub fn open_for(folder: impl AsRef<Path>, config: &DecoderConfig) -> Result<Self, WeightsError> {
        let mut files = Self::open(folder)?;
        files.adopt(&config.names);
        if config.names.stacked_experts && !is_gguf(&files.folder) {
            files.unstack(config)?;
        }
        Ok(files)
    }

    /// Applies the names of a model: tensors that are not part of the decoder are left out, and other names of the same
    /// tensors are replaced.
    fn adopt(&mut self, names: &TensorNames) {
        let begins = |name: &str, beginnings: &[&str]| beginnings.iter().any(|beginning| name.starts_with(beginning));
        self.tensors.retain(|name, _| !begins(name, names.ignored));
        for (alias, stands_for) in names.aliases {
            let named: Vec<String> = self.tensors.keys().filter(|name| name.starts_with(alias)).cloned().collect();
            for name in named {
                let new = format!("{stands_for}{}", &name[alias.len()..]);
                // A tensor of that name would be another one; this one is then reported as unused.
                if !self.tensors.contains_key(&new)
                    && let Some(stored) = self.tensors.remove(&name)
                {
                    self.tensors.insert(new, stored);
                }
            }
        }
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The paths of the files.
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        self.shards.iter().map(|shard| shard.path.as_path())
    }

    /// The names of all tensors, in alphabetical order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// Whether there is a tensor of this name, in any type.
    pub fn contains(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// A tensor's type, shape and bytes.
    ///
    /// # Errors
    /// [`WeightsError::MissingTensors`], [`WeightsError::TensorDtype`].
    pub fn get(&self, name: &str) -> Result<RawTensor<'_>, WeightsError> {
        let mut tensor = self.as_stored(name)?;
        if let Some(slice) = &self.tensors[name].slice {
            tensor.bytes = Cow::Owned(self.sliced(slice, tensor.format, &tensor.bytes, &tensor.shape));
            tensor.pages = None;
            return Ok(tensor);
        }
        match self.tensors[name].change {
            Change::None => return Ok(tensor),
            Change::Permuted { heads } => {
                tensor.bytes = Cow::Owned(unpermuted(&tensor.bytes, tensor.shape[0], heads));
            }
            Change::OnePlus => {
                // Exact for values from 1/2 on.
                let values = tensor.to_f32();
                tensor.bytes = Cow::Owned(values.iter().flat_map(|value| (value - 1.0).to_le_bytes()).collect());
                tensor.format = Format::F32;
            }
        }
        tensor.pages = None;
        Ok(tensor)
    }

    /// Like [`get`](Self::get), with the values of the file.
    fn as_stored(&self, name: &str) -> Result<RawTensor<'_>, WeightsError> {
        let Some((name, stored)) = self.tensors.get_key_value(name) else {
            return Err(WeightsError::MissingTensors { path: self.folder.clone(), names: vec![name.into()] });
        };
        let shard = &self.shards[stored.shard];
        let entry = &stored.entry;
        let Some(format) = Format::from_name(&entry.dtype) else {
            let (path, dtype) = (shard.path.clone(), entry.dtype.clone());
            return Err(WeightsError::TensorDtype { path, tensor: name.clone(), dtype });
        };
        let bytes = &shard.map[shard.data_start..][entry.bytes.clone()];
        let pages = Some((&shard.map, shard.data_start + entry.bytes.start));
        Ok(RawTensor { name, format, shape: entry.shape.clone(), bytes: Cow::Borrowed(bytes), pages })
    }

    /// Like [`WeightFiles::get`], for a tensor of the shape `shape`.
    ///
    /// # Errors
    /// Those of [`WeightFiles::get`]; [`WeightsError::TensorShape`].
    pub fn expect_shape(&self, name: &str, shape: &[usize]) -> Result<RawTensor<'_>, WeightsError> {
        self.check_shape(name, shape)?;
        self.get(name)
    }

    fn check_shape(&self, name: &str, shape: &[usize]) -> Result<(), WeightsError> {
        let tensor = self.as_stored(name)?;
        if tensor.shape != shape {
            return Err(WeightsError::TensorShape {
                path: self.shards[self.tensors[name].shard].path.clone(),
                tensor: name.into(),
                expected: shape.into(),
                found: tensor.shape,
            });
        }
        Ok(())
    }

    /// Checks that the folder contains the tensors of a decoder and no others.
    ///
    /// # Errors
    /// [`WeightsError::MissingTensors`] with all missing tensors; otherwise [`WeightsError::TensorDtype`] or
    /// [`WeightsError::TensorShape`] of the first wrong one; otherwise [`WeightsError::UnusedTensors`], see
    /// [`Remaining::finish`].
    pub fn check<'a>(&self, expected: impl IntoIterator<Item = &'a ExpectedTensor>) -> Result<(), WeightsError> {
        let mut remaining = self.remaining();
        let mut present = Vec::new();
        let mut names = Vec::new();
        for tensor in expected {
            match self.contains(&tensor.name) {
                true => present.push(tensor),
                false => names.push(tensor.name.clone()),
            }
        }
        if !names.is_empty() {
            return Err(WeightsError::MissingTensors { path: self.folder.clone(), names });
        }
        for tensor in present {
            self.check_shape(&tensor.name, &tensor.shape)?;
            remaining.left.remove(tensor.name.as_str());
        }
        remaining.finish()
    }

    /// The formats of the matrices, in alphabetical order; without those of unsupported types.
    pub fn formats(&self) -> Vec<Format> {
        let matrices = self.tensors.values().filter(|stored| stored.entry.shape.len() == 2);
        let names: BTreeSet<&str> = matrices.map(|stored| stored.entry.dtype.as_str()).collect();
        names.into_iter().filter_map(Format::from_name).collect()
    }

    /// The bytes that a model's weights take in memory if matrices in 16 bits or in blocks are kept as they are, and
    /// everything else, routers included, has the compute type.
    pub fn kept_bytes(&self, config: &DecoderConfig, dtype: DType) -> u64 {
        let kept = |stored: &&Stored| {
            let format = Format::from_name(&stored.entry.dtype);
            stored.entry.shape.len() == 2 && format.is_some_and(|format| format != Format::F32)
        };
        let bytes = |tensor: ExpectedTensor| match self.tensors.get(&tensor.name).filter(kept) {
            Some(stored) if !config.names.is_router(&tensor.name) => stored.size().unwrap_or(0),
            _ => tensor.shape.iter().fold(dtype.size() as u64, |bytes, size| bytes.saturating_mul(*size as u64)),
        };
        expected_tensors(config).map(bytes).fold(0, u64::saturating_add)
    }

    /// Starts a record of the tensors that were taken.
    pub fn remaining(&self) -> Remaining<'_> {
        Remaining { files: self, left: self.names().collect() }
    }

    /// The output head of the files, given the one that the configuration declares.
    ///
    /// A checkpoint may store a head that differs from the embedding although its configuration ties them; the stored
    /// head is used then, as in `transformers`.
    ///
    /// # Errors
    /// Those of [`WeightFiles::get`].
    pub fn output_head(&self, declared: OutputHead, names: &TensorNames) -> Result<OutputHead, WeightsError> {
        let both = self.contains(names.embedding) && self.contains(names.output_head);
        if declared == OutputHead::Untied || !both {
            return Ok(declared);
        }
        let (embedding, head) = (self.get(names.embedding)?, self.get(names.output_head)?);
        let equal = embedding.format == head.format && embedding.shape == head.shape && embedding.bytes == head.bytes;
        self.release(names.embedding);
        self.release(names.output_head);
        if equal {
            return Ok(OutputHead::Tied);
        }
        tracing::warn!(
            folder = %self.folder.display(),
            "the configuration ties the output head to the embedding, but their stored values differ; using both",
        );
        Ok(OutputHead::Untied)
    }

    /// Releases a tensor's pages from memory, so that loading a model does not hold it twice.
    ///
    /// The tensor stays readable: a later access reads it from the file again. Does nothing on systems that do not
    /// support it.
    pub fn release(&self, name: &str) {
        if let Some(Stored { shard, entry, slice, .. }) = self.tensors.get(name) {
            let scales = match slice {
                Some(Slice::Mxfp4 { scales: (shard, range), .. }) => Some((*shard, range)),
                _ => None,
            };
            for (shard, range) in [(*shard, &entry.bytes)].into_iter().chain(scales) {
                let shard = &self.shards[shard];
                release_pages(&shard.map, shard.data_start + range.start, range.len());
            }
        }
    }
}

/// Releases a range of a map from memory; it is read from the file again when needed. No effect where unsupported.
#[cfg_attr(not(unix), allow(unused_variables))]
fn release_pages(map: &Mmap, offset: usize, length: usize) {
    #[cfg(unix)]
    {
        // SAFETY: The map is a read-only map of a file, so that a released page is read again with the same content.
        #[allow(unsafe_code)]
        let advised = unsafe { map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, offset, length) };
        if let Err(error) = advised {
            tracing::debug!(%error, offset, length, "pages were not released");
        }
    }
}

/// A record of the tensors that were not taken yet.
#[derive(Clone, Debug)]
pub struct Remaining<'a> {
    files: &'a WeightFiles,
    left: BTreeSet<&'a str>,
}

impl<'a> Remaining<'a> {
    /// Takes a tensor of this shape.
    ///
    /// # Errors
    /// Those of [`WeightFiles::expect_shape`].
    pub fn take(&mut self, name: &str, shape: &[usize]) -> Result<RawTensor<'a>, WeightsError> {
        let tensor = self.files.expect_shape(name, shape)?;
        self.left.remove(name);
        Ok(tensor)
    }

    /// The tensors that have not been taken.
    pub fn names(&self) -> impl Iterator<Item = &'a str> {
        self.left.iter().copied()
    }

    /// Rejects tensors that were not taken.
    ///
    /// Two kinds are ignored: rotary frequencies, which old checkpoints store although they follow from the
    /// configuration, and an output head that equals the embedding, which some store although it is tied.
    ///
    /// # Errors
    /// [`WeightsError::UnusedTensors`].
    pub fn finish(self) -> Result<(), WeightsError> {
        let files = self.files;
        let names = &TensorNames::HUGGING_FACE;
        let redundant_head = self.left.contains(names.output_head)
            && !self.left.contains(names.embedding)
            && files.output_head(OutputHead::Tied, names)? == OutputHead::Tied;
        let tolerated =
            |name: &str| name.ends_with("rotary_emb.inv_freq") || (redundant_head && name == names.output_head);
        let unused: Vec<String> = self.left.into_iter().filter(|name| !tolerated(name)).map(String::from).collect();
        match unused.is_empty() {
            true => Ok(()),
            false => Err(WeightsError::UnusedTensors { path: files.folder.clone(), names: unused }),
        }
    }
}
