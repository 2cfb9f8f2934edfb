//! Files that are written whole: under another name first, and renamed when all of it is there.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

use tempfile::NamedTempFile;

/// Writes a file: into a temporary file beside it first, which takes its name once its bytes are on the disk, so that no
/// half-written file is ever seen.
///
/// # Errors
/// What the operating system says. Whatever stood there before is then unchanged.
pub fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let (file, mut handle) = temporary(path)?;
    handle.write_all(bytes)?;
    persist(file, path)
}

/// A temporary file beside the path, and a handle to write it through.
pub(crate) fn temporary(path: &Path) -> io::Result<(NamedTempFile, File)> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let file = NamedTempFile::new_in(folder)?;
    let handle = file.reopen()?;
    Ok((file, handle))
}

/// Gives the file its name, once its bytes are on the disk.
pub(crate) fn persist(file: NamedTempFile, path: &Path) -> io::Result<()> {
    file.as_file().sync_all()?;
    file.persist(path).map(|_| ()).map_err(|error| error.error)
}
