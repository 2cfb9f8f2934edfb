//! What determines the answers in a measurement's folder, and the folders of earlier versions.

use std::collections::BTreeMap;

use pv_data::runs::through_text;
use pv_data::{RunError, RunFolder};
use pv_judge::Rubric;
use pv_model::{GenerateOptions, ModelIdentity};
use pv_vectors::judged_answers::{JudgedAnswers, VerdictSource};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::super::watch::WatchId;
use crate::Result;

const FORMAT: &str = "monitor-study/2";
/// The format in which a folder belonged to one list of prompts and one judge.
const EARLIER: &str = "monitor-study/1";
const RUN: &str = "run.json";
/// Settings that older versions did not write.
const LATER: [&str; 1] = ["/model/weights"];
/// Lists that may grow.
const LISTS: [&str; 1] = ["/prompts"];

/// The place of an answer in a measurement: its prompt, by the index in the folder's list, and its number. Ordered as
/// the finished journal is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) struct Place {
    pub(super) prompt: usize,
    pub(super) answer: usize,
}

/// A prompt as a folder knows it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) struct KnownPrompt {
    pub(super) id: String,
    pub(super) question: String,
    /// The SHA-256 of its token ids.
    pub(super) sha256: String,
}

/// The answers that a folder of an earlier version planned. Their seeds depend on how many they were.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Earlier {
    prompts: usize,
    rollouts: usize,
}

/// What determines the answers of a measurement.
pub(super) struct Identity<'a> {
    pub(super) model: &'a ModelIdentity,
    pub(super) directions: Vec<WatchId>,
    pub(super) seed: u64,
    pub(super) generate: &'a GenerateOptions,
    pub(super) prompts: Vec<KnownPrompt>,
}

/// The prompts of a folder.
pub(super) struct Known {
    /// Each with the number of equal prompts before it.
    prompts: Vec<(KnownPrompt, usize)>,
    /// The indices in the folder's list of the measurement's prompts.
    pub(super) of: Vec<usize>,
    seed: u64,
    earlier: Option<Earlier>,
}

impl Known {
    /// The number of the folder's prompts.
    pub(super) fn len(&self) -> usize {
        self.prompts.len()
    }

    /// The seed of an answer. It depends only on the measurement's seed, the prompt and the number of the answer; in
    /// the answers that an earlier version planned, also on the number of answers to a prompt.
    pub(super) fn seed(&self, place: Place) -> Option<u64> {
        let Place { prompt, answer } = place;
        let (KnownPrompt { id, question, sha256 }, equal) = self.prompts.get(prompt)?;
        if let Some(Earlier { prompts, rollouts }) = self.earlier
            && prompt < prompts
            && answer < rollouts
        {
            return Some(self.seed.wrapping_add((prompt * rollouts + answer) as u64));
        }
        let mut hash = Sha256::new();
        for text in [id, question, sha256] {
            hash.update((text.len() as u64).to_le_bytes());
            hash.update(text);
        }
        for number in [self.seed, *equal as u64, answer as u64] {
            hash.update(number.to_le_bytes());
        }
        Some(hash.finalize().iter().take(8).fold(0, |seed, &byte| seed << 8 | u64::from(byte)))
    }
}

impl Identity<'_> {
    /// Writes the description into a new folder, adds new prompts to that of an existing one, or refuses a folder with
    /// other answers. A folder of an earlier version is converted; a process that is killed meanwhile leaves a folder
    /// that can be converted.
    pub(super) fn claim(&self, folder: &RunFolder) -> Result<Known> {
        let saved = folder.read_json(RUN)?;
        let mut found = match saved.as_ref().and_then(|saved| saved.get("prompts")) {
            Some(prompts) => parsed::<Vec<KnownPrompt>>(folder, prompts)?,
            None => Vec::new(),
        };
        let mut index: BTreeMap<(KnownPrompt, usize), usize> =
            numbered(&found).into_iter().enumerate().map(|(index, prompt)| (prompt, index)).collect();
        let mut of = Vec::with_capacity(self.prompts.len());
        for (prompt, equal) in numbered(&self.prompts) {
            let next = found.len();
            let here = *index.entry((prompt.clone(), equal)).or_insert(next);
            if here == next {
                found.push(prompt);
            }
            of.push(here);
        }
        let earlier = match saved {
            Some(saved) if saved["format"] == EARLIER => Some(self.convert(folder, saved, &found)?),
            saved => {
                let earlier = saved.as_ref().and_then(|saved| saved.get("earlier"));
                let earlier = earlier.map(|earlier| parsed(folder, earlier)).transpose()?;
                folder.claim_growing(RUN, &self.json(&found, earlier), &LATER, &LISTS)?;
                earlier
            }
        };
        Ok(Known { prompts: numbered(&found), of, seed: self.seed, earlier })
    }

    fn convert(&self, folder: &RunFolder, mut saved: Value, prompts: &[KnownPrompt]) -> Result<Earlier> {
        let before: Vec<KnownPrompt> = parsed(folder, &saved["prompts"])?;
        let rubrics: Vec<Rubric> = parsed(folder, &saved["rubrics"])?;
        let earlier = Earlier { prompts: before.len(), rollouts: parsed(folder, &saved["rollouts"])? };
        let judge = saved["judge"].as_str().unwrap_or_default().to_owned();
        if let Some(saved) = saved.as_object_mut() {
            ["judge", "rubrics", "rollouts"].iter().for_each(|name| _ = saved.shift_remove(*name));
            saved.insert("format".into(), FORMAT.into());
            saved.insert("prompts".into(), through_text(&before));
            saved.insert("earlier".into(), through_text(&earlier));
        }
        let merged = folder.merged(saved, &self.json(prompts, Some(earlier)), &LATER, &LISTS)?;
        let sources: Vec<_> = rubrics.iter().map(|rubric| VerdictSource::new(&judge, rubric)).collect();
        JudgedAnswers::<Place>::convert(folder, |place: Place| Some(place), &sources)?;
        folder.write(RUN, |file| Ok(serde_json::to_writer_pretty(file, &merged)?))?;
        Ok(earlier)
    }

    /// The batch size is not part of it.
    fn json(&self, prompts: &[KnownPrompt], earlier: Option<Earlier>) -> Value {
        let generate = GenerateOptions { batch_size: 0, prefill_tokens: 0, ..self.generate.clone() };
        let mut description = json!({
            "format": FORMAT,
            "model": through_text(self.model),
            "directions": through_text(&self.directions),
            "seed": self.seed,
            "generate": through_text(&generate),
            "prompts": through_text(&prompts),
        });
        if let Some(earlier) = earlier {
            description["earlier"] = through_text(&earlier);
        }
        description
    }
}

/// Prompts, each with the number of equal ones before it.
fn numbered(prompts: &[KnownPrompt]) -> Vec<(KnownPrompt, usize)> {
    let mut seen: BTreeMap<&KnownPrompt, usize> = BTreeMap::new();
    let number = |prompt| {
        let seen = seen.entry(prompt).or_default();
        *seen += 1;
        (prompt.clone(), *seen - 1)
    };
    prompts.iter().map(number).collect()
}

fn parsed<T: DeserializeOwned>(folder: &RunFolder, value: &Value) -> Result<T> {
    let damaged = |source| RunError::Json { path: folder.file(RUN), source };
    Ok(serde_json::from_value(value.clone()).map_err(damaged)?)
}
