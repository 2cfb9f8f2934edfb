//! Short keys from hashes.

use sha2::{Digest, Sha256};

/// The first half of an id's 256 bits, for tables in memory: the probability that two of n different ids have the same
/// key is n² / 2^129. An id that is not hexadecimal is hashed first.
pub(crate) fn key(id: &str) -> u128 {
    let half = id.get(..32).and_then(|half| u128::from_str_radix(half, 16).ok());
    half.unwrap_or_else(|| Sha256::digest(id).iter().take(16).fold(0, |key, byte| key << 8 | u128::from(*byte)))
}

/// A pseudorandom number that depends only on the seed and the id.
pub(crate) fn draw(seed: u64, id: &str) -> u64 {
    let hash = Sha256::new().chain_update(seed.to_le_bytes()).chain_update(id).finalize();
    hash.iter().take(8).fold(0, |number, byte| number << 8 | u64::from(*byte))
}
