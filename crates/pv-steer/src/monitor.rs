//! Monitoring of traits during generation: projections of the residual stream on persona vectors.
//!
//! A [`Monitor`] is a hook that changes nothing. It projects the prompt's last token, before the first token of the
//! answer is sampled, and each token of the answer, on any number of directions ([`Watch`]es) at any layers.
//! [`Readings`] is the handle for reading the projections during the generation or afterwards (method: arXiv
//! 2507.21509, monitoring).
//!
//! A projection has no meaning by itself. A [`Calibrator`] collects those of ordinary traffic. Its [`Calibration`],
//! saved in a file, turns a reading into a z-score and a quantile, and gives the rate of false alarms on ordinary
//! answers. [`Alarms`] report readings that are out of the ordinary, and [`Drift`] reports conversations that slowly
//! move away. A [`Measurement`] tests whether the projections predict a judge's scores of the answers, and
//! [`correlations`] quantifies how well.
//!
//! ```no_run
//! use std::ops::ControlFlow;
//! use pv_hooks::Layer;
//! use pv_model::device::default_dtype;
//! use pv_model::generate::Event;
//! use pv_model::{CausalLm, GenerateOptions, Message, Request, device};
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

pub use pv_statistics::Distribution;

pub use crate::error::MonitorError;

mod alarm;
mod answers;
mod calibrate;
mod calibration;
mod correlation;
mod drift;
mod file;
mod hook;
mod measure;
mod number;
mod passes;
mod rate;
mod reading;
mod runs;
mod side;
mod spread;
mod watch;

#[cfg(test)]
mod tests;

pub use alarm::{Alarm, AlarmRule, Alarms, RuleFalseAlarms, Threshold};
pub use answers::HeldOut;
pub use calibrate::{CalibrateOptions, calibrate};
pub use calibration::{Calibration, Calibrator};
pub use correlation::{
    CorrelationEstimate, MonitoringCorrelation, MonitoringPoint, correlations, read_points, write_points,
};
pub use drift::{Cusum, CusumOptions, Drift, DriftAlarm, Sides, Turn, Turns};
pub use hook::{Monitor, Readings};
pub use measure::{MeasureOptions, Measurement, MonitoredPrompt, MonitoringStudy};
pub use rate::FalseAlarms;
pub use reading::{Answer, At, Kind, Reading};
pub use side::Side;
pub use spread::VarianceParts;
pub use watch::{Watch, WatchId};
