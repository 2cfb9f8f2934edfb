//! How a trait answers to the strength of steering at one layer.

use std::path::Path;

use pv_hooks::Layer;
use pv_judge::spearman;
use pv_model::ModelIdentity;
use pv_vectors::{CsvTable, Provenance, pretty_json};
use serde::{Deserialize, Serialize};

use super::estimate::Estimate;
use super::plan::SweepPlan;
use super::results::{CellResult, SweepResults};
use crate::files::write;
use crate::{Error, Result};

/// One strength.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Dose {
    /// The strength, in the plan's unit.
    pub strength: f32,
    /// The factor on the raw vector that it stands for.
    pub raw: f32,
    /// The trait's expression.
    pub expression: Estimate,
    /// The coherence.
    pub coherence: Estimate,
}

/// The trait's expression over the strength at one layer, and whether the one rises with the other.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DoseResponse {
    /// The model.
    pub model: ModelIdentity,
    /// Where the vector comes from.
    pub vector: Provenance,
    /// Who judged.
    pub judge: String,
    /// What was done, at all layers of the sweep.
    pub plan: SweepPlan,
    /// The layer.
    pub layer: Layer,
    /// From the least strength up; those without a score are left out.
    pub doses: Vec<Dose>,
    /// Spearman's ρ between strength and mean expression, over the strengths; `None` with fewer than three, or when the
    /// expression does not vary.
    pub rho: Option<f64>,
    /// The same over single answers, which vary among themselves: always nearer to 0.
    pub rho_answers: Option<f64>,
    /// Whether no mean expression lies below that of a lesser strength.
    pub monotone: bool,
    /// The greatest fall of the mean expression below that of a lesser strength, in points; 0 when it is monotone.
    pub greatest_fall: f64,
}

impl SweepResults {
    /// The dose–response at a layer of the sweep.
    ///
    /// # Errors
    /// [`Error::NotInSweep`].
    pub fn dose_response(&self, layer: Layer) -> Result<DoseResponse> {
        let cells = self.cells_at(layer);
        if cells.is_empty() {
            return Err(Error::NotInSweep { layer });
        }
        let scored = || cells.iter().filter_map(|cell| Some((cell, cell.expression.mean?)));
        let means: Vec<(f64, f64)> = scored().map(|(cell, mean)| (f64::from(cell.strength), mean)).collect();
        let answers = cells.iter().flat_map(|cell| {
            let strength = f64::from(cell.strength);
            cell.scores.iter().filter_map(move |scores| Some((strength, scores.expression?)))
        });
        let dose = |&CellResult { strength, raw, expression, coherence, .. }: &CellResult| Dose {
            strength,
            raw,
            expression,
            coherence,
        };
        let greatest_fall = greatest_fall(means.iter().map(|(_, mean)| *mean));
        Ok(DoseResponse {
            model: self.model.clone(),
            vector: self.vector.clone(),
            judge: self.judge.clone(),
            plan: self.plan.clone(),
            layer,
            doses: scored().map(|(cell, _)| dose(cell)).collect(),
            rho: spearman(&means),
            rho_answers: spearman(&answers.collect::<Vec<_>>()),
            monotone: greatest_fall == 0.0,
            greatest_fall,
        })
    }
}

/// How far a series falls below its greatest value so far, at most.
fn greatest_fall(values: impl IntoIterator<Item = f64>) -> f64 {
    let (mut most, mut fall) = (f64::NEG_INFINITY, 0.0f64);
    for value in values {
        most = most.max(value);
        fall = fall.max(most - value);
    }
    fall
}

impl DoseResponse {
    /// As JSON.
    pub fn to_json(&self) -> String {
        pretty_json(self)
    }

    /// A row per strength.
    ///
    /// # Errors
    /// None that memory does not give.
    pub fn to_csv(&self) -> Result<String> {
        let mut csv = CsvTable::default();
        csv.fields(["model", "trait", "vector", "judge", "layer", "strength", "unit", "raw"]);
        csv.fields(Estimate::columns("expression")).fields(Estimate::columns("coherence")).fields(["seed"]).end();
        for dose in &self.doses {
            csv.fields([&self.model.name, &self.plan.trait_name, &self.vector.trait_name, &self.judge]);
            csv.fields([self.layer.index().to_string(), dose.strength.to_string(), self.plan.unit.name().to_owned()]);
            csv.fields([dose.raw]).fields(dose.expression.fields()).fields(dose.coherence.fields());
            csv.fields([self.plan.seed]).end();
        }
        Ok(csv.finish()?)
    }

    /// Writes [`to_json`](Self::to_json) into a file.
    ///
    /// # Errors
    /// [`FileError::Write`](pv_data::FileError::Write).
    pub fn save_json(&self, path: impl AsRef<Path>) -> Result<()> {
        write(path.as_ref(), self.to_json().as_bytes())
    }

    /// Writes [`to_csv`](Self::to_csv) into a file.
    ///
    /// # Errors
    /// [`FileError::Write`](pv_data::FileError::Write).
    pub fn save_csv(&self, path: impl AsRef<Path>) -> Result<()> {
        write(path.as_ref(), self.to_csv()?.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fall_is_measured_from_the_summit() {
        assert_eq!(greatest_fall([1.0, 2.0, 2.0, 5.0]), 0.0);
        assert_eq!(greatest_fall([1.0, 5.0, 4.0, 4.5, 2.0, 6.0]), 3.0);
        assert_eq!(greatest_fall([]), 0.0);
    }
}
