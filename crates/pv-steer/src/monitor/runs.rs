//! What the runs in folders share.

use std::ops::ControlFlow;

use sha2::{Digest, Sha256};

use crate::{Error, Result};

/// The SHA-256 of a prompt's token ids, 4 bytes each, little-endian, in hexadecimal.
pub(super) fn hash_of_tokens(ids: &[u32]) -> String {
    hex::encode(Sha256::digest(ids.iter().flat_map(|id| id.to_le_bytes()).collect::<Vec<_>>()))
}

pub(super) fn unless_broken(flow: ControlFlow<()>) -> Result<()> {
    if flow.is_break() { Err(Error::Cancelled) } else { Ok(()) }
}
