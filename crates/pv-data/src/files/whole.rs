//! Files that are written whole: under another name first, and renamed when all of it is there.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

use crate::FileError;

/// How the names of files begin that are not complete.
pub(crate) const PARTIAL: &str = ".partial-";

/// Writes a file: into a temporary file beside it first, which takes its name once its bytes are on the disk, so that no
/// half-written file is ever seen.
///
/// # Errors
/// [`FileError::Write`]. Whatever stood there before is then unchanged.
///
/// ```
/// # let folder = tempfile::tempdir()?;
/// let path = folder.path().join("table.csv");
/// pv_data::write_whole(&path, "a,b\n1,2\n")?;
/// assert_eq!(std::fs::read_to_string(&path)?, "a,b\n1,2\n");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn write_whole(path: impl AsRef<Path>, bytes: impl AsRef<[u8]>) -> Result<(), FileError> {
    let path = path.as_ref();
    let mut file = WholeFile::create(path)?;
    file.write_all(bytes.as_ref()).map_err(FileError::write(path))?;
    file.finish()
}

/// A file that is being written, under another name until it is finished. When it is dropped before, nothing is left of it.
///
/// It is not buffered.
#[derive(Debug)]
pub struct WholeFile {
    path: PathBuf,
    file: NamedTempFile,
}

impl WholeFile {
    /// Begins a file that will stand at `path`.
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

    /// Where it stands until it is finished, for what writes files by their path.
    pub fn temporary_path(&self) -> &Path {
        self.file.path()
    }

    /// Brings the file to the disk and gives it its name.
    ///
    /// # Errors
    /// [`FileError::Write`]. Whatever stood there before is then unchanged.
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

/// As [`write_whole`], of what a function writes.
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

/// A temporary file beside the path, and a handle to write it through.
pub(crate) fn temporary(path: &Path) -> io::Result<(NamedTempFile, File)> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let file = tempfile::Builder::new().prefix(PARTIAL).tempfile_in(folder)?;
    let handle = file.reopen()?;
    Ok((file, handle))
}

/// Gives the file its name, once its bytes are on the disk.
pub(crate) fn persist(file: NamedTempFile, path: &Path) -> io::Result<()> {
    // By its path, where what was written may be another file than the one that was made.
    File::open(file.path())?.sync_all()?;
    file.persist(path).map_err(|error| error.error)?;
    // The new name is on the disk when the folder is. Not every system can do that, and nothing but time is lost.
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        let _ = File::open(folder).and_then(|folder| folder.sync_all());
    }
    Ok(())
}
