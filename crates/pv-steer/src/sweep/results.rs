//! The results of a sweep, with everything that is needed to draw or repeat it.

use std::path::Path;

use pv_data::tables::{CsvTable, pretty_json};
use pv_hooks::Layer;
use pv_model::ModelIdentity;
use pv_model::generate::FinishReason;
use pv_vectors::PersonaVector;
use pv_vectors::judged_answers::{JudgedAnswer, JudgedAnswers};
use pv_vectors::vector::Provenance;
use serde::{Deserialize, Serialize};

use super::estimate::Estimate;
use super::halving::Standing;
use super::plan::{Place, StrengthUnit, SweepPlan};
use crate::Result;
use crate::error::SweepError;
use crate::files::write;

/// A round of a sweep. A full grid has one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Round {
    /// The number of questions of each cell at its end.
    pub questions: usize,
    /// The number of cells that took part.
    pub cells: usize,
}

/// One answer and its scores, 0 to 100; `None` if the judge gave no score.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct AnswerScores {
    /// The question's index.
    pub question: usize,
    /// The number of the answer.
    pub rollout: usize,
    /// The answer's seed.
    pub seed: u64,
    /// The answer.
    pub text: String,
    /// The trait score.
    pub expression: Option<f64>,
    /// The coherence score.
    pub coherence: Option<f64>,
}

impl AnswerScores {
    /// From an answer; `rubrics` are the indices of the trait's rubric and of that of coherence.
    pub fn of(answer: &JudgedAnswer, rubrics: [usize; 2], question: usize, rollout: usize, seed: u64) -> Self {
        let [expression, coherence] = rubrics.map(|rubric| answer.score(rubric));
        Self { question, rollout, seed, text: answer.text.clone(), expression, coherence }
    }
}

/// One layer and strength.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct CellResult {
    /// The layer.
    pub layer: Layer,
    /// The strength, in the plan's unit.
    pub strength: f32,
    /// The corresponding factor on the raw vector.
    pub raw: f32,
    /// The number of answers.
    pub answers: usize,
    /// The number of empty answers.
    pub empty: usize,
    /// The number of answers that reached the token limit.
    pub cut: usize,
    /// The trait expression.
    pub expression: Estimate,
    /// The coherence.
    pub coherence: Estimate,
    /// The scores of each answer.
    pub scores: Vec<AnswerScores>,
}

impl CellResult {
    /// A cell's result, from its answers at some places.
    pub(crate) fn new(
        plan: &SweepPlan,
        cell: usize,
        raw: f32,
        places: &[Place],
        answers: &JudgedAnswers<Place>,
    ) -> Self {
        let found = || places.iter().filter_map(|&place| Some((place, answers.get(place)?)));
        let scores = found()
            .map(|(place, answer)| AnswerScores::of(answer, [0, 1], place.question, place.rollout, plan.seed(place)));
        let scores: Vec<AnswerScores> = scores.collect();
        Self {
            layer: plan.layers[plan.layer_index(cell)],
            strength: plan.strength(cell),
            raw,
            answers: scores.len(),
            empty: found().filter(|(_, answer)| answer.tokens == 0).count(),
            cut: found().filter(|(_, answer)| answer.finish == FinishReason::Length).count(),
            expression: Estimate::of(scores.iter().map(|scores| (scores.question, scores.expression))),
            coherence: Estimate::of(scores.iter().map(|scores| (scores.question, scores.coherence))),
            scores,
        }
    }

    /// Whether the mean coherence reaches the threshold, and at least half of the answers were scored by both rubrics.
    pub fn is_coherent(&self, coherence_min: f64) -> bool {
        let scored = self.expression.is_representative() && self.coherence.is_representative();
        scored && self.coherence.mean.is_some_and(|mean| mean >= coherence_min)
    }
}

/// The result for one layer.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct LayerResult<'a> {
    /// The layer.
    pub layer: Layer,
    /// The coherent cell with the largest expression.
    pub best: Option<&'a CellResult>,
    /// The largest strength above 0 up to which all cells are coherent.
    pub strongest: Option<f32>,
    /// The smallest strength below 0 down to which all cells are coherent.
    pub strongest_negative: Option<f32>,
}

/// The results of a sweep.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct SweepResults {
    /// The model.
    pub model: ModelIdentity,
    /// The provenance of the vector.
    pub vector: Provenance,
    /// The judge's name.
    pub judge: String,
    /// The plan: grid, questions, seeds, options of generation and judging.
    pub plan: SweepPlan,
    /// The rounds.
    pub rounds: Vec<Round>,
    /// The cells: all strengths of the lowest layer, then those of the next.
    pub cells: Vec<CellResult>,
    /// The best cell on the held-out questions, which had no part in the choice: its unbiased result. `None` without a
    /// best cell or held-out questions, and in files of earlier versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub report: Option<CellResult>,
}

impl SweepResults {
    pub(crate) fn standing(&self, cell: usize) -> Standing {
        let CellResult { expression, coherence, .. } = self.cells[cell];
        Standing { cell, expression, coherence }
    }

    /// The cell with the largest trait expression among those whose mean coherence reaches the threshold (method:
    /// paper, appendix on layer choice); `None` if there is none. If cells have different numbers of questions, those
    /// with the most are compared first; of equal cells, the first counts.
    pub fn best(&self) -> Option<&CellResult> {
        self.best_of(&self.cells)
    }

    /// The layer of the best cell.
    pub fn best_layer(&self) -> Option<Layer> {
        self.best().map(|cell| cell.layer)
    }

    /// The best cell at one strength of the plan: the choice of layer at that strength.
    pub fn best_at(&self, strength: f32) -> Option<&CellResult> {
        self.best_of(self.cells.iter().filter(|cell| cell.strength == strength))
    }

    /// The swept vector with its best layer set.
    ///
    /// # Errors
    /// [`SweepError::OtherVector`] for another vector than the swept one, [`SweepError::NotRelative`] for strengths that were not
    /// the same relative strength at each layer, [`SweepError::NothingCoherent`] if there is no best layer.
    pub fn with_best_layer(&self, vector: &PersonaVector) -> Result<PersonaVector> {
        let swept = Provenance { best_layer: None, ..self.vector.clone() };
        if swept != (Provenance { best_layer: None, ..vector.provenance().clone() }) {
            return Err(SweepError::OtherVector { trait_name: vector.provenance().trait_name.clone() }.into());
        }
        if self.plan.unit != StrengthUnit::ResidualNorms {
            return Err(SweepError::NotRelative { unit: self.plan.unit.name() }.into());
        }
        let layer = self.best_layer().ok_or(SweepError::NothingCoherent { coherence_min: self.plan.coherence_min })?;
        Ok(vector.clone().with_best_layer(layer)?)
    }

    pub(crate) fn best_index(&self) -> Option<usize> {
        let best = self.best()?;
        self.cells.iter().position(|cell| cell.layer == best.layer && cell.strength == best.strength)
    }

    fn best_of<'a>(&self, cells: impl IntoIterator<Item = &'a CellResult>) -> Option<&'a CellResult> {
        let mut best: Option<(usize, f64, &CellResult)> = None;
        for cell in cells.into_iter().filter(|cell| cell.is_coherent(self.plan.coherence_min)) {
            let Some(expression) = cell.expression.mean else { continue };
            if best.is_none_or(|(answers, most, _)| (cell.answers, expression) > (answers, most)) {
                best = Some((cell.answers, expression, cell));
            }
        }
        best.map(|(.., cell)| cell)
    }

    /// The cells of a layer, in ascending order of strength; empty for a layer that is not in the sweep.
    pub fn cells_at(&self, layer: Layer) -> &[CellResult] {
        let strengths = self.plan.strengths.len();
        match self.plan.layers.iter().position(|&known| known == layer) {
            Some(index) => self.cells.get(index * strengths..(index + 1) * strengths).unwrap_or_default(),
            None => &[],
        }
    }

    /// The best cell and the strongest coherent steering of each layer, from the lowest layer up.
    pub fn layers(&self) -> Vec<LayerResult<'_>> {
        let coherent = |cell: &&CellResult| cell.is_coherent(self.plan.coherence_min);
        let layer = |&layer: &Layer| {
            let cells = self.cells_at(layer);
            let up = cells.iter().filter(|cell| cell.strength > 0.0).take_while(coherent).last();
            let down = cells.iter().rev().filter(|cell| cell.strength < 0.0).take_while(coherent).last();
            LayerResult {
                layer,
                best: self.best_of(cells),
                strongest: up.map(|cell| cell.strength),
                strongest_negative: down.map(|cell| cell.strength),
            }
        };
        self.plan.layers.iter().map(layer).collect()
    }

    /// The number of answers that were generated and judged for the choice.
    pub fn answers(&self) -> usize {
        self.cells.iter().map(|cell| cell.answers).sum()
    }

    /// The fraction of a full grid's answers that were generated: 1 for a full grid.
    pub fn cost(&self) -> f64 {
        self.answers() as f64 / self.plan.full_grid() as f64
    }

    /// As JSON.
    pub fn to_json(&self) -> String {
        pretty_json(self)
    }

    /// CSV with a row per cell, with everything that is needed to draw or repeat it; then the row of the chosen cell on
    /// the held-out questions.
    ///
    /// # Errors
    /// Only a lack of memory.
    pub fn to_csv(&self) -> Result<String> {
        let mut csv = CsvTable::default();
        csv.fields(["model", "trait", "vector", "judge", "layer", "strength", "unit", "raw", "positions"]);
        csv.fields(["answers", "empty", "cut"])
            .fields(Estimate::columns("expression"))
            .fields(Estimate::columns("coherence"));
        csv.fields(["coherence_min", "coherent", "per_question", "max_new_tokens", "temperature", "top_p"]);
        csv.fields(["clean_cache", "seed", "part"]);
        csv.end();
        let plan = &self.plan;
        let choice = self.cells.iter().map(|cell| (cell, "choice"));
        for (cell, part) in choice.chain(self.report.iter().map(|cell| (cell, "report"))) {
            csv.fields([&self.model.name, &plan.trait_name, &self.vector.trait_name, &self.judge]);
            csv.fields([cell.layer.index().to_string(), cell.strength.to_string(), plan.unit.name().to_owned()]);
            csv.fields([cell.raw.to_string(), plan.positions.to_string()]);
            csv.fields([cell.answers, cell.empty, cell.cut])
                .fields(cell.expression.fields())
                .fields(cell.coherence.fields());
            csv.fields([plan.coherence_min]).fields([cell.is_coherent(plan.coherence_min)]);
            csv.fields([plan.per_question, plan.max_new_tokens]);
            csv.fields([plan.sampling.temperature, plan.sampling.top_p]);
            csv.fields([plan.clean_cache]).fields([plan.seed]).fields([part]);
            csv.end();
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
