//! The metrics of a run: a line of JSON for every step.

use std::collections::BTreeMap;
use std::path::Path;

use pv_data::runs::Accepted;
use pv_data::{FileError, Journal, RunError, RunFolder};
use pv_vectors::CsvTable;
use serde::{Deserialize, Serialize};

use crate::{Result, StepReport};

pub(super) const METRICS: &str = "metrics.jsonl";

/// What is known of one step of a run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct StepMetrics {
    /// The step, from 1; 0 is what was measured before training.
    pub step: usize,
    /// How many there will be.
    pub steps: usize,
    /// How often all samples have been used, the present step included.
    pub epoch: f64,
    /// The mean cross-entropy in nats over the step's trained tokens, before the update. Nothing for step 0, as all that
    /// comes of a step's training.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub loss: Option<f64>,
    /// What the regimes' penalties added to it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub penalty: Option<f64>,
    /// The gradient's Euclidean norm, before clipping.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grad_norm: Option<f64>,
    /// The learning rate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub learning_rate: Option<f64>,
    /// Tokens that were read, padding not counted.
    pub tokens: usize,
    /// Those of them that were trained.
    pub trained_tokens: usize,
    /// How long the step took, in seconds, without measurements.
    pub seconds: f64,
    /// Tokens that were read per second.
    pub tokens_per_second: f64,
    /// What the regimes tell, such as coefficients, by name.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub regimes: BTreeMap<String, f64>,
    /// The mean cross-entropy in nats over the held-out samples' trained tokens after the step, without interventions,
    /// where it was measured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub held_out_loss: Option<f64>,
    /// The probe prompts' mean projections after the step, in activation units, by the direction's name, where they were
    /// measured.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub projections: BTreeMap<String, f64>,
    /// Those less what they were before training: the finetuning shift.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub shifts: BTreeMap<String, f64>,
}

impl StepMetrics {
    pub(super) fn of(report: &StepReport, epoch: f64, regimes: Vec<(String, f64)>) -> Self {
        Self {
            step: report.step,
            steps: report.steps,
            epoch,
            loss: Some(report.loss),
            penalty: Some(report.penalty),
            grad_norm: Some(report.grad_norm),
            learning_rate: Some(report.learning_rate),
            tokens: report.tokens,
            trained_tokens: report.trained_tokens,
            seconds: report.seconds,
            tokens_per_second: report.tokens_per_second(),
            regimes: regimes.into_iter().collect(),
            ..Self::default()
        }
    }
}

/// The file, open for the next step's line.
pub(super) struct MetricsFile {
    journal: Journal,
    /// The step that its next line is of.
    pub(super) next: usize,
}

impl MetricsFile {
    /// Opens the file of a run whose first line is of step `first`, cut to the lines up to `done`, the last step that the
    /// run goes on from. A file that begins with step 0 or 1 already does so whatever is measured by now.
    pub(super) fn open(folder: &RunFolder, first: usize, done: usize) -> Result<Self> {
        let mut next = None;
        let journal = Journal::open_json(folder, METRICS, |line: StepMetrics| {
            let due = next.unwrap_or(if line.step <= 1 && done > 0 { line.step } else { first });
            if due > done || line.step != due {
                return Accepted::End;
            }
            next = Some(due + 1);
            Accepted::Kept
        })?;
        let next = next.unwrap_or(first);
        if next <= done && done > 0 {
            let reason = format!("{METRICS} lacks step {next}, but there is a checkpoint of step {done}");
            return Err(RunError::Damaged { path: folder.path().to_owned(), reason }.into());
        }
        Ok(Self { journal, next })
    }

    /// Adds a step's line.
    pub(super) fn append(&mut self, metrics: &StepMetrics) -> Result<()> {
        self.journal.append_json(metrics)?;
        self.next = metrics.step + 1;
        Ok(())
    }

    /// Brings the file to the disk.
    pub(super) fn sync(&self) -> Result<()> {
        Ok(self.journal.sync()?)
    }
}

/// The metrics that a run's folder holds, step by step. A run that is going on may be read; a line that is being written is
/// passed over.
///
/// # Errors
/// [`FileError::Read`](pv_data::FileError::Read); [`RunError::Damaged`](pv_data::RunError::Damaged) for a line that is none.
pub fn read_metrics(folder: impl AsRef<Path>) -> Result<Vec<StepMetrics>> {
    let path = folder.as_ref().join(METRICS);
    let bytes = std::fs::read(&path).map_err(|source| FileError::Read { path: path.clone(), source })?;
    let whole = bytes.iter().rposition(|&byte| byte == b'\n').map_or(0, |at| at + 1);
    let lines = bytes[..whole].split(|&byte| byte == b'\n').filter(|line| !line.is_empty()).enumerate();
    let lines = lines.map(|(number, line)| {
        Ok(serde_json::from_slice(line).map_err(|error| RunError::Damaged {
            path: folder.as_ref().to_owned(),
            reason: format!("{METRICS}:{}: {error}", number + 1),
        })?)
    });
    lines.collect()
}

/// Metrics as a table for plotting: a row per step, and a column for every number that is known of some step. What is not
/// known of a step is empty.
///
/// # Errors
/// None that memory does not give.
pub fn metrics_csv(metrics: &[StepMetrics]) -> Result<String> {
    type Group = fn(&StepMetrics) -> &BTreeMap<String, f64>;
    let groups: [(&str, Group); 3] = [
        ("", |metrics| &metrics.regimes),
        ("projection_", |metrics| &metrics.projections),
        ("shift_", |metrics| &metrics.shifts),
    ];
    let mut columns: Vec<(&str, Group, &String)> = Vec::new();
    for (prefix, group) in groups {
        let names: std::collections::BTreeSet<&String> = metrics.iter().flat_map(|row| group(row).keys()).collect();
        columns.extend(names.into_iter().map(|name| (prefix, group, name)));
    }
    let mut csv = CsvTable::default();
    csv.fields(["step", "epoch", "loss", "penalty", "grad_norm", "learning_rate", "tokens", "trained_tokens"]);
    csv.fields(["seconds", "tokens_per_second", "held_out_loss"]);
    csv.fields(columns.iter().map(|(prefix, _, name)| format!("{prefix}{name}"))).end();
    for row in metrics {
        csv.fields([row.step]).fields([row.epoch]);
        csv.numbers([row.loss, row.penalty, row.grad_norm, row.learning_rate]);
        csv.fields([row.tokens, row.trained_tokens]).fields([row.seconds, row.tokens_per_second]);
        csv.numbers([row.held_out_loss]);
        csv.numbers(columns.iter().map(|(_, group, name)| group(row).get(*name).copied())).end();
    }
    Ok(csv.finish()?)
}
