//! A file of rows of numbers, of which any can be read.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::PathBuf;

use crate::{FileError, RunFolder};

/// A file of rows of `f32` in little-endian order, all of one width, in a [`RunFolder`]: open for appending and for reading
/// any row.
#[derive(Debug)]
pub struct RowFile {
    path: PathBuf,
    file: File,
    reader: File,
    width: usize,
    rows: usize,
}

impl RowFile {
    /// Opens the file, cut to whole rows and at most so many, and makes it where there is none. `width` is at least 1.
    ///
    /// # Errors
    /// A file that cannot be read or written.
    pub fn open(folder: &RunFolder, name: &str, width: usize, most: usize) -> Result<Self, FileError> {
        let path = folder.file(name);
        let failed = FileError::read(path.clone());
        let file = folder.append(name, u64::MAX)?;
        let bytes = file.metadata().map_err(&failed)?.len();
        let rows = usize::try_from(bytes / (width.max(1) as u64 * 4)).unwrap_or(usize::MAX).min(most);
        drop(file);
        let file = folder.append(name, (rows * width * 4) as u64)?;
        let reader = File::open(&path).map_err(&failed)?;
        Ok(Self { path, file, reader, width, rows })
    }

    /// How many rows there are.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Cuts the file to so many rows.
    ///
    /// # Errors
    /// [`FileError::Write`].
    pub fn truncate(&mut self, rows: usize) -> Result<(), FileError> {
        self.rows = self.rows.min(rows);
        self.file.set_len(self.length()).map_err(FileError::write(&self.path))
    }

    /// Appends a row of the file's width.
    ///
    /// # Errors
    /// [`FileError::Write`]; what a full disk took of the row is cut off again.
    pub fn push(&mut self, row: &[f32]) -> Result<(), FileError> {
        let bytes: Vec<u8> = row.iter().flat_map(|value| value.to_le_bytes()).collect();
        if let Err(source) = self.file.write_all(&bytes) {
            let _ = self.file.set_len(self.length());
            return Err(FileError::Write { path: self.path.clone(), source });
        }
        self.rows += 1;
        Ok(())
    }

    /// A row.
    ///
    /// # Errors
    /// [`FileError::Read`], also beyond the last row.
    pub fn row(&mut self, row: usize) -> Result<Vec<f32>, FileError> {
        let failed = FileError::read(&self.path);
        let mut bytes = vec![0; self.width * 4];
        self.reader.seek(SeekFrom::Start((row * self.width * 4) as u64)).map_err(&failed)?;
        self.reader.read_exact(&mut bytes).map_err(&failed)?;
        Ok(bytes.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect())
    }

    /// Brings the file to the disk.
    ///
    /// # Errors
    /// [`FileError::Write`].
    pub fn sync(&self) -> Result<(), FileError> {
        self.file.sync_data().map_err(FileError::write(&self.path))
    }

    fn length(&self) -> u64 {
        (self.rows * self.width * 4) as u64
    }
}
