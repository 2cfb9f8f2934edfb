//! Files that are written under a temporary name and renamed when they are complete.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

use crate::FileError;

/// The prefix of the names of incomplete files.
pub(crate) const PARTIAL: &str = ".partial-";

/// Writes a file whole: into a temporary file in the same folder, which is renamed once its bytes are on the disk. A
/// half-written file is never visible.
///
/// # Errors
/// [`FileError::Write`]. A previous file of that name is then unchanged.
///
/// ```
/// # let folder = tempfile::tempdir()?;
/// let path = folder.path().join("table.csv");
/// pv_data::files::write_whole(&path, "a,b\n1,2\n")?;
/// assert_eq!(std::fs::read_to_string(&path)?, "a,b\n1,2\n");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn write_whole(path: impl AsRef<Path>, bytes: impl AsRef<[u8]>) -> Result<(), FileError> {
    let path = path.as_ref();
    let mut file = WholeFile::create(path)?;
    file.write_all(bytes.as_ref()).map_err(FileError::write(path))?;
    file.finish()
}

/// A file that is being written under a temporary name. When it is dropped before it is finished, the temporary file is
/// removed.
///
/// Writes are not buffered.
#[derive(Debug)]
pub struct WholeFile {
    path: PathBuf,
    file: NamedTempFile,
}

impl WholeFile {
    /// Creates a file that will be renamed to `path`.
    ///
    /// # Errors
    /// [`FileError::Write`].
    pub fn create(path: impl Into<PathBuf>) -> Result<Self, FileError> {
        let path = path.into();
        match temporary(&path) {
            Ok((file, _)) => Ok(Self { path, file }),
            Err(source) => Err(FileError::Write { path, source }),
        }
    }

    /// The path until the file is finished, for code that writes files by their path.
    pub fn temporary_path(&self) -> &Path {
        self.file.path()
    }

    /// Writes the file to the disk and renames it.
    ///
    /// # Errors
    /// [`FileError::Write`]. A previous file of that name is then unchanged.
    pub fn finish(self) -> Result<(), FileError> {
        persist(self.file, &self.path).map_err(FileError::write(self.path))
    }
}

impl Write for WholeFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// Lets `write` fill a temporary file in the folder of `path`, which replaces `path` when it is complete.
///
/// # Errors
/// [`FileError::Write`].
pub fn write_whole_with(path: &Path, write: impl FnOnce(&Path) -> io::Result<()>) -> Result<(), FileError> {
    let file = WholeFile::create(path)?;
    write(file.temporary_path()).map_err(FileError::write(path))?;
    file.finish()
}

/// Like [`write_whole`], with the output of a function.
pub(crate) fn write_with(
    path: &Path,
    write: impl FnOnce(&mut BufWriter<&File>) -> io::Result<()>,
) -> Result<(), FileError> {
    let written = temporary(path).and_then(|(file, handle)| {
        let mut buffer = BufWriter::new(&handle);
        write(&mut buffer)?;
        buffer.flush()?;
        drop(buffer);
        persist(file, path)
    });
    written.map_err(FileError::write(path))
}

/// A temporary file in the folder of `path`, and a handle to write to it.
pub(crate) fn temporary(path: &Path) -> io::Result<(NamedTempFile, File)> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let file = tempfile::Builder::new().prefix(PARTIAL).tempfile_in(folder)?;
    let handle = file.reopen()?;
    Ok((file, handle))
}

/// Renames the file once its bytes are on the disk.
pub(crate) fn persist(file: NamedTempFile, path: &Path) -> io::Result<()> {
    // By path, since the writer may have replaced the file that was created.
    File::open(file.path())?.sync_all()?;
    file.persist(path).map_err(|error| error.error)?;
    // The new name is on the disk once the folder is. Not every system supports that; a failure loses no data.
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        let _ = File::open(folder).and_then(|folder| folder.sync_all());
    }
    Ok(())
}
