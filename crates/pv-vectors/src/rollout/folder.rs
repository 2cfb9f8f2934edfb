//! A folder that one run at a time writes to.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use crate::{Error, Result};

const LOCK: &str = "run.lock";
/// So many times, a hundredth of a second apart, is a locked folder tried again: a process that another thread is starting
/// holds the lock of a folder that was just left, from its fork until its program begins.
const PATIENCE: usize = 30;
/// How the names of files begin that are not complete.
const PARTIAL: &str = ".partial-";

/// A run's folder, locked until this is dropped or the process ends, however it ends.
///
/// What a run needs to be killed at any point and to go on: one writer at a time, files that are whole or absent, and
/// journals that are cut to what is good.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    _lock: File,
}

impl Folder {
    /// Makes the folder where it does not exist, locks it and removes what a killed process left unfinished.
    ///
    /// # Errors
    /// [`Error::Locked`] when it is in use; [`Error::Write`].
    pub fn lock(path: &Path) -> Result<Self> {
        let failed = |source| Error::Write { path: path.to_owned(), source };
        fs::create_dir_all(path).map_err(failed)?;
        let lock = OpenOptions::new().create(true).append(true).open(path.join(LOCK)).map_err(failed)?;
        let mut patience = PATIENCE;
        loop {
            match lock.try_lock() {
                Ok(()) => break,
                Err(TryLockError::WouldBlock) if patience > 0 => {
                    patience -= 1;
                    thread::sleep(Duration::from_millis(10));
                }
                Err(TryLockError::WouldBlock) => return Err(Error::Locked { path: path.to_owned() }),
                Err(TryLockError::Error(source)) => return Err(failed(source)),
            }
        }
        for entry in fs::read_dir(path).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            if entry.file_name().to_string_lossy().starts_with(PARTIAL) {
                fs::remove_file(entry.path()).map_err(failed)?;
            }
        }
        Ok(Self { path: path.to_owned(), _lock: lock })
    }

    /// The folder's path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The path of a file in it.
    pub fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Writes a file as a whole: it takes its name when it is complete and on the disk.
    ///
    /// # Errors
    /// [`Error::Write`]; whatever stood there before is then unchanged.
    pub fn write(&self, name: &str, write: impl FnOnce(&mut BufWriter<&File>) -> std::io::Result<()>) -> Result<()> {
        let path = self.file(name);
        let failed = |source| Error::Write { path: path.clone(), source };
        let file = tempfile::Builder::new().prefix(PARTIAL).tempfile_in(&self.path).map_err(failed)?;
        let mut buffer = BufWriter::new(file.as_file());
        write(&mut buffer).and_then(|()| buffer.flush()).map_err(failed)?;
        drop(buffer);
        file.as_file().sync_all().map_err(failed)?;
        file.persist(&path).map_err(|error| failed(error.error))?;
        // The new name is on the disk when the folder is. Not every system can do that, and nothing but time is lost.
        let _ = File::open(&self.path).and_then(|folder| folder.sync_all());
        Ok(())
    }

    /// The content of a file; nothing where it does not exist.
    ///
    /// # Errors
    /// [`Error::Read`].
    pub fn read(&self, name: &str) -> Result<Option<Vec<u8>>> {
        let path = self.file(name);
        match fs::read(&path) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(Error::Read { path, source }),
        }
    }

    /// Removes a file where it exists.
    pub(super) fn remove(&self, name: &str) -> Result<()> {
        let path = self.file(name);
        match fs::remove_file(&path) {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
            Err(source) => Err(Error::Write { path, source }),
        }
    }

    /// A file to append to, cut to its first `length` bytes.
    ///
    /// # Errors
    /// [`Error::Write`].
    pub fn append(&self, name: &str, length: u64) -> Result<File> {
        let path = self.file(name);
        let open = || -> std::io::Result<File> {
            let file = OpenOptions::new().create(true).read(true).append(true).open(&path)?;
            if file.metadata()?.len() > length {
                file.set_len(length)?;
                file.sync_all()?;
            }
            Ok(file)
        };
        open().map_err(|source| Error::Write { path: path.clone(), source })
    }
}
