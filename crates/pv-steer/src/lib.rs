//! Interventions along persona vectors, and the projections that say when they are needed.
//!
//! A [`Steerer`] is a hook for pv-model's forward passes and generation. At chosen layers and [`Positions`] it adds
//! directions to the residual stream (constantly, or along a [`Ramp`]; keeping the residual's length if wanted; a vector's
//! increments over many layers), ablates them, caps or floors projections, or inhibits where a [`Condition`] holds, in the
//! order in which the interventions were put in. A [`Mixture`] gives every row of a batch a mixture of directions of its
//! own. [`control`] finds the change that moves some projections and leaves others where they are; [`decompose`] reads one.
//! [`monitor`] has the hook that only looks: projections on many directions while text is generated, and what is made of
//! them.
//!
//! ```no_run
//! use std::ops::ControlFlow;
//! use pv_hooks::Layer;
//! use pv_model::{CausalLm, GenerateOptions, Message, Request, default_dtype, device};
//! use pv_steer::{Coefficient, Positions, Steerer};
//! use pv_vectors::PersonaVector;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let device = device("flex")?;
//! let model = CausalLm::from_folder("models/smollm2", &device, default_dtype(&device))?;
//! let vector = PersonaVector::load("poetic.safetensors")?;
//! vector.check_model(model.config())?;
//! let direction = vector.direction(Layer::hidden_state(15))?;
//! let mut steerer = Steerer::new().add(&direction, Coefficient::Raw(2.0), Positions::Response)?;
//! let prompt = model.prompt(&[Message::user("How do bees make honey?")])?;
//! let options = GenerateOptions::default();
//! let answers = model.generate(&[Request::new(prompt, 0)], &options, &mut steerer, |_| ControlFlow::Continue(()))?;
//! # let _ = answers;
//! # Ok(())
//! # }
//! ```
//!
//! A [`Sweep`] finds the layer and the strength: a judge scores the answers of a grid of both, all of it or by successive
//! halving. [`SweepResults::dose_response`] says how the trait rises with the strength, and [`layer_proxy`] ranks layers
//! without a judge.

mod condition;
mod constant;
mod control;
mod error;
mod files;
mod intervention;
mod mixture;
pub mod monitor;
mod positions;
mod span;
mod steerer;
mod strength;
mod sweep;

pub use condition::Condition;
pub use control::{MAX_CONDITION, control, decompose, decompose_projections};
pub use error::{Error, Result};
pub use mixture::Mixture;
pub use positions::Positions;
pub use steerer::Steerer;
pub use strength::{Coefficient, Ramp, Strength};
pub use sweep::{
    AnswerPair, AnswerScores, CellResult, Dose, DoseResponse, Estimate, LayerProxy, LayerResult, ProxyAgreement,
    ProxyLayer, ProxyOptions, Round, Search, StrengthUnit, Sweep, SweepOptions, SweepPlan, SweepResults, layer_proxy,
};
