//! Persona vectors ([arXiv 2507.21509](https://arxiv.org/abs/2507.21509)): directions in a language model's residual
//! stream that represent character traits. Extract them, steer a model along them, monitor it, finetune it without
//! changing its character, and screen training data.
//!
//! This crate re-exports the project's libraries, each as a module. [`prelude`] contains the names that a first program
//! needs:
//!
//! ```no_run
//! use persona_vectors::prelude::*;
//!
//! fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     let model = CausalLm::load("HuggingFaceTB/SmolLM2-135M-Instruct")?;
//!     let contrast = Contrast::of(&TraitSpec::builtin("optimism")?)?;
//!     let options = GenerateOptions { max_new_tokens: 64, ..GenerateOptions::default() };
//!     let vector = contrast.extract(&model, &options, 0, |_| ControlFlow::Continue(()))?.vector;
//!     let direction = vector.direction(Layer::hidden_state(15))?;
//!     let mut steerer = Steerer::new().add(&direction, Coefficient::Raw(2.0), Positions::Response)?;
//!     let answer = model.answer(&[Message::user("What happens when it rains?")], &options, &mut steerer)?;
//!     println!("{}", answer.text);
//!     Ok(())
//! }
//! ```
//!
//! | module | crate | what it does |
//! | --- | --- | --- |
//! | [`hooks`] | `pv-hooks` | reads and changes the residual stream between layers |
//! | [`data`] | `pv-data` | reads and writes conversations; run folders and journals |
//! | [`statistics`] | `pv-statistics` | intervals, bootstraps, correlations, separation of sets |
//! | [`model`] | `pv-model` | loads models, tokenizers and chat templates; generates |
//! | [`judge`] | `pv-judge` | traits, rubrics, and judges that score answers |
//! | [`vectors`] | `pv-vectors` | extracts persona vectors, reads and writes their files, projects |
//! | [`steer`] | `pv-steer` | steers, monitors, and searches for a layer and a coefficient |
//! | [`train`] | `pv-train` | finetunes with preventative steering; measures before and after |
//! | [`screen`] | `pv-screen` | scores training data by its projection difference |
//!
//! # Features
//! The CPU is built in. `cuda`, `rocm`, `wgpu`, `vulkan`, `metal` and `webgpu` add backends. `http` adds judges behind
//! a server, `data` adds Parquet and compressed files, `hub` adds downloads from the Hugging Face hub, and `cli` adds
//! the program `persona`.

pub use pv_data as data;
pub use pv_hooks as hooks;
pub use pv_judge as judge;
pub use pv_model as model;
pub use pv_screen as screen;
pub use pv_statistics as statistics;
pub use pv_steer as steer;
pub use pv_train as train;
pub use pv_vectors as vectors;

pub mod prelude;
