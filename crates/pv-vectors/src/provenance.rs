//! The provenance of a vector: its extraction, or the files that it was imported from.

use std::fmt;

use pv_hooks::Layer;
use pv_judge::score::VerdictCounts;
use pv_model::{RenderOptions, Sampling};
use serde::{Deserialize, Serialize};

use crate::filter::Filter;

/// The provenance of a vector. It is stored in the vector's file, so that a result can be traced and repeated.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Provenance {
    /// The trait's name.
    pub trait_name: String,
    /// The model's name; empty if an imported file does not state it.
    pub model: String,
    /// SHA-256 of the model's architecture, in hex; `None` in an imported vector, whose file contains no such hash.
    pub config_hash: Option<String>,
    /// SHA-256 of the chat template that rendered the prompts, in hex.
    pub template_hash: Option<String>,
    /// SHA-256 of some of the model's weights, in hex, as in [`ModelIdentity`](pv_model::ModelIdentity); `None` if an
    /// older or imported file does not state it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weights: Option<String>,
    /// The options with which that template was rendered.
    #[serde(default, skip_serializing_if = "RenderOptions::is_default")]
    pub render: RenderOptions,
    /// The judge that scored the answers; `None` if all answers were used unscored.
    pub judge: Option<String>,
    /// The numbers of scores by mode and of abstentions by kind. Empty if unknown.
    #[serde(default, skip_serializing_if = "VerdictCounts::is_empty")]
    pub verdicts: VerdictCounts,
    /// The filter of the answers; `None` if all answers were used or the filter is unknown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filter: Option<Filter>,
    /// The number of answers under eliciting instructions in the mean; `None` if an imported file does not state it.
    pub kept_positive: Option<usize>,
    /// The number of answers under suppressing instructions in the mean, if known.
    pub kept_negative: Option<usize>,
    /// The number of generated answers, if known.
    pub total: Option<usize>,
    /// The seed of the first answer, if known.
    pub seed: Option<u64>,
    /// The sampling of the answers' tokens; `None` if an older or imported file does not state it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sampling: Option<Sampling>,
    /// The maximum number of tokens of an answer; `None` if an older or imported file does not state it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_new_tokens: Option<usize>,
    /// The version of this crate that computed the vector; `None` if an older or imported file does not state it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// The layer at which the vector steers best, if determined.
    pub best_layer: Option<Layer>,
    /// The files of another tool that the vector was imported from; `None` if it was extracted by this crate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub imported: Option<Imported>,
}

impl Provenance {
    /// This crate's version.
    pub(crate) fn current_version() -> Option<String> {
        Some(env!("CARGO_PKG_VERSION").to_owned())
    }

    /// Whether a field is missing that every vector extracted by this crate has.
    pub(crate) fn lacks_facts(&self) -> bool {
        let counts = [self.kept_positive, self.kept_negative, self.total];
        self.config_hash.is_none() || self.seed.is_none() || counts.contains(&None)
    }
}

/// A format of vector files. `N` is the number of blocks, `H` the width.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Format {
    /// This crate's format, written by [`PersonaVector::save`](crate::PersonaVector::save).
    PersonaVector,
    /// `{trait}_{response_avg,prompt_avg,prompt_last}_diff.pt` of the persona vectors paper: a tensor `[N+1, H]` whose
    /// row `r` belongs to layer `r`; the last row was taken after the final norm. One file per pooling.
    PaperDiff,
    /// `axis.pt` of the assistant axis: a tensor `[N, H]`, or a dictionary with it under `axis`; row `r` belongs to
    /// layer `r + 1`.
    AssistantAxis,
    /// `mean_diffs.pt` of the refusal direction: a tensor `[positions, N, H]` of the blocks' inputs; row `r` belongs to
    /// layer `r`.
    MeanDiffs,
    /// `vec_layer_{b}.pt` of contrastive activation addition: a tensor `[H]` of the output of block `b`, at layer `b +
    /// 1`. One file per layer.
    CaaLayer,
    /// A GGUF file of architecture `controlvector`, by repeng, llama.cpp or EasySteer: `direction.{k}` belongs to layer
    /// `k + 1`. Only EasySteer's files contain `direction.0`, and their rows must be those of the component
    /// `hidden_states`.
    ControlVector,
}

impl Format {
    /// The name in files and on command lines.
    pub fn name(self) -> &'static str {
        match self {
            Self::PersonaVector => "persona_vector",
            Self::PaperDiff => "paper_diff",
            Self::AssistantAxis => "assistant_axis",
            Self::MeanDiffs => "mean_diffs",
            Self::CaaLayer => "caa_layer",
            Self::ControlVector => "control_vector",
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The record of the files that a vector was imported from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Imported {
    /// The format.
    pub format: Format,
    /// The names of the files, without their folders.
    pub files: Vec<String>,
    /// Whether the model's number of blocks is known. If not, the table ends with the last layer in the file, and a
    /// model must have at least as many blocks.
    pub depth_known: bool,
    /// The file's own statement about the model, if any.
    pub model_hint: Option<String>,
    /// Other facts about the values, as text.
    pub remarks: Vec<String>,
}
