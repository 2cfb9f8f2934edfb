//! What readings are on ordinary traffic.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use pv_model::{ModelId, RenderOptions};
use serde::{Deserialize, Serialize};

use super::distribution::Tally;
use super::{Answer, Distribution, Error, Kind, ModelRecord, Reading, Result, Watch, WatchId, file, watch};

const FORMAT: &str = "monitor-calibration/1";
const WHAT: &str = "a calibration";

/// Takes in readings of ordinary traffic, one after the other, in bounded memory.
///
/// Several may work side by side; [`Calibration::merged`] puts their results together.
#[derive(Clone, Debug)]
pub struct Calibrator {
    watches: Arc<[Watch]>,
    /// Per direction, in the order of [`Kind::ALL`].
    tallies: Vec<[Tally; 4]>,
    render: RenderOptions,
}

impl Calibrator {
    /// A calibrator of readings of these directions.
    ///
    /// # Errors
    /// [`Error::NoWatches`] or [`Error::WatchedTwice`].
    pub fn new(watches: &[Watch]) -> Result<Self> {
        watch::check(watches)?;
        let tallies = watches.iter().map(|_| std::array::from_fn(|_| Tally::new())).collect();
        Ok(Self { watches: watches.into(), tallies, render: RenderOptions::default() })
    }

    /// Says how the traffic's prompts are rendered; by default, with default options. It is kept in the calibration.
    #[must_use]
    pub fn with_render(self, render: &RenderOptions) -> Self {
        Self { render: render.closed(), ..self }
    }

    /// Takes in a reading.
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
    /// answer, and their mean.
    ///
    /// # Errors
    /// As [`add`](Self::add); readings before the one at fault are taken in.
    pub fn add_answer(&mut self, answer: &Answer) -> Result<()> {
        answer.readings(0).try_for_each(|reading| self.add(&reading))
    }

    /// The calibration of this model.
    pub fn finish(self, model: &ModelId) -> Calibration {
        let entry = |(watch, tallies): (&Watch, [Tally; 4])| {
            let [prompt_token, prompt_last, token, response_mean] = tallies.map(Tally::finish);
            Entry { watch: watch.id(), prompt_token, prompt_last, token, response_mean }
        };
        let entries = self.watches.iter().zip(self.tallies).map(entry).collect();
        Calibration { format: FORMAT.to_owned(), model: model.into(), render: self.render, entries }
    }
}

/// How readings are distributed on ordinary traffic of a model, per direction and [`Kind`].
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Calibration {
    format: String,
    model: ModelRecord,
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
}

impl Calibration {
    /// The model on whose traffic it was made.
    pub fn model(&self) -> &ModelRecord {
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
        let merge = |(mine, other): (Entry, &Entry)| Entry {
            watch: mine.watch,
            prompt_token: mine.prompt_token.merged(&other.prompt_token),
            prompt_last: mine.prompt_last.merged(&other.prompt_last),
            token: mine.token.merged(&other.token),
            response_mean: mine.response_mean.merged(&other.response_mean),
        };
        let entries = self.entries.into_iter().zip(&other.entries).map(merge).collect();
        Ok(Self { entries, ..self })
    }

    /// The usual place of a vector's calibration: `evil.safetensors` has `evil.calibration.json` beside it.
    pub fn path_beside(vector: impl AsRef<Path>) -> PathBuf {
        vector.as_ref().with_extension("calibration.json")
    }

    /// Writes it as JSON, whole or not at all.
    ///
    /// # Errors
    /// [`Error::Write`].
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        file::write_json(path.as_ref(), self)
    }

    /// Reads what [`save`](Self::save) wrote, for these directions on this model. The file may hold more directions, in
    /// any order.
    ///
    /// A finetuned model has another name than its base and its traffic other projections, so that the names must be the
    /// same too, besides the architecture and the chat template; to use one model's calibration for another on purpose,
    /// give the first one's [`ModelId`].
    ///
    /// # Errors
    /// [`Error::Read`] or [`Error::BadFile`]; [`Error::Misfit`] for another model, for a direction
    /// that the file lacks, and for one whose values are not those that were calibrated.
    pub fn load(path: impl AsRef<Path>, watches: &[Watch], model: &ModelId) -> Result<Self> {
        let path = path.as_ref();
        let found: Self = file::read_json(path, WHAT)?;
        if found.format != FORMAT {
            return Err(file::bad(path, WHAT, format!("its format is {:?}, not {FORMAT:?}", found.format)));
        }
        let expected = ModelRecord::from(model);
        let misfit =
            |what: &str, found: String, expected: String| Err(Error::Misfit { what: what.to_owned(), found, expected });
        if found.model.name != expected.name {
            return misfit("model", found.model.name, expected.name);
        }
        if found.model.config_hash != expected.config_hash {
            return misfit("model's architecture hash", found.model.config_hash, expected.config_hash);
        }
        if found.model.template_hash != expected.template_hash {
            let shown = |hash: Option<String>| hash.unwrap_or_else(|| "none".to_owned());
            let (found, expected) = (shown(found.model.template_hash), shown(expected.template_hash));
            return misfit("chat template's hash", found, expected);
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
