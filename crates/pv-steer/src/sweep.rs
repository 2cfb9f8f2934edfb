//! Comparisons of layers and strengths: grids, successive halving, dose–response, and a proxy without a judge.

mod dose_response;
mod estimate;
mod folder;
mod halving;
mod plan;
mod proxy;
mod results;
mod run;
mod subject;

pub use crate::error::SweepError;
pub use dose_response::{Dose, DoseResponse};
pub use estimate::Estimate;
pub use plan::{Search, StrengthUnit, SweepOptions, SweepPlan};
pub use proxy::{AnswerPair, LayerProxy, ProxyAgreement, ProxyLayer, ProxyOptions, layer_proxy};
pub use results::{AnswerScores, CellResult, LayerResult, Round, SweepResults};
pub use run::Sweep;
