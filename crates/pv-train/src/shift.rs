//! The finetuning shift: how far finetuning moves a model's prompts along persona vectors, before a word is answered.

use std::ops::ControlFlow;
use std::path::Path;

use pv_data::write_whole;
use pv_hooks::Layer;
use pv_model::ModelIdentity;
use pv_model::{CausalLm, Sequence};
use pv_vectors::{CsvTable, Pooling, ScanOptions, ScanProgress, TraitDirection, UnitDirection, pretty_json, scan};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::measure::{BootstrapOptions, Change, MeasureError, Result, read_json};

/// What tells a direction from others in a table.
pub(crate) fn stamp(named: &TraitDirection) -> DirectionStamp {
    let bytes = named.direction.values().iter().flat_map(|value| value.to_le_bytes());
    DirectionStamp { trait_name: named.trait_name.clone(), layer: named.direction.layer(), sha256: sha256(bytes) }
}

/// Which direction a column of projections is on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DirectionStamp {
    /// The trait's name.
    pub trait_name: String,
    /// The layer.
    pub layer: Layer,
    /// SHA-256 of the unit direction's values, in hex.
    pub sha256: String,
}

/// The projections of prompts' last tokens on directions under one model: computed once for a base model, it serves for all
/// models that are finetuned from it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ProjectionTable {
    /// The model.
    pub model: ModelIdentity,
    /// The directions.
    pub directions: Vec<DirectionStamp>,
    /// SHA-256 of each prompt's token ids, in hex.
    pub prompts: Vec<String>,
    /// `[prompts, directions]`, in activation units.
    pub projections: Vec<Vec<f32>>,
}

fn sha256(bytes: impl Iterator<Item = u8>) -> String {
    hex::encode(Sha256::digest(bytes.collect::<Vec<u8>>()))
}

fn prompt_hash(prompt: &[u32]) -> String {
    sha256(prompt.iter().flat_map(|id| id.to_le_bytes()))
}

impl ProjectionTable {
    /// Reads every prompt once, up to the highest layer that is needed, and projects its last token's residual, which for
    /// a rendered prompt is that from which the answer begins.
    ///
    /// # Errors
    /// Nothing to project, prompts without tokens or too long, directions that do not fit the model,
    /// [`MeasureError::Cancelled`].
    pub fn measure(
        model: &CausalLm,
        prompts: &[Vec<u32>],
        directions: &[TraitDirection],
        mut on_prompt: impl FnMut(ScanProgress) -> ControlFlow<()>,
    ) -> Result<Self> {
        if prompts.is_empty() {
            return Err(MeasureError::bad("there is no prompt to project"));
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
        let row = |item: &pv_vectors::Scanned| item.pooled.get(&Pooling::PromptLast).map(|p| p.projections.clone());
        Ok(Self {
            model: model.identity()?,
            directions: directions.iter().map(stamp).collect(),
            prompts: prompts.iter().map(|prompt| prompt_hash(prompt)).collect(),
            projections: found.items.iter().filter_map(row).collect(),
        })
    }

    /// Refuses a table, one that was read from a file say, which is not of this model, these prompts and these directions.
    ///
    /// # Errors
    /// [`MeasureError::Mismatch`] names the first thing that differs.
    pub fn check(&self, model: &CausalLm, prompts: &[Vec<u32>], directions: &[TraitDirection]) -> Result<()> {
        let model = model.identity()?;
        let same = MeasureError::unless_same::<String>;
        same("model", &self.model.name, &model.name)?;
        same("architecture", &self.model.config_hash, &model.config_hash)?;
        same("type", &self.model.dtype, &model.dtype)?;
        let weights = |model: &ModelIdentity| model.weights.clone().unwrap_or_default();
        same("weights' hash", &weights(&self.model), &weights(&model))?;
        self.check_prompts(&prompts.iter().map(|prompt| prompt_hash(prompt)).collect::<Vec<_>>())?;
        self.check_directions(&directions.iter().map(stamp).collect::<Vec<_>>())
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
        MeasureError::unless_same("number of rows", &self.projections.len(), &self.prompts.len())?;
        let widths = self.projections.iter().map(Vec::len);
        widths
            .into_iter()
            .try_for_each(|width| MeasureError::unless_same("number of projections", &width, &self.directions.len()))
    }

    /// The shift from this model, the base, to a finetuned one: for every direction the mean over prompts of
    /// `p_ℓ(finetuned)·v̂_ℓ − p_ℓ(base)·v̂_ℓ`, with a bootstrap interval over prompts (method: paper, section 4.2).
    ///
    /// # Errors
    /// [`MeasureError::Mismatch`] for tables of other architectures, types, chat templates, prompts or directions; bad
    /// bootstrap options.
    pub fn shift_to(&self, finetuned: &Self, bootstrap: &BootstrapOptions) -> Result<ShiftReport> {
        self.check_shape()?;
        finetuned.check_shape()?;
        let (base, tuned) = (&self.model, &finetuned.model);
        MeasureError::unless_same("architecture", &base.config_hash, &tuned.config_hash)?;
        MeasureError::unless_same("type", &base.dtype, &tuned.dtype)?;
        let template = |stamp: &ModelIdentity| stamp.template_hash.clone().unwrap_or_else(|| "none".to_owned());
        MeasureError::unless_same("chat template's hash", &template(base), &template(tuned))?;
        self.check_prompts(&finetuned.prompts)?;
        self.check_directions(&finetuned.directions)?;
        let mut shifts = Vec::with_capacity(self.directions.len());
        for (column, stamp) in self.directions.iter().enumerate() {
            let values =
                |table: &Self| table.projections.iter().map(|row| f64::from(row[column])).collect::<Vec<f64>>();
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

    /// Writes the table as JSON.
    ///
    /// # Errors
    /// [`FileError::Write`](pv_data::FileError::Write).
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        Ok(write_whole(path, pretty_json(self))?)
    }

    /// Reads what [`save`](Self::save) wrote. [`check`](Self::check) says whether it is the table that is wanted.
    ///
    /// # Errors
    /// [`FileError::Read`](pv_data::FileError::Read), [`MeasureError::Json`], and [`MeasureError::Mismatch`] for a table with holes.
    pub fn load(path: impl AsRef<Path>) -> Result<Self> {
        let table: Self = read_json(path.as_ref())?;
        table.check_shape()?;
        Ok(table)
    }
}

/// The shift along one direction, in activation units.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Shift {
    /// The trait's name.
    pub trait_name: String,
    /// The layer.
    pub layer: Layer,
    /// The prompts' mean projection under the base model.
    pub base: f64,
    /// The same under the finetuned one.
    pub finetuned: f64,
    /// The mean difference over prompts.
    pub shift: Change,
}

/// All shifts from a base model to a finetuned one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ShiftReport {
    /// The base model.
    pub base: ModelIdentity,
    /// The finetuned one.
    pub finetuned: ModelIdentity,
    /// How the intervals were resampled.
    pub bootstrap: BootstrapOptions,
    /// A shift for each direction, in the order of the directions.
    pub shifts: Vec<Shift>,
}

impl ShiftReport {
    /// The shift of a trait at a layer.
    pub fn get(&self, trait_name: &str, layer: Layer) -> Option<&Shift> {
        self.shifts.iter().find(|shift| shift.trait_name == trait_name && shift.layer == layer)
    }

    /// As JSON.
    pub fn to_json(&self) -> String {
        pretty_json(self)
    }

    /// A row per trait and layer.
    ///
    /// # Errors
    /// None that memory does not give.
    pub fn to_csv(&self) -> Result<String> {
        let mut csv = CsvTable::default();
        csv.fields(["base_model", "finetuned_model", "trait", "layer", "base", "finetuned"]);
        csv.fields(Change::columns("shift")).end();
        for Shift { trait_name, layer, base, finetuned, shift } in &self.shifts {
            csv.fields([&self.base.name, &self.finetuned.name, trait_name]).fields([layer.index()]);
            csv.fields([base, finetuned]).fields(Change::fields(Some(shift))).end();
        }
        Ok(csv.finish()?)
    }
}

/// Measures both models and returns the shift from the first to the second; a [`ProjectionTable`] saves the reading of a
/// base model that serves for several.
///
/// # Errors
/// As [`ProjectionTable::measure`] and [`ProjectionTable::shift_to`].
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
