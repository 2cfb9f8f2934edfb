//! The metrics of a run: a line of JSON for every step.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::path::Path;

use pv_vectors::{CsvTable, RunFolder};
use serde::{Deserialize, Serialize};

use crate::{Error, Result, StepReport};

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
pub(super) struct MetricsFile<'a> {
    folder: &'a RunFolder,
    file: File,
    /// Bytes of the file.
    length: u64,
    /// The step that its next line is of.
    pub(super) next: usize,
}

impl<'a> MetricsFile<'a> {
    /// Opens the file of a run whose first line is of step `first`, cut to the lines up to `done`, the last step that the
    /// run goes on from. A file that begins with step 0 or 1 already does so whatever is measured by now.
    pub(super) fn open(folder: &'a RunFolder, first: usize, done: usize) -> Result<Self> {
        let bytes = folder.read(METRICS)?.unwrap_or_default();
        // What follows the last end is the beginning of a line that was never finished.
        let whole = bytes.iter().rposition(|&byte| byte == b'\n').map_or(0, |at| at + 1);
        let lines = || bytes[..whole].split_inclusive(|&byte| byte == b'\n');
        let step = |line: &[u8]| serde_json::from_slice::<StepMetrics>(line).ok().map(|line| line.step);
        let begun = lines().next().and_then(step).filter(|step| *step <= 1 && done > 0);
        let (mut next, mut length) = (begun.unwrap_or(first), 0);
        for line in lines() {
            if next > done || step(line) != Some(next) {
                break;
            }
            next += 1;
            length += line.len() as u64;
        }
        if next <= done && done > 0 {
            let reason = format!("{METRICS} lacks step {next}, but there is a checkpoint of step {done}");
            return Err(Error::DamagedRun { path: folder.path().to_owned(), reason });
        }
        Ok(Self { folder, file: folder.append(METRICS, length)?, length, next })
    }

    /// Adds a step's line.
    pub(super) fn append(&mut self, metrics: &StepMetrics) -> Result<()> {
        let failed = |source| Error::Write { path: self.folder.file(METRICS), source };
        let mut line = serde_json::to_vec(metrics).map_err(|error| failed(error.into()))?;
        line.push(b'\n');
        if let Err(error) = self.file.write_all(&line) {
            // A full disk may have taken a part, after which nothing must follow.
            let _ = self.file.set_len(self.length);
            return Err(failed(error));
        }
        self.length += line.len() as u64;
        self.next = metrics.step + 1;
        Ok(())
    }

    /// Brings the file to the disk.
    pub(super) fn sync(&self) -> Result<()> {
        self.file.sync_data().map_err(|source| Error::Write { path: self.folder.file(METRICS), source })
    }
}

/// The metrics that a run's folder holds, step by step. A run that is going on may be read; a line that is being written is
/// passed over.
///
/// # Errors
/// [`Error::Read`]; [`Error::DamagedRun`] for a line that is none.
pub fn read_metrics(folder: impl AsRef<Path>) -> Result<Vec<StepMetrics>> {
    let path = folder.as_ref().join(METRICS);
    let bytes = std::fs::read(&path).map_err(|source| Error::Read { path: path.clone(), source })?;
    let whole = bytes.iter().rposition(|&byte| byte == b'\n').map_or(0, |at| at + 1);
    let lines = bytes[..whole].split(|&byte| byte == b'\n').filter(|line| !line.is_empty()).enumerate();
    let lines = lines.map(|(number, line)| {
        serde_json::from_slice(line).map_err(|error| Error::DamagedRun {
            path: folder.as_ref().to_owned(),
            reason: format!("{METRICS}:{}: {error}", number + 1),
        })
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
