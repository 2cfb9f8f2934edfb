//! Alarms for readings that are out of the ordinary.

use std::fmt;
use std::sync::Arc;

use pv_hooks::Layer;
use pv_statistics::Distribution;
use serde::{Deserialize, Serialize};

use super::answers::AnswerExtremes;
use super::calibration::Calibration;
use super::rate::FalseAlarms;
use super::reading::{Answer, At, Kind, Reading};
use super::side::Side;
use super::watch::Watch;
use crate::Result;
use crate::error::{MonitorError, SettingError};

/// The threshold beyond which readings raise an alarm.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Threshold {
    /// A projection, in activation units.
    Value(f64),
    /// A quantile of the calibration's readings, from 0 to 1: with 0.99 above, one ordinary reading in a hundred raises
    /// an alarm. Each token of an answer is one reading, so that most long answers raise an alarm.
    /// [`Alarms::false_alarms`] gives the rate per answer.
    Quantile(f64),
    /// The threshold at which at most this fraction of ordinary answers, from 0 to 1, raises one or more alarms: for
    /// tokens, by the largest (or smallest) reading of each answer.
    FalseAlarms(f64),
}

/// A rule for raising alarms.
///
/// A rule on tokens is checked as soon as the token is read. A rule on the response mean is checked when the answer has
/// ended, because the calibration of whole answers' means does not apply to the first tokens:
/// [`Readings::news`](super::Readings::news) then contains the mean.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AlarmRule {
    /// The trait's name.
    #[serde(rename = "trait")]
    pub trait_name: String,
    /// The layer; `None` for every layer at which the trait is watched.
    #[serde(default)]
    pub layer: Option<Layer>,
    /// The kind of reading.
    pub kind: Kind,
    /// The side of the threshold.
    #[serde(default)]
    pub side: Side,
    /// The threshold.
    pub threshold: Threshold,
}

/// A reading beyond a threshold.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Alarm {
    /// The trait's name.
    #[serde(rename = "trait")]
    pub trait_name: String,
    /// The layer.
    pub layer: Layer,
    /// The index of the sequence in its run.
    pub sequence: usize,
    /// The position in the sequence.
    pub at: At,
    /// The projection, in activation units.
    #[serde(with = "super::number")]
    pub value: f32,
    /// The side of the threshold on which it is.
    pub side: Side,
    /// The threshold, in activation units.
    pub threshold: f64,
}

impl fmt::Display for Alarm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = match self.at {
            At::PromptToken(index) => format!("token {index} of the prompt"),
            At::PromptLast => "the prompt's last token".to_owned(),
            At::Token(index) => format!("token {index} of the answer"),
            At::ResponseMean => "the mean over the answer".to_owned(),
        };
        let side = match self.side {
            Side::Above => "above",
            Side::Below => "below",
        };
        let Self { trait_name, layer, value, threshold, .. } = self;
        write!(f, "{trait_name} at {layer}: {place} projects {value:.3}, {side} {threshold:.3}")
    }
}

/// Rules with resolved thresholds, for the readings of certain directions.
#[derive(Clone, Debug)]
pub struct Alarms {
    watches: Arc<[Watch]>,
    resolved: Vec<Resolved>,
}

/// A rule for one direction.
#[derive(Clone, Debug)]
struct Resolved {
    watch: usize,
    kind: Kind,
    side: Side,
    threshold: f64,
}

impl Resolved {
    /// The value with which a reading of the rule's kind meets it, if it does.
    fn is_met(&self, reading: &Reading) -> Option<f32> {
        let value = *reading.values.get(self.watch)?;
        let ordinary = match self.side {
            Side::Above => f64::from(value) <= self.threshold,
            Side::Below => f64::from(value) >= self.threshold,
        };
        (!ordinary).then_some(value)
    }
}

/// How often ordinary answers meet a rule on one direction.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct RuleFalseAlarms {
    /// The trait's name.
    #[serde(rename = "trait")]
    pub trait_name: String,
    /// The layer.
    pub layer: Layer,
    /// The kind of reading.
    pub kind: Kind,
    /// The side of the threshold.
    pub side: Side,
    /// The threshold, in activation units.
    pub threshold: f64,
    /// The rate of false alarms.
    pub found: FalseAlarms,
}

impl Alarms {
    /// Resolves the thresholds. Only quantiles and false-alarm rates need the calibration.
    ///
    /// # Errors
    /// [`MonitorError::NotWatched`] for a trait or layer that no direction has; [`Error::Setting`](crate::Error::Setting) for a threshold that is not
    /// finite, a quantile or rate that is not between 0 and 1, or one without calibration; [`MonitorError::TooFewReadings`] if
    /// fewer than one ordinary reading would be beyond the threshold, and [`MonitorError::TooFewAnswers`] if it would be fewer
    /// than one answer, so that the threshold cannot be estimated.
    pub fn new(watches: &[Watch], rules: &[AlarmRule], calibration: Option<&Calibration>) -> Result<Self> {
        let mut resolved = Vec::new();
        for rule in rules {
            let fits = |watch: &Watch| {
                watch.trait_name == rule.trait_name && rule.layer.is_none_or(|layer| layer == watch.layer())
            };
            let before = resolved.len();
            for (number, watch) in watches.iter().enumerate().filter(|(_, watch)| fits(watch)) {
                let threshold = threshold(rule, number, watch, calibration)?;
                resolved.push(Resolved { watch: number, kind: rule.kind, side: rule.side, threshold });
            }
            if resolved.len() == before {
                let (trait_name, layer) = (rule.trait_name.clone(), rule.layer);
                return Err(MonitorError::NotWatched { trait_name, layer }.into());
            }
        }
        Ok(Self { watches: watches.into(), resolved })
    }

    /// How often ordinary answers meet each rule, for each direction that the rule covers. For an unbiased rate, the
    /// answers must not be those of the calibration.
    pub fn false_alarms<'a>(&self, answers: impl IntoIterator<Item = &'a Answer>) -> Vec<RuleFalseAlarms> {
        let counted = |rule: &Resolved| {
            let watch = &self.watches[rule.watch];
            RuleFalseAlarms {
                trait_name: watch.trait_name.clone(),
                layer: watch.layer(),
                kind: rule.kind,
                side: rule.side,
                threshold: rule.threshold,
                found: FalseAlarms::default(),
            }
        };
        let mut rates: Vec<RuleFalseAlarms> = self.resolved.iter().map(counted).collect();
        for answer in answers {
            for (rate, rule) in rates.iter_mut().zip(&self.resolved) {
                // An answer without readings of the kind cannot raise the alarm.
                let mut readings = answer.readings(0).filter(|reading| reading.at.kind() == rule.kind).peekable();
                if readings.peek().is_some() {
                    rate.found.count(readings.any(|reading| rule.is_met(&reading).is_some()));
                }
            }
        }
        rates
    }

    /// The alarms that a reading raises, in the order of the rules. A projection that is NaN raises every rule of its
    /// kind; a missing projection raises none.
    pub fn check(&self, reading: &Reading) -> Vec<Alarm> {
        let rules = self.resolved.iter().filter(|rule| rule.kind == reading.at.kind());
        rules
            .filter_map(|rule| {
                let value = rule.is_met(reading)?;
                let watch = &self.watches[rule.watch];
                Some(Alarm {
                    trait_name: watch.trait_name.clone(),
                    layer: watch.layer(),
                    sequence: reading.sequence,
                    at: reading.at,
                    value,
                    side: rule.side,
                    threshold: rule.threshold,
                })
            })
            .collect()
    }
}

fn threshold(rule: &AlarmRule, number: usize, watch: &Watch, calibration: Option<&Calibration>) -> Result<f64> {
    let trait_name = || rule.trait_name.clone();
    let bad =
        |name, value, allowed| Err(SettingError::Threshold { trait_name: trait_name(), name, value, allowed }.into());
    let (share, name) = match rule.threshold {
        Threshold::Value(value) if value.is_finite() => return Ok(value),
        Threshold::Value(value) => return bad("threshold", value, "finite"),
        Threshold::Quantile(share) => (share, "quantile"),
        Threshold::FalseAlarms(rate) => (rate, "rate of false alarms"),
    };
    if !(share > 0.0 && share < 1.0) {
        return bad(name, share, "between 0 and 1");
    }
    let Some(calibration) = calibration else {
        return Err(SettingError::NeedsCalibration { trait_name: trait_name(), name }.into());
    };
    let (trait_name, layer, kind) = (watch.trait_name.clone(), watch.layer(), rule.kind.name());
    let what = format!("the {name} {share}");
    if let Threshold::FalseAlarms(rate) = rule.threshold {
        let extremes = calibration.extremes(number, rule.kind);
        let found = extremes.as_ref().map_or(0, AnswerExtremes::answers);
        let threshold = extremes.and_then(|extremes| extremes.threshold(rule.side, rate));
        return threshold.ok_or_else(|| MonitorError::TooFewAnswers { trait_name, layer, kind, found, what }.into());
    }
    let distribution = calibration.distribution(number, rule.kind);
    let found = distribution.map_or(0, Distribution::n);
    let beyond = match rule.side {
        Side::Above => 1.0 - share,
        Side::Below => share,
    };
    // Slightly less than one, since 1 − 0.99 is not exactly a hundredth.
    let enough = |found: u64| found as f64 * beyond >= 1.0 - 1e-9;
    let value = distribution.and_then(|distribution| distribution.quantile(share));
    let Some(value) = value.filter(|_| enough(found)) else {
        return Err(MonitorError::TooFewReadings { trait_name, layer, kind, found, what }.into());
    };
    let found = calibration.answers(number, rule.kind).unwrap_or_default();
    if enough(found) {
        Ok(value)
    } else {
        Err(MonitorError::TooFewAnswers { trait_name, layer, kind, found, what }.into())
    }
}
