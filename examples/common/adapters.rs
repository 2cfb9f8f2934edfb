//! Adapters that programs put on a model.

use std::path::{Path, PathBuf};
use std::str::FromStr;

use pv_model::{Adapter, CausalLm};

use crate::Result;

/// Which adapters are put on a model.
#[derive(clap::Args, Clone, Debug, Default)]
pub struct AdapterArgs {
    /// An adapter in PEFT's format, such as finetune saves, and its weight, 1 by default. May be given several times: the
    /// weighted updates are then summed and merged into the model's weights.
    #[arg(long = "adapter", value_name = "FOLDER[=WEIGHT]")]
    pub adapters: Vec<WeightedAdapter>,
}

/// An adapter's folder, and how strongly it acts.
#[derive(Clone, Debug, PartialEq)]
pub struct WeightedAdapter {
    /// The folder.
    pub folder: PathBuf,
    /// What its update is multiplied by.
    pub weight: f64,
}

impl FromStr for WeightedAdapter {
    type Err = String;

    /// Of `FOLDER` or `FOLDER=WEIGHT`. A folder that exists under the whole text is that folder, whatever `=` it has in it.
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
            _ => Err(format!("the weight {weight:?} of the adapter {folder} is no finite number")),
        }
    }
}

impl AdapterArgs {
    /// The model with the adapters on it, named after them. One acts beside the model's weights; several are merged into
    /// them.
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
            // Folders are trained into again: the values tell which adapter it was.
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

    /// What the adapters are called, with their weights.
    pub(crate) fn names(&self) -> impl Iterator<Item = String> {
        self.adapters.iter().map(|WeightedAdapter { folder, weight }| match *weight == 1.0 {
            true => last_name(folder),
            false => format!("{}={weight}", last_name(folder)),
        })
    }

    /// As on a command line.
    pub fn arguments(&self) -> Vec<String> {
        let argument = |WeightedAdapter { folder, weight }: &WeightedAdapter| match *weight == 1.0 {
            true => format!("--adapter {}", folder.display()),
            false => format!("--adapter {}={weight}", folder.display()),
        };
        self.adapters.iter().map(argument).collect()
    }
}

/// The last two names of a folder's path, of which `adapter` alone would not say much.
fn last_name(folder: &Path) -> String {
    let names: Vec<String> =
        folder.components().rev().take(2).map(|part| part.as_os_str().to_string_lossy().into_owned()).collect();
    names.into_iter().rev().collect::<Vec<_>>().join("-")
}

#[cfg(test)]
mod tests;
