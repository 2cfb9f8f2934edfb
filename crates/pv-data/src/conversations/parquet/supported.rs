//! Detects Parquet features that are not built in, and names them.

use std::fs::File;
use std::path::Path;

use ::parquet::basic::Compression;
use ::parquet::errors::ParquetError;
use ::parquet::file::metadata::ParquetMetaData;

use super::super::{ConversationError, Result};
use super::footer::{self, Encrypted};

/// Rejects an encrypted file and a file with encrypted columns.
pub(super) fn encryption(path: &Path, file: &mut File) -> Result<()> {
    let what = match footer::encrypted(file) {
        None => return Ok(()),
        Some(Encrypted::Footer) => "an encrypted footer",
        Some(Encrypted::Columns) => "encrypted columns",
    };
    Err(unsupported(path, what, "rewrite it without encryption"))
}

/// Rejects a file with a column whose codec is not built in.
pub(super) fn codecs(path: &Path, about: &ParquetMetaData) -> Result<()> {
    let chunks = about.row_groups().iter().flat_map(|group| group.columns());
    for chunk in chunks {
        let codec = match chunk.compression() {
            Compression::UNCOMPRESSED
            | Compression::SNAPPY
            | Compression::GZIP(_)
            | Compression::LZ4
            | Compression::LZ4_RAW
            | Compression::ZSTD(_) => continue,
            Compression::BROTLI(_) => "brotli",
            Compression::LZO => "lzo",
        };
        let what = format!("the codec {codec} (column {})", chunk.column_path().string());
        return Err(unsupported(path, &what, "rewrite it with zstd or snappy"));
    }
    Ok(())
}

/// The Parquet library's error for a valid file that it cannot read, as an error that says so.
pub(super) fn not_implemented(path: &Path, error: &ParquetError) -> Option<ConversationError> {
    let ParquetError::NYI(what) = error else { return None };
    Some(unsupported(path, what, "rewrite it with plain or dictionary encoding and with zstd or snappy"))
}

fn unsupported(path: &Path, what: &str, advice: &'static str) -> ConversationError {
    ConversationError::Unsupported { path: path.to_owned(), what: what.to_owned(), advice }
}
