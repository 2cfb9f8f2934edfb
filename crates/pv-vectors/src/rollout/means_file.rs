//! The activations of a complete run: a safetensors file with one tensor `[rollouts, d_model]` per pooling and layer,
//! named `response_mean.0`, …, and `response_norm`, `[rollouts, layers]`.

use std::collections::HashMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use pv_data::{Damage, FileError, RunError, RunFolder};
use pv_hooks::Layer;
use safetensors::SafeTensorError;
use safetensors::tensor::{Dtype, Metadata, TensorInfo};

use super::means::{MeansTable, missing};
use super::store::{Layout, floats};
use crate::rollout::Precision;
use crate::vector::Pooling;
use crate::{Error, Result};

pub(super) const MEANS: &str = "means.safetensors";
const NORMS: &str = "response_norm";
/// The only entry of the header's metadata: several entries would be written in a varying order.
const ROLLOUTS_HASH: &str = "rollouts_sha256";
/// The limit of the header's length in bytes, far more than the deepest model needs.
const LONGEST_HEADER: u64 = 1 << 24;

/// An open file of activations.
#[derive(Debug)]
pub(super) struct MeansFile {
    path: PathBuf,
    /// Behind a mutex, since reading moves the file's cursor.
    file: Mutex<File>,
    layout: Layout,
    rollouts: usize,
    /// The offset of the first tensor.
    start: u64,
}

/// The tensors in the order of the file: name, type, shape, and offset in a rollout's activations.
fn tensors(layout: Layout, rollouts: usize) -> Vec<(String, Dtype, Vec<usize>, usize)> {
    let dtype = match layout.precision {
        Precision::F32 => Dtype::F32,
        Precision::F16 => Dtype::F16,
    };
    let tables = Pooling::ALL.into_iter().flat_map(|pooling| (0..layout.layers).map(move |layer| (pooling, layer)));
    let tables = tables.map(|(pooling, layer)| {
        let name = format!("{}.{layer}", pooling.name());
        (name, dtype, vec![rollouts, layout.d_model], layout.offset(pooling, layer))
    });
    // First, since its values are the widest: this aligns all tensors to the width of their values.
    let norms = (NORMS.to_owned(), Dtype::F32, vec![rollouts, layout.layers], layout.norms());
    std::iter::once(norms).chain(tables).collect()
}

fn metadata(layout: Layout, rollouts: usize, hash: &str) -> std::result::Result<Metadata, SafeTensorError> {
    let mut at = 0;
    let infos = tensors(layout, rollouts).into_iter().map(|(name, dtype, shape, _)| {
        let end = at + shape.iter().product::<usize>() * dtype.bitsize() / 8;
        let info = TensorInfo { dtype, shape, data_offsets: (at, end) };
        at = end;
        (name, info)
    });
    let entries = HashMap::from([(ROLLOUTS_HASH.to_owned(), hash.to_owned())]);
    Metadata::new(Some(entries), infos.collect())
}

impl MeansFile {
    /// Writes the file. `read` reads bytes of a rollout's activations, from an offset on; `hash` is the hash of the
    /// records.
    pub(super) fn write(
        folder: &RunFolder,
        layout: Layout,
        rollouts: usize,
        hash: &str,
        read: impl Fn(usize, usize, &mut [u8]) -> std::io::Result<()>,
    ) -> Result<()> {
        let written = folder.write(MEANS, |file| {
            let metadata = metadata(layout, rollouts, hash).map_err(std::io::Error::other)?;
            let mut header = serde_json::to_vec(&metadata)?;
            header.resize(header.len().next_multiple_of(8), b' ');
            file.write_all(&(header.len() as u64).to_le_bytes())?;
            file.write_all(&header)?;
            for (_, dtype, shape, offset) in tensors(layout, rollouts) {
                let mut row = vec![0; shape[1] * dtype.bitsize() / 8];
                for rollout in 0..rollouts {
                    read(rollout, offset, &mut row)?;
                    file.write_all(&row)?;
                }
            }
            Ok(())
        });
        Ok(written?)
    }

    /// Opens the file and returns it with the hash of the records; `None` if it does not exist.
    pub(super) fn open(folder: &RunFolder, layout: Layout, rollouts: usize) -> Result<Option<(Self, String)>> {
        let path = folder.file(MEANS);
        let Some(mut file) = existing(&path)? else { return Ok(None) };
        let header = FileHeader::read(&mut file, &path)?;
        let hash = header.check(&path, layout, rollouts)?;
        Ok(Some((Self { path, file: Mutex::new(file), layout, rollouts, start: header.start }, hash)))
    }

    /// The number of rollouts in a folder's file; `None` if the file is missing or damaged.
    pub(super) fn rollouts(folder: &RunFolder) -> Result<Option<usize>> {
        let path = folder.file(MEANS);
        let Some(mut file) = existing(&path)? else { return Ok(None) };
        let header = FileHeader::read(&mut file, &path).ok();
        Ok(header.and_then(|header| header.metadata.info(NORMS)?.shape.first().copied()))
    }

    /// The activations of one rollout in the encoding of a journal's item.
    pub(super) fn encoded(&self, rollout: usize) -> Result<Vec<u8>> {
        let mut item = vec![0; self.layout.size()];
        let mut at = self.start;
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        for (_, dtype, shape, offset) in tensors(self.layout, self.rollouts) {
            let row = shape[1] * dtype.bitsize() / 8;
            let read = file
                .seek(SeekFrom::Start(at + (rollout * row) as u64))
                .and_then(|_| file.read_exact(&mut item[offset..offset + row]));
            read.map_err(|source| FileError::Read { path: self.path.clone(), source })?;
            at += (shape[0] * row) as u64;
        }
        Ok(item)
    }

    fn bytes(&self, name: &str) -> Result<Vec<u8>> {
        let mut at = self.start;
        for (known, dtype, shape, _) in tensors(self.layout, self.rollouts) {
            let length = shape.iter().product::<usize>() * dtype.bitsize() / 8;
            if known == name {
                let mut bytes = vec![0; length];
                let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
                let read = file.seek(SeekFrom::Start(at)).and_then(|_| file.read_exact(&mut bytes));
                read.map_err(|source| FileError::Read { path: self.path.clone(), source })?;
                return Ok(bytes);
            }
            at += length as u64;
        }
        Err(damaged(&self.path, Damage::Missing { what: format!("the tensor {name:?}") }))
    }

    /// These rows of a tensor.
    fn pick<'a>(bytes: &'a [u8], row: usize, rollouts: &[usize]) -> Option<Vec<&'a [u8]>> {
        rollouts.iter().map(|&rollout| bytes.chunks_exact(row).nth(rollout)).collect()
    }
}

impl MeansTable for MeansFile {
    fn shape(&self) -> (usize, usize) {
        (self.layout.layers, self.layout.d_model)
    }

    fn rows(&self, pooling: Pooling, layer: Layer, rollouts: &[usize]) -> Result<Vec<f32>> {
        if layer.index() >= self.layout.layers {
            return Err(missing(rollouts, self.rollouts, layer));
        }
        let bytes = self.bytes(&format!("{}.{}", pooling.name(), layer.index()))?;
        let rows = Self::pick(&bytes, self.layout.row(), rollouts);
        rows.map(|rows| self.layout.decode(&rows.concat())).ok_or_else(|| missing(rollouts, self.rollouts, layer))
    }

    fn norms(&self, rollouts: &[usize]) -> Result<Vec<f32>> {
        let bytes = self.bytes(NORMS)?;
        let rows = Self::pick(&bytes, self.layout.layers * 4, rollouts);
        rows.map(|rows| floats(&rows.concat())).ok_or_else(|| missing(rollouts, self.rollouts, Layer::EMBEDDINGS))
    }
}

/// A file for reading; `None` if it does not exist.
fn existing(path: &Path) -> Result<Option<File>> {
    match File::open(path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(FileError::Read { path: path.to_owned(), source }.into()),
    }
}

/// The header of a file, which precedes the tensors.
struct FileHeader {
    metadata: Metadata,
    /// The offset of the first tensor.
    start: u64,
    /// The length of the file in bytes.
    total: u64,
}

impl FileHeader {
    fn read(file: &mut File, path: &Path) -> Result<Self> {
        let failed = |source| FileError::Read { path: path.to_owned(), source };
        let damaged = |damage: Damage| damaged(path, damage);
        let total = file.metadata().map_err(failed)?.len();
        let mut length = [0; 8];
        file.read_exact(&mut length).map_err(|error| damaged(error.into()))?;
        let length = u64::from_le_bytes(length);
        let longest = LONGEST_HEADER.min(total);
        if length > longest {
            return Err(damaged(Damage::unexpected("its header's length", length, format!("at most {longest}"))));
        }
        let mut header = vec![0; length as usize];
        file.read_exact(&mut header).map_err(|error| damaged(error.into()))?;
        let invalid = |source| RunError::Json { path: path.to_owned(), source };
        let metadata = serde_json::from_slice(&header).map_err(invalid)?;
        Ok(Self { metadata, start: 8 + length, total })
    }

    /// Checks that the tensors are those of this run, and returns the hash of the records.
    fn check(&self, path: &Path, layout: Layout, rollouts: usize) -> Result<String> {
        let damaged = |damage: Damage| damaged(path, damage);
        let hash = self.metadata.metadata().as_ref().and_then(|entries| entries.get(ROLLOUTS_HASH)).cloned();
        let hash = hash.ok_or_else(|| damaged(Damage::Missing { what: format!("its header's {ROLLOUTS_HASH}") }))?;
        let expected = metadata(layout, rollouts, &hash).map_err(|error| damaged(Damage::Content(error.into())))?;
        for (name, info) in expected.tensors() {
            let parts = |info: &TensorInfo| (info.dtype, info.shape.clone(), info.data_offsets);
            let found = self.metadata.info(&name);
            if found.map(parts) != Some(parts(info)) {
                let (found, expected) = (format!("{found:?}"), format!("{info:?}"));
                return Err(damaged(Damage::unexpected(format!("its tensor {name:?}"), found, expected)));
            }
        }
        let length = self.start + expected.data_len() as u64;
        if self.total != length {
            return Err(damaged(Damage::unexpected("its length", self.total, length)));
        }
        Ok(hash)
    }
}

fn damaged(path: &Path, source: Damage) -> Error {
    RunError::Damaged { path: path.to_owned(), source }.into()
}
