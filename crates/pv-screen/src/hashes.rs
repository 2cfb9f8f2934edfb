//! Hashes, and the short keys that are made of them.

use std::io::Read;
use std::path::Path;

use sha2::{Digest, Sha256};

use crate::{Error, Result};

pub(crate) fn sha256(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

/// SHA-256 of a file, in hex, read piece by piece.
pub(crate) fn of_file(path: &Path) -> Result<String> {
    let failed = |source| Error::Read { path: path.to_owned(), source };
    let mut file = pv_model::open_file(path).map_err(failed)?;
    let (mut hash, mut buffer) = (Sha256::new(), vec![0; 1 << 16]);
    loop {
        let read = file.read(&mut buffer).map_err(failed)?;
        if read == 0 {
            return Ok(hex::encode(hash.finalize()));
        }
        hash.update(&buffer[..read]);
    }
}

/// Half of an id's 256 bits, for tables in memory: among n ids, two differ and agree in it with a probability of
/// n² / 2^129. An id that is not hexadecimal is hashed first.
pub(crate) fn key(id: &str) -> u128 {
    let half = id.get(..32).and_then(|half| u128::from_str_radix(half, 16).ok());
    half.unwrap_or_else(|| Sha256::digest(id).iter().take(16).fold(0, |key, byte| key << 8 | u128::from(*byte)))
}

/// A number that looks random, and is the same for the same seed and id whatever came before.
pub(crate) fn draw(seed: u64, id: &str) -> u64 {
    let hash = Sha256::new().chain_update(seed.to_le_bytes()).chain_update(id).finalize();
    hash.iter().take(8).fold(0, |number, byte| number << 8 | u64::from(*byte))
}
