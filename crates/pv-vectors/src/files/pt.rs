//! Reader of torch files, as far as tensors need it: a zip archive whose pickle is parsed, never executed.

mod opcodes;
mod pickle;
mod tensor;
#[cfg(test)]
mod tests;

use std::cell::RefCell;
use std::collections::HashMap;
use std::io::{Cursor, Read};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use pv_data::FileError;
use zip::read::{ArchiveOffset, Config};
use zip::{CompressionMethod, ZipArchive};

use self::pickle::{Id, Node, Values};
pub(crate) use self::tensor::Tensor;
use crate::error::ImportError;
use crate::{Error, Result};

/// The maximum size in bytes, far more than the largest models' vectors need.
const MAX_BYTES: u64 = 1 << 30;
/// The maximum size of a pickle in bytes. A pickle names its tensors; their values are in other entries.
const MAX_PICKLE_BYTES: u64 = 8 << 20;
/// The start of a pickle of torch before 1.6: its protocol, and an 80-bit number.
const OLD_MAGIC: [u8; 14] = [0x80, 2, 0x8a, 10, 0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19];

/// The reason for refusing a file, without the file's path.
#[derive(Debug)]
pub(crate) enum Fault {
    /// A function or class that tensors do not need.
    Global(String),
    /// An instruction that tensors do not need.
    Opcode { opcode: String, at: usize },
    /// Any other fault.
    Bad(String),
    /// The format of torch before 1.6.
    OldTorch,
}

impl Fault {
    /// The error for the file at this path.
    pub(crate) fn of(self, path: &Path) -> Error {
        let path = path.to_owned();
        match self {
            Self::Global(name) => Error::PickleGlobal { path, name },
            Self::Opcode { opcode, at } => Error::PickleOpcode { path, opcode, at },
            Self::Bad(detail) => Error::Import { path, source: detail.into() },
            Self::OldTorch => Error::OldTorchFile { path },
        }
    }
}

/// A file of torch.
#[derive(Debug)]
pub(crate) struct PtFile {
    path: PathBuf,
    archive: RefCell<Archive>,
    values: Values,
}

#[derive(Debug)]
struct Archive {
    zip: ZipArchive<Cursor<Vec<u8>>>,
    /// The folder of all entries.
    folder: String,
    /// Storages that have been read; several tensors may share one.
    storages: HashMap<Rc<str>, Rc<[u8]>>,
    /// The length of the whole archive in bytes.
    length: u64,
}

/// A value of a file.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Value<'a> {
    file: &'a PtFile,
    id: Id,
}

impl PtFile {
    /// Opens a file and parses its pickle. Tensor values are read on request.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let failed = |source| FileError::Read { path: path.to_owned(), source };
        let mut bytes = Vec::new();
        let file = pv_data::files::open_file(path).map_err(failed)?;
        file.take(MAX_BYTES + 1).read_to_end(&mut bytes).map_err(failed)?;
        Self::from_bytes(path, bytes).map_err(|fault| fault.of(path))
    }

    pub(crate) fn from_bytes(path: &Path, bytes: Vec<u8>) -> std::result::Result<Self, Fault> {
        if bytes.len() as u64 > MAX_BYTES {
            return Err(Fault::Bad(format!("it has more than {MAX_BYTES} bytes, more than any vector")));
        }
        if !bytes.starts_with(b"PK\x03\x04") {
            return Err(match bytes.starts_with(&OLD_MAGIC) {
                true => Fault::OldTorch,
                false => Fault::Bad("it is not an archive that torch.save writes".to_owned()),
            });
        }
        let mut archive = Archive::new(bytes)?;
        let pickle = archive.entry("data.pkl", MAX_PICKLE_BYTES)?;
        let values = pickle::read(&pickle)?;
        Ok(Self { path: path.to_owned(), archive: RefCell::new(archive), values })
    }

    /// The root value of the file.
    pub(crate) fn root(&self) -> Value<'_> {
        Value { file: self, id: self.values.root }
    }

    /// An error about this file.
    pub(crate) fn error(&self, source: impl Into<ImportError>) -> Error {
        Error::Import { path: self.path.clone(), source: source.into() }
    }

    /// A tensor's values in row-major order, in f64, which represents each of them exactly. Values that are not finite
    /// are an error.
    pub(crate) fn numbers(&self, tensor: &Tensor) -> Result<Vec<f64>> {
        let bytes = self.archive.borrow_mut().storage(tensor).map_err(|fault| fault.of(&self.path))?;
        let values = tensor.gather(&bytes);
        match values.iter().all(|value| value.is_finite()) {
            true => Ok(values),
            false => Err(self.error(ImportError::NotFinite)),
        }
    }

    /// A tensor's values in row-major order, rounded to f32.
    pub(crate) fn floats(&self, tensor: &Tensor) -> Result<Vec<f32>> {
        let values: Vec<f32> = self.numbers(tensor)?.into_iter().map(|value| value as f32).collect();
        match values.iter().all(|value| value.is_finite()) {
            true => Ok(values),
            false => Err(self.error(ImportError::BeyondF32)),
        }
    }
}

impl Archive {
    fn new(bytes: Vec<u8>) -> std::result::Result<Self, Fault> {
        let bad = |what: &str| Fault::Bad(format!("its archive {what}"));
        let damaged = |error| Fault::Bad(format!("its archive is damaged: {error}"));
        let length = bytes.len() as u64;
        // torch writes a zip64 record that its archives do not need. The detection of an archive after other bytes
        // takes it for a shift if the first entry of the directory is as long as the record.
        let config = Config { archive_offset: ArchiveOffset::Known(0) };
        let mut zip = ZipArchive::with_config(config, Cursor::new(bytes)).map_err(damaged)?;
        if zip.has_duplicate_names() {
            return Err(bad("has two entries of one name"));
        }
        // Entries that share bytes would let a small archive become large in memory.
        if zip.has_overlapping_entries().map_err(damaged)? {
            return Err(bad("has entries that overlap"));
        }
        let folders = zip.file_names_raw().filter_map(|name| name.strip_suffix(b"/data.pkl"));
        let mut folders: Vec<Vec<u8>> = folders.map(<[u8]>::to_owned).collect();
        let (Some(folder), true) = (folders.pop(), folders.is_empty()) else {
            return Err(bad("does not contain exactly one data.pkl, so that torch.save did not write it"));
        };
        let folder = String::from_utf8(folder).map_err(|_| bad("has a name that is not UTF-8"))?;
        let mut archive = Self { zip, folder, storages: HashMap::new(), length };
        // Files of torch before 2.1 have no such entry; in practice they were written on little-endian machines.
        let named = format!("{}/byteorder", archive.folder);
        if archive.zip.index_for_name(&named).is_some() && archive.entry("byteorder", 16)? != b"little" {
            return Err(bad("was written on a big-endian machine"));
        }
        Ok(archive)
    }

    /// The bytes of an entry, of at most `limit` bytes.
    fn entry(&mut self, name: &str, limit: u64) -> std::result::Result<Vec<u8>, Fault> {
        let bad = |what: String| Fault::Bad(format!("the entry {name:?} of its archive {what}"));
        let mut entry = self
            .zip
            .by_name(&format!("{}/{name}", self.folder))
            .map_err(|error| bad(format!("cannot be read: {error}")))?;
        if entry.compression() != CompressionMethod::Stored {
            return Err(bad(format!("is compressed ({:?}), which torch.save never does", entry.compression())));
        }
        let size = entry.size();
        if size > limit {
            return Err(bad(format!("has {size} bytes, which is too many")));
        }
        let mut bytes = Vec::with_capacity(size as usize);
        entry.by_ref().take(size + 1).read_to_end(&mut bytes).map_err(|error| bad(format!("is damaged: {error}")))?;
        match bytes.len() as u64 == size {
            true => Ok(bytes),
            false => Err(bad(format!("has {} bytes of {size}", bytes.len()))),
        }
    }

    fn storage(&mut self, tensor: &Tensor) -> std::result::Result<Rc<[u8]>, Fault> {
        let storage = &tensor.storage;
        let bytes = match self.storages.get(&storage.key) {
            Some(bytes) => bytes.clone(),
            None => {
                let bytes: Rc<[u8]> = self.entry(&format!("data/{}", storage.key), self.length)?.into();
                self.storages.insert(storage.key.clone(), bytes.clone());
                bytes
            }
        };
        let wanted = storage.numbers.checked_mul(storage.dtype.bytes());
        match wanted == Some(bytes.len()) {
            true => Ok(bytes),
            false => Err(Fault::Bad(format!(
                "the storage {:?} has {} bytes, but {} numbers of {} bytes are to be in it",
                storage.key,
                bytes.len(),
                storage.numbers,
                storage.dtype.bytes()
            ))),
        }
    }
}

impl<'a> Value<'a> {
    fn node(self) -> &'a Node {
        &self.file.values.nodes[self.id]
    }

    /// The kind of value, for messages.
    pub(crate) fn kind(self) -> &'static str {
        match self.node() {
            Node::None => "None",
            Node::Bool => "a bool",
            Node::Int(_) => "an integer",
            Node::Float(_) => "a float",
            Node::Text(_) => "a string",
            Node::Tuple(_) => "a tuple",
            Node::List(_) => "a list",
            Node::Dict(_) => "a dictionary",
            Node::Tensor(_) => "a tensor",
            Node::Storage(_) => "a storage",
            Node::StorageClass(_) => "a class",
            Node::Function(_) => "a function",
        }
    }

    /// The tensor, if this is one.
    pub(crate) fn tensor(self) -> Option<&'a Tensor> {
        if let Node::Tensor(tensor) = self.node() { Some(tensor) } else { None }
    }

    /// The string, if this is one.
    pub(crate) fn text(self) -> Option<&'a str> {
        if let Node::Text(text) = self.node() { Some(text) } else { None }
    }

    /// The integer, if this is one.
    pub(crate) fn int(self) -> Option<i64> {
        if let Node::Int(value) = self.node() { Some(*value) } else { None }
    }

    /// The number, if this is one: a float, an integer, or a tensor of one number.
    pub(crate) fn number(self) -> Option<f64> {
        match self.node() {
            Node::Float(value) => Some(*value),
            Node::Int(value) => Some(*value as f64),
            Node::Tensor(tensor) => match self.file.numbers(tensor).ok()?[..] {
                [value] => Some(value),
                _ => None,
            },
            _ => None,
        }
    }

    /// The elements, if this is a list or tuple.
    pub(crate) fn items(self) -> Option<impl Iterator<Item = Value<'a>>> {
        let (Node::List(items) | Node::Tuple(items)) = self.node() else { return None };
        Some(items.iter().map(move |id| Value { file: self.file, id: *id }))
    }

    /// The entries, if this is a dictionary.
    pub(crate) fn entries(self) -> Option<impl Iterator<Item = (Value<'a>, Value<'a>)>> {
        let Node::Dict(entries) = self.node() else { return None };
        let value = move |id| Value { file: self.file, id };
        Some(entries.iter().map(move |(key, entry)| (value(*key), value(*entry))))
    }

    /// The entry with this key, if this is a dictionary that has one. Of duplicate keys, the last value counts.
    pub(crate) fn get(self, key: &str) -> Option<Value<'a>> {
        self.entries()?.filter(|(name, _)| name.text() == Some(key)).last().map(|(_, value)| value)
    }
}
