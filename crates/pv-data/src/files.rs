//! Single files: opening those that others wrote, writing ours whole, and what their content is known by.

mod hash;
mod open;
mod whole;

pub use hash::{sha256, sha256_of_file};
pub use open::{LfsPointer, open_file, read_file};
pub(crate) use whole::{PARTIAL, persist, temporary, write_with};
pub use whole::{WholeFile, write_whole};
