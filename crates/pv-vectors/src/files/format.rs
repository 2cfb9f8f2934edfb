//! The formats of vectors' files, and what is remembered of a file that another tool wrote.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A format of files that hold vectors. `N` blocks, `H` the width.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Format {
    /// Ours: what [`PersonaVector::save`](crate::PersonaVector::save) writes.
    PersonaVector,
    /// `{trait}_{response_avg,prompt_avg,prompt_last}_diff.pt` of the persona vectors paper: a tensor `[N+1, H]` whose
    /// row `r` belongs to layer `r`, the last one after the final norm. One file per pooling.
    PaperDiff,
    /// `axis.pt` of the assistant axis: a tensor `[N, H]`, or a dictionary that holds it as `axis`; row `r` belongs to
    /// layer `r + 1`.
    AssistantAxis,
    /// `mean_diffs.pt` of the refusal direction: a tensor `[positions, N, H]` of the blocks' inputs; row `r` belongs to
    /// layer `r`.
    MeanDiffs,
    /// `vec_layer_{b}.pt` of contrastive activation addition: a tensor `[H]` of the output of block `b`, at layer `b + 1`.
    /// One file per layer.
    CaaLayer,
    /// A GGUF file of architecture `controlvector`, of repeng, llama.cpp or EasySteer: `direction.{k}` belongs to layer `k + 1`.
    /// `direction.0` is in EasySteer's files alone, whose rows must be those of its component `hidden_states`.
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

/// What a vector from another tool's file remembers of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Imported {
    /// The format.
    pub format: Format,
    /// The names of the files, without their folders.
    pub files: Vec<String>,
    /// Whether the number of the model's blocks is known. Where it is not, the table ends with the last layer that the
    /// file holds, and a model must have at least so many.
    pub depth_known: bool,
    /// What the file says of the model, where it does.
    pub model_hint: Option<String>,
    /// What else one has to know of the numbers, in words.
    pub remarks: Vec<String>,
}
