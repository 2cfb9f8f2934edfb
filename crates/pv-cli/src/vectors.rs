//! Vectors that are loaded from a file, or extracted without a judge and saved.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use pv_hooks::Layer;
use pv_model::{CausalLm, GenerateOptions, RenderOptions};
use pv_steer::sweep::AnswerPair;
use pv_vectors::contrast::Extraction;
use pv_vectors::{Contrast, PersonaVector};
use serde_json::{Value, json};

use crate::folder::{OutArgs, kept, make};
use crate::traits::{NamedTrait, TraitArgs};
use crate::{Bar, ModelArgs, RenderArgs, Result, SAMPLING, default_layer, note};

/// A vector's file in a run folder.
pub(crate) const FILE: &str = "vector.safetensors";

/// A trait of a model, and its vector.
#[derive(clap::Args, Clone, Debug)]
pub struct TraitVectorArgs {
    /// The model.
    #[command(flatten)]
    pub model: ModelArgs,
    /// How prompts are rendered.
    #[command(flatten)]
    pub render: RenderArgs,
    /// The trait.
    #[command(flatten)]
    pub which: TraitArgs,
    /// Load this vector, as saved by `persona extract` or another tool, instead of extracting the trait's vector
    /// without a judge. An extracted vector is cached below runs.
    #[arg(long)]
    pub vector: Option<PathBuf>,
    /// The layer, counted as in Hugging Face's hidden_states; by default the middle layer, 7 for the organism.
    #[arg(long)]
    pub layer: Option<usize>,
}

/// A trait and the loaded model.
#[derive(Debug)]
pub struct TraitOfModel {
    /// The trait.
    pub named: NamedTrait,
    /// How prompts are rendered.
    pub render: RenderOptions,
    /// The prompts that the trait's vector is extracted from.
    pub contrast: Contrast,
    /// The model.
    pub model: CausalLm,
}

impl TraitVectorArgs {
    /// Finds the trait and loads the model.
    ///
    /// # Errors
    /// An unknown trait, or one without prompts; an invalid date; those of [`ModelArgs::load`].
    pub fn load(&self) -> Result<TraitOfModel> {
        let named = self.which.read(&self.model)?;
        let render = self.render.options()?;
        let contrast = named.contrast(&render)?;
        Ok(TraitOfModel { named, render, contrast, model: self.model.load()? })
    }

    /// Loads or extracts the vector, which fits the model.
    ///
    /// # Errors
    /// A file that is not a vector, or a vector of another model; those of [`ContrastExtraction::cached`].
    pub fn vector(&self, of: &TraitOfModel, max_new_tokens: usize, seed: u64) -> Result<PersonaVector> {
        let TraitOfModel { model, contrast, .. } = of;
        match &self.vector {
            Some(path) => load(path, model),
            None => ContrastExtraction { model, contrast, max_new_tokens, seed }.cached(&self.model.title()),
        }
    }

    /// The layer to intervene at.
    pub fn layer(&self, model: &CausalLm) -> Layer {
        self.layer.map_or_else(|| default_layer(&self.model, model), Layer::hidden_state)
    }
}

/// Loads a vector that fits the model.
///
/// # Errors
/// A file that is not a vector; a vector of another model.
pub fn load(path: impl AsRef<Path>, model: &CausalLm) -> Result<PersonaVector> {
    let vector = PersonaVector::load(path)?;
    vector.check_model(model.config())?;
    Ok(vector)
}

/// A vector, and some answers that it was extracted from.
#[derive(Clone, Debug)]
pub struct Extracted {
    /// The vector.
    pub vector: PersonaVector,
    /// For each question, an answer that shows the trait and one that does not.
    pub pairs: Vec<AnswerPair>,
}

/// The extraction of a trait's vector from contrastive system prompts, without a judge.
#[derive(Clone, Copy, Debug)]
pub struct ContrastExtraction<'a> {
    /// The model.
    pub model: &'a CausalLm,
    /// The prompts.
    pub contrast: &'a Contrast,
    /// The maximum number of tokens in an answer.
    pub max_new_tokens: usize,
    /// The seed from which the seeds of all answers are derived.
    pub seed: u64,
}

impl ContrastExtraction<'_> {
    /// Extracts the vector under a progress bar.
    ///
    /// # Errors
    /// Those of [`Contrast::extract`].
    pub fn run(&self) -> Result<Extraction> {
        let Self { model, contrast, max_new_tokens, seed } = *self;
        let bar = Bar::new(format!("extracting {}", contrast.name));
        let options = GenerateOptions { max_new_tokens, sampling: SAMPLING, ..GenerateOptions::default() };
        Ok(contrast.extract(model, &options, seed, |progress| {
            bar.show(&contrast.name, progress);
            ControlFlow::Continue(())
        })?)
    }

    /// Extracts the vector into a folder, or loads it from there.
    ///
    /// # Errors
    /// An existing vector with other settings; those of extracting.
    pub fn in_folder(&self, folder: &Path) -> Result<Extracted> {
        let path = folder.join(FILE);
        let pairs: Vec<AnswerPair> = kept(folder, "vector", &self.settings()?, || {
            let extraction = self.run()?;
            extraction.vector.save(&path)?;
            Ok(answer_pairs(self.contrast, &extraction))
        })?;
        Ok(Extracted { vector: load(path, self.model)?, pairs })
    }

    /// Extracts the vector into a folder of its own below runs, or loads it from there if it was extracted with the
    /// same settings. If the folder cannot be created, the vector is not cached. `title` is the model's part of the
    /// folder's name.
    ///
    /// # Errors
    /// Those of extracting.
    pub fn cached(&self, title: &str) -> Result<PersonaVector> {
        let folder = OutArgs::folder_of("vector", &[title, &self.contrast.name], &self.settings()?);
        if let Err(error) = make(&folder) {
            tracing::warn!("{error}; the vector is not cached");
            return Ok(self.run()?.vector);
        }
        let found = self.in_folder(&folder)?.vector;
        note(&format!("the vector is cached in {}", folder.join(FILE).display()));
        Ok(found)
    }

    /// All settings that the result depends on.
    fn settings(&self) -> Result<Value> {
        Ok(json!({
            "model": self.model.identity()?,
            "contrast": self.contrast,
            "sampling": SAMPLING,
            "max_new_tokens": self.max_new_tokens,
            "seed": self.seed,
        }))
    }
}

/// For each question, the first answer that shows the trait and the first that does not.
pub fn answer_pairs(contrast: &Contrast, extraction: &Extraction) -> Vec<AnswerPair> {
    let mut found: BTreeMap<usize, [Option<&str>; 2]> = BTreeMap::new();
    for answer in extraction.answers.iter().filter(|answer| !answer.generation.tokens.is_empty()) {
        let side = &mut found.entry(answer.question).or_default()[usize::from(!answer.eliciting)];
        side.get_or_insert(&answer.generation.text);
    }
    let pair = |(question, [pro, contra]): (usize, [Option<&str>; 2])| {
        let question = contrast.questions.get(question)?.clone();
        Some(AnswerPair { question, pro: pro?.to_owned(), contra: contra?.to_owned() })
    };
    found.into_iter().filter_map(pair).collect()
}
