//! Readings that are out of the ordinary.

use std::fmt;
use std::sync::Arc;

use pv_hooks::Layer;
use serde::{Deserialize, Serialize};

use super::{Answer, At, Calibration, Error, FalseAlarms, Kind, Reading, Result, Watch};

/// Which readings alarm.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Side {
    /// Those above the threshold.
    #[default]
    Above,
    /// Those below it.
    Below,
}

/// Where readings begin to alarm.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Threshold {
    /// At this projection, in activation units.
    Value(f64),
    /// At this quantile of the calibration's readings, from 0 to 1: with 0.99 above, one ordinary reading in a hundred alarms. Of the
    /// tokens of an answer each is one, so that a long answer hardly gets by; what that makes of answers is what
    /// [`Alarms::false_alarms`] says.
    Quantile(f64),
    /// Where at most this part of ordinary answers raises the alarm, once or more often, from 0 to 1: for tokens, by the greatest (or
    /// least) of each answer.
    FalseAlarms(f64),
}

/// When to raise an alarm.
///
/// A rule on a token is met, or not, as soon as that token is read. One on the response mean is when the answer has ended, since
/// what is ordinary for a whole answer's mean is not for that of its first tokens:
/// [`Readings::news`](super::Readings::news) then tells the mean.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AlarmRule {
    /// The trait's name.
    #[serde(rename = "trait")]
    pub trait_name: String,
    /// The layer; `None` for each at which the trait is watched.
    #[serde(default)]
    pub layer: Option<Layer>,
    /// The kind of reading.
    pub kind: Kind,
    /// On which side of the threshold.
    #[serde(default)]
    pub side: Side,
    /// The threshold.
    pub threshold: Threshold,
}

/// A reading beyond a threshold.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Alarm {
    /// The trait's name.
    #[serde(rename = "trait")]
    pub trait_name: String,
    /// The layer.
    pub layer: Layer,
    /// The sequence's number in its run.
    pub sequence: usize,
    /// Where in the sequence.
    pub at: At,
    /// The projection.
    #[serde(with = "super::number")]
    pub value: f32,
    /// On which side of the threshold it lies.
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

/// Rules whose thresholds are known, for the readings of certain directions.
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
    /// The value that a reading of its kind meets it with, where it does.
    fn is_met(&self, reading: &Reading) -> Option<f32> {
        let value = *reading.values.get(self.watch)?;
        let ordinary = match self.side {
            Side::Above => f64::from(value) <= self.threshold,
            Side::Below => f64::from(value) >= self.threshold,
        };
        (!ordinary).then_some(value)
    }
}

/// How often a rule is met by ordinary answers on one direction.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RuleFalseAlarms {
    /// The trait's name.
    #[serde(rename = "trait")]
    pub trait_name: String,
    /// The layer.
    pub layer: Layer,
    /// The kind of reading.
    pub kind: Kind,
    /// On which side of the threshold.
    pub side: Side,
    /// The threshold, in activation units.
    pub threshold: f64,
    /// How often.
    pub found: FalseAlarms,
}

impl Alarms {
    /// Looks the thresholds up. Only those that are quantiles need the calibration.
    ///
    /// # Errors
    /// [`Error::NotWatched`] for a trait or layer that no direction has; [`Error::BadSetting`] for a
    /// threshold that is not finite, a quantile or rate that is not between 0 and 1, or one without calibration;
    /// [`Error::TooFewReadings`] where fewer than one ordinary reading would lie beyond the threshold, and
    /// [`Error::TooFewAnswers`] where it would be of less than one answer, so that nobody knows where it is.
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
                return Err(Error::NotWatched { trait_name, layer });
            }
        }
        Ok(Self { watches: watches.into(), resolved })
    }

    /// How often each rule is met by ordinary answers, for each direction that it speaks of. To say what is to be expected, they must
    /// be others than those of the calibration.
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
                // An answer without readings of the kind could not have raised the alarm.
                let mut readings = answer.readings(0).filter(|reading| reading.at.kind() == rule.kind).peekable();
                if readings.peek().is_some() {
                    rate.found.count(readings.any(|reading| rule.is_met(&reading).is_some()));
                }
            }
        }
        rates
    }

    /// The alarms that a reading raises, in the order of the rules. A projection that is no number raises each rule of
    /// its kind; one that the reading lacks, none.
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
    let bad = |reason: String| Err(Error::BadSetting { reason });
    let (share, name) = match rule.threshold {
        Threshold::Value(value) if value.is_finite() => return Ok(value),
        Threshold::Value(value) => return bad(format!("the threshold {value} for {} is not finite", rule.trait_name)),
        Threshold::Quantile(share) => (share, "quantile"),
        Threshold::FalseAlarms(rate) => (rate, "rate of false alarms"),
    };
    if !(share > 0.0 && share < 1.0) {
        return bad(format!("the {name} {share} for {} is not between 0 and 1", rule.trait_name));
    }
    let Some(calibration) = calibration else {
        return bad(format!("the threshold for {} is a {name}, which needs a calibration", rule.trait_name));
    };
    let (trait_name, layer, kind) = (watch.trait_name.clone(), watch.layer(), rule.kind.name());
    let what = format!("the {name} {share}");
    if let Threshold::FalseAlarms(rate) = rule.threshold {
        let extremes = calibration.extremes(number, rule.kind);
        let found = extremes.as_ref().map_or(0, super::answers::AnswerExtremes::answers);
        let threshold = extremes.and_then(|extremes| extremes.threshold(rule.side, rate));
        return threshold.ok_or(Error::TooFewAnswers { trait_name, layer, kind, found, what });
    }
    let distribution = calibration.distribution(number, rule.kind);
    let found = distribution.map_or(0, super::Distribution::n);
    let beyond = match rule.side {
        Side::Above => 1.0 - share,
        Side::Below => share,
    };
    // A hair less than one, since 1 − 0.99 is not quite a hundredth.
    let enough = |found: u64| found as f64 * beyond >= 1.0 - 1e-9;
    let value = distribution.and_then(|distribution| distribution.quantile(share));
    let Some(value) = value.filter(|_| enough(found)) else {
        return Err(Error::TooFewReadings { trait_name, layer, kind, found, what });
    };
    let found = calibration.answers(number, rule.kind).unwrap_or_default();
    if enough(found) { Ok(value) } else { Err(Error::TooFewAnswers { trait_name, layer, kind, found, what }) }
}
