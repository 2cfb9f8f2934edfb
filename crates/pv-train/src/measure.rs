//! What the measurements of a model share: which model it is, changes between two, files.

mod change;
mod error;
mod journal;
mod model;
mod proportion;
mod write;

pub use change::{BootstrapOptions, Change};
pub use error::MeasureError;
pub(crate) use error::Result;
pub(crate) use journal::Journal;
pub use model::MeasuredModel;
pub use proportion::Proportion;
pub(crate) use write::{Csv, hex, json, read_json, sha256, through_text, write};
