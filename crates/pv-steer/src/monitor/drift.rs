//! Conversations that slowly move away from the ordinary.

use pv_hooks::Layer;
use serde::{Deserialize, Serialize};

use super::{Answer, Calibration, Error, Kind, Result, Side, VarianceParts, Watch};

/// The projections of one turn of a conversation.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Turn {
    /// Those of the prompt's last token.
    pub prompt_last: Option<Vec<f32>>,
    /// The means over the answer's tokens; `None` for an empty answer.
    pub mean: Option<Vec<f32>>,
    /// How many tokens the answer has.
    pub tokens: usize,
}

/// The turns of a conversation, one per answer.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Turns {
    /// In their order.
    pub turns: Vec<Turn>,
}

impl Turns {
    /// Takes in the next answer.
    pub fn push(&mut self, answer: &Answer) {
        let (prompt_last, tokens) = (answer.prompt_last().map(<[f32]>::to_vec), answer.tokens().len());
        self.turns.push(Turn { prompt_last, mean: answer.mean(), tokens });
    }

    /// The means of the answers on one direction, by its number, turn by turn.
    pub fn means(&self, watch: usize) -> impl Iterator<Item = Option<f32>> + '_ {
        self.turns.iter().map(move |turn| turn.mean.as_ref()?.get(watch).copied())
    }
}

/// Which drift counts.
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

/// How a [`Cusum`] decides.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct CusumOptions {
    /// The slack `k`, in standard deviations: a drift of less than this never alarms for long, and one of `2k` is found
    /// soonest.
    pub k: f64,
    /// The limit `h`, in standard deviations.
    pub h: f64,
    /// Which drift counts.
    pub sides: Sides,
}

impl Default for CusumOptions {
    /// `k` = 0.5 and `h` = 5, upwards: on independent standard normal values a false alarm about every 930 turns, and a
    /// drift of one standard deviation found after about 10 turns. With `h` = 4 these are 340 and 8.
    fn default() -> Self {
        Self { k: 0.5, h: 5.0, sides: Sides::Rising }
    }
}

/// The cumulative sum of standardised values (Page 1954): `S⁺ₜ = max(0, S⁺ₜ₋₁ + zₜ − k)` and
/// `S⁻ₜ = max(0, S⁻ₜ₋₁ − zₜ − k)`, which start at 0. It alarms as long as a sum is above `h`.
///
/// Small shifts that no single value shows add up in it. The rates of false alarms in [`CusumOptions::default`] hold for
/// independent values; those of neighbouring turns often go together, which makes false alarms more frequent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Cusum {
    options: CusumOptions,
    rising: f64,
    falling: f64,
}

impl Cusum {
    /// Sums at 0.
    ///
    /// # Errors
    /// [`Error::BadSetting`] for a slack that is negative, a limit that is not positive, or either not finite.
    pub fn new(options: CusumOptions) -> Result<Self> {
        let CusumOptions { k, h, .. } = options;
        if !(k >= 0.0 && k.is_finite() && h > 0.0 && h.is_finite()) {
            return Err(Error::BadSetting { reason: format!("a CUSUM with k = {k} and h = {h}") });
        }
        Ok(Self { options, rising: 0.0, falling: 0.0 })
    }

    /// Takes in the next value; the side on which a sum is above the limit, and that sum. The larger one, when both are.
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

    /// Starts anew.
    pub fn reset(&mut self) {
        (self.rising, self.falling) = (0.0, 0.0);
    }
}

/// A conversation that has moved away.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DriftAlarm {
    /// The trait's name.
    #[serde(rename = "trait")]
    pub trait_name: String,
    /// The layer.
    pub layer: Layer,
    /// The turn, from 0.
    pub turn: usize,
    /// Whether the trait has risen above the ordinary or fallen below it.
    pub side: Side,
    /// The sum, in standard deviations.
    pub sum: f64,
    /// The limit that it is above.
    pub limit: f64,
}

/// Watches the turns of one conversation for drift, on every direction: a [`Cusum`] over each turn's mean, standardised by
/// the mean of the calibration's response means and by the standard deviation of means over as many tokens
/// ([`Calibration::variance`]). A calibration that knows only the means, such as one of an earlier version, gives all answers one
/// standard deviation, whatever their length: short ones then alarm too often, long ones too rarely.
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
    /// At the beginning of a conversation.
    ///
    /// # Errors
    /// Those of [`Cusum::new`]; [`Error::TooFewReadings`] for a direction with fewer than two calibrated response
    /// means, or with means that do not vary; [`Error::OtherReadings`] for a calibration of fewer directions.
    pub fn new(watches: &[Watch], calibration: &Calibration, options: CusumOptions) -> Result<Self> {
        let mut tracked = Vec::with_capacity(watches.len());
        for (number, watch) in watches.iter().enumerate() {
            let Some(distribution) = calibration.distribution(number, Kind::ResponseMean) else {
                return Err(Error::OtherReadings { expected: watches.len(), found: number });
            };
            let (trait_name, layer) = (watch.trait_name.clone(), watch.layer());
            let moments = distribution.mean().zip(distribution.sd().filter(|sd| *sd > 0.0));
            let Some((mean, sd)) = moments else {
                let (kind, found) = (Kind::ResponseMean.name(), distribution.n());
                let what = "a standard deviation".to_owned();
                return Err(Error::TooFewReadings { trait_name, layer, kind, found, what });
            };
            let spread = calibration.variance(number).unwrap_or_else(|| {
                tracing::warn!(trait_name, %layer, "the calibration does not know how answers' lengths change what is ordinary");
                VarianceParts { between: sd * sd, within: 0.0 }
            });
            tracked.push(Tracked { trait_name, layer, mean, spread, cusum: Cusum::new(options)? });
        }
        Ok(Self { watches: tracked, limit: options.h, turn: 0 })
    }

    /// Takes in the next turn's answer, and says which directions are beyond the limit. An empty answer changes no sum.
    ///
    /// # Errors
    /// [`Error::OtherReadings`] or [`Error::NotFinite`]; no sum is changed then.
    pub fn push(&mut self, answer: &Answer) -> Result<Vec<DriftAlarm>> {
        let turn = self.turn;
        let Some(means) = answer.mean() else {
            self.turn += 1;
            return Ok(Vec::new());
        };
        let (expected, found) = (self.watches.len(), means.len());
        if expected != found {
            return Err(Error::OtherReadings { expected, found });
        }
        if let Some(i) = means.iter().position(|mean| !mean.is_finite()) {
            let (trait_name, layer) = (self.watches[i].trait_name.clone(), self.watches[i].layer);
            return Err(Error::NotFinite { trait_name, layer });
        }
        self.turn += 1;
        let mut alarms = Vec::new();
        let tokens = answer.tokens().len();
        for (watch, mean) in self.watches.iter_mut().zip(means) {
            let z = (f64::from(mean) - watch.mean) / watch.spread.sd(tokens);
            if let Some((side, sum)) = watch.cusum.push(z) {
                let (trait_name, layer) = (watch.trait_name.clone(), watch.layer);
                alarms.push(DriftAlarm { trait_name, layer, turn, side, sum, limit: self.limit });
            }
        }
        Ok(alarms)
    }

    /// The sums `S⁺` and `S⁻` of a direction, by its number.
    pub fn sums(&self, watch: usize) -> Option<(f64, f64)> {
        self.watches.get(watch).map(|watch| watch.cusum.sums())
    }
}
