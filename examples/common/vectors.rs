//! Vectors that programs take from a file, or extract in short and keep.

use std::path::{Path, PathBuf};

use pv_hooks::Layer;
use pv_model::CausalLm;
use pv_steer::AnswerPair;
use pv_vectors::{Contrast, PersonaVector};
use serde_json::{Value, json};

use crate::folder::{OutArgs, kept, make};
use crate::sweeping::answer_pairs;
use crate::{ModelArgs, Result, SAMPLING, default_layer, extract, note};

/// A vector's file in a run's folder.
const FILE: &str = "vector.safetensors";

/// Which vector, and at which layer.
#[derive(clap::Args, Clone, Debug)]
pub struct VectorArgs {
    /// Take this vector, as extract_contrast, persona_vectors or another tool's export saved it, instead of extracting the
    /// trait's; one that is extracted is kept below runs.
    #[arg(long)]
    pub vector: Option<PathBuf>,
    /// The layer, counted as in Hugging Face's hidden_states; the middle one by default, 7 for the organism.
    #[arg(long)]
    pub layer: Option<usize>,
}

impl VectorArgs {
    /// The vector, which fits the model.
    ///
    /// # Errors
    /// A file that holds none, or one that does not fit; those of [`kept_vector`].
    pub fn read(
        &self,
        args: &ModelArgs,
        model: &CausalLm,
        contrast: &Contrast,
        max_new_tokens: usize,
        seed: u64,
    ) -> Result<PersonaVector> {
        match &self.vector {
            Some(path) => load(path, model),
            None => kept_vector(args, model, contrast, max_new_tokens, seed),
        }
    }

    /// The layer to act at.
    pub fn layer(&self, args: &ModelArgs, model: &CausalLm) -> Layer {
        self.layer.map_or_else(|| default_layer(args, model), Layer::hidden_state)
    }
}

/// A vector's file, which fits the model.
///
/// # Errors
/// A file that holds none; one of another model.
pub fn load(path: impl AsRef<Path>, model: &CausalLm) -> Result<PersonaVector> {
    let vector = PersonaVector::load(path)?;
    vector.check_model(model.config())?;
    Ok(vector)
}

/// A vector, and some of the answers that it was made of.
#[derive(Clone, Debug)]
pub struct Extracted {
    /// The vector.
    pub vector: PersonaVector,
    /// Per question, an answer that shows the trait and one that does not.
    pub pairs: Vec<AnswerPair>,
}

/// A trait's vector, extracted in short into a folder, or read there.
///
/// # Errors
/// A vector there that was made otherwise; those of extracting.
pub fn extracted(
    folder: &Path,
    model: &CausalLm,
    contrast: &Contrast,
    max_new_tokens: usize,
    seed: u64,
) -> Result<Extracted> {
    let settings = settings(model, contrast, max_new_tokens, seed)?;
    let path = folder.join(FILE);
    let pairs: Vec<AnswerPair> = kept(folder, "vector", &settings, || {
        let extraction = extract(model, contrast, max_new_tokens, seed)?;
        extraction.vector.save(&path)?;
        Ok(answer_pairs(contrast, &extraction))
    })?;
    Ok(Extracted { vector: load(path, model)?, pairs })
}

/// A trait's vector, extracted in short into a folder of its own below runs, or read there when it was extracted in the same
/// way before. Where no folder can be made, it is extracted and not kept.
///
/// # Errors
/// Those of extracting.
pub fn kept_vector(
    args: &ModelArgs,
    model: &CausalLm,
    contrast: &Contrast,
    max_new_tokens: usize,
    seed: u64,
) -> Result<PersonaVector> {
    let settings = settings(model, contrast, max_new_tokens, seed)?;
    let folder = OutArgs::folder_of("vector", &[&args.title(), &contrast.name], &settings);
    if let Err(error) = make(&folder) {
        tracing::warn!("{error}; the vector is not kept");
        return Ok(extract(model, contrast, max_new_tokens, seed)?.vector);
    }
    let found = extracted(&folder, model, contrast, max_new_tokens, seed)?.vector;
    note(&format!("the vector is {}", folder.join(FILE).display()));
    Ok(found)
}

/// All that an extraction depends on.
fn settings(model: &CausalLm, contrast: &Contrast, max_new_tokens: usize, seed: u64) -> Result<Value> {
    Ok(json!({
        "model": model.identity()?,
        "contrast": contrast,
        "sampling": SAMPLING,
        "max_new_tokens": max_new_tokens,
        "seed": seed,
    }))
}
