//! Opens files that others wrote.

use std::fmt;
use std::fs::File;
use std::io::{self, Read, Seek};
use std::path::Path;

/// A git-lfs pointer is shorter, by its specification.
const LONGEST_POINTER: u64 = 1024;

/// A git-lfs pointer, which replaces a file in a repository that was cloned without git-lfs. It is the error inside the
/// [`io::Error`] of [`open_file`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LfsPointer {
    /// The size of the actual file in bytes, if the pointer states it.
    pub size: Option<u64>,
}

impl LfsPointer {
    fn parse(start: &[u8]) -> Option<Self> {
        const VERSIONS: [&str; 2] =
            ["version https://git-lfs.github.com/spec/", "version https://hawser.github.com/spec/"];
        let text = String::from_utf8_lossy(start);
        let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
        VERSIONS.iter().any(|version| text.starts_with(version)).then(|| {
            let size =
                text.lines().find_map(|line| line.strip_prefix("size ")).and_then(|size| size.trim().parse().ok());
            Self { size }
        })
    }

    /// The pointer inside an error, if there is one.
    pub fn of(error: &io::Error) -> Option<Self> {
        error.get_ref()?.downcast_ref().copied()
    }
}

impl fmt::Display for LfsPointer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let size = self.size.map_or_else(String::new, |size| format!(" ({size} bytes)"));
        write!(
            f,
            "found a git-lfs pointer instead of the file{size}; run `git lfs pull` in its repository, or download the file"
        )
    }
}

impl std::error::Error for LfsPointer {}

/// Opens a file for reading, and rejects a git-lfs pointer. Every file that others wrote is opened here.
///
/// # Errors
/// The operating system's error; [`LfsPointer`] inside an error of the kind
/// [`InvalidData`](io::ErrorKind::InvalidData).
pub fn open_file(path: impl AsRef<Path>) -> io::Result<File> {
    let mut file = File::open(path)?;
    let metadata = file.metadata()?;
    // Only plain files can be rewound.
    if metadata.is_file() && metadata.len() < LONGEST_POINTER {
        let mut start = Vec::new();
        (&mut file).take(LONGEST_POINTER).read_to_end(&mut start)?;
        if let Some(pointer) = LfsPointer::parse(&start) {
            return Err(io::Error::new(io::ErrorKind::InvalidData, pointer));
        }
        file.rewind()?;
    }
    Ok(file)
}

/// The bytes of a file, opened by [`open_file`].
///
/// # Errors
/// Those of [`open_file`].
pub fn read_file(path: impl AsRef<Path>) -> io::Result<Vec<u8>> {
    let mut file = open_file(path)?;
    let mut bytes = Vec::with_capacity(file.metadata().map_or(0, |metadata| metadata.len() as usize));
    file.read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pointers_are_told_from_files() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("file");
        let open = |content: &str| {
            std::fs::write(&path, content).expect("a file");
            read_file(&path)
        };
        let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 4297056\n";
        let error = open(pointer).expect_err("a pointer");
        assert_eq!(LfsPointer::of(&error), Some(LfsPointer { size: Some(4_297_056) }));
        assert!(error.to_string().contains("git lfs pull") && error.to_string().contains("4297056"), "{error}");
        assert_eq!(error.to_string().matches("pointer").count(), 1, "{error}");
        let crlf = pointer.replace('\n', "\r\n");
        assert_eq!(LfsPointer::of(&open(&crlf).expect_err("a pointer")), Some(LfsPointer { size: Some(4_297_056) }));
        assert_eq!(open("version 2").expect("a file"), b"version 2");
        assert_eq!(open("").expect("a file"), b"");
        let long = format!("{pointer}{}", " ".repeat(2000));
        assert_eq!(open(&long).expect("a text that begins so is no pointer").len(), long.len());
        assert!(LfsPointer::of(&read_file(folder.path().join("none")).expect_err("no file")).is_none());
    }
}
