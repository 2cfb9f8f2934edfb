//! The activations of a complete run: a safetensors file with one tensor `[rollouts, d_model]` per pooling and layer,
//! called `response_mean.0`, …, and `response_norm`, `[rollouts, layers]`.

use std::collections::HashMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use pv_data::{FileError, RunError, RunFolder};
use pv_hooks::Layer;
use safetensors::tensor::{Dtype, Metadata, TensorInfo};

use super::means::{MeansTable, missing};
use super::store::{Layout, floats};
use crate::vector::Pooling;
use crate::{Precision, Result};

pub(super) const MEANS: &str = "means.safetensors";
const NORMS: &str = "response_norm";
/// The only entry of the header's metadata: several would be written in an order of their own each time.
const ROLLOUTS_HASH: &str = "rollouts_sha256";
/// Far longer than the header of the deepest model.
const LONGEST_HEADER: u64 = 1 << 24;

/// An open file of activations.
#[derive(Debug)]
pub(super) struct MeansFile {
    path: PathBuf,
    /// Reading moves the file's cursor.
    file: Mutex<File>,
    layout: Layout,
    rollouts: usize,
    /// Where the tensors begin.
    start: u64,
}

/// The tensors in the order in which they lie: name, type, shape, and where in a rollout's activations they come from.
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
    // First, since its values are the widest: then all tensors begin at a multiple of their values' width.
    let norms = (NORMS.to_owned(), Dtype::F32, vec![rollouts, layout.layers], layout.norms());
    std::iter::once(norms).chain(tables).collect()
}

fn metadata(layout: Layout, rollouts: usize, hash: &str) -> std::result::Result<Metadata, String> {
    let mut at = 0;
    let infos = tensors(layout, rollouts).into_iter().map(|(name, dtype, shape, _)| {
        let end = at + shape.iter().product::<usize>() * dtype.bitsize() / 8;
        let info = TensorInfo { dtype, shape, data_offsets: (at, end) };
        at = end;
        (name, info)
    });
    let entries = HashMap::from([(ROLLOUTS_HASH.to_owned(), hash.to_owned())]);
    Metadata::new(Some(entries), infos.collect()).map_err(|error| error.to_string())
}

impl MeansFile {
    /// Writes the file. `read` gives bytes of the activations of a rollout, from an offset on; `hash` is that of the
    /// rollouts' records.
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

    /// Opens the file; `None` where it does not exist. The second value is the hash of the records.
    pub(super) fn open(folder: &RunFolder, layout: Layout, rollouts: usize) -> Result<Option<(Self, String)>> {
        let path = folder.file(MEANS);
        let mut file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(FileError::Read { path, source }.into()),
        };
        let (start, hash) = check_header(&mut file, &path, layout, rollouts)?;
        Ok(Some((Self { path, file: Mutex::new(file), layout, rollouts, start }, hash)))
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
        Err(RunError::Damaged { path: self.path.clone(), reason: format!("it has no tensor {name:?}") }.into())
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

/// Where the tensors begin, and the hash of the records, once the header is what it must be.
fn check_header(file: &mut File, path: &Path, layout: Layout, rollouts: usize) -> Result<(u64, String)> {
    let failed = |source| FileError::Read { path: path.to_owned(), source };
    let damaged = |reason: String| RunError::Damaged { path: path.to_owned(), reason };
    let total = file.metadata().map_err(failed)?.len();
    let mut length = [0; 8];
    file.read_exact(&mut length).map_err(|error| damaged(error.to_string()))?;
    let length = u64::from_le_bytes(length);
    if length > LONGEST_HEADER.min(total) {
        return Err(damaged(format!("its header is said to have {length} bytes")).into());
    }
    let mut header = vec![0; length as usize];
    file.read_exact(&mut header).map_err(|error| damaged(error.to_string()))?;
    let found: Metadata = serde_json::from_slice(&header).map_err(|error| damaged(error.to_string()))?;
    let hash = found.metadata().as_ref().and_then(|entries| entries.get(ROLLOUTS_HASH)).cloned();
    let hash = hash.ok_or_else(|| damaged(format!("its header has no {ROLLOUTS_HASH}")))?;
    let expected = metadata(layout, rollouts, &hash).map_err(damaged)?;
    for (name, info) in expected.tensors() {
        let parts = |info: &TensorInfo| (info.dtype, info.shape.clone(), info.data_offsets);
        if found.info(&name).map(parts) != Some(parts(info)) {
            return Err(
                damaged(format!("its tensor {name:?} is not the one of this run: {:?}", found.info(&name))).into()
            );
        }
    }
    let start = 8 + length;
    if total != start + expected.data_len() as u64 {
        return Err(damaged(format!("it has {total} bytes, not {}", start + expected.data_len() as u64)).into());
    }
    Ok((start, hash))
}
