//! A folder that one run at a time writes to.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, BufWriter};
use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{iter, thread};

use crate::files::{PARTIAL, write_with};
use crate::{FileError, RunError};

const LOCK: &str = "run.lock";
/// The number of attempts, 10 ms apart, to lock a folder: a process that another thread is starting holds the lock of a
/// folder that was just released, from its fork until its program starts.
const PATIENCE: usize = 30;

/// A run's folder. It is locked until this value is dropped or the process ends, in any way.
///
/// It lets a run be killed at any point and resumed: there is one writer at a time, files are complete or absent, and
/// journals are truncated to their valid lines.
#[derive(Debug)]
pub struct RunFolder {
    path: PathBuf,
    _lock: File,
}

impl RunFolder {
    /// Creates the folder if it does not exist, locks it and removes incomplete files of a killed process.
    ///
    /// # Errors
    /// [`RunError::Locked`] when it is in use; [`FileError`] for a folder that cannot be written.
    pub fn lock(path: impl AsRef<Path>) -> Result<Self, RunError> {
        let path = path.as_ref();
        let failed = FileError::write(path);
        fs::create_dir_all(path).map_err(&failed)?;
        let lock = OpenOptions::new().create(true).append(true).open(path.join(LOCK)).map_err(&failed)?;
        let mut patience = PATIENCE;
        loop {
            match lock.try_lock() {
                Ok(()) => break,
                Err(TryLockError::WouldBlock) if patience > 0 => {
                    patience -= 1;
                    thread::sleep(Duration::from_millis(10));
                }
                Err(TryLockError::WouldBlock) => return Err(RunError::Locked { path: path.to_owned() }),
                Err(TryLockError::Error(source)) => return Err(failed(source).into()),
            }
        }
        for entry in fs::read_dir(path).map_err(&failed)? {
            let entry = entry.map_err(&failed)?;
            if entry.file_name().to_string_lossy().starts_with(PARTIAL) {
                fs::remove_file(entry.path()).map_err(&failed)?;
            }
        }
        Ok(Self { path: path.to_owned(), _lock: lock })
    }

    /// The folder's path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The path of a file in the folder.
    pub fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Writes a file whole: it gets its name when it is complete and on the disk.
    ///
    /// # Errors
    /// [`FileError::Write`]; a previous file of that name is then unchanged.
    pub fn write(
        &self,
        name: &str,
        write: impl FnOnce(&mut BufWriter<&File>) -> io::Result<()>,
    ) -> Result<(), FileError> {
        write_with(&self.file(name), write)
    }

    /// The content of a file; `None` if it does not exist.
    ///
    /// # Errors
    /// [`FileError::Read`].
    pub fn read(&self, name: &str) -> Result<Option<Vec<u8>>, FileError> {
        let path = self.file(name);
        match fs::read(&path) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(FileError::Read { path, source }),
        }
    }

    /// Removes a file if it exists.
    ///
    /// # Errors
    /// [`FileError::Write`].
    pub fn remove(&self, name: &str) -> Result<(), FileError> {
        let path = self.file(name);
        match fs::remove_file(&path) {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(source) => Err(FileError::Write { path, source }),
        }
    }

    /// Keeps a copy of a damaged file under a second name, `NAME.damaged` (or `NAME.damaged-2` and so on), so that
    /// another file can replace it. Returns the path of the copy.
    ///
    /// # Errors
    /// [`FileError::Write`].
    pub fn keep_copy(&self, name: &str) -> Result<PathBuf, FileError> {
        let path = self.file(name);
        keep_copy(&path).map_err(FileError::write(path))
    }

    /// Opens a file for appending, truncated to its first `length` bytes.
    ///
    /// # Errors
    /// [`FileError::Write`].
    pub fn append(&self, name: &str, length: u64) -> Result<File, FileError> {
        let path = self.file(name);
        let open = || -> io::Result<File> {
            let file = OpenOptions::new().create(true).read(true).append(true).open(&path)?;
            if file.metadata()?.len() > length {
                file.set_len(length)?;
                file.sync_all()?;
            }
            Ok(file)
        };
        open().map_err(FileError::write(&path))
    }
}

/// See [`RunFolder::keep_copy`].
pub(super) fn keep_copy(path: &Path) -> io::Result<PathBuf> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let mut names = iter::once(format!("{name}.damaged")).chain((2..).map(|n| format!("{name}.damaged-{n}")));
    let free = names.find(|name| !path.with_file_name(name).exists()).unwrap_or_default();
    let copy = path.with_file_name(free);
    // Not every file system supports links.
    if fs::hard_link(path, &copy).is_err() {
        fs::copy(path, &copy)?;
        File::open(&copy)?.sync_all()?;
    }
    Ok(copy)
}
