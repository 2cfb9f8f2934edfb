//! How well projections foretell what a judge sees.

use std::collections::BTreeMap;
use std::path::Path;

use pv_data::FileError;
use pv_hooks::Layer;
use pv_judge::{Correlation, pearson, spearman};
use serde::{Deserialize, Serialize};

use super::{Error, Result, file};

/// The confidence of the intervals.
const LEVEL: f64 = 0.95;

/// One prompt on one direction: a dot of the plot.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MonitoringPoint {
    /// The prompt's name.
    pub prompt: String,
    /// What the prompt was made to do: the level of its system prompt, the number of its shots.
    pub condition: String,
    /// The trait's name.
    #[serde(rename = "trait")]
    pub trait_name: String,
    /// The layer.
    pub layer: Layer,
    /// The projection of the prompt's last token, in activation units.
    pub projection: f64,
    /// The mean score of the answers, 0 to 100; `None` when the judge scored none.
    pub expression: Option<f64>,
    /// How many answers were scored.
    pub n: usize,
}

/// A Pearson correlation and its 95 % confidence interval, by Fisher's transformation.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct CorrelationEstimate {
    /// r, from −1 to 1.
    pub r: f64,
    /// The interval's lower end.
    pub low: f64,
    /// Its upper end.
    pub high: f64,
    /// How many prompts it is of.
    pub n: usize,
}

/// The correlations between projection and expression on one direction.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MonitoringCorrelation {
    /// The trait's name.
    #[serde(rename = "trait")]
    pub trait_name: String,
    /// The layer.
    pub layer: Layer,
    /// Over all prompts; `None` where one side does not vary or there are fewer than three. Intervals are meant for pairs
    /// from a normal distribution; prompts made at a few levels are not one, so take them as rough.
    pub overall: Option<CorrelationEstimate>,
    /// Spearman's ρ over all prompts.
    pub spearman: Option<f64>,
    /// What is left when projection and expression are each taken relative to their means in the condition: whether prompts
    /// of the same condition are told apart. Every condition costs the interval a degree of freedom.
    pub within: Option<CorrelationEstimate>,
    /// Within each condition alone.
    pub by_condition: BTreeMap<String, Option<CorrelationEstimate>>,
}

/// The correlations of each trait and layer, in the order in which they first come. Points without expression are left out.
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
            let mut conditions: BTreeMap<String, Vec<(f64, f64)>> = BTreeMap::new();
            let mut pairs = Vec::with_capacity(points.len());
            for point in points {
                let condition = conditions.entry(point.condition.clone()).or_default();
                if let Some(expression) = point.expression {
                    condition.push((point.projection, expression));
                    pairs.push((point.projection, expression));
                }
            }
            MonitoringCorrelation {
                trait_name: trait_name.to_owned(),
                layer,
                overall: estimate(&pairs, 0),
                spearman: spearman(&pairs),
                within: within(conditions.values()),
                by_condition: conditions.into_iter().map(|(name, pairs)| (name, estimate(&pairs, 0))).collect(),
            }
        })
        .collect()
}

/// The correlation of deviations from the conditions' means.
fn within<'a>(conditions: impl Iterator<Item = &'a Vec<(f64, f64)>>) -> Option<CorrelationEstimate> {
    let (mut deviations, mut used) = (Vec::new(), 0);
    for pairs in conditions.filter(|pairs| pairs.len() > 1) {
        used += 1;
        let n = pairs.len() as f64;
        let (x, y) = pairs.iter().fold((0.0, 0.0), |(x, y), pair| (x + pair.0 / n, y + pair.1 / n));
        // What is constant but for rounding must not look like variation.
        let steady = |values: &dyn Fn(&(f64, f64)) -> f64| pairs.iter().all(|pair| values(pair) == values(&pairs[0]));
        let (x_steady, y_steady) = (steady(&|pair| pair.0), steady(&|pair| pair.1));
        let deviation = |value: f64, mean: f64, steady: bool| if steady { 0.0 } else { value - mean };
        deviations.extend(pairs.iter().map(|pair| (deviation(pair.0, x, x_steady), deviation(pair.1, y, y_steady))));
    }
    estimate(&deviations, used.max(1) - 1)
}

/// Pearson's r of the pairs, where `lost` degrees of freedom are used up.
fn estimate(pairs: &[(f64, f64)], lost: usize) -> Option<CorrelationEstimate> {
    let found = pearson(pairs)?;
    let free = Correlation { r: found.r, pairs: found.pairs.saturating_sub(lost) };
    let (low, high) = free.interval(LEVEL)?;
    Some(CorrelationEstimate { r: found.r, low, high, n: found.pairs })
}

/// Points as CSV: the columns are the fields of [`MonitoringPoint`].
pub(super) fn table(points: &[MonitoringPoint]) -> Result<Vec<u8>> {
    let failed = |error: String| Error::BadSetting { reason: format!("the points make no table: {error}") };
    let mut writer = csv::Writer::from_writer(Vec::new());
    for point in points {
        writer.serialize(point).map_err(|error| failed(error.to_string()))?;
    }
    writer.into_inner().map_err(|error| failed(error.to_string()))
}

/// Writes points as CSV, whole or not at all: the columns are the fields of [`MonitoringPoint`].
///
/// # Errors
/// [`FileError::Write`](pv_data::FileError::Write).
pub fn write_points(path: impl AsRef<Path>, points: &[MonitoringPoint]) -> Result<()> {
    crate::files::write(path.as_ref(), &table(points)?)
}

/// Reads what [`write_points`] wrote.
///
/// # Errors
/// [`FileError::Read`](pv_data::FileError::Read) or [`Error::BadFile`].
pub fn read_points(path: impl AsRef<Path>) -> Result<Vec<MonitoringPoint>> {
    let path = path.as_ref();
    let bytes = pv_data::read_file(path).map_err(|source| FileError::Read { path: path.to_owned(), source })?;
    let mut reader = csv::Reader::from_reader(bytes.as_slice());
    reader.deserialize().map(|point| point.map_err(|error| file::bad(path, "a table of points", error))).collect()
}
