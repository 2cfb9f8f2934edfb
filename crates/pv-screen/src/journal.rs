//! Files of lines that only grow, and survive being killed.

use std::fs::File;
use std::io::{BufRead, BufReader, Seek, SeekFrom, Write};
use std::path::PathBuf;

use pv_vectors::RunFolder;

use crate::{Error, Result};

/// A file of lines, open for appending and for reading any of its lines.
#[derive(Debug)]
pub(crate) struct Journal {
    path: PathBuf,
    file: File,
    reader: BufReader<File>,
    /// Bytes of the file.
    length: u64,
}

impl Journal {
    /// Opens the file, cut to its good lines: `accept` is given each with its offset, and the first that it refuses or that
    /// has no end, as a killed process leaves it, is dropped with all behind it. No more than a line is held in memory.
    pub(crate) fn open(folder: &RunFolder, name: &str, mut accept: impl FnMut(u64, &[u8]) -> bool) -> Result<Self> {
        let path = folder.file(name);
        let failed = |source| Error::Read { path: path.clone(), source };
        // Made where it does not exist.
        drop(folder.append(name, u64::MAX)?);
        let mut reader = BufReader::new(File::open(&path).map_err(failed)?);
        let (mut length, mut line) = (0, Vec::new());
        loop {
            line.clear();
            let read = reader.read_until(b'\n', &mut line).map_err(failed)?;
            if read == 0 {
                break;
            }
            if line.pop() != Some(b'\n') || !accept(length, &line) {
                tracing::warn!(file = %path.display(), at = length, "a line is torn or damaged; it and what follows is done again");
                break;
            }
            length += read as u64;
        }
        let file = folder.append(name, length)?;
        // Another one: what the first has buffered may be of lines that are cut off now.
        let reader = BufReader::new(File::open(&path).map_err(failed)?);
        Ok(Self { path, file, reader, length })
    }

    /// Appends lines that end; the offset of the first.
    pub(crate) fn append(&mut self, lines: &[u8]) -> Result<u64> {
        let at = self.length;
        if let Err(source) = self.file.write_all(lines) {
            // A full disk may have taken a part, after which nothing must follow.
            let _ = self.file.set_len(self.length);
            return Err(Error::Write { path: self.path.clone(), source });
        }
        self.length += lines.len() as u64;
        Ok(at)
    }

    /// The line at an offset, without its end.
    pub(crate) fn line(&mut self, at: u64) -> Result<Vec<u8>> {
        let failed = |source| Error::Read { path: self.path.clone(), source };
        // Lines are mostly read in their order: the buffer is kept where it holds the next one.
        let here = self.reader.stream_position().map_err(failed)?;
        let step = i64::try_from(at).unwrap_or(i64::MAX) - i64::try_from(here).unwrap_or(i64::MAX);
        self.reader.seek_relative(step).map_err(failed)?;
        let mut line = Vec::new();
        self.reader.read_until(b'\n', &mut line).map_err(failed)?;
        if line.pop() != Some(b'\n') {
            let reason = format!("there is no whole line at byte {at}");
            return Err(Error::Damaged { path: self.path.clone(), reason });
        }
        Ok(line)
    }

    /// Brings the file to the disk.
    pub(crate) fn sync(&self) -> Result<()> {
        self.file.sync_data().map_err(|source| Error::Write { path: self.path.clone(), source })
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.length
    }

    pub(crate) fn path(&self) -> &std::path::Path {
        &self.path
    }
}

/// A file of rows of f32, all of one width, of which any can be read.
#[derive(Debug)]
pub(crate) struct RowFile {
    path: PathBuf,
    file: File,
    reader: File,
    width: usize,
    rows: usize,
}

impl RowFile {
    /// Opens the file, cut to whole rows and at most so many.
    pub(crate) fn open(folder: &RunFolder, name: &str, width: usize, most: usize) -> Result<Self> {
        let path = folder.file(name);
        let failed = |source| Error::Read { path: path.clone(), source };
        let file = folder.append(name, u64::MAX)?;
        let bytes = file.metadata().map_err(failed)?.len();
        let rows = usize::try_from(bytes / (width as u64 * 4)).unwrap_or(usize::MAX).min(most);
        drop(file);
        let file = folder.append(name, (rows * width * 4) as u64)?;
        let reader = File::open(&path).map_err(failed)?;
        Ok(Self { path, file, reader, width, rows })
    }

    pub(crate) fn rows(&self) -> usize {
        self.rows
    }

    /// Cuts the file to so many rows.
    pub(crate) fn truncate(&mut self, rows: usize) -> Result<()> {
        self.rows = self.rows.min(rows);
        let length = (self.rows * self.width * 4) as u64;
        self.file.set_len(length).map_err(|source| Error::Write { path: self.path.clone(), source })
    }

    pub(crate) fn push(&mut self, row: &[f32]) -> Result<()> {
        let bytes: Vec<u8> = row.iter().flat_map(|value| value.to_le_bytes()).collect();
        if let Err(source) = self.file.write_all(&bytes) {
            let _ = self.file.set_len((self.rows * self.width * 4) as u64);
            return Err(Error::Write { path: self.path.clone(), source });
        }
        self.rows += 1;
        Ok(())
    }

    pub(crate) fn row(&mut self, row: usize) -> Result<Vec<f32>> {
        use std::io::Read;
        let failed = |source| Error::Read { path: self.path.clone(), source };
        let mut bytes = vec![0; self.width * 4];
        self.reader.seek(SeekFrom::Start((row * self.width * 4) as u64)).map_err(failed)?;
        self.reader.read_exact(&mut bytes).map_err(failed)?;
        Ok(bytes.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect())
    }

    pub(crate) fn sync(&self) -> Result<()> {
        self.file.sync_data().map_err(|source| Error::Write { path: self.path.clone(), source })
    }
}
