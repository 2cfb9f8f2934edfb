//! Measurements of a model, and their shared code: changes between two models, files.

mod change;
mod error;
pub mod evaluate;
mod files;
pub mod mmlu;
pub mod perplexity;
pub mod shift;

use pv_hooks::{Hook, LayerSet};

pub(crate) use error::Result;
pub use error::{MeasureError, QuestionError, SettingError};
pub(crate) use files::read_json;
pub use pv_statistics::{BootstrapOptions, Change, Proportion};

/// Refuses a hook without a description, and a description without a hook.
pub(crate) fn check_described(hook: &(impl Hook + ?Sized), intervention: Option<&str>) -> Result<()> {
    match (hook.layers() != LayerSet::none(), intervention) {
        (true, None) => Err(SettingError::HookWithoutDescription.into()),
        (false, Some(description)) => {
            Err(SettingError::DescriptionWithoutHook { description: description.to_owned() }.into())
        }
        _ => Ok(()),
    }
}
