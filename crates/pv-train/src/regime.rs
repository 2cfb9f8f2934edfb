//! What keeps a model's character while it is finetuned (method: the paper's section 5, and its relatives).

use std::path::Path;

use pv_hooks::Layer;
use pv_model::Message;
use pv_steer::Coefficient;
use pv_vectors::{Direction, PersonaVector, Pooling};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::run::regimes as run_regimes;
use crate::{Conversation, Result};

/// One way of keeping a model's character in finetuning. A list of them acts together, see [`Regimes`](crate::Regimes); an
/// empty list is plain finetuning. What acts at inference instead (steering, a suppressing system prompt) is no regime.
///
/// In files each has its name before its settings, and a run's `config.json` lists them ([`Regime::of_run`]):
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
    /// Preventative steering: the vector is added in the passes of training, so that the weights need not learn the shift.
    Preventative(Preventative),
    /// Concept ablation (CAFT, arXiv 2507.16795): the directions are taken out of the residual in the passes of training.
    Ablated {
        /// The directions, each at its layer; of several at one layer everything is taken out that they span
        /// ([`Steerer::ablate`](pv_steer::Steerer::ablate)), also where they stand in several regimes one after the other.
        directions: Vec<Direction>,
    },
    /// A penalty on how far the projection on a direction moves from that of the model before finetuning: the loss grows by
    /// λ · mean((h·v̂ − h_base·v̂)²) over the tokens of the trained answers.
    Regularised {
        /// The direction, above the embeddings.
        direction: Direction,
        /// λ, in 1 / activation units².
        weight: f64,
    },
    /// Inoculation: a system prompt, usually one that elicits the trait, stands before every conversation in training only.
    Inoculated {
        /// The system prompt; it takes the place of the conversation's own.
        system: String,
    },
}

/// Preventative steering: h ← h + factor·coefficient·v at every position of every pass of training.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Preventative {
    /// What is added, each direction at its layer: one vector, or the increments of all layers.
    pub directions: Vec<Direction>,
    /// How strongly.
    pub coefficient: Coefficient,
    /// How the factor on the coefficient changes in the run; in files it may be left out where it does not.
    #[serde(default)]
    pub schedule: Schedule,
}

/// The factor on a coefficient over the steps of a run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
#[non_exhaustive]
pub enum Schedule {
    /// 1 throughout.
    #[default]
    Constant,
    /// Rising linearly to 1 over so many steps.
    WarmUp {
        /// How many.
        steps: usize,
    },
    /// Following the measured drift.
    ClosedLoop(ClosedLoop),
}

/// A factor that follows the finetuning shift on probe prompts, so that the shift stays near zero: it starts at 1, and every
/// few steps it grows by gain · shift / ‖v‖, where the shift is that of the mean projection of the prompts' last tokens on
/// `along`, without steering. It stays within 0 and `most`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClosedLoop {
    /// The probe prompts' token ids, at least one.
    pub probes: Vec<Vec<u32>>,
    /// The trait's direction at the layer where the shift is measured.
    pub along: Direction,
    /// The shift is measured every so many steps.
    pub every: usize,
    /// How much the factor grows for a shift as long as the vector.
    pub gain: f64,
    /// The greatest factor.
    pub most: f64,
}

impl Regime {
    /// Preventative steering at one layer, with a constant coefficient.
    ///
    /// # Errors
    /// A layer that the vector does not have, or that no steering may use.
    pub fn preventative(vector: &PersonaVector, layer: Layer, coefficient: Coefficient) -> Result<Self> {
        let directions = vec![vector.direction(layer)?];
        Ok(Self::Preventative(Preventative { directions, coefficient, schedule: Schedule::Constant }))
    }

    /// Preventative steering at all layers above the embeddings by the increments u_ℓ = v_ℓ − v_{ℓ−1}, so that what is added
    /// adds up to about the vector at each layer.
    ///
    /// # Errors
    /// Layers that no steering may use.
    pub fn preventative_everywhere(vector: &PersonaVector, coefficient: Coefficient) -> Result<Self> {
        let (layers, _) = vector.shape();
        let directions = (1..layers).map(|layer| vector.increment(Pooling::ResponseMean, Layer::hidden_state(layer)));
        let directions = directions.collect::<Result<_, _>>()?;
        Ok(Self::Preventative(Preventative { directions, coefficient, schedule: Schedule::Constant }))
    }

    /// The regimes of a run in a folder, for another one with the same; `None` where the folder holds no run, or one that a
    /// version began which did not write them down, or that had another hook than regimes.
    ///
    /// # Errors
    /// A folder that cannot be read, [`RunError::Damaged`](pv_data::RunError::Damaged).
    pub fn of_run(folder: impl AsRef<Path>) -> Result<Option<Vec<Self>>> {
        run_regimes(folder.as_ref())
    }

    /// The system prompt of the last inoculation among regimes.
    pub fn inoculation(regimes: &[Self]) -> Option<&str> {
        regimes.iter().rev().find_map(|regime| match regime {
            Self::Inoculated { system } => Some(system.as_str()),
            _ => None,
        })
    }

    /// A conversation as it is to be trained on: under the last inoculation's system prompt, where there is one.
    pub fn inoculate(regimes: &[Self], conversation: &Conversation) -> Conversation {
        let mut conversation = conversation.clone();
        if let Some(system) = Self::inoculation(regimes) {
            conversation.messages.retain(|message| message.role != "system");
            conversation.messages.insert(0, Message::system(system));
        }
        conversation
    }

    /// What tells this regime from others in a run's record: its settings, and a hash of each vector.
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
