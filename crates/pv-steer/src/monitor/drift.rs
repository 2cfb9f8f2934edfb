//! Detection of conversations that slowly move away from the ordinary.

use pv_hooks::Layer;
use serde::{Deserialize, Serialize};

use super::calibration::Calibration;
use super::reading::{Answer, Kind};
use super::side::Side;
use super::spread::VarianceParts;
use super::watch::Watch;
use crate::Result;
use crate::error::{MonitorError, SettingError};

/// The projections of one turn of a conversation, in activation units.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Turn {
    /// Those of the prompt's last token, `[directions]`.
    pub prompt_last: Option<Vec<f32>>,
    /// The means over the answer's tokens, `[directions]`; `None` for an empty answer.
    pub mean: Option<Vec<f32>>,
    /// The number of tokens of the answer.
    pub tokens: usize,
}

/// The turns of a conversation, one per answer.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Turns {
    /// In order.
    pub turns: Vec<Turn>,
}

impl Turns {
    /// Adds the next answer.
    pub fn push(&mut self, answer: &Answer) {
        let (prompt_last, tokens) = (answer.prompt_last().map(<[f32]>::to_vec), answer.tokens().nrows());
        self.turns.push(Turn { prompt_last, mean: answer.mean(), tokens });
    }

    /// The means of the answers on one direction, given by its index, turn by turn.
    pub fn means(&self, watch: usize) -> impl Iterator<Item = Option<f32>> + '_ {
        self.turns.iter().map(move |turn| turn.mean.as_ref()?.get(watch).copied())
    }
}

/// The sides on which drift is detected.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Sides {
    /// Upwards only.
    #[default]
    Rising,
    /// Downwards only.
    Falling,
    /// Either way.
    Both,
}

/// Options of a [`Cusum`].
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct CusumOptions {
    /// The slack `k`, in standard deviations: a drift of less than `k` raises no lasting alarm, and one of `2k` is
    /// detected fastest.
    pub k: f64,
    /// The limit `h`, in standard deviations.
    pub h: f64,
    /// The sides on which drift is detected.
    pub sides: Sides,
}

impl Default for CusumOptions {
    /// `k` = 0.5 and `h` = 5, upwards: on independent standard normal values, a false alarm about every 930 turns, and
    /// detection of a drift of one standard deviation after about 10 turns. With `h` = 4 these are 340 and 8.
    fn default() -> Self {
        Self { k: 0.5, h: 5.0, sides: Sides::Rising }
    }
}

/// The cumulative sum of standardised values (Page 1954): `S⁺ₜ = max(0, S⁺ₜ₋₁ + zₜ − k)` and `S⁻ₜ = max(0, S⁻ₜ₋₁ − zₜ −
/// k)`, which start at 0. It alarms while a sum is above `h`.
///
/// Small shifts that no single value shows accumulate in it. The rates of false alarms in [`CusumOptions::default`]
/// hold for independent values. Values of neighbouring turns are often correlated, which makes false alarms more
/// frequent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Cusum {
    options: CusumOptions,
    rising: f64,
    falling: f64,
}

impl Cusum {
    /// Starts with sums of 0.
    ///
    /// # Errors
    /// [`SettingError::Cusum`] for a slack that is negative, a limit that is not positive, or either not finite.
    pub fn new(options: CusumOptions) -> Result<Self> {
        let CusumOptions { k, h, .. } = options;
        if !(k >= 0.0 && k.is_finite() && h > 0.0 && h.is_finite()) {
            return Err(SettingError::Cusum { k, h }.into());
        }
        Ok(Self { options, rising: 0.0, falling: 0.0 })
    }

    /// Adds the next value. Returns the side on which a sum is above the limit, and that sum; the larger one if both
    /// are.
    pub fn push(&mut self, z: f64) -> Option<(Side, f64)> {
        let CusumOptions { k, h, sides } = self.options;
        self.rising = (self.rising + z - k).max(0.0);
        self.falling = (self.falling - z - k).max(0.0);
        let rising = (sides != Sides::Falling && self.rising > h).then_some((Side::Above, self.rising));
        let falling = (sides != Sides::Rising && self.falling > h).then_some((Side::Below, self.falling));
        match (rising, falling) {
            (Some(up), Some(down)) => Some(if up.1 >= down.1 { up } else { down }),
            (up, down) => up.or(down),
        }
    }

    /// The sums `S⁺` and `S⁻`.
    pub fn sums(&self) -> (f64, f64) {
        (self.rising, self.falling)
    }

    /// Resets both sums to 0.
    pub fn reset(&mut self) {
        (self.rising, self.falling) = (0.0, 0.0);
    }
}

/// An alarm about a conversation that has drifted.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct DriftAlarm {
    /// The trait's name.
    #[serde(rename = "trait")]
    pub trait_name: String,
    /// The layer.
    pub layer: Layer,
    /// The turn, from 0.
    pub turn: usize,
    /// Whether the projections have risen or fallen.
    pub side: Side,
    /// The sum, in standard deviations.
    pub sum: f64,
    /// The limit that the sum exceeds.
    pub limit: f64,
}

/// Monitors the turns of one conversation for drift, on every direction. A [`Cusum`] runs over each turn's mean,
/// standardised by the mean of the calibration's response means and by the standard deviation of means over the same
/// number of tokens ([`Calibration::variance`]). A calibration with means only, such as one of an earlier version,
/// gives all answers one standard deviation, whatever their length: short answers then alarm too often, long ones too
/// rarely.
#[derive(Clone, Debug)]
pub struct Drift {
    watches: Vec<Tracked>,
    limit: f64,
    turn: usize,
}

#[derive(Clone, Debug)]
struct Tracked {
    trait_name: String,
    layer: Layer,
    mean: f64,
    spread: VarianceParts,
    cusum: Cusum,
}

impl Drift {
    /// Starts at the beginning of a conversation.
    ///
    /// # Errors
    /// Those of [`Cusum::new`]; [`MonitorError::TooFewReadings`] for a direction with fewer than two calibrated response
    /// means, or with constant means; [`MonitorError::OtherReadings`] for a calibration of fewer directions.
    pub fn new(watches: &[Watch], calibration: &Calibration, options: CusumOptions) -> Result<Self> {
        let mut tracked = Vec::with_capacity(watches.len());
        for (number, watch) in watches.iter().enumerate() {
            let Some(distribution) = calibration.distribution(number, Kind::ResponseMean) else {
                return Err(MonitorError::OtherReadings { expected: watches.len(), found: number }.into());
            };
            let (trait_name, layer) = (watch.trait_name.clone(), watch.layer());
            let moments = distribution.mean().zip(distribution.sd().filter(|sd| *sd > 0.0));
            let Some((mean, sd)) = moments else {
                let (kind, found) = (Kind::ResponseMean.name(), distribution.n());
                let what = "a standard deviation".to_owned();
                return Err(MonitorError::TooFewReadings { trait_name, layer, kind, found, what }.into());
            };
            let spread = calibration.variance(number).unwrap_or_else(|| {
                tracing::warn!(trait_name, %layer, "the calibration does not know how answers' lengths change what is ordinary");
                VarianceParts { between: sd * sd, within: 0.0 }
            });
            tracked.push(Tracked { trait_name, layer, mean, spread, cusum: Cusum::new(options)? });
        }
        Ok(Self { watches: tracked, limit: options.h, turn: 0 })
    }

    /// Adds the next turn's answer, and returns the directions that are beyond the limit. An empty answer changes no
    /// sum.
    ///
    /// # Errors
    /// [`MonitorError::OtherReadings`] or [`MonitorError::NotFinite`]; then no sum is changed.
    pub fn push(&mut self, answer: &Answer) -> Result<Vec<DriftAlarm>> {
        let turn = self.turn;
        let Some(means) = answer.mean() else {
            self.turn += 1;
            return Ok(Vec::new());
        };
        let (expected, found) = (self.watches.len(), means.len());
        if expected != found {
            return Err(MonitorError::OtherReadings { expected, found }.into());
        }
        if let Some(i) = means.iter().position(|mean| !mean.is_finite()) {
            let (trait_name, layer) = (self.watches[i].trait_name.clone(), self.watches[i].layer);
            return Err(MonitorError::NotFinite { trait_name, layer }.into());
        }
        self.turn += 1;
        let mut alarms = Vec::new();
        let tokens = answer.tokens().nrows();
        for (watch, mean) in self.watches.iter_mut().zip(means) {
            let z = (f64::from(mean) - watch.mean) / watch.spread.sd(tokens);
            if let Some((side, sum)) = watch.cusum.push(z) {
                let (trait_name, layer) = (watch.trait_name.clone(), watch.layer);
                alarms.push(DriftAlarm { trait_name, layer, turn, side, sum, limit: self.limit });
            }
        }
        Ok(alarms)
    }

    /// The sums `S⁺` and `S⁻` of a direction, given by its index.
    pub fn sums(&self, watch: usize) -> Option<(f64, f64)> {
        self.watches.get(watch).map(|watch| watch.cusum.sums())
    }
}
