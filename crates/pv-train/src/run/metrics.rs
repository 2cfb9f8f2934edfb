//! The metrics of a run: a line of JSON for every step.

use std::collections::BTreeMap;
use std::path::Path;

use pv_data::runs::Accepted;
use pv_data::tables::CsvTable;
use pv_data::{Damage, FileError, Journal, RunError, RunFolder};
use serde::{Deserialize, Serialize};

use crate::Result;
use crate::trainer::StepReport;

pub(super) const METRICS: &str = "metrics.jsonl";

/// The metrics of one step of a run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct StepMetrics {
    /// The step, from 1; 0 is the measurement before training.
    pub step: usize,
    /// The number of steps of the run.
    pub steps: usize,
    /// The number of epochs that are done, including the current step; it may be a fraction.
    pub epoch: f64,
    /// The mean cross-entropy in nats over the step's trained tokens, before the update. This and the other results of
    /// training are missing in step 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub loss: Option<f64>,
    /// The mean penalty of the regimes, which is added to the loss.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub penalty: Option<f64>,
    /// The gradient's Euclidean norm, before clipping.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grad_norm: Option<f64>,
    /// The learning rate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub learning_rate: Option<f64>,
    /// The number of tokens that were read, without padding.
    pub tokens: usize,
    /// The number of trained tokens.
    pub trained_tokens: usize,
    /// The duration of the step in seconds, without measurements.
    pub seconds: f64,
    /// The number of tokens per second.
    pub tokens_per_second: f64,
    /// Numbers of the regimes, such as coefficients, by name.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub regimes: BTreeMap<String, f64>,
    /// The mean cross-entropy in nats over the held-out samples' trained tokens after the step, without interventions,
    /// if it was measured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub held_out_loss: Option<f64>,
    /// The probe prompts' mean projections after the step, in activation units, by the direction's name, if they were
    /// measured.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub projections: BTreeMap<String, f64>,
    /// The change of each projection since the start of training, in activation units: the finetuning shift.
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

/// The metrics file, open for appending.
pub(super) struct MetricsFile {
    journal: Journal,
    /// The step of its next line.
    pub(super) next: usize,
}

impl MetricsFile {
    /// Opens the file of a run whose first line is that of step `first`, and truncates it after the line of step
    /// `done`, from which the run resumes. A file that begins with step 0 or 1 keeps its first line, whatever is
    /// measured now.
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
            // There is a checkpoint of a later step.
            let source = Damage::Missing { what: format!("the line of step {next}") };
            return Err(RunError::Damaged { path: folder.file(METRICS), source }.into());
        }
        Ok(Self { journal, next })
    }

    /// Appends a step's line.
    pub(super) fn append(&mut self, metrics: &StepMetrics) -> Result<()> {
        self.journal.append_json(metrics)?;
        self.next = metrics.step + 1;
        Ok(())
    }

    /// Writes the file to the disk.
    pub(super) fn sync(&self) -> Result<()> {
        Ok(self.journal.sync()?)
    }
}

/// Reads the metrics in a run's folder, one per step. The run may be in progress; an incomplete last line is ignored.
///
/// # Errors
/// [`FileError::Read`](pv_data::FileError::Read); [`RunError::Damaged`](pv_data::RunError::Damaged) for an invalid
/// line.
pub fn read_metrics(folder: impl AsRef<Path>) -> Result<Vec<StepMetrics>> {
    let path = folder.as_ref().join(METRICS);
    let bytes = std::fs::read(&path).map_err(|source| FileError::Read { path: path.clone(), source })?;
    let whole = bytes.iter().rposition(|&byte| byte == b'\n').map_or(0, |at| at + 1);
    let lines = bytes[..whole].split(|&byte| byte == b'\n').filter(|line| !line.is_empty()).enumerate();
    let lines = lines.map(|(number, line)| {
        let damaged =
            |source| RunError::Damaged { path: path.clone(), source: Damage::Line { line: number + 1, source } };
        Ok(serde_json::from_slice(line).map_err(damaged)?)
    });
    lines.collect()
}

/// Metrics as a table for plotting: a row per step, and a column for every number that any step has. Missing values are
/// empty.
///
/// # Errors
/// None, except if memory runs out.
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
