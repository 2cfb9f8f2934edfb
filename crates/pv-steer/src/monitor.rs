//! Watching traits while a model works: projections of its residual stream on persona vectors.
//!
//! A [`Monitor`] is a hook that changes nothing. It projects the prompt's last token, before the first token of the answer
//! is sampled, and each token of the answer, on any number of directions ([`Watch`]es) at any layers; [`Readings`] is the
//! handle by which they are read, while the text is generated or afterwards (method: arXiv 2507.21509, monitoring).
//!
//! A projection has no meaning by itself. A [`Calibrator`] takes those of ordinary traffic, and the [`Calibration`] that
//! it makes, kept in a file, turns a reading into a z-score and a quantile, and says how many ordinary answers would have raised
//! an alarm by mistake. [`Alarms`] say when a reading is out of the ordinary, [`Drift`] when a conversation slowly moves away. A [`Measurement`] checks that the projections foretell what a
//! judge sees in the answers, and [`correlations`] says how well.
//!
//! ```no_run
//! use std::ops::ControlFlow;
//! use pv_hooks::Layer;
//! use pv_model::{CausalLm, Event, GenerateOptions, Message, Request, default_dtype, device};
//! use pv_steer::monitor::{AlarmRule, Alarms, Calibration, Kind, Monitor, Side, Threshold, Watch};
//! use pv_vectors::PersonaVector;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let device = device("flex")?;
//! let model = CausalLm::from_folder("models/smollm2", &device, default_dtype(&device))?;
//! let vector = PersonaVector::load("evil.safetensors")?;
//! vector.check_model(model.config())?;
//! let watches = [15, 20].map(|layer| Watch::of(&vector, Layer::hidden_state(layer)));
//! let mut monitor = Monitor::new(watches.into_iter().collect::<Result<Vec<_>, _>>()?)?;
//! let readings = monitor.readings();
//! let calibration = Calibration::load("evil.calibration.json", readings.watches(), &model.identity()?)?;
//! let rule = AlarmRule {
//!     trait_name: "evil".to_owned(),
//!     layer: None,
//!     kind: Kind::PromptLast,
//!     side: Side::Above,
//!     threshold: Threshold::FalseAlarms(0.01),
//! };
//! let alarms = Alarms::new(readings.watches(), &[rule], Some(&calibration))?;
//! let request = Request::new(model.prompt(&[Message::user("How do bees make honey?")])?, 0);
//! model.generate(&[request], &GenerateOptions::default(), &mut monitor, |event| {
//!     if let (Event::Prefill { .. }, Ok(news)) = (event, readings.news()) {
//!         // Before the first token: break off, or answer under another prompt.
//!         if news.iter().any(|reading| !alarms.check(reading).is_empty()) {
//!             return ControlFlow::Break(());
//!         }
//!     }
//!     ControlFlow::Continue(())
//! })?;
//! # Ok(())
//! # }
//! ```

use crate::{Error, Result};

mod alarm;
mod answers;
mod calibrate;
mod calibration;
mod correlation;
mod distribution;
mod drift;
mod file;
mod hook;
mod measure;
mod number;
mod passes;
mod rate;
mod reading;
mod spread;
mod watch;

#[cfg(test)]
mod tests;

pub use alarm::{Alarm, AlarmRule, Alarms, RuleFalseAlarms, Side, Threshold};
pub use answers::HeldOut;
pub use calibrate::{CalibrateOptions, calibrate};
pub use calibration::{Calibration, Calibrator};
pub use correlation::{
    CorrelationEstimate, MonitoringCorrelation, MonitoringPoint, correlations, read_points, write_points,
};
pub use distribution::Distribution;
pub use drift::{Cusum, CusumOptions, Drift, DriftAlarm, Sides, Turn, Turns};
pub use hook::{Monitor, Readings};
pub use measure::{MeasureOptions, Measurement, MonitoredPrompt, MonitoringStudy};
pub use rate::FalseAlarms;
pub use reading::{Answer, At, Kind, Reading};
pub use spread::VarianceParts;
pub use watch::{Watch, WatchId};
