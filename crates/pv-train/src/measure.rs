//! What the measurements of a model share: changes between two, files.

mod change;
mod error;
mod proportion;
mod write;

pub use change::{BootstrapOptions, Change};
pub use error::MeasureError;
pub(crate) use error::Result;
pub use proportion::Proportion;
pub(crate) use write::{read_json, sha256, write};
