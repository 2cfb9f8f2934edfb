//! Models that are split into several files.

use std::path::{Path, PathBuf};

use super::{Gguf, GgufError};

/// The position of a file among the parts of a model, according to its metadata.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Split {
    /// The number of the part, from 0. The first one has the model's metadata.
    pub number: usize,
    /// The number of parts, at least 2.
    pub count: usize,
    /// The number of tensors in all parts, if it is stated.
    pub tensors: Option<usize>,
}

impl Gguf<'_> {
    /// The position of this file among the parts of a model; `None` for a whole model.
    ///
    /// # Errors
    /// [`GgufError::PartNumber`]; [`GgufError::ValueType`].
    pub fn split(&self) -> Result<Option<Split>, GgufError> {
        let count = self.unsigned("split.count")?.unwrap_or(0);
        let number = self.unsigned("split.no")?.unwrap_or(0);
        let tensors = self.unsigned("split.tensors.count")?.and_then(|tensors| usize::try_from(tensors).ok());
        if count < 2 {
            return Ok(None);
        }
        match (usize::try_from(number), usize::try_from(count)) {
            (Ok(number), Ok(count)) if number < count && count <= Split::MOST => {
                Ok(Some(Split { number, count, tensors }))
            }
            _ => Err(GgufError::PartNumber { number, count }),
        }
    }
}

impl Split {
    /// The greatest number that the names have room for.
    const MOST: usize = 99_999;

    fn ending(self, number: usize) -> String {
        format!("-{:05}-of-{:05}.gguf", number + 1, self.count)
    }

    /// The paths of all parts, from the path of this one: its name ends in `-00001-of-00003.gguf`.
    ///
    /// # Errors
    /// [`GgufError::PartName`].
    pub fn paths(self, path: &Path) -> Result<Vec<PathBuf>, GgufError> {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let expected = self.ending(self.number);
        let Some(stem) = name.strip_suffix(&expected) else {
            let (name, number) = (name.into_owned(), self.number + 1);
            return Err(GgufError::PartName { name, number, count: self.count, expected });
        };
        Ok((0..self.count).map(|number| path.with_file_name(format!("{stem}{}", self.ending(number)))).collect())
    }
}
