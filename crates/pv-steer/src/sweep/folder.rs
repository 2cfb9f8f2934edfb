//! What determines the answers in a sweep's folder, and the folders of earlier versions.

use pv_data::runs::through_text;
use pv_data::{RunError, RunFolder};
use pv_model::ModelIdentity;
use pv_vectors::Direction;
use pv_vectors::judged_answers::{JudgedAnswers, VerdictSource};
use pv_vectors::vector::Provenance;
use serde::Deserialize;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::plan::{Place, SweepPlan};
use crate::Result;

const FORMAT: &str = "pv-sweep/2";
/// The format in which a folder belonged to one grid and one judge.
const EARLIER: &str = "pv-sweep/1";
const RUN: &str = "run.json";
/// Settings that older versions did not write.
const LATER: [&str; 1] = ["/model/weights"];
/// Lists that may grow.
const LISTS: [&str; 1] = ["/plan/questions"];
/// The parts of a plan on which no answer depends. They may differ between the runs in a folder.
const VIEWS: [&str; 7] = ["layers", "strengths", "search", "reported", "per_question", "rubrics", "coherence_min"];

/// What determines the answers of a sweep.
pub(super) struct Identity<'a> {
    pub(super) model: &'a ModelIdentity,
    pub(super) vector: &'a Provenance,
    /// One for each layer at which the vector has one.
    pub(super) directions: &'a [Direction],
    pub(super) plan: &'a SweepPlan,
}

/// A place of an earlier version, in which cells had the indices of the folder's grid.
#[derive(Debug, Deserialize)]
struct EarlierPlace {
    cell: usize,
    question: usize,
    rollout: usize,
}

impl Identity<'_> {
    /// Writes the description into a new folder, extends that of a folder with fewer questions, or refuses a folder
    /// with other answers. A folder of an earlier version is converted; a process that is killed meanwhile leaves a
    /// folder that can be converted.
    pub(super) fn claim(&self, folder: &RunFolder) -> Result<()> {
        match folder.read_json(RUN)? {
            Some(saved) if saved["format"] == EARLIER => self.convert(folder, saved),
            _ => Ok(folder.claim_growing(RUN, &self.json(), &LATER, &LISTS)?),
        }
    }

    fn convert(&self, folder: &RunFolder, mut saved: Value) -> Result<()> {
        let damaged = |source| RunError::Json { path: folder.file(RUN), source };
        let plan: SweepPlan = serde_json::from_value(saved["plan"].clone()).map_err(damaged)?;
        let judge = saved["judge"].as_str().unwrap_or_default().to_owned();
        saved["format"] = FORMAT.into();
        if let Some(saved) = saved.as_object_mut() {
            saved.shift_remove("judge");
        }
        without_views(&mut saved["plan"]);
        // The hash was that of the directions at the plan's layers.
        let swept = self.directions.iter().filter(|direction| plan.layers.contains(&direction.layer));
        if saved["vector"]["sha256"] == hash(swept) {
            saved["vector"]["sha256"] = hash(self.directions).into();
        }
        let merged = folder.merged(saved, &self.json(), &LATER, &LISTS)?;
        let place = |EarlierPlace { cell, question, rollout }| {
            (cell < plan.cells()).then(|| plan.place(cell, question, rollout))
        };
        let sources = plan.rubrics.each_ref().map(|rubric| VerdictSource::new(&judge, rubric));
        JudgedAnswers::<Place>::convert(folder, place, &sources)?;
        Ok(folder.write(RUN, |file| Ok(serde_json::to_writer_pretty(file, &merged)?))?)
    }

    /// The batch size is not part of it.
    fn json(&self) -> Value {
        let mut plan = through_text(self.plan);
        without_views(&mut plan);
        json!({
            "format": FORMAT,
            "model": through_text(self.model),
            "plan": plan,
            "vector": { "provenance": through_text(self.vector), "sha256": hash(self.directions) },
        })
    }
}

fn without_views(plan: &mut Value) {
    if let Some(plan) = plan.as_object_mut() {
        VIEWS.iter().for_each(|name| _ = plan.shift_remove(*name));
    }
}

fn hash<'d>(directions: impl IntoIterator<Item = &'d Direction>) -> String {
    let mut hash = Sha256::new();
    for direction in directions {
        hash.update(direction.layer.index().to_le_bytes());
        let norm = direction.mean_residual_norm.unwrap_or(-1.0);
        direction.values.iter().chain([&norm]).for_each(|value| hash.update(value.to_le_bytes()));
    }
    hex::encode(hash.finalize())
}
