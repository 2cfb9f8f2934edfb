//! What readings are on ordinary traffic.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use pv_model::{ModelIdentity, RenderOptions};
use serde::{Deserialize, Serialize};

use super::answers::{AnswerExtremes, Halves, HeldOut, OfAnswers, RATES, extremes};
use super::distribution::Tally;
use super::spread::{Spread, VarianceParts};
use super::{Answer, Distribution, Error, Kind, Reading, Result, Watch, WatchId, file, watch};

const FORMAT: &str = "monitor-calibration/1";
const WHAT: &str = "a calibration";

/// Takes in readings of ordinary traffic, one after the other. In memory are sketches of their distributions, and of every answer
/// that is taken in as a whole 48 bytes per direction.
///
/// Several may work side by side; [`Calibration::merged`] puts their results together.
#[derive(Clone, Debug)]
pub struct Calibrator {
    watches: Arc<[Watch]>,
    /// Per direction, in the order of [`Kind::ALL`].
    tallies: Vec<[Tally; 4]>,
    /// Per direction, what is known of whole answers.
    answers: Vec<(Halves, Spread)>,
    render: RenderOptions,
    rates: Vec<f64>,
}

impl Calibrator {
    /// A calibrator of readings of these directions.
    ///
    /// # Errors
    /// [`Error::NoWatches`] or [`Error::WatchedTwice`].
    pub fn new(watches: &[Watch]) -> Result<Self> {
        watch::check(watches)?;
        let tallies = watches.iter().map(|_| std::array::from_fn(|_| Tally::new())).collect();
        let answers = watches.iter().map(|_| (Halves::new(), Spread::default())).collect();
        Ok(Self { watches: watches.into(), tallies, answers, render: RenderOptions::default(), rates: RATES.to_vec() })
    }

    /// Says how the traffic's prompts are rendered; by default, with default options. It is kept in the calibration.
    #[must_use]
    pub fn with_render(self, render: &RenderOptions) -> Self {
        Self { render: render.closed(), ..self }
    }

    /// Also measures, on answers that thresholds were not made of, how often alarms at these rates are false
    /// ([`Calibration::held_out`]); 0.1, 0.05 and 0.01 are measured anyway.
    ///
    /// # Errors
    /// [`Error::BadSetting`] for a rate that is not between 0 and 1.
    pub fn with_rates(mut self, rates: &[f64]) -> Result<Self> {
        for &rate in rates {
            if !(rate > 0.0 && rate < 1.0) {
                return Err(Error::BadSetting {
                    reason: format!("the rate of false alarms {rate} is not between 0 and 1"),
                });
            }
            if !self.rates.contains(&rate) {
                self.rates.push(rate);
            }
        }
        Ok(self)
    }

    /// Takes in a reading. What is ordinary for an answer as a whole cannot be told of readings one by one: thresholds by false alarms
    /// per answer and a drift that knows of answers' lengths take [`add_answer`](Self::add_answer).
    ///
    /// # Errors
    /// [`Error::OtherReadings`] or [`Error::NotFinite`]; nothing is taken in then.
    pub fn add(&mut self, reading: &Reading) -> Result<()> {
        reading.check(&self.watches)?;
        for (tallies, value) in self.tallies.iter_mut().zip(&reading.values) {
            tallies[reading.at.kind() as usize].add(f64::from(*value));
        }
        Ok(())
    }

    /// Takes in all readings of an answer: the prompt's tokens where they were read, its last token, every token of the
    /// answer, and their mean; and what is ordinary for an answer as a whole.
    ///
    /// # Errors
    /// As [`add`](Self::add); nothing is taken in then.
    pub fn add_answer(&mut self, answer: &Answer) -> Result<()> {
        answer.readings(0).try_for_each(|reading| reading.check(&self.watches))?;
        answer.readings(0).try_for_each(|reading| self.add(&reading))?;
        for (watch, (halves, spread)) in self.answers.iter_mut().enumerate() {
            halves.add(&extremes(answer, watch));
            spread.add(answer, watch);
        }
        Ok(())
    }

    /// The calibration of this model.
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

/// How readings are distributed on ordinary traffic of a model, per direction and [`Kind`].
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Calibration {
    format: String,
    model: ModelIdentity,
    #[serde(default, skip_serializing_if = "RenderOptions::is_default")]
    render: RenderOptions,
    #[serde(rename = "directions")]
    entries: Vec<Entry>,
}

/// One direction's.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Entry {
    #[serde(flatten)]
    watch: WatchId,
    /// Of no readings where a file does not have it.
    #[serde(default = "Distribution::none")]
    prompt_token: Distribution,
    prompt_last: Distribution,
    token: Distribution,
    response_mean: Distribution,
    /// `None` in files of an earlier version, and where readings were taken in one by one.
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

    /// How many answers the readings of a kind are of. The tokens of one go together, and are one answer however many they are.
    fn answers(&self, kind: Kind) -> u64 {
        let n = self.of(kind).n();
        match kind {
            Kind::PromptToken => n.min(self.prompt_last.n()),
            Kind::Token => n.min(self.response_mean.n()),
            Kind::PromptLast | Kind::ResponseMean => n,
        }
    }

    /// The extremes of answers; `None` where they are not known.
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
            // Of some of the answers it is not known, and so not of all.
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
    /// The model on whose traffic it was made.
    pub fn model(&self) -> &ModelIdentity {
        &self.model
    }

    /// How the prompts of that traffic were rendered.
    pub fn render(&self) -> &RenderOptions {
        &self.render
    }

    /// Refuses traffic that is rendered otherwise: what is ordinary depends on the prompts.
    ///
    /// # Errors
    /// [`Error::Misfit`].
    pub fn check_render(&self, render: &RenderOptions) -> Result<()> {
        let text = |render: &RenderOptions| serde_json::to_string(render).unwrap_or_default();
        let (found, expected) = (text(&self.render), text(render));
        if found == expected {
            return Ok(());
        }
        Err(Error::Misfit { what: "render options".to_owned(), found, expected })
    }

    /// The distribution of a kind of reading on a direction, by its number among the watched ones.
    pub fn distribution(&self, watch: usize, kind: Kind) -> Option<&Distribution> {
        Some(self.entries.get(watch)?.of(kind))
    }

    /// How many answers the readings of a kind on a direction are of. The tokens of an answer go together, so that this, and not
    /// their number, says how far out a quantile is known.
    pub fn answers(&self, watch: usize, kind: Kind) -> Option<u64> {
        Some(self.entries.get(watch)?.answers(kind))
    }

    /// How often alarms on a direction would have been false, of ordinary answers that their thresholds were not made of: by kind, side
    /// and the rate that was asked for, as far as there were enough answers. Empty where no answer was taken in as a whole, as in the
    /// files of earlier versions.
    pub fn held_out(&self, watch: usize) -> &[HeldOut] {
        let answers = self.entries.get(watch).and_then(|entry| entry.answers.as_ref());
        answers.map_or(&[], |answers| &answers.held_out)
    }

    /// What the means of ordinary answers on a direction vary by; `None` where that is not known.
    pub fn variance(&self, watch: usize) -> Option<VarianceParts> {
        let entry = self.entries.get(watch)?;
        entry.answers.as_ref()?.spread.parts(&entry.response_mean)
    }

    pub(super) fn extremes(&self, watch: usize, kind: Kind) -> Option<AnswerExtremes> {
        self.entries.get(watch)?.extremes(kind)
    }

    /// Of each value of a reading, how many standard deviations it lies above the mean of its kind; `None` where that is
    /// not known.
    pub fn z(&self, reading: &Reading) -> Vec<Option<f64>> {
        self.each(reading, Distribution::z)
    }

    /// Of each value of a reading, the share of ordinary readings of its kind that lie below it.
    pub fn ranks(&self, reading: &Reading) -> Vec<Option<f64>> {
        self.each(reading, Distribution::rank)
    }

    fn each(&self, reading: &Reading, of: impl Fn(&Distribution, f64) -> Option<f64>) -> Vec<Option<f64>> {
        let kind = reading.at.kind();
        let values = reading.values.iter().enumerate();
        values.map(|(i, value)| of(self.distribution(i, kind)?, f64::from(*value))).collect()
    }

    /// This calibration and another of the same directions on the same model, as if made in one.
    ///
    /// # Errors
    /// [`Error::Misfit`].
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

    /// The usual place of a vector's calibration: `evil.safetensors` has `evil.calibration.json` beside it.
    pub fn path_beside(vector: impl AsRef<Path>) -> PathBuf {
        vector.as_ref().with_extension("calibration.json")
    }

    /// Writes it as JSON, whole or not at all.
    ///
    /// # Errors
    /// [`FileError::Write`](pv_data::FileError::Write).
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        file::write_json(path.as_ref(), self)
    }

    /// Reads what [`save`](Self::save) wrote, for these directions on this model. The file may hold more directions, in
    /// any order.
    ///
    /// A finetuned model's traffic has other projections than its base's, so that the weights must be the same too, besides the
    /// name, the architecture, the type and the chat template; to use one model's calibration for another on purpose, give the
    /// first one's [`ModelIdentity`].
    ///
    /// # Errors
    /// [`FileError::Read`](pv_data::FileError::Read) or [`Error::BadFile`]; [`Error::Misfit`] for another model, for a direction
    /// that the file lacks, and for one whose values are not those that were calibrated.
    pub fn load(path: impl AsRef<Path>, watches: &[Watch], model: &ModelIdentity) -> Result<Self> {
        let path = path.as_ref();
        let found: Self = file::read_json(path, WHAT)?;
        if found.format != FORMAT {
            return Err(file::bad(path, WHAT, format!("its format is {:?}, not {FORMAT:?}", found.format)));
        }
        let misfit =
            |what: &str, found: String, expected: String| Err(Error::Misfit { what: what.to_owned(), found, expected });
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
    Error::Misfit { what: what.to_owned(), found, expected }
}
