//! Finds the files to read, determines their kinds and opens them.

use crate::FileError;
use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use super::{ConversationError, Result};

/// The layout of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Layout {
    JsonLines,
    Csv,
    Parquet,
}

/// The compression of a text file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Compression {
    None,
    Gzip,
    Zstd,
}

pub(super) const KNOWN: &[&str] =
    &[".jsonl", ".ndjson", ".csv", ".jsonl.gz", ".jsonl.zst", ".csv.gz", ".csv.zst", ".parquet"];

/// The kind of a file, by its name; `None` if it is unknown.
pub(super) fn kind(path: &Path) -> Option<(Layout, Compression)> {
    let name = path.file_name()?.to_str()?.to_ascii_lowercase();
    let (name, compression) = match (name.strip_suffix(".gz"), name.strip_suffix(".zst")) {
        (Some(name), _) => (name, Compression::Gzip),
        (_, Some(name)) => (name, Compression::Zstd),
        _ => (name.as_str(), Compression::None),
    };
    match name.rsplit_once('.')?.1 {
        "jsonl" | "ndjson" => Some((Layout::JsonLines, compression)),
        "csv" => Some((Layout::Csv, compression)),
        "parquet" if compression == Compression::None => Some((Layout::Parquet, compression)),
        _ => None,
    }
}

/// The files that the inputs name, each once: files themselves, folders with everything below them in the order of
/// names, and patterns. In folders and patterns, files of other kinds and hidden files are skipped.
pub(super) fn list<P: AsRef<Path>>(inputs: impl IntoIterator<Item = P>) -> Result<Vec<PathBuf>> {
    let (mut files, mut seen) = (Vec::new(), BTreeSet::new());
    for input in inputs {
        for file in listed(input.as_ref())? {
            if seen.insert(file.canonicalize().unwrap_or_else(|_| file.clone())) {
                files.push(file);
            }
        }
    }
    Ok(files)
}

fn listed(input: &Path) -> Result<Vec<PathBuf>> {
    let failed = |source| FileError::Read { path: input.to_owned(), source };
    let (mut files, mut others) = (Vec::new(), Vec::new());
    match fs::metadata(input) {
        Ok(found) if !found.is_dir() => {
            kind(input).ok_or_else(|| ConversationError::Format { path: input.to_owned(), known: KNOWN })?;
            return Ok(vec![input.to_owned()]);
        }
        Ok(_) => walk(input, &mut files, &mut others)?,
        Err(missing) => {
            let Some(pattern) = input.to_str().filter(|text| text.contains(['*', '?', '['])) else {
                return Err(failed(missing).into());
            };
            let paths = glob::glob(pattern)
                .map_err(|error| failed(std::io::Error::new(std::io::ErrorKind::InvalidInput, error)))?;
            for path in paths {
                let path = path.map_err(|error| failed(error.into()))?;
                if path.is_dir() {
                    walk(&path, &mut files, &mut others)?
                } else {
                    classify(path, &mut files, &mut others)
                }
            }
        }
    }
    if files.is_empty() {
        return Err(ConversationError::NoFiles { input: input.to_owned(), others });
    }
    Ok(files)
}

fn walk(folder: &Path, files: &mut Vec<PathBuf>, others: &mut Vec<PathBuf>) -> Result<()> {
    let failed = |source| FileError::Read { path: folder.to_owned(), source };
    let entries = fs::read_dir(folder).map_err(failed)?.collect::<std::io::Result<Vec<_>>>().map_err(failed)?;
    let mut entries: Vec<_> =
        entries.into_iter().filter(|entry| !entry.file_name().as_encoded_bytes().starts_with(b".")).collect();
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        // A link to a folder is not followed, since it may lead back up.
        match entry.file_type().map_err(failed)? {
            found if found.is_dir() => walk(&entry.path(), files, others)?,
            _ if entry.path().is_dir() => {}
            _ => classify(entry.path(), files, others),
        }
    }
    Ok(())
}

fn classify(path: PathBuf, files: &mut Vec<PathBuf>, others: &mut Vec<PathBuf>) {
    if kind(&path).is_some() { files.push(path) } else { others.push(path) }
}

/// First bytes of files that are not UTF-8 text, what the files are, and what to do.
const NO_TEXT: [(&[u8], &str, &str); 7] = [
    (b"\xFF\xFE", "UTF-16 or UTF-32 text", UTF_8),
    (b"\xFE\xFF", "UTF-16 text", UTF_8),
    (b"\0\0\xFE\xFF", "UTF-32 text", UTF_8),
    (b"\x1F\x8B", "gzip data in a file without the extension .gz", "add the extension"),
    (b"\x28\xB5\x2F\xFD", "Zstandard data in a file without the extension .zst", "add the extension"),
    (b"PAR1", "Parquet data in a file without the extension .parquet", "add the extension"),
    (b"PK\x03\x04", "a zip archive", "unpack it"),
];
const UTF_8: &str = "convert it to UTF-8";

/// A text file's bytes, decompressed while reading.
pub(super) fn open(path: &Path, compression: Compression) -> Result<Box<dyn BufRead + Send>> {
    let failed = |source| FileError::Read { path: path.to_owned(), source };
    let file = crate::files::open_file(path).map_err(failed)?;
    let mut bytes: Box<dyn BufRead + Send> = match compression {
        Compression::None => Box::new(BufReader::new(file)),
        #[cfg(feature = "parquet")]
        Compression::Gzip => Box::new(BufReader::new(flate2::bufread::MultiGzDecoder::new(BufReader::new(file)))),
        #[cfg(feature = "parquet")]
        Compression::Zstd => Box::new(BufReader::new(zstd::Decoder::new(file).map_err(failed)?)),
        #[cfg(not(feature = "parquet"))]
        Compression::Gzip | Compression::Zstd => return Err(ConversationError::NotBuilt { path: path.to_owned() }),
    };
    // Decompressors report an error only once.
    let damaged =
        |error: std::io::Error| ConversationError::Damaged { path: path.to_owned(), rows: 0, source: error.into() };
    let start = bytes.fill_buf().map_err(damaged)?;
    let sign = NO_TEXT.iter().find(|(sign, ..)| start.starts_with(sign));
    match sign {
        Some((_, what, advice)) => {
            Err(ConversationError::Unsupported { path: path.to_owned(), what: (*what).to_owned(), advice })
        }
        None => Ok(bytes),
    }
}
