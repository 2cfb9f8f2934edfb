//! What the measurements of a model share: changes between two, files.

mod change;
mod error;
mod files;
mod proportion;

pub use change::{BootstrapOptions, Change};
pub use error::MeasureError;
pub(crate) use error::Result;
pub(crate) use files::read_json;
pub use proportion::Proportion;
