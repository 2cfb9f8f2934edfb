//! The weights of a GGUF file.

use std::path::Path;
use std::sync::Arc;

use super::header::Entry;
use super::{Shard, Stored, WeightFiles, WeightsError};
use crate::folder::FolderError;
use crate::gguf::{Change, GgufFiles};

impl WeightFiles {
    /// Opens a GGUF file, with the other parts if it is one of several.
    pub(super) fn open_gguf(path: &Path) -> Result<Self, WeightsError> {
        let failed = |source| WeightsError::Folder(FolderError::gguf(path, source));
        let files = GgufFiles::open(path).map_err(failed)?;
        let tensors = files.model().and_then(|model| model.checkpoint()).map_err(failed)?;
        let mut found = Self { folder: path.into(), shards: Vec::new(), tensors: Default::default() };
        for (path, map) in files.into_parts() {
            found.shards.push(Shard { path, map: Arc::new(map), data_start: 0 });
        }
        for tensor in tensors {
            let path = |shard: usize| found.shards[shard].path.clone();
            if let Some(first) = found.tensors.get(&tensor.name) {
                let (first, second) = (path(first.shard), path(tensor.part));
                return Err(WeightsError::DuplicateTensor { tensor: tensor.name, first, second });
            }
            let rows = tensor.shape.first().copied().unwrap_or(0);
            if let Change::Permuted { heads } = tensor.change
                && !heads.checked_mul(2).is_some_and(|halves| halves > 0 && rows.is_multiple_of(halves))
            {
                return Err(WeightsError::Heads {
                    path: path(tensor.part),
                    tensor: tensor.name,
                    heads,
                    shape: tensor.shape,
                });
            }
            let entry = Entry { dtype: tensor.kind.name().to_owned(), shape: tensor.shape, bytes: tensor.range };
            let stored = Stored { shard: tensor.part, entry, change: tensor.change, slice: None };
            found.tensors.insert(tensor.name, stored);
        }
        Ok(found)
    }
}
