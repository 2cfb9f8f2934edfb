//! What may happen to a language model's residual stream between two layers.
//!
//! This crate knows no model. It says *where* ([`Layer`]), *which tokens* ([`TokenSpans`], [`Phase`]) and *what* (the
//! [`Hook`] trait), and has one hook of its own, the [`Recorder`], which keeps activations.
//!
//! ```
//! use burn::tensor::Tensor;
//! use pv_hooks::{check, Hook, HookError, Layer, LayerSet, ModelShape, ResidualContext};
//!
//! /// Doubles the residual after block 3.
//! struct Double;
//!
//! impl Hook for Double {
//!     fn name(&self) -> String {
//!         "double".into()
//!     }
//!     fn layers(&self) -> LayerSet {
//!         Layer::after_block(3).into()
//!     }
//!     fn validate(&self, _shape: &ModelShape) -> Result<(), HookError> {
//!         Ok(())
//!     }
//!     fn on_residual(&mut self, _context: &ResidualContext<'_>, residual: Tensor<3>) -> Tensor<3> {
//!         residual * 2.0
//!     }
//! }
//!
//! let three_blocks = ModelShape { blocks: 3, d_model: 64 };
//! let error = check(&Double, &three_blocks, None).unwrap_err();
//! assert_eq!(error.to_string(), "double wants layer 4 (after block 3), but the model's last layer is layer 3 (after block 2)");
//! ```

mod error;
mod hook;
mod layer;
mod record;
mod tokens;

pub use error::HookError;
pub use hook::{Hook, ModelShape, NoHook, ResidualContext, check};
pub use layer::{Layer, LayerSet};
pub use record::{Capture, Recorder};
pub use tokens::{Coverage, Phase, RowSpans, TokenSet, TokenSpans};
