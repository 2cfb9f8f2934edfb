//! Opens files that others wrote, writes files whole, and hashes content.

mod hash;
mod open;
mod whole;

pub use hash::{sha256, sha256_of_file};
pub use open::{LfsPointer, open_file, read_file};
pub(crate) use whole::{PARTIAL, persist, temporary, write_with};
pub use whole::{WholeFile, write_whole, write_whole_with};
