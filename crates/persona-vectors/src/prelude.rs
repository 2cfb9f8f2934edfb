//! The names that a first program needs: `use persona_vectors::prelude::*;`.

pub use std::ops::ControlFlow;

pub use pv_data::{Conversation, ConversationReader};
pub use pv_hooks::{Hook, Layer, NoHook};
#[cfg(feature = "http")]
pub use pv_judge::{HttpJudge, HttpOptions};
pub use pv_judge::{Judge, LocalJudge, TraitSpec};
pub use pv_model::{Adapter, CausalLm, GenerateOptions, Message, Request, Sampling};
pub use pv_screen::{Screen, ScreenOptions};
pub use pv_steer::{Coefficient, Condition, Positions, Steerer};
pub use pv_train::{DataOptions, DataSet, Regime, RunOptions, TrainOptions, TrainingRun};
pub use pv_vectors::{Contrast, Direction, ExtractOptions, PersonaVector, UnitDirection, extract};
