//! Memory maps of files.

use std::io;
use std::path::Path;

use memmap2::Mmap;
use pv_data::files::open_file;

/// A read-only map of a file, which must not be changed while the map exists.
pub(crate) fn map(path: &Path) -> io::Result<Mmap> {
    let file = open_file(path)?;
    // SAFETY: The map is read-only and private to this process. Another process that changes the file meanwhile could
    // change these bytes; all bit patterns are valid as u8, lengths are checked against the map itself, and the
    // documentation of the types with a map forbids such changes.
    #[allow(unsafe_code)]
    unsafe {
        Mmap::map(&file)
    }
}
