//! A file of lines that only grows, and survives being killed.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Seek, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::files::WholeFile;
use crate::runs::folder::set_aside;
use crate::{FileError, RunError, RunFolder};

/// What becomes of a line of a [`Journal`] that is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accepted {
    /// The line counts.
    Kept,
    /// The line is damaged, or is not one of this work's: it does not count, and the file is set aside.
    Refused,
    /// The work goes on before this line: it and what follows is cut off, to be done again.
    End,
}

impl From<bool> for Accepted {
    fn from(kept: bool) -> Self {
        if kept { Self::Kept } else { Self::Refused }
    }
}

/// A file of lines in a [`RunFolder`], open for appending and for reading any of its lines.
///
/// What is reached is kept as it is reached, and work that was interrupted goes on from there. A killed process leaves a last
/// line that has no end: it is cut off. Where lines before it are damaged, the file as it was is kept as `NAME.damaged`, a
/// warning says so, and every other line counts.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    file: File,
    reader: BufReader<File>,
    /// Bytes of the file.
    length: u64,
}

impl Journal {
    /// Opens the file, and makes it where there is none. `accept` is given each whole line without its end, with the offset
    /// for [`line`](Self::line), and says what becomes of it. No more than a line is held in memory.
    ///
    /// # Errors
    /// A file that cannot be read or written.
    pub fn open<A: Into<Accepted>>(
        folder: &RunFolder,
        name: &str,
        mut accept: impl FnMut(u64, &[u8]) -> A,
    ) -> Result<Self, RunError> {
        let path = folder.file(name);
        let failed = FileError::read(path.clone());
        // Made where it does not exist.
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
            let aside = good.replace()?;
            let (file, aside) = (path.display(), aside.display());
            tracing::warn!(refused, kept, %file, %aside, "lines are damaged or belong to other work; the file as it was is kept aside");
        }
        let file = folder.append(name, length)?;
        let reader = BufReader::new(File::open(&path).map_err(&failed)?);
        Ok(Self { path, file, reader, length })
    }

    /// As [`open`](Self::open), of lines that are JSON: one that does not read as `T` is refused.
    ///
    /// # Errors
    /// As [`open`](Self::open).
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

    /// Appends lines that end; the offset of the first.
    ///
    /// # Errors
    /// [`FileError::Write`]; what a full disk took of the lines is cut off again.
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

    /// Appends a line of JSON, and returns what it says to a reader: work that was interrupted remembers the same as work
    /// that was not.
    ///
    /// # Errors
    /// [`FileError::Write`], also for a value that does not come back from JSON, such as a map with keys that are no text.
    pub fn append_json<T: Serialize + DeserializeOwned>(&mut self, line: &T) -> Result<T, FileError> {
        let failed = |error: serde_json::Error| FileError::Write { path: self.path.clone(), source: error.into() };
        let mut bytes = serde_json::to_vec(line).map_err(failed)?;
        let line = serde_json::from_slice(&bytes).map_err(failed)?;
        bytes.push(b'\n');
        self.append(&bytes)?;
        Ok(line)
    }

    /// The line at an offset, without its end.
    ///
    /// # Errors
    /// A file that cannot be read, or that something else has changed.
    pub fn line(&mut self, at: u64) -> Result<Vec<u8>, RunError> {
        let failed = FileError::read(&self.path);
        // Lines are mostly read in their order: the buffer is kept where it holds the next one.
        let here = self.reader.stream_position().map_err(&failed)?;
        let step = i64::try_from(at).unwrap_or(i64::MAX) - i64::try_from(here).unwrap_or(i64::MAX);
        self.reader.seek_relative(step).map_err(&failed)?;
        let mut line = Vec::new();
        self.reader.read_until(b'\n', &mut line).map_err(&failed)?;
        if line.pop() != Some(b'\n') {
            let reason = format!("there is no whole line at byte {at}");
            return Err(RunError::Damaged { path: self.path.clone(), reason });
        }
        Ok(line)
    }

    /// Brings the lines, which are JSON, into one order, whatever the order in which they were reached. Lines with equal keys
    /// stay as they are. Offsets of before are void.
    ///
    /// # Errors
    /// A file that cannot be read or written.
    pub fn sort<T: DeserializeOwned, K: Ord>(&mut self, key: impl Fn(&T) -> K) -> Result<(), RunError> {
        let bytes = fs::read(&self.path).map_err(FileError::read(&self.path))?;
        let mut lines: Vec<(Option<K>, &[u8])> = bytes
            .split_inclusive(|&byte| byte == b'\n')
            .map(|line| (serde_json::from_slice(line).ok().map(|value| key(&value)), line))
            .collect();
        lines.sort_by(|a, b| a.0.cmp(&b.0));
        let sorted = lines.into_iter().map(|(_, line)| line).collect::<Vec<_>>().concat();
        if sorted != bytes {
            crate::write_whole(&self.path, &sorted)?;
            let open = || -> io::Result<_> {
                let file = File::options().read(true).append(true).open(&self.path)?;
                Ok((file, BufReader::new(File::open(&self.path)?)))
            };
            (self.file, self.reader) = open().map_err(FileError::read(&self.path))?;
        }
        Ok(())
    }

    /// Brings the file to the disk, so that not even a power failure loses what it holds.
    ///
    /// # Errors
    /// [`FileError::Write`].
    pub fn sync(&self) -> Result<(), FileError> {
        self.file.sync_data().map_err(FileError::write(&self.path))
    }

    /// Bytes of the file.
    pub fn bytes(&self) -> u64 {
        self.length
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// The lines of a damaged file that count, in a new file that will take its place.
struct GoodLines {
    path: PathBuf,
    file: io::BufWriter<WholeFile>,
}

impl GoodLines {
    /// Begins with the first `length` bytes of the file at `path`, all of whose lines count.
    fn begin(path: &Path, length: u64) -> Result<Self, FileError> {
        let mut file = io::BufWriter::new(WholeFile::create(path)?);
        let copied = File::open(path).and_then(|old| io::copy(&mut io::Read::take(old, length), &mut file));
        copied.map_err(FileError::write(path))?;
        Ok(Self { path: path.to_owned(), file })
    }

    fn add(&mut self, line: &[u8]) -> Result<(), FileError> {
        self.file.write_all(line).map_err(FileError::write(&self.path))
    }

    /// Puts the new file in the place of the old one, a copy of which is kept beside it; the copy's path.
    fn replace(self) -> Result<PathBuf, FileError> {
        let failed = FileError::write(self.path.clone());
        let file = self.file.into_inner().map_err(|error| failed(error.into_error()))?;
        let aside = set_aside(&self.path).map_err(&failed)?;
        file.finish()?;
        Ok(aside)
    }
}
