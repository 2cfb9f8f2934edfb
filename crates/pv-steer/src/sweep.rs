//! Layers and strengths compared: grids, successive halving, dose–response, and a proxy without a judge.

mod dose_response;
mod estimate;
mod halving;
mod plan;
mod proxy;
mod results;
mod run;
mod subject;

pub use dose_response::{Dose, DoseResponse};
pub use estimate::Estimate;
pub use plan::{Search, StrengthUnit, SweepOptions, SweepPlan};
pub use proxy::{AnswerPair, LayerProxy, ProxyAgreement, ProxyLayer, ProxyOptions, layer_proxy};
pub use results::{AnswerScores, CellResult, LayerResult, Round, SweepResults};
pub use run::Sweep;
