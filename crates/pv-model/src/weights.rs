//! The tensors of a model folder, memory-mapped and checked before the first one is used.

mod folder;
mod header;
mod tensor;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use memmap2::Mmap;
use pv_data::{FileError, open_file};

use crate::config::OutputHead;
use crate::error::{Error, Result};
use crate::families::{ExpectedTensor, TensorNames};

pub(crate) use folder::{describe_folder, is_bare_file_name, read_index, read_limited};
use header::Entry;
pub use tensor::{RawTensor, StoredDtype};

/// The weights of a model folder: `model.safetensors`, or the shards that `model.safetensors.index.json` names.
///
/// Opening checks every header, so that afterwards a tensor is either absent or whole. The files must not be changed
/// while this is open: they are mapped, not copied.
#[derive(Debug)]
pub struct WeightFiles {
    folder: PathBuf,
    shards: Vec<Shard>,
    tensors: BTreeMap<String, Stored>,
}

#[derive(Debug)]
struct Shard {
    path: PathBuf,
    map: Mmap,
    /// Length of the length field and the header.
    data_start: usize,
}

#[derive(Debug)]
struct Stored {
    shard: usize,
    entry: Entry,
}

impl WeightFiles {
    /// Opens and checks the weights in `folder`.
    pub fn open(folder: impl AsRef<Path>) -> Result<Self> {
        let folder = folder.as_ref();
        let mut files = Self { folder: folder.into(), shards: Vec::new(), tensors: BTreeMap::new() };
        let single = folder.join("model.safetensors");
        if single.is_file() {
            files.add_shard(single)?;
            return Ok(files);
        }
        let index = folder.join("model.safetensors.index.json");
        if !index.is_file() {
            let (wanted, found) = ("model.safetensors", describe_folder(folder)?);
            return Err(Error::NotAModelFolder { path: folder.into(), wanted, found });
        }
        let weight_map = read_index(&index)?;
        let mut numbers = BTreeMap::new();
        for shard in weight_map.values().collect::<BTreeSet<_>>() {
            let path = folder.join(shard);
            if !path.is_file() {
                return Err(Error::ShardMissing { path: index, shard: shard.clone() });
            }
            numbers.insert(shard, files.shards.len());
            files.add_shard(path)?;
        }
        for (tensor, shard) in &weight_map {
            if files.tensors.get(tensor).is_none_or(|stored| stored.shard != numbers[shard]) {
                return Err(Error::ShardLacksTensor { path: index, tensor: tensor.clone(), shard: shard.clone() });
            }
        }
        Ok(files)
    }

    /// Opens and checks one safetensors file.
    ///
    /// # Errors
    /// [`FileError::Read`](pv_data::FileError::Read), and anything wrong with its header.
    pub fn open_file(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let folder = path.parent().unwrap_or(Path::new("")).to_owned();
        let mut files = Self { folder, shards: Vec::new(), tensors: BTreeMap::new() };
        files.add_shard(path.to_owned())?;
        Ok(files)
    }

    fn add_shard(&mut self, path: PathBuf) -> Result<()> {
        let file = open_file(&path).map_err(|source| Error::read(&path, source))?;
        // SAFETY: The map is read-only and private to this process. Another process that changes the file meanwhile
        // could change these bytes; all bit patterns are valid for what they are read as (u8), lengths are checked
        // against the map itself, and the type's documentation forbids such changes.
        #[allow(unsafe_code)]
        let map = unsafe { Mmap::map(&file) };
        let map = map.map_err(|source| FileError::Read { path: path.clone(), source })?;
        let (data_start, entries) = header::parse(&path, &map)?;
        let shard = self.shards.len();
        for (name, entry) in entries {
            if let Some(earlier) = self.tensors.get(&name) {
                let first = self.shards[earlier.shard].path.clone();
                return Err(Error::DuplicateTensor { tensor: name, first, second: path });
            }
            self.tensors.insert(name, Stored { shard, entry });
        }
        self.shards.push(Shard { path, map, data_start });
        Ok(())
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The files that hold the tensors.
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        self.shards.iter().map(|shard| shard.path.as_path())
    }

    /// The names of all tensors, in alphabetical order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// Whether there is a tensor of this name, in whatever type.
    pub fn contains(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// A tensor's type, shape and bytes.
    pub fn get(&self, name: &str) -> Result<RawTensor<'_>> {
        let Some((name, stored)) = self.tensors.get_key_value(name) else {
            return Err(Error::MissingTensors { path: self.folder.clone(), names: vec![name.into()] });
        };
        let shard = &self.shards[stored.shard];
        let entry = &stored.entry;
        let Some(dtype) = StoredDtype::from_header(&entry.dtype) else {
            let (path, dtype) = (shard.path.clone(), entry.dtype.clone());
            return Err(Error::TensorDtype { path, tensor: name.clone(), dtype });
        };
        let bytes = &shard.map[shard.data_start..][entry.bytes.clone()];
        let pages = Some((&shard.map, shard.data_start + entry.bytes.start));
        Ok(RawTensor { name, dtype, shape: entry.shape.clone(), bytes, pages })
    }

    /// As [`WeightFiles::get`], and refuses any other shape than `shape`.
    pub fn expect_shape(&self, name: &str, shape: &[usize]) -> Result<RawTensor<'_>> {
        let tensor = self.get(name)?;
        if tensor.shape != shape {
            return Err(Error::TensorShape {
                path: self.shards[self.tensors[name].shard].path.clone(),
                tensor: name.into(),
                expected: shape.into(),
                found: tensor.shape,
            });
        }
        Ok(tensor)
    }

    /// Checks at the door that the folder holds what a decoder needs and nothing else.
    ///
    /// The error lists every absent tensor at once; else the first of a wrong type or shape; else the surplus ones,
    /// see [`Remaining::finish`].
    pub fn check<'a>(&self, expected: impl IntoIterator<Item = &'a ExpectedTensor>) -> Result<()> {
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
            return Err(Error::MissingTensors { path: self.folder.clone(), names });
        }
        for tensor in present {
            remaining.take(&tensor.name, &tensor.shape)?;
        }
        remaining.finish()
    }

    /// Starts to keep account of the tensors that are taken.
    pub fn remaining(&self) -> Remaining<'_> {
        Remaining { files: self, left: self.names().collect() }
    }

    /// The output head that the files call for, given what the configuration declares.
    ///
    /// A checkpoint may store a head that differs from the embedding although its configuration ties them; then the
    /// stored one counts, as in `transformers`.
    pub fn output_head(&self, declared: OutputHead, names: &TensorNames) -> Result<OutputHead> {
        let both = self.contains(names.embedding) && self.contains(names.output_head);
        if declared == OutputHead::Untied || !both {
            return Ok(declared);
        }
        let (embedding, head) = (self.get(names.embedding)?, self.get(names.output_head)?);
        let equal = embedding.dtype == head.dtype && embedding.shape == head.shape && embedding.bytes == head.bytes;
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

    /// Lets the operating system drop a tensor's pages from memory, so that loading a model does not hold it twice.
    ///
    /// The tensor stays readable: a later access reads it from the file again. Does nothing where that is unknown.
    pub fn release(&self, name: &str) {
        if let Some(Stored { shard, entry }) = self.tensors.get(name) {
            let shard = &self.shards[*shard];
            release_pages(&shard.map, shard.data_start + entry.bytes.start, entry.bytes.len());
        }
    }
}

/// Drops a range of a map from memory; it is read from the file again when needed. Without effect where unsupported.
#[cfg_attr(not(unix), allow(unused_variables))]
fn release_pages(map: &Mmap, offset: usize, length: usize) {
    #[cfg(unix)]
    {
        // SAFETY: The map is a read-only map of a file, so a dropped page comes back with the same content.
        #[allow(unsafe_code)]
        let advised = unsafe { map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, offset, length) };
        if let Err(error) = advised {
            tracing::debug!(%error, offset, length, "pages were not released");
        }
    }
}

/// An account of the tensors that nothing has asked for yet.
#[derive(Clone, Debug)]
pub struct Remaining<'a> {
    files: &'a WeightFiles,
    left: BTreeSet<&'a str>,
}

impl<'a> Remaining<'a> {
    /// Takes a tensor of this shape.
    pub fn take(&mut self, name: &str, shape: &[usize]) -> Result<RawTensor<'a>> {
        let tensor = self.files.expect_shape(name, shape)?;
        self.left.remove(name);
        Ok(tensor)
    }

    /// The tensors that have not been taken.
    pub fn names(&self) -> impl Iterator<Item = &'a str> {
        self.left.iter().copied()
    }

    /// Refuses tensors that were left over, because whoever stored them meant them to matter.
    ///
    /// Two kinds do not: rotary frequencies, which old checkpoints store although they follow from the configuration,
    /// and an output head that equals the embedding, which some store although it is tied.
    pub fn finish(self) -> Result<()> {
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
            false => Err(Error::UnusedTensors { path: files.folder.clone(), names: unused }),
        }
    }
}

/// The first ten names, and how many more there are.
pub(crate) fn listed(names: &[String]) -> String {
    const MOST: usize = 10;
    let shown = names.iter().take(MOST).map(String::as_str).collect::<Vec<_>>().join(", ");
    match names.len() {
        0..=MOST => shown,
        more => format!("{shown} and {} more", more - MOST),
    }
}
