//! A persona vector: a direction for a trait at every layer of a model.

use std::collections::BTreeMap;

use pv_hooks::Layer;
use pv_judge::VerdictCounts;
use pv_model::{DecoderConfig, RenderOptions, Sampling};
use serde::{Deserialize, Serialize};

use crate::files::Imported;
use crate::{Error, Filter, Result};

/// Which tokens' activations a vector is the difference of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pooling {
    /// The mean over the response's tokens: the persona vector proper.
    #[default]
    ResponseMean,
    /// The mean over the prompt's tokens.
    PromptMean,
    /// The prompt's last token.
    PromptLast,
}

impl Pooling {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::ResponseMean, Self::PromptMean, Self::PromptLast];

    /// The name in files.
    pub fn name(self) -> &'static str {
        match self {
            Self::ResponseMean => "response_mean",
            Self::PromptMean => "prompt_mean",
            Self::PromptLast => "prompt_last",
        }
    }
}

/// Where a vector comes from. Kept in its file, so that a result can be traced and repeated.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Provenance {
    /// The trait's name.
    pub trait_name: String,
    /// The model's name; empty where an imported file does not tell.
    pub model: String,
    /// SHA-256 of the model's architecture, in hex; `None` in an imported vector, whose file knows no such hash.
    pub config_hash: Option<String>,
    /// SHA-256 of the chat template that rendered the prompts, in hex.
    pub template_hash: Option<String>,
    /// SHA-256 of some of the model's weights, in hex, as [`ModelIdentity`](pv_model::ModelIdentity) has it; `None` where an
    /// older or imported file does not tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weights: Option<String>,
    /// How that template was used.
    #[serde(default, skip_serializing_if = "RenderOptions::is_default")]
    pub render: RenderOptions,
    /// Who scored the answers; `None` when all answers were taken as they are.
    pub judge: Option<String>,
    /// How its verdicts were got: the scores by their mode, the abstentions by their kind. Empty where that is not known.
    #[serde(default, skip_serializing_if = "VerdictCounts::is_empty")]
    pub verdicts: VerdictCounts,
    /// What an answer had to score to be kept; `None` when all answers were taken as they are, or it is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filter: Option<Filter>,
    /// How many answers went into the mean under eliciting instructions; `None` where an imported file does not tell.
    pub kept_positive: Option<usize>,
    /// How many went into it under suppressing instructions, where that is known.
    pub kept_negative: Option<usize>,
    /// How many answers were generated in all, where that is known.
    pub total: Option<usize>,
    /// The seed of the first answer, where that is known.
    pub seed: Option<u64>,
    /// How the answers' tokens were chosen; `None` where an older or imported file does not tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sampling: Option<Sampling>,
    /// The longest answer in tokens; `None` where an older or imported file does not tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_new_tokens: Option<usize>,
    /// The version of this crate that made the vector; `None` where an older or imported file does not tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// The layer at which the vector steers best, where that has been found out.
    pub best_layer: Option<Layer>,
    /// The files of another tool that the vector was imported from; `None` when it was extracted here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub imported: Option<Imported>,
}

impl Provenance {
    /// This crate's version.
    pub(crate) fn current_version() -> Option<String> {
        Some(env!("CARGO_PKG_VERSION").to_owned())
    }

    /// Whether a fact is missing that every vector has that was extracted here.
    pub(crate) fn lacks_facts(&self) -> bool {
        let counts = [self.kept_positive, self.kept_negative, self.total];
        self.config_hash.is_none() || self.seed.is_none() || counts.contains(&None)
    }
}

/// What is particular about one row of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RowMark {
    /// There is no row for this layer: the file that the table came from holds none.
    Absent,
    /// The row was taken after the model's final norm, whereas an intervention acts before it.
    AfterFinalNorm,
}

/// One `[layers, d_model]` table of f32, one row per layer `0..=N`. Rows of imported tables may be absent.
#[derive(Clone, Debug, PartialEq)]
pub struct LayerRows {
    /// Zeros where a row is absent.
    pub(crate) values: Vec<f32>,
    pub(crate) d_model: usize,
    pub(crate) marks: BTreeMap<Layer, RowMark>,
}

impl LayerRows {
    /// The table with these values, row after row; `None` when they do not fill rows of `d_model`.
    pub fn new(values: Vec<f32>, d_model: usize) -> Option<Self> {
        let whole = d_model > 0 && !values.is_empty() && values.len().is_multiple_of(d_model);
        whole.then_some(Self { values, d_model, marks: BTreeMap::new() })
    }

    /// The same table with marked rows; the values of those that are absent become zeros. `None` when a mark lies beyond
    /// the table, or no row is left.
    #[must_use]
    pub fn with_marks(mut self, marks: BTreeMap<Layer, RowMark>) -> Option<Self> {
        let layers = self.layers();
        let absent = marks.iter().filter(|(_, mark)| **mark == RowMark::Absent).map(|(layer, _)| layer.index());
        let absent: Vec<usize> = absent.collect();
        if marks.keys().any(|layer| layer.index() >= layers) || absent.len() == layers {
            return None;
        }
        for index in absent {
            self.values[index * self.d_model..][..self.d_model].fill(0.0);
        }
        self.marks = marks;
        Some(self)
    }

    /// The number of layers, embeddings included: blocks + 1.
    pub fn layers(&self) -> usize {
        self.values.len() / self.d_model
    }

    /// The row of a layer; `None` when it is absent or beyond the table.
    pub fn get(&self, layer: Layer) -> Option<&[f32]> {
        let absent = self.mark(layer) == Some(RowMark::Absent);
        self.values.chunks(self.d_model).nth(layer.index()).filter(|_| !absent)
    }

    /// What is particular about the row of a layer, if anything.
    pub fn mark(&self, layer: Layer) -> Option<RowMark> {
        self.marks.get(&layer).copied()
    }
}

/// The mean differences of a trait at every layer of a model, in activation units, not normalised.
#[derive(Clone, Debug, PartialEq)]
pub struct PersonaVector {
    pub(crate) provenance: Provenance,
    pub(crate) tables: BTreeMap<Pooling, LayerRows>,
    pub(crate) residual_norms: Option<Vec<f32>>,
}

/// A persona vector at one layer: what interventions and projections take.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Direction {
    /// Where it was measured, and where it acts.
    pub layer: Layer,
    /// The raw difference, `[d_model]`.
    pub values: Vec<f32>,
    /// The mean norm of the residual at the layer over response tokens, where it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mean_residual_norm: Option<f32>,
}

impl Direction {
    /// The Euclidean length, accumulated in f64.
    pub fn norm(&self) -> f64 {
        dot(&self.values, &self.values).sqrt()
    }
}

impl PersonaVector {
    /// A vector from its tables. `residual_norms` holds the mean residual norm of each layer over response tokens.
    ///
    /// # Errors
    /// [`Error::BadContrast`] when there is no table or the tables differ in shape.
    pub fn new(
        provenance: Provenance,
        tables: BTreeMap<Pooling, LayerRows>,
        residual_norms: Option<Vec<f32>>,
    ) -> Result<Self> {
        let bad = |reason: &str| Err(Error::BadContrast { reason: reason.to_owned() });
        let mut shapes = tables.values().map(|table| (table.layers(), table.d_model));
        let Some(shape) = shapes.next() else { return bad("a vector needs at least one table") };
        if shapes.any(|other| other != shape) {
            return bad("a vector's tables differ in shape");
        }
        if residual_norms.as_ref().is_some_and(|norms| norms.len() != shape.0) {
            return bad("a vector needs one residual norm per layer");
        }
        Ok(Self { provenance, tables, residual_norms })
    }

    /// Where the vector comes from.
    pub fn provenance(&self) -> &Provenance {
        &self.provenance
    }

    /// The table of a pooling, where it was kept.
    pub fn table(&self, pooling: Pooling) -> Option<&LayerRows> {
        self.tables.get(&pooling)
    }

    /// The number of layers, embeddings included, and the width.
    pub fn shape(&self) -> (usize, usize) {
        self.tables.values().next().map_or((0, 0), |table| (table.layers(), table.d_model))
    }

    /// The mean norm of the residual over response tokens at a layer, where it is known.
    pub fn mean_residual_norm(&self, layer: Layer) -> Option<f32> {
        self.residual_norms.as_ref()?.get(layer.index()).copied()
    }

    /// The persona vector at a layer, from the response means.
    ///
    /// # Errors
    /// As [`direction_of`](Self::direction_of).
    pub fn direction(&self, layer: Layer) -> Result<Direction> {
        self.direction_of(Pooling::ResponseMean, layer)
    }

    /// The vector of a pooling at a layer.
    ///
    /// # Errors
    /// A pooling or layer that the vector lacks, [`Error::AfterFinalNorm`] for a row that was not taken where an
    /// intervention acts, or [`Error::Degenerate`] when the row has no direction.
    pub fn direction_of(&self, pooling: Pooling, layer: Layer) -> Result<Direction> {
        let trait_name = || self.provenance.trait_name.clone();
        let table = self
            .tables
            .get(&pooling)
            .ok_or_else(|| Error::NoSuchPooling { trait_name: trait_name(), pooling: pooling.name() })?;
        match table.mark(layer) {
            Some(RowMark::Absent) => return Err(Error::AbsentLayer { trait_name: trait_name(), layer }),
            Some(RowMark::AfterFinalNorm) => return Err(Error::AfterFinalNorm { trait_name: trait_name(), layer }),
            None => {}
        }
        let row = table.get(layer).ok_or_else(|| Error::NoSuchLayer {
            trait_name: trait_name(),
            layer,
            last: table.layers() - 1,
        })?;
        let direction = Direction { layer, values: row.to_vec(), mean_residual_norm: self.mean_residual_norm(layer) };
        let norm = direction.norm();
        if norm == 0.0 || !norm.is_finite() {
            return Err(Error::Degenerate { trait_name: trait_name(), layer });
        }
        Ok(direction)
    }

    /// Refuses a model that the vector was not made on: another width, depth or architecture. Other weights are welcome: a base
    /// model's vector measures and steers its finetuned copies. An imported vector knows
    /// no hash of the architecture, and some know only that the model has at least so many blocks: then that is checked.
    /// A control vector's `model_hint` must not name another architecture; where it is only spelt otherwise, or names a
    /// model, a warning says so. [`ImportOptions::model`](crate::ImportOptions::model) vouches for a file whose hint is wrong.
    ///
    /// # Errors
    /// [`Error::ModelMismatch`].
    pub fn check_model(&self, config: &DecoderConfig) -> Result<()> {
        let (layers, d_model) = self.shape();
        let mismatch = |what, vector: String, model: String| {
            Err(Error::ModelMismatch { trait_name: self.provenance.trait_name.clone(), what, vector, model })
        };
        if d_model != config.d_model {
            return mismatch("width", d_model.to_string(), config.d_model.to_string());
        }
        let blocks = layers - 1;
        let at_least = self.provenance.imported.as_ref().is_some_and(|imported| !imported.depth_known);
        if at_least && blocks > config.layers {
            return mismatch("number of blocks", format!("at least {blocks}"), config.layers.to_string());
        }
        if !at_least && blocks != config.layers {
            return mismatch("number of blocks", blocks.to_string(), config.layers.to_string());
        }
        let expected = config.hash();
        if let Some(hash) = self.provenance.config_hash.as_ref().filter(|hash| **hash != expected) {
            return mismatch("architecture hash", hash.clone(), expected);
        }
        // Who gave the vector a model of their own vouches for it.
        let hint = self.provenance.imported.as_ref().and_then(|imported| imported.model_hint.as_deref());
        match hint.filter(|hint| *hint == self.provenance.model).map(|hint| (hint, Hint::of(hint, &config.model_type)))
        {
            Some((hint, Hint::Other)) => mismatch("model_hint", hint.to_owned(), config.model_type.clone()),
            Some((hint, Hint::Unclear)) => {
                let model = config.model_type.as_str();
                tracing::warn!(hint, model, "the vector's model_hint does not name the model's architecture");
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

/// What a control vector's `model_hint` says of a model.
#[derive(Debug, PartialEq, Eq)]
enum Hint {
    /// It is the model's architecture, whose name llama.cpp and Hugging Face spell in two ways.
    Same,
    /// It may be, or says nothing: another spelling, or a model's name.
    Unclear,
    /// It is another architecture.
    Other,
}

impl Hint {
    fn of(hint: &str, model_type: &str) -> Self {
        let plain = |text: &str| text.chars().filter(char::is_ascii_alphanumeric).collect::<String>().to_lowercase();
        // llama.cpp has one name for both.
        let family = |name: &str| if name == "mistral" { "llama".to_owned() } else { name.to_owned() };
        let (hint_plain, model) = (plain(hint), plain(model_type));
        if hint == model_type || ["llama", "mistral"].contains(&hint) && family(hint) == family(&model) {
            Self::Same
        } else if hint_plain.is_empty() || hint_plain.contains(&model) || family(&hint_plain) == family(&model) {
            Self::Unclear
        } else {
            Self::Other
        }
    }
}

/// A dot product accumulated in f64.
pub(crate) fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
}

#[cfg(test)]
mod tests {
    use super::Hint;

    #[test]
    fn hints_of_other_tools_are_understood() {
        for (hint, model, expected) in [
            ("qwen2", "qwen2", Hint::Same),
            ("llama", "mistral", Hint::Same),
            ("mistral", "mistral", Hint::Same),
            ("Qwen2", "qwen2", Hint::Unclear),
            ("qwen-2", "qwen2", Hint::Unclear),
            ("Qwen2.5-7B-Instruct", "qwen2", Hint::Unclear),
            ("Mistral", "mistral", Hint::Unclear),
            ("", "llama", Hint::Unclear),
            ("qwen2", "qwen3", Hint::Other),
            ("qwen3", "qwen2", Hint::Other),
            ("llama", "qwen2", Hint::Other),
            ("gemma2", "llama", Hint::Other),
            ("mistral", "llama", Hint::Same),
        ] {
            assert_eq!(Hint::of(hint, model), expected, "{hint} on {model}");
        }
    }
}
