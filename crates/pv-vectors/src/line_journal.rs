//! A file of JSON lines that work in a folder goes on from.

use std::fs::File;
use std::io::Write;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::{Error, Result, RunFolder};

/// A file of JSON lines in a [`RunFolder`], open for appending: what is reached is kept as it is reached, and work that was
/// interrupted goes on from there.
#[derive(Debug)]
pub struct LineJournal {
    name: &'static str,
    file: File,
    /// Bytes of the file.
    length: u64,
}

impl LineJournal {
    /// Opens the file, cut to its good lines, each of which `accept` takes in or refuses: a killed process leaves a last one
    /// that has no end.
    ///
    /// # Errors
    /// A file that cannot be read or written.
    pub fn open<T: DeserializeOwned>(
        folder: &RunFolder,
        name: &'static str,
        mut accept: impl FnMut(T) -> bool,
    ) -> Result<Self> {
        let bytes = folder.read(name)?.unwrap_or_default();
        let mut length = 0;
        for line in whole_lines(&bytes) {
            if !serde_json::from_slice(line).is_ok_and(&mut accept) {
                break;
            }
            length += line.len() as u64 + 1;
        }
        let lost = whole_lines(&bytes[length as usize..]).count();
        if lost > 0 {
            tracing::warn!(lost, file = %folder.file(name).display(), "lines are damaged; doing them again");
        }
        Ok(Self { name, file: folder.append(name, length)?, length })
    }

    /// Writes a line, and returns what it says to a reader: work that was interrupted remembers the same as work that was not.
    ///
    /// # Errors
    /// [`Error::Write`]; what a full disk took of the line is cut off again.
    pub fn keep<T: Serialize + DeserializeOwned>(&mut self, folder: &RunFolder, line: &T) -> Result<T> {
        let failed = |source| Error::Write { path: folder.file(self.name), source };
        let mut bytes = serde_json::to_vec(line).map_err(|error| failed(error.into()))?;
        let line = serde_json::from_slice(&bytes).map_err(|error| failed(error.into()))?;
        bytes.push(b'\n');
        if let Err(error) = self.file.write_all(&bytes) {
            // A full disk may have taken a part, after which nothing must follow.
            let _ = self.file.set_len(self.length);
            return Err(failed(error));
        }
        self.length += bytes.len() as u64;
        Ok(line)
    }

    /// Brings the file to the disk.
    ///
    /// # Errors
    /// [`Error::Write`].
    pub fn sync(&self, folder: &RunFolder) -> Result<()> {
        self.file.sync_data().map_err(|source| Error::Write { path: folder.file(self.name), source })
    }

    /// Brings the file into one order, whatever the order in which lines were reached. Of lines with one key, all stay.
    ///
    /// # Errors
    /// A file that cannot be read or written.
    pub fn sort<T: DeserializeOwned, K: Ord>(&mut self, folder: &RunFolder, key: impl Fn(&T) -> K) -> Result<()> {
        let bytes = folder.read(self.name)?.unwrap_or_default();
        // The lines as they are, with whatever else is in them.
        let line = |bytes| Some((key(&serde_json::from_slice(bytes).ok()?), bytes));
        let mut lines: Vec<(K, &[u8])> = whole_lines(&bytes).filter_map(line).collect();
        lines.sort_by(|a, b| a.0.cmp(&b.0));
        let text = lines.into_iter().flat_map(|(_, line)| [line, b"\n"]).collect::<Vec<_>>().concat();
        if text != bytes {
            folder.write(self.name, |file| file.write_all(&text))?;
            self.file = folder.append(self.name, u64::MAX)?;
            self.length = text.len() as u64;
        }
        Ok(())
    }
}

/// The lines that end, without their ends. What follows the last end is the beginning of a line that was never finished.
pub(crate) fn whole_lines(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    bytes.split_inclusive(|&byte| byte == b'\n').filter_map(|line| line.strip_suffix(b"\n"))
}
