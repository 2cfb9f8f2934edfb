//! Memory maps of files.

use std::io;
use std::ops::{Deref, Range};
use std::path::Path;
use std::sync::Arc;

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

/// Bytes in memory, or a range of a file's map, which stays open as long as they exist.
pub(crate) enum Bytes {
    /// In memory.
    Owned(Vec<u8>),
    /// In a file.
    Mapped(Arc<Mmap>, Range<usize>),
}

impl Bytes {
    /// A range of a map. The system starts to read it from the file.
    pub(crate) fn mapped(map: &Arc<Mmap>, range: Range<usize>) -> Self {
        #[cfg(unix)]
        if let Err(error) = map.advise_range(memmap2::Advice::WillNeed, range.start, range.len()) {
            tracing::debug!(%error, "a range of a file is not read ahead");
        }
        Self::Mapped(map.clone(), range)
    }

    /// Whether these bytes are in a file's map.
    pub(crate) fn is_mapped(&self) -> bool {
        matches!(self, Self::Mapped(..))
    }
}

impl Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Owned(bytes) => bytes,
            Self::Mapped(map, range) => &map[range.clone()],
        }
    }
}
