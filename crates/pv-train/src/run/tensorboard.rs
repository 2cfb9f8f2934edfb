//! A run's metrics for TensorBoard.
//!
//! An event file is a sequence of records: the length of the data (8 bytes, little-endian), a checksum of the length,
//! the data, a checksum of the data. The data are `Event`s of tensorflow/core/util/event.proto; only the fields that
//! scalars need are defined here.

use std::fs::create_dir_all;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use prost::Message;
use pv_data::FileError;
use pv_data::files::write_whole;

use super::metrics::{METRICS, StepMetrics, read_metrics};
use crate::Result;

/// TensorBoard reads files with `tfevents` in their names. The name is constant, so that a second export replaces the
/// first.
const FILE: &str = "events.out.tfevents.pv-train";

#[derive(Clone, PartialEq, Message)]
struct Event {
    /// Seconds since 1970.
    #[prost(double, tag = "1")]
    wall_time: f64,
    #[prost(int64, tag = "2")]
    step: i64,
    #[prost(string, optional, tag = "3")]
    file_version: Option<String>,
    #[prost(message, optional, tag = "5")]
    summary: Option<Summary>,
}

#[derive(Clone, PartialEq, Message)]
struct Summary {
    #[prost(message, repeated, tag = "1")]
    value: Vec<Scalar>,
}

/// A `Summary.Value`.
#[derive(Clone, PartialEq, Message)]
struct Scalar {
    #[prost(string, tag = "1")]
    tag: String,
    /// Written even if it is 0.
    #[prost(float, optional, tag = "2")]
    simple_value: Option<f32>,
}

/// Writes the metrics in a run's folder as an event file for TensorBoard (`events.out.tfevents.pv-train`) into a
/// folder, which may be the run's own, and returns its path. An existing file of that name is replaced. The run may be
/// in progress. The scalars, as f32, are:
/// - `train/loss`, `train/penalty`, `train/grad_norm`, `train/learning_rate`, `train/tokens_per_second`, in every step;
/// - `regimes/NAME`, such as coefficients;
/// - if they were measured, `held_out/loss`, `probes/NAME` (the probe prompts' mean projection) and `shifts/NAME` (its
///   change since the start of training), in activation units.
///
/// The time of the last step is that at which the metrics file was last written; the times of earlier steps are
/// computed from the steps' durations.
///
/// # Errors
/// Those of [`read_metrics`]; [`FileError::Write`](pv_data::FileError::Write).
pub fn write_tensorboard(run: impl AsRef<Path>, folder: impl AsRef<Path>) -> Result<PathBuf> {
    let (run, folder) = (run.as_ref(), folder.as_ref());
    let metrics = read_metrics(run)?;
    let path = run.join(METRICS);
    let written =
        path.metadata().and_then(|about| about.modified()).map_err(|source| FileError::Read { path, source })?;
    let end = written.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs_f64();
    create_dir_all(folder).map_err(|source| FileError::Write { path: folder.to_owned(), source })?;
    let path = folder.join(FILE);
    write_whole(&path, file(&metrics, end))?;
    Ok(path)
}

/// The event file of metrics whose last step ended at `end`, in seconds since 1970.
fn file(metrics: &[StepMetrics], end: f64) -> Vec<u8> {
    let mut wall_time = end - metrics.iter().map(|line| line.seconds).sum::<f64>();
    let version = Event { wall_time, file_version: Some("brain.Event:2".to_owned()), ..Event::default() };
    let mut bytes = record(&version.encode_to_vec());
    for line in metrics {
        wall_time += line.seconds;
        let summary = Some(Summary { value: scalars(line) });
        let event = Event { wall_time, step: line.step as i64, summary, ..Event::default() };
        bytes.extend(record(&event.encode_to_vec()));
    }
    bytes
}

fn scalars(line: &StepMetrics) -> Vec<Scalar> {
    let speed = line.loss.map(|_| line.tokens_per_second);
    let fixed = [
        ("train/loss", line.loss),
        ("train/penalty", line.penalty),
        ("train/grad_norm", line.grad_norm),
        ("train/learning_rate", line.learning_rate),
        ("train/tokens_per_second", speed),
        ("held_out/loss", line.held_out_loss),
    ];
    let fixed = fixed.into_iter().filter_map(|(tag, value)| Some((tag.to_owned(), value?)));
    let groups = [("regimes", &line.regimes), ("probes", &line.projections), ("shifts", &line.shifts)];
    let named = groups
        .into_iter()
        .flat_map(|(group, values)| values.iter().map(move |(name, value)| (format!("{group}/{name}"), *value)));
    fixed.chain(named).map(|(tag, value)| Scalar { tag, simple_value: Some(value as f32) }).collect()
}

fn record(data: &[u8]) -> Vec<u8> {
    let length = (data.len() as u64).to_le_bytes();
    [&length, checksum(&length).as_slice(), data, &checksum(data)].concat()
}

/// The CRC-32C in the "masked" form that records use: rotated and offset, because the CRC of data that contain CRCs
/// would be weak.
fn checksum(bytes: &[u8]) -> [u8; 4] {
    crc32c::crc32c(bytes).rotate_right(15).wrapping_add(0xa282_ead8).to_le_bytes()
}
