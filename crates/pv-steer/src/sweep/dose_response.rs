//! The dose–response of a trait: its expression by the strength of steering at one layer.

use std::collections::BTreeMap;
use std::path::Path;

use pv_data::tables::{CsvTable, pretty_json};
use pv_hooks::Layer;
use pv_model::ModelIdentity;
use pv_statistics::Interval;
use pv_statistics::correlation::{Clusters, spearman};
use pv_statistics::moments::mean;
use pv_vectors::vector::Provenance;
use serde::{Deserialize, Serialize};

use super::estimate::Estimate;
use super::plan::SweepPlan;
use super::results::{CellResult, SweepResults};
use crate::Result;
use crate::error::SweepError;
use crate::files::write;

/// One strength.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Dose {
    /// The strength, in the plan's unit.
    pub strength: f32,
    /// The corresponding factor on the raw vector.
    pub raw: f32,
    /// The trait expression.
    pub expression: Estimate,
    /// The coherence.
    pub coherence: Estimate,
}

/// The trait expression by strength at one layer, and whether it rises with the strength.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct DoseResponse {
    /// The model.
    pub model: ModelIdentity,
    /// The provenance of the vector.
    pub vector: Provenance,
    /// The judge's name.
    pub judge: String,
    /// The plan of the sweep, for all of its layers.
    pub plan: SweepPlan,
    /// The layer.
    pub layer: Layer,
    /// In ascending order of strength; strengths without a score are skipped.
    pub doses: Vec<Dose>,
    /// Spearman's ρ between strength and mean expression, over the strengths; `None` with fewer than three, or if the
    /// expression is constant.
    pub rho: Option<f64>,
    /// Its 95 % interval, with questions resampled; `None` also in files of earlier versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rho_interval: Option<Interval>,
    /// The same over single answers. Their variation makes it always closer to 0.
    pub rho_answers: Option<f64>,
    /// Its 95 % interval, with questions resampled, each with all of its answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rho_answers_interval: Option<Interval>,
    /// Whether no mean expression is below that of a smaller strength.
    pub monotone: bool,
    /// The largest drop of the mean expression below that of a smaller strength, in points; 0 if it is monotone.
    pub greatest_fall: f64,
}

impl SweepResults {
    /// The dose–response at a layer of the sweep.
    ///
    /// # Errors
    /// [`SweepError::NotInSweep`].
    pub fn dose_response(&self, layer: Layer) -> Result<DoseResponse> {
        let cells = self.cells_at(layer);
        if cells.is_empty() {
            return Err(SweepError::NotInSweep { layer }.into());
        }
        let scored = || cells.iter().filter_map(|cell| Some((cell, cell.expression.mean?)));
        let means: Vec<(f64, f64)> = scored().map(|(cell, mean)| (f64::from(cell.strength), mean)).collect();
        let (mut answers, mut questions) = (Vec::new(), Vec::new());
        for cell in cells {
            for scores in &cell.scores {
                let Some(expression) = scores.expression else { continue };
                answers.push((f64::from(cell.strength), expression));
                questions.push(scores.question);
            }
        }
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
            rho_interval: of_means(&answers, &questions),
            rho_answers: spearman(&answers),
            rho_answers_interval: Clusters::new(&questions)
                .interval(|rows| spearman(&rows.iter().map(|row| answers[*row]).collect::<Vec<_>>())),
            monotone: greatest_fall == 0.0,
            greatest_fall,
        })
    }
}

/// The interval of the correlation between strength and mean expression, which is a mean of the questions' means as in
/// [`Estimate`].
fn of_means(answers: &[(f64, f64)], questions: &[usize]) -> Option<Interval> {
    // Each question's mean at each strength, which is identified by its bits.
    let mut cells: BTreeMap<(u64, usize), Vec<f64>> = BTreeMap::new();
    for ((strength, expression), question) in answers.iter().zip(questions) {
        cells.entry((strength.to_bits(), *question)).or_default().push(*expression);
    }
    let means: Vec<(u64, usize, f64)> =
        cells.iter().filter_map(|(&(strength, question), scores)| Some((strength, question, mean(scores)?))).collect();
    let questions: Vec<usize> = means.iter().map(|(_, question, _)| *question).collect();
    Clusters::new(&questions).interval(|rows| {
        let mut doses: BTreeMap<u64, (f64, f64)> = BTreeMap::new();
        for &row in rows {
            let (strength, _, score) = means[row];
            let (sum, n) = doses.entry(strength).or_default();
            (*sum, *n) = (*sum + score, *n + 1.0);
        }
        spearman(&doses.iter().map(|(bits, (sum, n))| (f64::from_bits(*bits), sum / n)).collect::<Vec<_>>())
    })
}

/// The largest drop of a series below its maximum so far.
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

    /// CSV with a row per strength.
    ///
    /// # Errors
    /// Only a lack of memory.
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

    /// Saves [`to_json`](Self::to_json) to a file.
    ///
    /// # Errors
    /// [`FileError::Write`](pv_data::FileError::Write).
    pub fn save_json(&self, path: impl AsRef<Path>) -> Result<()> {
        write(path.as_ref(), self.to_json().as_bytes())
    }

    /// Saves [`to_csv`](Self::to_csv) to a file.
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
