//! An append-only file of lines that survives a killed process.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Seek, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::files::WholeFile;
use crate::runs::folder::keep_copy;
use crate::{FileError, RunError, RunFolder};

/// The result of checking a line when a [`Journal`] is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accepted {
    /// The line is valid.
    Kept,
    /// The line is damaged or belongs to another run: it is ignored, and a copy of the file is kept.
    Refused,
    /// The run resumes before this line: it and all following lines are removed and will be computed again.
    End,
}

impl From<bool> for Accepted {
    fn from(kept: bool) -> Self {
        if kept { Self::Kept } else { Self::Refused }
    }
}

/// A file of lines in a [`RunFolder`], open for appending and for reading any line.
///
/// Results are written as they are computed, and an interrupted run resumes after them. A killed process may leave an
/// incomplete last line: it is removed. If earlier lines are damaged, a copy of the file is kept as `NAME.damaged`, a
/// warning is logged, and every other line is used.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    file: File,
    reader: BufReader<File>,
    /// The length of the file in bytes.
    length: u64,
}

impl Journal {
    /// Opens the file, or creates it. `accept` receives the offset for [`line`](Self::line) and each complete line
    /// without its line feed, and decides whether it is used. Only one line is held in memory.
    ///
    /// # Errors
    /// [`FileError`], if the file cannot be read or written.
    pub fn open<A: Into<Accepted>>(
        folder: &RunFolder,
        name: &str,
        mut accept: impl FnMut(u64, &[u8]) -> A,
    ) -> Result<Self, RunError> {
        let path = folder.file(name);
        let failed = FileError::read(path.clone());
        // Created if it does not exist.
        drop(folder.append(name, u64::MAX)?);
        let mut reader = BufReader::new(File::open(&path).map_err(&failed)?);
        let mut good: Option<GoodLines> = None;
        let (mut length, mut kept, mut refused, mut line) = (0, 0u64, 0u64, Vec::new());
        loop {
            line.clear();
            reader.read_until(b'\n', &mut line).map_err(&failed)?;
            let Some(content) = line.strip_suffix(b"\n") else { break };
            match accept(length, content).into() {
                Accepted::Kept => {
                    if let Some(good) = &mut good {
                        good.add(&line)?;
                    }
                    kept += 1;
                    length += line.len() as u64;
                }
                Accepted::Refused => {
                    refused += 1;
                    if good.is_none() {
                        good = Some(GoodLines::begin(&path, length)?);
                    }
                }
                Accepted::End => break,
            }
        }
        drop(reader);
        if let Some(good) = good {
            let copy = good.replace()?;
            let (file, copy) = (path.display(), copy.display());
            tracing::warn!(refused, kept, %file, %copy, "lines are damaged or belong to another run; a copy of the file was kept");
        }
        let file = folder.append(name, length)?;
        let reader = BufReader::new(File::open(&path).map_err(&failed)?);
        Ok(Self { path, file, reader, length })
    }

    /// Like [`open`](Self::open), for lines of JSON. A line that cannot be parsed as `T` is refused.
    ///
    /// # Errors
    /// Those of [`open`](Self::open).
    pub fn open_json<T: DeserializeOwned, A: Into<Accepted>>(
        folder: &RunFolder,
        name: &str,
        mut accept: impl FnMut(T) -> A,
    ) -> Result<Self, RunError> {
        Self::open(folder, name, |_, line| match serde_json::from_slice(line) {
            Ok(value) => accept(value).into(),
            Err(_) => Accepted::Refused,
        })
    }

    /// Appends complete lines and returns the offset of the first.
    ///
    /// # Errors
    /// [`FileError::Write`]; lines that a full disk truncated are removed.
    pub fn append(&mut self, lines: &[u8]) -> Result<u64, FileError> {
        let at = self.length;
        if let Err(source) = self.file.write_all(lines) {
            // A full disk may have taken a part, after which nothing must follow.
            let _ = self.file.set_len(self.length);
            return Err(FileError::Write { path: self.path.clone(), source });
        }
        self.length += lines.len() as u64;
        Ok(at)
    }

    /// Appends a line of JSON, and returns the value as a reader will parse it, so that interrupted and uninterrupted
    /// runs use the same value.
    ///
    /// # Errors
    /// [`FileError::Write`], also for a value that cannot be read back from JSON, such as a map whose keys are not
    /// text.
    pub fn append_json<T: Serialize + DeserializeOwned>(&mut self, line: &T) -> Result<T, FileError> {
        let failed = |error: serde_json::Error| FileError::Write { path: self.path.clone(), source: error.into() };
        let mut bytes = serde_json::to_vec(line).map_err(failed)?;
        let line = serde_json::from_slice(&bytes).map_err(failed)?;
        bytes.push(b'\n');
        self.append(&bytes)?;
        Ok(line)
    }

    /// The line at an offset, without its line feed.
    ///
    /// # Errors
    /// [`RunError`], if the file cannot be read or was changed by another program.
    pub fn line(&mut self, at: u64) -> Result<Vec<u8>, RunError> {
        let failed = FileError::read(&self.path);
        // Lines are mostly read in order: the buffer is kept while it contains the next one.
        let here = self.reader.stream_position().map_err(&failed)?;
        let step = i64::try_from(at).unwrap_or(i64::MAX) - i64::try_from(here).unwrap_or(i64::MAX);
        self.reader.seek_relative(step).map_err(&failed)?;
        let mut line = Vec::new();
        self.reader.read_until(b'\n', &mut line).map_err(&failed)?;
        if line.pop() != Some(b'\n') {
            return Err(RunError::IncompleteLine { path: self.path.clone(), at });
        }
        Ok(line)
    }

    /// Sorts the lines, which are JSON. Lines with equal keys keep their order. Earlier offsets become invalid.
    ///
    /// # Errors
    /// [`RunError`], if the file cannot be read or written.
    pub fn sort<T: DeserializeOwned, K: Ord>(&mut self, key: impl Fn(&T) -> K) -> Result<(), RunError> {
        let bytes = fs::read(&self.path).map_err(FileError::read(&self.path))?;
        let mut lines: Vec<(Option<K>, &[u8])> = complete_lines(&bytes)
            .map(|line| (serde_json::from_slice(line).ok().map(|value| key(&value)), line))
            .collect();
        lines.sort_by(|a, b| a.0.cmp(&b.0));
        let sorted = lines.into_iter().flat_map(|(_, line)| [line, b"\n"]).collect::<Vec<_>>().concat();
        if sorted != bytes {
            crate::files::write_whole(&self.path, &sorted)?;
            let open = || -> io::Result<_> {
                let file = File::options().read(true).append(true).open(&self.path)?;
                Ok((file, BufReader::new(File::open(&self.path)?)))
            };
            (self.file, self.reader) = open().map_err(FileError::read(&self.path))?;
        }
        Ok(())
    }

    /// Writes the file to the disk, so that a power failure loses nothing.
    ///
    /// # Errors
    /// [`FileError::Write`].
    pub fn sync(&self) -> Result<(), FileError> {
        self.file.sync_data().map_err(FileError::write(&self.path))
    }

    /// The length of the file in bytes.
    pub fn bytes(&self) -> u64 {
        self.length
    }

    /// The path of the file.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// The complete lines, without their line feeds. An incomplete last line, as a killed process may leave, is skipped.
pub fn complete_lines(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    bytes.split_inclusive(|&byte| byte == b'\n').filter_map(|line| line.strip_suffix(b"\n"))
}

/// The valid lines of a damaged file, in a new file that will replace it.
struct GoodLines {
    path: PathBuf,
    file: io::BufWriter<WholeFile>,
}

impl GoodLines {
    /// Starts with the first `length` bytes of the file at `path`, all of whose lines are valid.
    fn begin(path: &Path, length: u64) -> Result<Self, FileError> {
        let mut file = io::BufWriter::new(WholeFile::create(path)?);
        let copied = File::open(path).and_then(|old| io::copy(&mut io::Read::take(old, length), &mut file));
        copied.map_err(FileError::write(path))?;
        Ok(Self { path: path.to_owned(), file })
    }

    fn add(&mut self, line: &[u8]) -> Result<(), FileError> {
        self.file.write_all(line).map_err(FileError::write(&self.path))
    }

    /// Replaces the old file with the new one and keeps a copy of the old one; returns the path of the copy.
    fn replace(self) -> Result<PathBuf, FileError> {
        let failed = FileError::write(self.path.clone());
        let file = self.file.into_inner().map_err(|error| failed(error.into_error()))?;
        let copy = keep_copy(&self.path).map_err(&failed)?;
        file.finish()?;
        Ok(copy)
    }
}
