//! Folders that a run goes on in.

mod claim;
mod folder;
mod journal;
mod rows;
#[cfg(test)]
mod tests;

pub use claim::{first_difference, through_text};
pub use folder::RunFolder;
pub use journal::{Accepted, Journal};
pub use rows::RowFile;
