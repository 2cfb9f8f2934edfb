//! What the measurements of a model share: changes between two, files.

mod change;
mod error;
mod files;
mod proportion;

use pv_hooks::{Hook, LayerSet};

pub use change::{BootstrapOptions, Change};
pub use error::MeasureError;
pub(crate) use error::Result;
pub(crate) use files::read_json;
pub use proportion::Proportion;

/// Refuses a hook of which it is not said what it does, and no hook where something is said to be done.
pub(crate) fn check_said(hook: &(impl Hook + ?Sized), intervention: Option<&str>) -> Result<()> {
    let acts = hook.layers() != LayerSet::none();
    if acts == intervention.is_some() {
        return Ok(());
    }
    let said = if acts { "what the hook does is not said" } else { "there is no hook that does it" };
    Err(MeasureError::bad(format!("intervention is {intervention:?}: {said}")))
}
