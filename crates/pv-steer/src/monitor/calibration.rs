//! The distribution of readings on ordinary traffic.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use pv_model::{ModelIdentity, RenderOptions};
use pv_statistics::Distribution;
use pv_statistics::distribution::Tally;
use serde::{Deserialize, Serialize};

use super::answers::{AnswerExtremes, Halves, HeldOut, OfAnswers, RATES, extremes};
use super::file;
use super::reading::{Answer, Kind, Reading};
use super::spread::{Spread, VarianceParts};
use super::watch::{self, Watch, WatchId};
use crate::error::{FileFault, MonitorError, SettingError};
use crate::{Error, Result};

const FORMAT: &str = "monitor-calibration/1";
const WHAT: &str = "a calibration";

/// Collects readings of ordinary traffic. Memory contains sketches of their distributions, and 48 bytes per direction
/// for every whole answer.
///
/// Several calibrators may work in parallel; [`Calibration::merged`] combines their results.
#[derive(Clone, Debug)]
pub struct Calibrator {
    watches: Arc<[Watch]>,
    /// One array per direction, in the order of [`Kind::ALL`].
    tallies: Vec<[Tally; 4]>,
    /// The data about whole answers, per direction.
    answers: Vec<(Halves, Spread)>,
    render: RenderOptions,
    rates: Vec<f64>,
}

impl Calibrator {
    /// A calibrator for readings of these directions.
    ///
    /// # Errors
    /// [`MonitorError::NoWatches`] or [`MonitorError::WatchedTwice`].
    pub fn new(watches: &[Watch]) -> Result<Self> {
        watch::check(watches)?;
        let tallies = watches.iter().map(|_| std::array::from_fn(|_| Tally::new())).collect();
        let answers = watches.iter().map(|_| (Halves::new(), Spread::default())).collect();
        Ok(Self { watches: watches.into(), tallies, answers, render: RenderOptions::default(), rates: RATES.to_vec() })
    }

    /// Sets how the traffic's prompts are rendered; the default options otherwise. It is stored in the calibration.
    #[must_use]
    pub fn with_render(self, render: &RenderOptions) -> Self {
        Self { render: render.closed(), ..self }
    }

    /// Adds rates at which false alarms are measured on held-out answers ([`Calibration::held_out`]). The rates 0.1,
    /// 0.05 and 0.01 are always measured.
    ///
    /// # Errors
    /// [`SettingError::OutOfRange`] for a rate that is not between 0 and 1.
    pub fn with_rates(mut self, rates: &[f64]) -> Result<Self> {
        for &rate in rates {
            if !(rate > 0.0 && rate < 1.0) {
                let name = "the rate of false alarms";
                return Err(SettingError::OutOfRange { name, value: rate, allowed: "between 0 and 1" }.into());
            }
            if !self.rates.contains(&rate) {
                self.rates.push(rate);
            }
        }
        Ok(self)
    }

    /// Adds one reading. Single readings do not describe whole answers: thresholds by false alarms per answer, and a
    /// drift that accounts for answer lengths, need [`add_answer`](Self::add_answer).
    ///
    /// # Errors
    /// [`MonitorError::OtherReadings`] or [`MonitorError::NotFinite`]; then nothing is added.
    pub fn add(&mut self, reading: &Reading) -> Result<()> {
        reading.check(&self.watches)?;
        for (tallies, value) in self.tallies.iter_mut().zip(&reading.values) {
            tallies[reading.at.kind() as usize].add(f64::from(*value));
        }
        Ok(())
    }

    /// Adds all readings of an answer: the prompt's tokens if they were read, its last token, every token of the
    /// answer, and their mean; and the data about the answer as a whole.
    ///
    /// # Errors
    /// Those of [`add`](Self::add); then nothing is added.
    pub fn add_answer(&mut self, answer: &Answer) -> Result<()> {
        answer.readings(0).try_for_each(|reading| reading.check(&self.watches))?;
        answer.readings(0).try_for_each(|reading| self.add(&reading))?;
        for (watch, (halves, spread)) in self.answers.iter_mut().enumerate() {
            halves.add(&extremes(answer, watch));
            spread.add(answer, watch);
        }
        Ok(())
    }

    /// The calibration for this model.
    pub fn finish(self, model: &ModelIdentity) -> Calibration {
        let entry = |((watch, tallies), (halves, spread)): ((&Watch, [Tally; 4]), (Halves, Spread))| {
            let [prompt_token, prompt_last, token, response_mean] = tallies.map(Tally::finish);
            let answers = OfAnswers::new(halves, spread, &self.rates);
            Entry { watch: watch.id(), prompt_token, prompt_last, token, response_mean, answers }
        };
        let entries = self.watches.iter().zip(self.tallies).zip(self.answers).map(entry).collect();
        Calibration { format: FORMAT.to_owned(), model: model.clone(), render: self.render, entries }
    }
}

/// The distributions of readings on ordinary traffic of a model, per direction and [`Kind`].
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Calibration {
    format: String,
    model: ModelIdentity,
    #[serde(default, skip_serializing_if = "RenderOptions::is_default")]
    render: RenderOptions,
    #[serde(rename = "directions")]
    entries: Vec<Entry>,
}

/// The data of one direction.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Entry {
    #[serde(flatten)]
    watch: WatchId,
    /// Empty if a file does not have it.
    #[serde(default)]
    prompt_token: Distribution,
    prompt_last: Distribution,
    token: Distribution,
    response_mean: Distribution,
    /// `None` in files of an earlier version, and if readings were added one by one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    answers: Option<OfAnswers>,
}

impl Entry {
    fn of(&self, kind: Kind) -> &Distribution {
        match kind {
            Kind::PromptToken => &self.prompt_token,
            Kind::PromptLast => &self.prompt_last,
            Kind::Token => &self.token,
            Kind::ResponseMean => &self.response_mean,
        }
    }

    /// The number of answers behind the readings of a kind. The tokens of an answer are correlated and count as one
    /// answer.
    fn answers(&self, kind: Kind) -> u64 {
        let n = self.of(kind).n();
        match kind {
            Kind::PromptToken => n.min(self.prompt_last.n()),
            Kind::Token => n.min(self.response_mean.n()),
            Kind::PromptLast | Kind::ResponseMean => n,
        }
    }

    /// The extremes of answers; `None` if unknown.
    fn extremes(&self, kind: Kind) -> Option<AnswerExtremes> {
        match kind {
            Kind::PromptToken => self.answers.as_ref().map(|answers| answers.prompt_token.clone()),
            Kind::Token => self.answers.as_ref().map(|answers| answers.token.clone()),
            Kind::PromptLast | Kind::ResponseMean => Some(AnswerExtremes::of_one(self.of(kind))),
        }
    }

    fn merged(self, other: &Self) -> Self {
        let silent = |entry: &Self| entry.answers.is_none() && Kind::ALL.iter().all(|kind| entry.of(*kind).n() == 0);
        let answers = match (self.answers.clone(), &other.answers) {
            (Some(mine), Some(theirs)) => Some(mine.merged(theirs)),
            (Some(mine), None) if silent(other) => Some(mine),
            (None, Some(theirs)) if silent(&self) => Some(theirs.clone()),
            // Unknown for some of the answers, and so for all.
            _ => None,
        };
        Self {
            watch: self.watch,
            prompt_token: self.prompt_token.merged(&other.prompt_token),
            prompt_last: self.prompt_last.merged(&other.prompt_last),
            token: self.token.merged(&other.token),
            response_mean: self.response_mean.merged(&other.response_mean),
            answers,
        }
    }
}

impl Calibration {
    /// The model whose traffic was calibrated.
    pub fn model(&self) -> &ModelIdentity {
        &self.model
    }

    /// The options with which that traffic's prompts were rendered.
    pub fn render(&self) -> &RenderOptions {
        &self.render
    }

    /// Refuses traffic with other render options, since the calibration depends on the prompts.
    ///
    /// # Errors
    /// [`MonitorError::Misfit`].
    pub fn check_render(&self, render: &RenderOptions) -> Result<()> {
        let text = |render: &RenderOptions| serde_json::to_string(render).unwrap_or_default();
        let (found, expected) = (text(&self.render), text(render));
        if found == expected {
            return Ok(());
        }
        Err(MonitorError::Misfit { what: "render options".to_owned(), found, expected }.into())
    }

    /// The distribution of a kind of reading on a direction, given by its index among the watched ones.
    pub fn distribution(&self, watch: usize, kind: Kind) -> Option<&Distribution> {
        Some(self.entries.get(watch)?.of(kind))
    }

    /// The number of answers behind the readings of a kind on a direction. The tokens of an answer are correlated, so
    /// this number, not the number of readings, limits which quantiles can be estimated.
    pub fn answers(&self, watch: usize, kind: Kind) -> Option<u64> {
        Some(self.entries.get(watch)?.answers(kind))
    }

    /// The rates of false alarms on a direction, measured on held-out ordinary answers: by kind, side and requested
    /// rate, as far as there are enough answers. Empty if no whole answer was added, as in files of earlier versions.
    pub fn held_out(&self, watch: usize) -> &[HeldOut] {
        let answers = self.entries.get(watch).and_then(|entry| entry.answers.as_ref());
        answers.map_or(&[], |answers| &answers.held_out)
    }

    /// The variance of the means of ordinary answers on a direction; `None` if unknown.
    pub fn variance(&self, watch: usize) -> Option<VarianceParts> {
        let entry = self.entries.get(watch)?;
        entry.answers.as_ref()?.spread.parts(&entry.response_mean)
    }

    pub(super) fn extremes(&self, watch: usize, kind: Kind) -> Option<AnswerExtremes> {
        self.entries.get(watch)?.extremes(kind)
    }

    /// The z-score of each value of a reading: its distance from the mean of its kind in standard deviations; `None` if
    /// unknown.
    pub fn z(&self, reading: &Reading) -> Vec<Option<f64>> {
        self.each(reading, Distribution::z)
    }

    /// The fraction of ordinary readings of the same kind below each value of a reading.
    pub fn ranks(&self, reading: &Reading) -> Vec<Option<f64>> {
        self.each(reading, Distribution::rank)
    }

    fn each(&self, reading: &Reading, of: impl Fn(&Distribution, f64) -> Option<f64>) -> Vec<Option<f64>> {
        let kind = reading.at.kind();
        let values = reading.values.iter().enumerate();
        values.map(|(i, value)| of(self.distribution(i, kind)?, f64::from(*value))).collect()
    }

    /// Merges this calibration and another of the same directions and model.
    ///
    /// # Errors
    /// [`MonitorError::Misfit`].
    pub fn merged(self, other: &Self) -> Result<Self> {
        if self.model != other.model {
            return Err(misfit("model", &other.model, &self.model));
        }
        self.check_render(&other.render)?;
        let watches = |calibration: &Self| -> Vec<WatchId> {
            calibration.entries.iter().map(|entry| entry.watch.clone()).collect()
        };
        if watches(&self) != watches(other) {
            return Err(misfit("list of directions", &watches(other), &watches(&self)));
        }
        let entries = self.entries.into_iter().zip(&other.entries).map(|(mine, other)| mine.merged(other)).collect();
        Ok(Self { entries, ..self })
    }

    /// The default path of a vector's calibration, in the same folder: `evil.calibration.json` for `evil.safetensors`.
    pub fn path_beside(vector: impl AsRef<Path>) -> PathBuf {
        vector.as_ref().with_extension("calibration.json")
    }

    /// Saves the calibration as JSON, atomically.
    ///
    /// # Errors
    /// [`FileError::Write`](pv_data::FileError::Write).
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        file::write_json(path.as_ref(), self)
    }

    /// Loads the calibration of these directions on this model from a file that [`save`](Self::save) wrote. The file
    /// may contain more directions, in any order.
    ///
    /// A finetuned model's traffic has other projections than its base model's. The weights must therefore be equal
    /// too, besides the name, the architecture, the type and the chat template. To use one model's calibration for
    /// another on purpose, pass the [`ModelIdentity`] of the first.
    ///
    /// # Errors
    /// [`FileError::Read`](pv_data::FileError::Read) or [`Error::BadFile`]; [`MonitorError::Misfit`] for another model, for a
    /// direction that is missing in the file, and for a direction whose values are not the calibrated ones.
    pub fn load(path: impl AsRef<Path>, watches: &[Watch], model: &ModelIdentity) -> Result<Self> {
        let path = path.as_ref();
        let found: Self = file::read_json(path, WHAT)?;
        if found.format != FORMAT {
            return Err(file::bad(path, WHAT, FileFault::Format { found: found.format, expected: FORMAT }));
        }
        let misfit = |what: &str, found: String, expected: String| {
            Err(MonitorError::Misfit { what: what.to_owned(), found, expected }.into())
        };
        if let Some((what, found, expected)) = found.model.difference(model) {
            return misfit(what, found, expected);
        }
        watch::check(watches)?;
        let mut entries = Vec::with_capacity(watches.len());
        for needed in watches.iter().map(Watch::id) {
            let same = |id: &WatchId| id.trait_name == needed.trait_name && id.layer == needed.layer;
            let of = format!("direction of {} at {}", needed.trait_name, needed.layer);
            match found.entries.iter().find(|entry| same(&entry.watch)) {
                None => return misfit(&of, "missing".to_owned(), "one".to_owned()),
                Some(entry) if entry.watch.direction_sha256 != needed.direction_sha256 => {
                    return misfit(&(of + "'s hash"), entry.watch.direction_sha256.clone(), needed.direction_sha256);
                }
                Some(entry) => entries.push(entry.clone()),
            }
        }
        Ok(Self { entries, ..found })
    }
}

fn misfit(what: &str, found: &impl std::fmt::Debug, expected: &impl std::fmt::Debug) -> Error {
    let (found, expected) = (format!("{found:?}"), format!("{expected:?}"));
    MonitorError::Misfit { what: what.to_owned(), found, expected }.into()
}
