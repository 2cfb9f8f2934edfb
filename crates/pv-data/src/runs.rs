//! Folders of runs that can be resumed.

mod claim;
mod folder;
mod journal;
mod rows;
#[cfg(test)]
mod tests;

pub use claim::{first_difference, through_text};
pub use folder::RunFolder;
pub use journal::{Accepted, Journal, complete_lines};
pub use rows::RowFile;
