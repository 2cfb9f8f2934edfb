//! Files of JSON lines, compressed according to their names and written whole.

use crate::FileError;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

use super::files::{self, Compression, Layout};
use super::{ConversationError, Result};
use crate::files::{persist, temporary};

/// A file that is being written.
pub(super) struct Output {
    path: PathBuf,
    file: NamedTempFile,
    sink: Sink,
}

enum Sink {
    Plain(BufWriter<File>),
    #[cfg(feature = "parquet")]
    Gzip(flate2::write::GzEncoder<BufWriter<File>>),
    #[cfg(feature = "parquet")]
    Zstd(zstd::Encoder<'static, BufWriter<File>>),
}

pub(super) const JSON_LINES: &[&str] = &[".jsonl", ".ndjson", ".jsonl.gz", ".jsonl.zst"];

impl Output {
    /// A file of JSON lines, compressed according to its name.
    pub(super) fn json_lines(path: &Path) -> Result<Self> {
        let Some((Layout::JsonLines, compression)) = files::kind(path) else {
            return Err(ConversationError::Format { path: path.to_owned(), known: JSON_LINES });
        };
        let failed = |source| FileError::Write { path: path.to_owned(), source };
        let (file, handle) = temporary(path).map_err(failed)?;
        let plain = BufWriter::new(handle);
        let sink = match compression {
            Compression::None => Sink::Plain(plain),
            #[cfg(feature = "parquet")]
            Compression::Gzip => Sink::Gzip(flate2::write::GzEncoder::new(plain, flate2::Compression::default())),
            #[cfg(feature = "parquet")]
            Compression::Zstd => Sink::Zstd(zstd::Encoder::new(plain, 0).map_err(failed)?),
            #[cfg(not(feature = "parquet"))]
            Compression::Gzip | Compression::Zstd => {
                return Err(ConversationError::NotBuilt { path: path.to_owned() });
            }
        };
        Ok(Self { path: path.to_owned(), file, sink })
    }

    /// Lets the caller write a part of the file.
    pub(super) fn write(&mut self, put: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<()> {
        let written = match &mut self.sink {
            Sink::Plain(out) => put(out),
            #[cfg(feature = "parquet")]
            Sink::Gzip(out) => put(out),
            #[cfg(feature = "parquet")]
            Sink::Zstd(out) => put(out),
        };
        written.map_err(|source| FileError::Write { path: self.path.clone(), source }.into())
    }

    /// Writes the rest and gives the file its name.
    pub(super) fn finish(self) -> Result<()> {
        let Self { path, file, sink } = self;
        let closed = match sink {
            Sink::Plain(out) => Ok(out),
            #[cfg(feature = "parquet")]
            Sink::Gzip(out) => out.finish(),
            #[cfg(feature = "parquet")]
            Sink::Zstd(out) => out.finish(),
        };
        closed
            .and_then(|mut out| out.flush())
            .and_then(|()| persist(file, &path))
            .map_err(|source| FileError::Write { path, source }.into())
    }
}
