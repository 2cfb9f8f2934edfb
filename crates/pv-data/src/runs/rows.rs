//! A file of rows of numbers with random access.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::PathBuf;

use crate::{FileError, RunFolder};

/// A file of rows of little-endian `f32`, all of one width, in a [`RunFolder`], open for appending and for reading any
/// row.
#[derive(Debug)]
pub struct RowFile {
    path: PathBuf,
    file: File,
    reader: File,
    width: usize,
    rows: usize,
}

impl RowFile {
    /// Opens the file, or creates it, and truncates it to complete rows and at most `most` of them. `width` is at least
    /// 1.
    ///
    /// # Errors
    /// [`FileError`], if the file cannot be read or written.
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

    /// The number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Truncates the file to this many rows.
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
    /// [`FileError::Write`]; a row that a full disk truncated is removed.
    pub fn push(&mut self, row: &[f32]) -> Result<(), FileError> {
        let bytes: Vec<u8> = row.iter().flat_map(|value| value.to_le_bytes()).collect();
        if let Err(source) = self.file.write_all(&bytes) {
            let _ = self.file.set_len(self.length());
            return Err(FileError::Write { path: self.path.clone(), source });
        }
        self.rows += 1;
        Ok(())
    }

    /// Reads a row.
    ///
    /// # Errors
    /// [`FileError::Read`], also for a row after the last.
    pub fn row(&mut self, row: usize) -> Result<Vec<f32>, FileError> {
        let failed = FileError::read(&self.path);
        let mut bytes = vec![0; self.width * 4];
        self.reader.seek(SeekFrom::Start((row * self.width * 4) as u64)).map_err(&failed)?;
        self.reader.read_exact(&mut bytes).map_err(&failed)?;
        Ok(bytes.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect())
    }

    /// Writes the file to the disk.
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
