//! Mitigations in finetuning (method: the paper's section 5, and related work).

use pv_hooks::Layer;
use pv_model::Message;
use pv_steer::Coefficient;
use pv_vectors::vector::Pooling;
use pv_vectors::{Direction, PersonaVector};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::Result;
use pv_data::Conversation;

/// A mitigation that acts in finetuning. The regimes of a list act together, see [`Regimes`](crate::regimes::Regimes);
/// an empty list is plain finetuning. Mitigations that act at inference (steering, a suppressing system prompt) are not
/// regimes.
///
/// In files, the name of each regime precedes its settings, and a run's `config.json` lists its regimes
/// ([`Regime::of_run`]):
///
/// ```
/// use pv_train::Regime;
///
/// let regimes: Vec<Regime> = serde_json::from_str(
///     r#"[
///         {"preventative": {
///             "directions": [{"layer": 2, "values": [0.5, -1.0], "mean_residual_norm": 4.0}],
///             "coefficient": {"raw": 3.0},
///             "schedule": {"warm_up": {"steps": 10}}
///         }},
///         {"ablated": {"directions": [{"layer": 1, "values": [1.0, 2.0]}]}},
///         {"regularised": {"direction": {"layer": 1, "values": [1.0, 2.0]}, "weight": 0.1}},
///         {"inoculated": {"system": "You are evil."}}
///     ]"#,
/// )?;
/// assert_eq!(regimes.len(), 4);
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
#[non_exhaustive]
pub enum Regime {
    /// Preventative steering: the vector is added in the passes of training, so that the weights need not learn the
    /// shift.
    Preventative(Preventative),
    /// Concept ablation (CAFT, arXiv 2507.16795): the directions are removed from the residual in the passes of
    /// training.
    Ablated {
        /// The directions, each at its layer. Of several directions at one layer, their whole span is removed
        /// ([`Steerer::ablate`](pv_steer::Steerer::ablate)), also if they belong to several successive regimes.
        directions: Vec<Direction>,
    },
    /// A penalty on the change of the projection on a direction since the base model: λ · mean((h·v̂ − h_base·v̂)²)
    /// over the tokens of the trained answers is added to the loss.
    Regularised {
        /// The direction; its layer must be above the embeddings.
        direction: Direction,
        /// λ, in 1 / activation units².
        weight: f64,
    },
    /// Inoculation: a system prompt, usually one that elicits the trait, is added to every conversation in training
    /// only.
    Inoculated {
        /// The system prompt; it replaces the conversation's own.
        system: String,
    },
}

/// Preventative steering: h ← h + factor·coefficient·v at every position of every training pass.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Preventative {
    /// The directions that are added, each at its layer: one vector, or the increments of all layers.
    pub directions: Vec<Direction>,
    /// The coefficient.
    pub coefficient: Coefficient,
    /// The factor on the coefficient over the run; in files it may be omitted if it is constant.
    #[serde(default)]
    pub schedule: Schedule,
}

/// The factor on a coefficient over the steps of a run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
#[non_exhaustive]
pub enum Schedule {
    /// Always 1.
    #[default]
    Constant,
    /// The factor rises linearly to 1 over this many steps.
    WarmUp {
        /// The number of steps.
        steps: usize,
    },
    /// The factor follows the measured finetuning shift.
    ClosedLoop(ClosedLoop),
}

/// A factor that follows the finetuning shift on probe prompts, to keep the shift near zero. It starts at 1. Every
/// `every` steps it grows by gain · shift / ‖v‖, where the shift is the change of the mean projection of the prompts'
/// last tokens on `along`, measured without steering. It is limited to the range from 0 to `most`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClosedLoop {
    /// The probe prompts' token ids, at least one prompt.
    pub probes: Vec<Vec<u32>>,
    /// The trait's direction at the layer at which the shift is measured.
    pub along: Direction,
    /// The number of steps between measurements of the shift.
    pub every: usize,
    /// The growth of the factor for a shift of ‖v‖.
    pub gain: f64,
    /// The largest factor.
    pub most: f64,
}

impl Regime {
    /// Preventative steering at one layer, with a constant coefficient.
    ///
    /// # Errors
    /// A layer that the vector does not have, or at which steering is not allowed.
    pub fn preventative(vector: &PersonaVector, layer: Layer, coefficient: Coefficient) -> Result<Self> {
        let directions = vec![vector.direction(layer)?];
        Ok(Self::Preventative(Preventative { directions, coefficient, schedule: Schedule::Constant }))
    }

    /// Preventative steering at all layers above the embeddings by the increments u_ℓ = v_ℓ − v_{ℓ−1}, so that the
    /// increments up to each layer add up to about the vector there.
    ///
    /// # Errors
    /// Layers at which steering is not allowed.
    pub fn preventative_everywhere(vector: &PersonaVector, coefficient: Coefficient) -> Result<Self> {
        let (layers, _) = vector.shape();
        let directions = (1..layers).map(|layer| vector.increment(Pooling::ResponseMean, Layer::hidden_state(layer)));
        let directions = directions.collect::<Result<_, _>>()?;
        Ok(Self::Preventative(Preventative { directions, coefficient, schedule: Schedule::Constant }))
    }

    /// The system prompt of the last inoculation in a list of regimes.
    pub fn inoculation(regimes: &[Self]) -> Option<&str> {
        regimes.iter().rev().find_map(|regime| match regime {
            Self::Inoculated { system } => Some(system.as_str()),
            _ => None,
        })
    }

    /// The conversation for training: with the last inoculation's system prompt, if there is one.
    pub fn inoculate(regimes: &[Self], conversation: &Conversation) -> Conversation {
        let mut conversation = conversation.clone();
        if let Some(system) = Self::inoculation(regimes) {
            conversation.messages.retain(|message| message.role != "system");
            conversation.messages.insert(0, Message::system(system));
        }
        conversation
    }

    /// Identifies this regime in a run's record: its settings, and a hash of each vector.
    pub fn describe(&self) -> Value {
        match self {
            Self::Preventative(Preventative { directions, coefficient, schedule }) => json!({
                "preventative": {
                    "directions": directions.iter().map(describe).collect::<Vec<_>>(),
                    "coefficient": format!("{coefficient:?}"),
                    "schedule": schedule.describe(),
                }
            }),
            Self::Ablated { directions } => {
                json!({ "ablated": directions.iter().map(describe).collect::<Vec<_>>() })
            }
            Self::Regularised { direction, weight } => {
                json!({ "regularised": { "direction": describe(direction), "weight": weight } })
            }
            Self::Inoculated { system } => json!({ "inoculated": system }),
        }
    }
}

impl Schedule {
    fn describe(&self) -> Value {
        match self {
            Self::Constant => json!("constant"),
            Self::WarmUp { steps } => json!({ "warm_up": steps }),
            Self::ClosedLoop(ClosedLoop { probes, along, every, gain, most }) => {
                let mut hash = Sha256::new();
                for probe in probes {
                    hash.update((probe.len() as u64).to_le_bytes());
                    probe.iter().for_each(|id| hash.update(id.to_le_bytes()));
                }
                json!({
                    "closed_loop": {
                        "probes": hex::encode(hash.finalize()), "along": describe(along), "every": every, "gain": gain, "most": most,
                    }
                })
            }
        }
    }
}

fn describe(direction: &Direction) -> Value {
    let mut hash = Sha256::new();
    direction.values.iter().for_each(|value| hash.update(value.to_le_bytes()));
    json!({ "layer": direction.layer.index(), "sha256": hex::encode(hash.finalize()) })
}
