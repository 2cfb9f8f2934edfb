//! How well projections predict a judge's scores.

use std::collections::BTreeMap;
use std::path::Path;

use pv_data::FileError;
use pv_hooks::Layer;
use pv_statistics::correlation::{Clusters, pearson, pearson_within, spearman};
use pv_statistics::{Correlation, Interval};
use serde::{Deserialize, Serialize};

use super::file;
use crate::error::MonitorError;
use crate::{Error, Result};

/// One prompt on one direction: a point of the plot.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MonitoringPoint {
    /// The prompt's name.
    pub prompt: String,
    /// The condition of the prompt: the level of its system prompt, or its number of shots.
    pub condition: String,
    /// The trait's name.
    #[serde(rename = "trait")]
    pub trait_name: String,
    /// The layer.
    pub layer: Layer,
    /// The projection of the prompt's last token, in activation units.
    pub projection: f64,
    /// The mean score of the answers, 0 to 100; `None` if the judge scored none.
    pub expression: Option<f64>,
    /// The number of scored answers.
    pub n: usize,
}

/// A Pearson correlation and its 95 % confidence interval. Prompts are resampled: points of one prompt stay together
/// ([`Clusters::interval`]).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct CorrelationEstimate {
    /// r, from −1 to 1.
    pub r: f64,
    /// The lower end of the interval.
    pub low: f64,
    /// The upper end of the interval.
    pub high: f64,
    /// The number of prompts.
    pub n: usize,
}

impl CorrelationEstimate {
    /// The interval.
    pub fn interval(&self) -> Interval {
        Interval { low: self.low, high: self.high }
    }
}

/// The correlations between projection and expression on one direction.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct MonitoringCorrelation {
    /// The trait's name.
    #[serde(rename = "trait")]
    pub trait_name: String,
    /// The layer.
    pub layer: Layer,
    /// Over all prompts; `None` if one variable is constant or there are fewer than three points.
    pub overall: Option<CorrelationEstimate>,
    /// Spearman's ρ over all prompts.
    pub spearman: Option<f64>,
    /// Its 95 % interval, with prompts resampled; `None` also in files of earlier versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spearman_interval: Option<Interval>,
    /// The correlation of projection and expression, each relative to its mean in the condition: whether projections
    /// distinguish prompts of the same condition. Prompts are resampled within their conditions, each of which costs
    /// the interval one degree of freedom.
    pub within: Option<CorrelationEstimate>,
    /// Within each condition separately.
    pub by_condition: BTreeMap<String, Option<CorrelationEstimate>>,
}

/// The correlations of each trait and layer, in the order of first occurrence. Points without expression are skipped.
///
/// For the intervals, prompts are resampled, identified by their names. Several points of one prompt, such as one for
/// each answer, do not make an interval narrower than the number of prompts allows.
pub fn correlations(points: &[MonitoringPoint]) -> Vec<MonitoringCorrelation> {
    let mut groups: Vec<(&str, Layer, Vec<&MonitoringPoint>)> = Vec::new();
    for point in points {
        let same = |group: &&mut (&str, Layer, _)| group.0 == point.trait_name && group.1 == point.layer;
        match groups.iter_mut().find(same) {
            Some(group) => group.2.push(point),
            None => groups.push((&point.trait_name, point.layer, vec![point])),
        }
    }
    groups
        .into_iter()
        .map(|(trait_name, layer, points)| {
            let mut conditions: BTreeMap<String, Points<'_>> =
                points.iter().map(|point| (point.condition.clone(), Points::default())).collect();
            let mut all = Points::default();
            for point in points {
                all.extend(point);
                conditions.entry(point.condition.clone()).or_default().extend(point);
            }
            MonitoringCorrelation {
                trait_name: trait_name.to_owned(),
                layer,
                overall: all.pearson(),
                spearman: spearman(&all.pairs),
                spearman_interval: all.clusters().interval(|rows| spearman(&all.drawn(rows))),
                within: all.within(),
                by_condition: conditions.into_iter().map(|(name, points)| (name, points.pearson())).collect(),
            }
        })
        .collect()
}

/// Points with an expression.
#[derive(Default)]
struct Points<'a> {
    /// Projection and expression.
    pairs: Vec<(f64, f64)>,
    prompts: Vec<&'a str>,
    conditions: Vec<&'a str>,
}

impl<'a> Points<'a> {
    fn extend(&mut self, point: &'a MonitoringPoint) {
        let Some(expression) = point.expression else { return };
        self.pairs.push((point.projection, expression));
        self.prompts.push(&point.prompt);
        self.conditions.push(&point.condition);
    }

    fn clusters(&self) -> Clusters {
        Clusters::new(&self.prompts)
    }

    fn drawn(&self, rows: &[usize]) -> Vec<(f64, f64)> {
        rows.iter().map(|row| self.pairs[*row]).collect()
    }

    fn pearson(&self) -> Option<CorrelationEstimate> {
        estimate(&self.clusters(), pearson(&self.pairs)?, |rows| pearson(&self.drawn(rows)))
    }

    /// The correlation of the deviations from the conditions' means.
    fn within(&self) -> Option<CorrelationEstimate> {
        // A condition with one point contributes nothing within conditions.
        let alone = |row: &usize| self.conditions.iter().filter(|other| **other == self.conditions[*row]).count() < 2;
        let used: Vec<usize> = (0..self.pairs.len()).filter(|row| !alone(row)).collect();
        let [prompts, conditions] =
            [&self.prompts, &self.conditions].map(|names| used.iter().map(|row| names[*row]).collect::<Vec<_>>());
        let within = |rows: &[usize]| {
            pearson_within(rows.iter().map(|row| used[*row]).map(|row| (self.conditions[row], self.pairs[row])))
        };
        let found = within(&(0..used.len()).collect::<Vec<_>>())?;
        estimate(&Clusters::within(&prompts, &conditions), found, within)
    }
}

fn estimate(
    clusters: &Clusters,
    found: Correlation,
    of_rows: impl Fn(&[usize]) -> Option<Correlation> + Sync,
) -> Option<CorrelationEstimate> {
    let Interval { low, high } = clusters.interval(|rows| of_rows(rows).map(|found| found.r))?;
    Some(CorrelationEstimate { r: found.r, low, high, n: clusters.len() })
}

/// Points as CSV. The columns are the fields of [`MonitoringPoint`].
pub(super) fn table(points: &[MonitoringPoint]) -> Result<Vec<u8>> {
    let failed = |source: csv::Error| Error::from(MonitorError::Table { source: Box::new(source) });
    let mut writer = csv::Writer::from_writer(Vec::new());
    for point in points {
        writer.serialize(point).map_err(failed)?;
    }
    writer.into_inner().map_err(|error| failed(error.into_error().into()))
}

/// Writes points as CSV, atomically. The columns are the fields of [`MonitoringPoint`].
///
/// # Errors
/// [`FileError::Write`](pv_data::FileError::Write).
pub fn write_points(path: impl AsRef<Path>, points: &[MonitoringPoint]) -> Result<()> {
    crate::files::write(path.as_ref(), &table(points)?)
}

/// Reads points that [`write_points`] wrote.
///
/// # Errors
/// [`FileError::Read`](pv_data::FileError::Read) or [`Error::BadFile`].
pub fn read_points(path: impl AsRef<Path>) -> Result<Vec<MonitoringPoint>> {
    let path = path.as_ref();
    let bytes = pv_data::files::read_file(path).map_err(|source| FileError::Read { path: path.to_owned(), source })?;
    let mut reader = csv::Reader::from_reader(bytes.as_slice());
    reader.deserialize().map(|point| point.map_err(|error| file::bad(path, "a table of points", error))).collect()
}
