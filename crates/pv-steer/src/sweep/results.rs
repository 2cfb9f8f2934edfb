//! What a sweep found, with all that is needed to draw it or to repeat it.

use std::path::Path;

use pv_hooks::Layer;
use pv_model::{FinishReason, ModelIdentity};
use pv_vectors::{CsvTable, JudgedAnswer, JudgedAnswers, Provenance, pretty_json};
use serde::{Deserialize, Serialize};

use super::estimate::Estimate;
use super::halving::Standing;
use super::plan::{Place, SweepPlan};
use crate::Result;
use crate::files::write;

/// A round of a sweep. A full grid has one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Round {
    /// How many questions its cells had got at its end.
    pub questions: usize,
    /// How many cells took part.
    pub cells: usize,
}

/// One answer and its scores, 0 to 100; `None` where the judge gave none.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AnswerScores {
    /// The question's index.
    pub question: usize,
    /// The answer's number.
    pub rollout: usize,
    /// The answer's seed.
    pub seed: u64,
    /// The answer.
    pub text: String,
    /// How much it shows the trait.
    pub expression: Option<f64>,
    /// How coherent it is.
    pub coherence: Option<f64>,
}

impl AnswerScores {
    /// Of an answer whose first rubric is the trait's and whose second is that for coherence.
    pub fn of(answer: &JudgedAnswer, question: usize, rollout: usize, seed: u64) -> Self {
        let (expression, coherence) = (answer.score(0), answer.score(1));
        Self { question, rollout, seed, text: answer.text.clone(), expression, coherence }
    }
}

/// One layer and strength.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CellResult {
    /// The layer.
    pub layer: Layer,
    /// The strength, in the plan's unit.
    pub strength: f32,
    /// The factor on the raw vector that it stands for.
    pub raw: f32,
    /// How many answers there are.
    pub answers: usize,
    /// How many of them are without tokens.
    pub empty: usize,
    /// How many were cut at the most tokens.
    pub cut: usize,
    /// The trait's expression.
    pub expression: Estimate,
    /// The coherence.
    pub coherence: Estimate,
    /// The scores of each answer.
    pub scores: Vec<AnswerScores>,
}

impl CellResult {
    /// From the answers at some places of a cell.
    pub(crate) fn new(
        plan: &SweepPlan,
        cell: usize,
        raw: f32,
        places: &[Place],
        answers: &JudgedAnswers<Place>,
    ) -> Self {
        let found = || places.iter().filter_map(|&place| Some((place, answers.get(place)?)));
        let scores =
            found().map(|(place, answer)| AnswerScores::of(answer, place.question, place.rollout, plan.seed(place)));
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

    /// Whether its mean coherence reaches the bar, and at least half of its answers were scored by both rubrics.
    pub fn is_coherent(&self, coherence_min: f64) -> bool {
        let scored = self.expression.is_representative() && self.coherence.is_representative();
        scored && self.coherence.mean.is_some_and(|mean| mean >= coherence_min)
    }
}

/// What a sweep says about one layer.
#[derive(Clone, Debug, PartialEq)]
pub struct LayerResult<'a> {
    /// The layer.
    pub layer: Layer,
    /// The cell with the greatest expression among the coherent ones.
    pub best: Option<&'a CellResult>,
    /// The greatest strength above 0 up to which all are coherent.
    pub strongest: Option<f32>,
    /// The least strength below 0 down to which all are coherent.
    pub strongest_negative: Option<f32>,
}

/// The results of a sweep.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SweepResults {
    /// The model.
    pub model: ModelIdentity,
    /// Where the vector comes from.
    pub vector: Provenance,
    /// Who judged.
    pub judge: String,
    /// What was done: grid, questions, seeds, how answers were generated and judged.
    pub plan: SweepPlan,
    /// Which rounds there were.
    pub rounds: Vec<Round>,
    /// The cells: all strengths of the lowest layer, then those of the next.
    pub cells: Vec<CellResult>,
}

impl SweepResults {
    pub(crate) fn standing(&self, cell: usize) -> Standing {
        let CellResult { expression, coherence, .. } = self.cells[cell];
        Standing { cell, expression, coherence }
    }

    /// The cell with the greatest trait expression among those whose mean coherence reaches the bar (method: paper, appendix
    /// on layer choice); `None` when none does. Where cells have got different numbers of questions, those with the most
    /// are compared first; of equals, the first counts.
    pub fn best(&self) -> Option<&CellResult> {
        self.best_of(&self.cells)
    }

    /// The best cell's layer.
    pub fn best_layer(&self) -> Option<Layer> {
        self.best().map(|cell| cell.layer)
    }

    fn best_of<'a>(&self, cells: &'a [CellResult]) -> Option<&'a CellResult> {
        let mut best: Option<(usize, f64, &CellResult)> = None;
        for cell in cells.iter().filter(|cell| cell.is_coherent(self.plan.coherence_min)) {
            let Some(expression) = cell.expression.mean else { continue };
            if best.is_none_or(|(answers, most, _)| (cell.answers, expression) > (answers, most)) {
                best = Some((cell.answers, expression, cell));
            }
        }
        best.map(|(.., cell)| cell)
    }

    /// The cells of a layer, from the least strength up; none for a layer that the sweep did not steer at.
    pub fn cells_at(&self, layer: Layer) -> &[CellResult] {
        let strengths = self.plan.strengths.len();
        match self.plan.layers.iter().position(|&known| known == layer) {
            Some(index) => self.cells.get(index * strengths..(index + 1) * strengths).unwrap_or_default(),
            None => &[],
        }
    }

    /// Each layer's best cell and strongest coherent steering, from the lowest layer up.
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

    /// How many answers were generated and judged.
    pub fn answers(&self) -> usize {
        self.cells.iter().map(|cell| cell.answers).sum()
    }

    /// The part of a full grid's answers that were generated: 1 for a full grid.
    pub fn cost(&self) -> f64 {
        self.answers() as f64 / self.plan.full_grid() as f64
    }

    /// As JSON.
    pub fn to_json(&self) -> String {
        pretty_json(self)
    }

    /// A row per cell, each with all that is needed to draw it or to repeat it.
    ///
    /// # Errors
    /// None that memory does not give.
    pub fn to_csv(&self) -> Result<String> {
        let mut csv = CsvTable::default();
        csv.fields(["model", "trait", "vector", "judge", "layer", "strength", "unit", "raw", "positions"]);
        csv.fields(["answers", "empty", "cut"])
            .fields(Estimate::columns("expression"))
            .fields(Estimate::columns("coherence"));
        csv.fields(["coherence_min", "coherent", "per_question", "max_new_tokens", "temperature", "top_p"]);
        csv.fields(["clean_cache", "seed"]);
        csv.end();
        let plan = &self.plan;
        for cell in &self.cells {
            csv.fields([&self.model.name, &plan.trait_name, &self.vector.trait_name, &self.judge]);
            csv.fields([cell.layer.index().to_string(), cell.strength.to_string(), plan.unit.name().to_owned()]);
            csv.fields([cell.raw.to_string(), plan.positions.to_string()]);
            csv.fields([cell.answers, cell.empty, cell.cut])
                .fields(cell.expression.fields())
                .fields(cell.coherence.fields());
            csv.fields([plan.coherence_min]).fields([cell.is_coherent(plan.coherence_min)]);
            csv.fields([plan.per_question, plan.max_new_tokens]);
            csv.fields([plan.sampling.temperature, plan.sampling.top_p]);
            csv.fields([plan.clean_cache]).fields([plan.seed]);
            csv.end();
        }
        Ok(csv.finish()?)
    }

    /// Writes [`to_json`](Self::to_json) into a file.
    ///
    /// # Errors
    /// [`FileError::Write`](pv_data::FileError::Write)(crate::Error::Write).
    pub fn save_json(&self, path: impl AsRef<Path>) -> Result<()> {
        write(path.as_ref(), self.to_json().as_bytes())
    }

    /// Writes [`to_csv`](Self::to_csv) into a file.
    ///
    /// # Errors
    /// [`FileError::Write`](pv_data::FileError::Write)(crate::Error::Write).
    pub fn save_csv(&self, path: impl AsRef<Path>) -> Result<()> {
        write(path.as_ref(), self.to_csv()?.as_bytes())
    }
}
