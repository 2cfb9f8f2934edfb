//! Interventions along persona vectors.
//!
//! A [`Steerer`] is a hook for pv-model's forward passes and generation. It adds directions to the residual stream or
//! ablates them, at chosen layers and [`Positions`], in the order in which the interventions were put in.
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
//! vector.check_model(model.id(), &model.shape())?;
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

mod error;
mod intervention;
mod steerer;
mod sweep;

pub use error::{Error, Result};
pub use intervention::{Coefficient, Positions};
pub use steerer::Steerer;
pub use sweep::{
    AnswerPair, AnswerScores, CellResult, Dose, DoseResponse, Estimate, LayerProxy, LayerResult, ProxyAgreement,
    ProxyLayer, ProxyOptions, Round, Search, StrengthUnit, Sweep, SweepError, SweepOptions, SweepPlan, SweepResults,
    layer_proxy,
};
