//! Adapters that are applied to a model.

use std::path::{Path, PathBuf};
use std::str::FromStr;

use pv_model::{Adapter, CausalLm};

use crate::Result;

/// The adapters to apply to a model.
#[derive(clap::Args, Clone, Debug, Default)]
pub struct AdapterArgs {
    /// An adapter folder in PEFT's format, such as `persona train` saves, with an optional weight (1 by default). May
    /// be given several times: the weighted updates are then summed and merged into the model's weights.
    #[arg(long = "adapter", value_name = "FOLDER[=WEIGHT]")]
    pub adapters: Vec<WeightedAdapter>,
}

/// An adapter's folder and weight.
#[derive(Clone, Debug, PartialEq)]
pub struct WeightedAdapter {
    /// The folder.
    pub folder: PathBuf,
    /// The factor on the adapter's update.
    pub weight: f64,
}

impl FromStr for WeightedAdapter {
    type Err = String;

    /// Parses `FOLDER` or `FOLDER=WEIGHT`. If a folder exists under the whole text, it is used, even if its name
    /// contains `=`.
    fn from_str(text: &str) -> Result<Self, String> {
        let whole = Self { folder: text.into(), weight: 1.0 };
        let Some((folder, weight)) = text.rsplit_once('=').filter(|_| !whole.folder.is_dir()) else {
            return if text.is_empty() { Err("the folder is missing".to_owned()) } else { Ok(whole) };
        };
        if folder.is_empty() {
            return Err("the folder in front of = is missing".to_owned());
        }
        match weight.trim().parse::<f64>() {
            Ok(weight) if weight.is_finite() => Ok(Self { folder: folder.into(), weight }),
            _ => Err(format!("the weight {weight:?} of the adapter {folder} is not a finite number")),
        }
    }
}

impl AdapterArgs {
    /// Applies the adapters to the model, and adds their names to its name. A single adapter is kept apart from the
    /// model's weights; several are merged into them.
    ///
    /// # Errors
    /// A folder that holds no adapter, or one that does not fit the model.
    pub fn apply(&self, model: CausalLm) -> Result<CausalLm> {
        if self.adapters.is_empty() {
            return Ok(model);
        }
        let (mut decoder, mut name) = (model.decoder().clone(), model.name().to_owned());
        for WeightedAdapter { folder, weight } in &self.adapters {
            let adapter = Adapter::load_for(folder, model.config())?;
            decoder = decoder.with_adapter(&adapter, *weight)?;
            // A folder may be trained into again, so the hash identifies the adapter.
            name.push_str(&format!("+{}@{:.8}", last_name(folder), adapter.hash()));
            if *weight != 1.0 {
                name.push_str(&format!("={weight}"));
            }
        }
        if self.adapters.len() > 1 {
            decoder = decoder.merged();
        }
        Ok(model.with_decoder(decoder)?.named(name))
    }

    /// The adapters' names, with their weights.
    pub(crate) fn names(&self) -> impl Iterator<Item = String> {
        self.adapters.iter().map(|WeightedAdapter { folder, weight }| match *weight == 1.0 {
            true => last_name(folder),
            false => format!("{}={weight}", last_name(folder)),
        })
    }

    /// The adapters as command-line arguments.
    pub fn arguments(&self) -> Vec<String> {
        let argument = |WeightedAdapter { folder, weight }: &WeightedAdapter| match *weight == 1.0 {
            true => format!("--adapter {}", folder.display()),
            false => format!("--adapter {}={weight}", folder.display()),
        };
        self.adapters.iter().map(argument).collect()
    }
}

/// The last two components of a folder's path, because `adapter` alone says little.
fn last_name(folder: &Path) -> String {
    let names: Vec<String> =
        folder.components().rev().take(2).map(|part| part.as_os_str().to_string_lossy().into_owned()).collect();
    names.into_iter().rev().collect::<Vec<_>>().join("-")
}

#[cfg(test)]
mod tests;
