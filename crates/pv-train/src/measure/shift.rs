//! The finetuning shift: the change of a model's prompts along persona vectors by finetuning, measured before an answer
//! is generated.

use std::ops::ControlFlow;
use std::path::Path;

use ndarray::{Array2, ArrayView1};
use pv_data::files::write_whole;
use pv_data::tables::{CsvTable, pretty_json};
use pv_hooks::Layer;
use pv_model::batch::Sequence;
use pv_model::{CausalLm, DecoderConfig, ModelIdentity};
use pv_vectors::scan::{ScanOptions, ScanProgress, scan};
use pv_vectors::vector::Pooling;
use pv_vectors::{TraitDirection, UnitDirection};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::measure::{BootstrapOptions, Change, MeasureError, Result, SettingError, change, read_json};

/// The identity of a direction in a table.
pub(crate) fn stamp(named: &TraitDirection) -> DirectionStamp {
    let bytes = named.direction.values().iter().flat_map(|value| value.to_le_bytes());
    DirectionStamp { trait_name: named.trait_name.clone(), layer: named.direction.layer(), sha256: sha256(bytes) }
}

/// The identity of the direction of a column of projections.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct DirectionStamp {
    /// The trait's name.
    pub trait_name: String,
    /// The layer.
    pub layer: Layer,
    /// SHA-256 of the unit direction's values, in hex.
    pub sha256: String,
}

/// The projections of prompts' last tokens on directions under one model. The table of a base model can be used for all
/// models that are finetuned from it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ProjectionTable {
    /// The model.
    pub model: ModelIdentity,
    /// SHA-256 of the model's architecture without the type in which its weights are stored, in hex. `None` in files of
    /// older versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub architecture: Option<String>,
    /// The directions.
    pub directions: Vec<DirectionStamp>,
    /// SHA-256 of each prompt's token ids, in hex.
    pub prompts: Vec<String>,
    /// The projections, `[prompts, directions]`, in activation units; in files a list of rows.
    #[serde(with = "pv_vectors::serde_rows")]
    pub projections: Array2<f32>,
}

fn sha256(bytes: impl Iterator<Item = u8>) -> String {
    hex::encode(Sha256::digest(bytes.collect::<Vec<u8>>()))
}

/// A hash of the architecture. [`ModelIdentity::config_hash`] also depends on the type in which the weights are stored,
/// which two models that are compared need not share.
fn architecture(model: &CausalLm) -> String {
    DecoderConfig { stored_dtype: None, ..model.config().clone() }.hash()
}

fn prompt_hash(prompt: &[u32]) -> String {
    sha256(prompt.iter().flat_map(|id| id.to_le_bytes()))
}

impl ProjectionTable {
    /// Reads every prompt once, up to the highest layer of the directions, and projects the residual of its last token.
    /// For a rendered prompt, this is the token after which the answer begins.
    ///
    /// # Errors
    /// No prompts or no directions, prompts that are empty or too long, directions that do not fit the model,
    /// [`MeasureError::Cancelled`].
    pub fn measure(
        model: &CausalLm,
        prompts: &[Vec<u32>],
        directions: &[TraitDirection],
        mut on_prompt: impl FnMut(ScanProgress) -> ControlFlow<()>,
    ) -> Result<Self> {
        if prompts.is_empty() {
            return Err(SettingError::NoPrompts.into());
        }
        let items: Vec<Sequence<'_>> =
            prompts.iter().map(|prompt| Sequence { prompt, ..Sequence::default() }).collect();
        let units: Vec<UnitDirection> = directions.iter().map(|named| named.direction.clone()).collect();
        let options = ScanOptions { poolings: vec![Pooling::PromptLast], ..ScanOptions::default() };
        let found =
            scan(model, &items, &units, &options, |_, progress| on_prompt(progress)).map_err(|error| match error {
                pv_vectors::Error::Cancelled => MeasureError::Cancelled,
                error => error.into(),
            })?;
        let mut projections = Array2::zeros((prompts.len(), directions.len()));
        for item in &found.items {
            // Every item has a prompt; the scan refuses any other.
            let Some(pooled) = item.pooled.get(&Pooling::PromptLast) else { continue };
            projections.row_mut(item.item).assign(&ArrayView1::from(pooled.projections.as_slice()));
        }
        Ok(Self {
            model: model.identity()?,
            architecture: Some(architecture(model)),
            directions: directions.iter().map(stamp).collect(),
            prompts: prompts.iter().map(|prompt| prompt_hash(prompt)).collect(),
            projections,
        })
    }

    /// Refuses a table, for example a loaded one, that does not belong to this model, these prompts and these
    /// directions.
    ///
    /// # Errors
    /// [`MeasureError::Mismatch`] with the first difference.
    pub fn check(&self, model: &CausalLm, prompts: &[Vec<u32>], directions: &[TraitDirection]) -> Result<()> {
        let architecture = Some(architecture(model));
        let model = model.identity()?;
        let same = MeasureError::unless_same::<String>;
        same("model", &self.model.name, &model.name)?;
        self.check_architecture(&model, architecture.as_ref())?;
        same("type", &self.model.dtype, &model.dtype)?;
        let weights = |model: &ModelIdentity| model.weights.clone().unwrap_or_default();
        same("weights' hash", &weights(&self.model), &weights(&model))?;
        self.check_prompts(&prompts.iter().map(|prompt| prompt_hash(prompt)).collect::<Vec<_>>())?;
        self.check_directions(&directions.iter().map(stamp).collect::<Vec<_>>())
    }

    /// Refuses another architecture. Models whose weights are stored in other types have the same one.
    fn check_architecture(&self, model: &ModelIdentity, architecture: Option<&String>) -> Result<()> {
        let (ours, theirs) = match (&self.architecture, architecture) {
            (Some(ours), Some(theirs)) => (ours, theirs),
            _ => (&self.model.config_hash, &model.config_hash),
        };
        MeasureError::unless_same("architecture", ours, theirs)
    }

    fn check_prompts(&self, prompts: &[String]) -> Result<()> {
        MeasureError::unless_same("number of prompts", &self.prompts.len(), &prompts.len())?;
        for (index, (mine, other)) in self.prompts.iter().zip(prompts).enumerate() {
            MeasureError::unless_same(&format!("hash of prompt {index}"), mine, other)?;
        }
        Ok(())
    }

    fn check_directions(&self, directions: &[DirectionStamp]) -> Result<()> {
        MeasureError::unless_same("number of directions", &self.directions.len(), &directions.len())?;
        for (index, (mine, other)) in self.directions.iter().zip(directions).enumerate() {
            let what = |what| format!("{what} of direction {index}");
            MeasureError::unless_same(&what("trait"), &mine.trait_name, &other.trait_name)?;
            MeasureError::unless_same(&what("layer"), &mine.layer, &other.layer)?;
            MeasureError::unless_same(&what("hash"), &mine.sha256, &other.sha256)?;
        }
        Ok(())
    }

    fn check_shape(&self) -> Result<()> {
        MeasureError::unless_same("number of rows", &self.projections.nrows(), &self.prompts.len())?;
        MeasureError::unless_same("number of projections", &self.projections.ncols(), &self.directions.len())
    }

    /// The shift from this base model's table to that of a finetuned model: for every direction, the mean over prompts
    /// of `p_ℓ(finetuned)·v̂_ℓ − p_ℓ(base)·v̂_ℓ`, in activation units, with a bootstrap interval over prompts (method:
    /// paper, section 4.2).
    ///
    /// # Errors
    /// [`MeasureError::Mismatch`] for tables of different architectures, types, chat templates, prompts or directions;
    /// invalid bootstrap options.
    pub fn shift_to(&self, finetuned: &Self, bootstrap: &BootstrapOptions) -> Result<ShiftReport> {
        self.check_shape()?;
        finetuned.check_shape()?;
        let (base, tuned) = (&self.model, &finetuned.model);
        self.check_architecture(tuned, finetuned.architecture.as_ref())?;
        MeasureError::unless_same("type", &base.dtype, &tuned.dtype)?;
        let template = |stamp: &ModelIdentity| stamp.template_hash.clone().unwrap_or_else(|| "none".to_owned());
        MeasureError::unless_same("chat template's hash", &template(base), &template(tuned))?;
        self.check_prompts(&finetuned.prompts)?;
        self.check_directions(&finetuned.directions)?;
        let mut shifts = Vec::with_capacity(self.directions.len());
        for (column, stamp) in self.directions.iter().enumerate() {
            let values = |table: &Self| table.projections.column(column).mapv(f64::from).to_vec();
            let (before, after) = (values(self), values(finetuned));
            let pairs: Vec<(f64, f64)> = before.iter().copied().zip(after.iter().copied()).collect();
            let Some(change) = Change::of(&pairs, bootstrap)? else { continue };
            let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
            shifts.push(Shift {
                trait_name: stamp.trait_name.clone(),
                layer: stamp.layer,
                base: mean(&before),
                finetuned: mean(&after),
                shift: change,
            });
        }
        let (base, finetuned) = (self.model.clone(), finetuned.model.clone());
        Ok(ShiftReport { base, finetuned, bootstrap: *bootstrap, shifts })
    }

    /// Saves the table as JSON.
    ///
    /// # Errors
    /// [`FileError::Write`](pv_data::FileError::Write).
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        Ok(write_whole(path, pretty_json(self))?)
    }

    /// Loads a table that [`save`](Self::save) wrote. Use [`check`](Self::check) to verify that it belongs to a model.
    ///
    /// # Errors
    /// [`FileError::Read`](pv_data::FileError::Read), [`MeasureError::Json`], and [`MeasureError::Mismatch`] for an
    /// incomplete table.
    pub fn load(path: impl AsRef<Path>) -> Result<Self> {
        let table: Self = read_json(path.as_ref())?;
        table.check_shape()?;
        Ok(table)
    }
}

/// The shift along one direction, in activation units.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Shift {
    /// The trait's name.
    pub trait_name: String,
    /// The layer.
    pub layer: Layer,
    /// The prompts' mean projection under the base model.
    pub base: f64,
    /// The prompts' mean projection under the finetuned model.
    pub finetuned: f64,
    /// The mean difference over prompts, with its interval.
    pub shift: Change,
}

/// The shifts from a base model to a finetuned model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ShiftReport {
    /// The base model.
    pub base: ModelIdentity,
    /// The finetuned model.
    pub finetuned: ModelIdentity,
    /// The bootstrap options of the intervals.
    pub bootstrap: BootstrapOptions,
    /// The shift along each direction, in the order of the directions.
    pub shifts: Vec<Shift>,
}

impl ShiftReport {
    /// The shift along a trait's direction at a layer.
    pub fn get(&self, trait_name: &str, layer: Layer) -> Option<&Shift> {
        self.shifts.iter().find(|shift| shift.trait_name == trait_name && shift.layer == layer)
    }

    /// The report as JSON.
    pub fn to_json(&self) -> String {
        pretty_json(self)
    }

    /// The report as CSV, with a row per trait and layer.
    ///
    /// # Errors
    /// None, except if memory runs out.
    pub fn to_csv(&self) -> Result<String> {
        let mut csv = CsvTable::default();
        csv.fields(["base_model", "finetuned_model", "trait", "layer", "base", "finetuned"]);
        csv.fields(change::columns("shift")).end();
        for Shift { trait_name, layer, base, finetuned, shift } in &self.shifts {
            csv.fields([&self.base.name, &self.finetuned.name, trait_name]).fields([layer.index()]);
            csv.fields([base, finetuned]).fields(change::fields(Some(shift))).end();
        }
        Ok(csv.finish()?)
    }
}

/// Measures both models and returns the shift from the first to the second. To compare several models with one base
/// model, use [`ProjectionTable`], which stores the measurement of the base model.
///
/// # Errors
/// Those of [`ProjectionTable::measure`] and [`ProjectionTable::shift_to`].
pub fn finetuning_shift(
    base: &CausalLm,
    finetuned: &CausalLm,
    prompts: &[Vec<u32>],
    directions: &[TraitDirection],
    bootstrap: &BootstrapOptions,
) -> Result<ShiftReport> {
    let measure = |model| ProjectionTable::measure(model, prompts, directions, |_| ControlFlow::Continue(()));
    measure(base)?.shift_to(&measure(finetuned)?, bootstrap)
}
