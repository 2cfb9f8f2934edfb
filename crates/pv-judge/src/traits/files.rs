//! JSON files of traits: 40 questions in one file, or 20 each in one for extraction and one for evaluation.

use std::io::Read;
use std::path::Path;

use pv_data::FileError;
use pv_data::files::write_whole;
use serde::{Deserialize, Serialize};

use super::{InstructionPair, TraitFault, TraitSpec};
use crate::{Error, Result};

/// The number of questions of one kind.
const QUESTIONS: usize = 20;

/// Such files have some ten thousand bytes.
const LARGEST: u64 = 4 << 20;

/// The content of a file. Keys of other programs are ignored.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct TraitJson {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    description: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    assistant_pos: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    assistant_neg: Option<String>,
    instruction: Vec<InstructionPair>,
    questions: Vec<String>,
    eval_prompt: String,
}

impl TraitJson {
    /// The content of a file with these questions.
    fn new(spec: &TraitSpec, questions: Vec<String>) -> Self {
        Self {
            name: Some(spec.name.clone()),
            description: spec.description.clone(),
            assistant_pos: spec.assistant_pos.clone(),
            assistant_neg: spec.assistant_neg.clone(),
            instruction: spec.instruction.clone(),
            questions,
            eval_prompt: spec.eval_prompt.clone(),
        }
    }

    /// The single file of a trait.
    ///
    /// # Errors
    /// The fault that would prevent it from being read again.
    pub(crate) fn whole(spec: &TraitSpec) -> Result<Self, TraitFault> {
        spec.check()?;
        for (found, expected) in [
            (spec.extraction.len(), "20 for extraction in a file"),
            (spec.evaluation.len(), "20 for evaluation in a file"),
        ] {
            if found != QUESTIONS {
                return Err(TraitFault::Questions { found, expected });
            }
        }
        Ok(Self::new(spec, spec.extraction.iter().chain(&spec.evaluation).cloned().collect()))
    }

    /// The trait, with the first `extraction` questions for extraction.
    fn into_spec(self, name: &str, extraction: usize) -> Result<TraitSpec, TraitFault> {
        let Self { name: given, description, assistant_pos, assistant_neg, instruction, questions, eval_prompt } = self;
        let mut extraction_questions = questions;
        let evaluation = extraction_questions.split_off(extraction);
        let given_text = |text: Option<String>| text.filter(|text| !text.trim().is_empty());
        let spec = TraitSpec {
            name: given_text(given).unwrap_or_else(|| name.to_owned()),
            description: given_text(description),
            assistant_pos: given_text(assistant_pos),
            assistant_neg: given_text(assistant_neg),
            instruction,
            extraction: extraction_questions,
            evaluation,
            eval_prompt,
        };
        spec.check()?;
        Ok(spec)
    }
}

impl TraitSpec {
    /// Loads a trait from one file with 40 questions, of which the first 20 are for extraction. Its name is that of the
    /// file, unless the file contains the key `name`.
    ///
    /// # Errors
    /// [`FileError::Read`], [`Error::FileTooLarge`]; [`Error::Trait`] with the file and the
    /// fault.
    pub fn load(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        one(read(path)?, stem(path)).map_err(wrong(path))
    }

    /// Loads a trait from two files with 20 questions each. Everything but the questions is taken from the one for
    /// extraction.
    ///
    /// # Errors
    /// Those of [`load`](Self::load); also if the two have different rubrics or names, so that their scores would not
    /// be comparable.
    pub fn load_pair(extraction: impl AsRef<Path>, evaluation: impl AsRef<Path>) -> Result<Self> {
        let (first, second) = (extraction.as_ref(), evaluation.as_ref());
        let (mut whole, other) = (read(first)?, read(second)?);
        for (path, json) in [(first, &whole), (second, &other)] {
            if json.questions.len() != QUESTIONS {
                let expected = "20 in each of two files";
                return Err(wrong(path)(TraitFault::Questions { found: json.questions.len(), expected }));
            }
        }
        let disagree = |key| Err(wrong(second)(TraitFault::Disagree { key, other: first.display().to_string() }));
        if whole.eval_prompt != other.eval_prompt {
            return disagree("eval_prompt");
        }
        if whole.name.is_some() && other.name.is_some() && whole.name != other.name {
            return disagree("name");
        }
        // An empty question must be reported with its own file.
        if let Some(index) = other.questions.iter().position(|question| question.trim().is_empty()) {
            return Err(wrong(second)(TraitFault::EmptyQuestion { index }));
        }
        whole.questions.extend(other.questions);
        whole.into_spec(stem(first), QUESTIONS).map_err(wrong(first))
    }

    /// Parses a trait from the text of a file with 40 questions; `name` is used if the text contains none.
    ///
    /// # Errors
    /// [`Error::Trait`], with the name instead of a file.
    pub fn from_json(name: &str, text: &str) -> Result<Self> {
        let json = serde_json::from_str(text).map_err(TraitFault::Json);
        json.and_then(|json| one(json, name)).map_err(|source| Error::Trait { origin: name.to_owned(), source })
    }

    /// Saves the trait to one file with 40 questions, which is written whole.
    ///
    /// # Errors
    /// [`FileError::Write`]; [`Error::Trait`] for a trait that [`load`](Self::load) would
    /// not read.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        write(path, &TraitJson::whole(self).map_err(wrong(path))?)
    }

    /// Saves the trait to two files with 20 questions each, for extraction and for evaluation.
    ///
    /// # Errors
    /// Those of [`save`](Self::save).
    pub fn save_pair(&self, extraction: impl AsRef<Path>, evaluation: impl AsRef<Path>) -> Result<()> {
        let (extraction, evaluation) = (extraction.as_ref(), evaluation.as_ref());
        TraitJson::whole(self).map_err(wrong(extraction))?;
        write(extraction, &TraitJson::new(self, self.extraction.clone()))?;
        write(evaluation, &TraitJson::new(self, self.evaluation.clone()))
    }
}

/// The trait of one file.
fn one(json: TraitJson, name: &str) -> Result<TraitSpec, TraitFault> {
    match json.questions.len() {
        found if found == 2 * QUESTIONS => json.into_spec(name, QUESTIONS),
        QUESTIONS => {
            let expected = "40 in one file (20 are one of two files, which are read together)";
            Err(TraitFault::Questions { found: QUESTIONS, expected })
        }
        found => Err(TraitFault::Questions { found, expected: "40 in one file" }),
    }
}

/// The name of a trait whose file contains none.
fn stem(path: &Path) -> &str {
    path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default()
}

fn wrong(path: &Path) -> impl Fn(TraitFault) -> Error {
    let origin = path.display().to_string();
    move |source| Error::Trait { origin: origin.clone(), source }
}

fn read(path: &Path) -> Result<TraitJson> {
    let failed = |source| FileError::Read { path: path.to_owned(), source };
    let mut bytes = Vec::new();
    pv_data::files::open_file(path).map_err(failed)?.take(LARGEST + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > LARGEST {
        return Err(Error::FileTooLarge { path: path.to_owned(), limit: LARGEST });
    }
    serde_json::from_slice(&bytes).map_err(|error| wrong(path)(TraitFault::Json(error)))
}

/// Writes JSON, whole or not at all.
pub(crate) fn write(path: &Path, json: &impl Serialize) -> Result<()> {
    let json = serde_json::to_vec_pretty(json).map_err(|error| FileError::write(path)(error.into()))?;
    Ok(write_whole(path, json)?)
}
