//! Content hashes.

use std::io::Read;
use std::path::Path;

use sha2::{Digest, Sha256};

use crate::FileError;
use crate::files::open_file;

/// SHA-256 of some bytes, in hexadecimal.
pub fn sha256(bytes: impl AsRef<[u8]>) -> String {
    hex::encode(Sha256::digest(bytes))
}

/// SHA-256 of a file's content in hexadecimal, and its length in bytes. The file is read in pieces.
///
/// # Errors
/// [`FileError::Read`].
pub fn sha256_of_file(path: impl AsRef<Path>) -> Result<(String, u64), FileError> {
    let failed = FileError::read(path.as_ref());
    let mut file = open_file(path.as_ref()).map_err(&failed)?;
    let (mut hash, mut length, mut buffer) = (Sha256::new(), 0, vec![0; 1 << 16]);
    loop {
        let read = file.read(&mut buffer).map_err(&failed)?;
        if read == 0 {
            return Ok((hex::encode(hash.finalize()), length));
        }
        hash.update(&buffer[..read]);
        length += read as u64;
    }
}
