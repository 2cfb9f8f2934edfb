//! The state of a run's regimes.

use burn::tensor::{Device, Tensor};
use pv_hooks::{Hook, Layer, NoHook};
use pv_model::decoder::Decoder;
use pv_steer::{Coefficient, Positions, Steerer};
use pv_vectors::{Direction, UnitDirection};
use serde_json::{Value, json};

use crate::penalty::Penalties;
use crate::probes::mean_projections;
use crate::regime::{ClosedLoop, Preventative, Regime, Schedule};
use crate::run_hook::{LoopShift, RunHook};
use crate::{Error, Result, Sample};
use pv_data::Conversation;

/// A list of [`Regime`]s with their state in a run: the [`RunHook`] that applies mitigations in finetuning.
pub struct Regimes {
    regimes: Vec<Regime>,
    /// The base model, with which the projections of penalties and closed loops are compared.
    base: Decoder,
    /// The factor of each regime; 1 for those without a schedule.
    factors: Vec<f64>,
    loops: Vec<Option<Loop>>,
    penalties: Penalties,
    hook: Box<dyn Hook>,
    /// The factors with which `hook` was created.
    made_with: Option<Vec<f64>>,
}

/// The state of a closed loop.
struct Loop {
    unit: UnitDirection,
    length: f64,
    /// The mean projection under the base model, in activation units.
    base: f64,
    shift: f64,
}

impl std::fmt::Debug for Regimes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Regimes")
            .field("regimes", &self.regimes)
            .field("factors", &self.factors)
            .finish_non_exhaustive()
    }
}

impl Regimes {
    /// Prepares regimes for finetuning that starts from `base`.
    ///
    /// # Errors
    /// Directions that do not fit the model or have a length of zero. [`Error::BadOption`] for invalid settings, and
    /// for a penalty at a layer above one that another regime changes: the base model's projections would then not be
    /// comparable.
    pub fn new(base: &Decoder, regimes: impl IntoIterator<Item = Regime>) -> Result<Self> {
        let (regimes, base): (Vec<_>, _) = (regimes.into_iter().collect(), base.plain());
        let mut new = Self {
            factors: vec![1.0; regimes.len()],
            loops: Vec::new(),
            penalties: Penalties::default(),
            hook: Box::new(NoHook),
            made_with: None,
            regimes,
            base,
        };
        let mut lowest_changed: Option<Layer> = None;
        let mut lower = |directions: &[Direction]| {
            let lowest = directions.iter().map(|direction| direction.layer).min();
            lowest_changed = [lowest_changed, lowest].into_iter().flatten().min();
        };
        for regime in &new.regimes {
            let mut closed = None;
            match regime {
                Regime::Preventative(Preventative { directions, schedule, .. }) => {
                    lower(directions);
                    match schedule {
                        Schedule::WarmUp { steps: 0 } => return Err(bad("warm-up steps", 0, "at least 1")),
                        Schedule::ClosedLoop(closed_loop) => closed = Some(Loop::new(closed_loop, &new.base)?),
                        _ => {}
                    }
                }
                Regime::Ablated { directions } => lower(directions),
                Regime::Regularised { direction, weight } => {
                    if !(weight.is_finite() && *weight > 0.0) {
                        return Err(bad("a penalty's weight", weight, "a finite number above 0"));
                    }
                    new.penalties.add(direction.unit()?, *weight);
                }
                Regime::Inoculated { .. } => {}
            }
            new.loops.push(closed);
        }
        if let Some(changed) = lowest_changed
            && let Some(layer) = new.penalties.layers().into_iter().find(|layer| *layer > changed)
        {
            return Err(bad("a penalty's layer", layer, "no layer above one that another regime changes"));
        }
        new.make_hook()?;
        pv_hooks::hook::check(&*new.hook, &new.base.shape(), None)?;
        Ok(new)
    }

    /// Identifies these regimes in a run's record.
    pub fn describe(&self) -> Value {
        self.regimes.iter().map(Regime::describe).collect()
    }

    /// The conversation for training: with the last inoculation's system prompt, if there is one.
    pub fn conversation(&self, conversation: &Conversation) -> Conversation {
        Regime::inoculate(&self.regimes, conversation)
    }

    /// The factor of each regime in the current step, in their order.
    pub fn factors(&self) -> &[f64] {
        &self.factors
    }

    #[cfg(test)]
    pub(crate) fn penalties(&self) -> &Penalties {
        &self.penalties
    }

    fn make_hook(&mut self) -> Result<()> {
        if self.made_with.as_ref() == Some(&self.factors) {
            return Ok(());
        }
        let mut steerer: Option<Steerer> = None;
        for (regime, &factor) in self.regimes.iter().zip(&self.factors) {
            let add = |steerer: Option<Steerer>| steerer.unwrap_or_default();
            match regime {
                Regime::Preventative(Preventative { directions, coefficient, .. }) => {
                    let scaled = match *coefficient {
                        Coefficient::Raw(value) => Coefficient::Raw((f64::from(value) * factor) as f32),
                        Coefficient::ResidualNorms(value) => {
                            Coefficient::ResidualNorms((f64::from(value) * factor) as f32)
                        }
                    };
                    for direction in directions {
                        steerer = Some(add(steerer).add(direction, scaled, Positions::All)?);
                    }
                }
                Regime::Ablated { directions } => {
                    for direction in directions {
                        steerer = Some(add(steerer).ablate(direction, Positions::All)?);
                    }
                }
                _ => {}
            }
        }
        self.hook = match steerer {
            Some(steerer) => Box::new(steerer),
            None => Box::new(NoHook),
        };
        self.made_with = Some(self.factors.clone());
        Ok(())
    }
}

fn bad(name: &'static str, value: impl std::fmt::Debug, expected: &'static str) -> Error {
    Error::BadOption { name, value: format!("{value:?}"), expected }
}

impl Loop {
    fn new(settings: &ClosedLoop, base: &Decoder) -> Result<Self> {
        let ClosedLoop { probes, along, every, gain, most } = settings;
        if probes.is_empty() {
            return Err(bad("the probe prompts", probes, "at least one"));
        }
        if *every == 0 {
            return Err(bad("the steps between measurements", every, "at least 1"));
        }
        if !(gain.is_finite() && *gain > 0.0 && most.is_finite() && *most > 0.0) {
            return Err(bad("the closed loop's gain and greatest factor", (gain, most), "finite numbers above 0"));
        }
        let unit = along.unit()?;
        let base = mean_projection(base, probes, &unit)?;
        Ok(Self { unit, length: along.norm(), base, shift: 0.0 })
    }
}

/// The mean projection of the prompts' last tokens on a direction, in activation units.
fn mean_projection(decoder: &Decoder, prompts: &[Vec<u32>], unit: &UnitDirection) -> Result<f64> {
    Ok(mean_projections(decoder, prompts, &[unit])?.into_iter().next().unwrap_or(f64::NAN))
}

impl RunHook for Regimes {
    fn before_step(&mut self, step: usize, decoder: &Decoder) -> Result<()> {
        for (index, regime) in self.regimes.iter().enumerate() {
            let Regime::Preventative(Preventative { schedule, .. }) = regime else { continue };
            match (schedule, &mut self.loops[index]) {
                (Schedule::WarmUp { steps }, _) => self.factors[index] = ((step + 1) as f64 / *steps as f64).min(1.0),
                (Schedule::ClosedLoop(ClosedLoop { probes, every, gain, most, .. }), Some(state))
                    if step > 0 && step.is_multiple_of(*every) =>
                {
                    state.shift = mean_projection(decoder, probes, &state.unit)? - state.base;
                    if !state.shift.is_finite() {
                        return Err(Error::BadLoss { step: step + 1, loss: state.shift });
                    }
                    self.factors[index] = (self.factors[index] + gain * state.shift / state.length).clamp(0.0, *most);
                }
                _ => {}
            }
        }
        self.make_hook()
    }

    fn hook(&mut self) -> &mut dyn Hook {
        &mut *self.hook
    }

    fn samples_repeat(&mut self, repeat: bool) {
        self.penalties.repeat(repeat);
    }

    fn penalised(&self) -> Vec<Layer> {
        self.penalties.layers()
    }

    fn penalty(&mut self, layer: Layer, residual: Tensor<3>, samples: &[&Sample]) -> Result<Option<Tensor<1>>> {
        self.penalties.sum(&self.base, layer, &residual, samples)
    }

    fn shifts(&self, decoder: &Decoder) -> Result<Vec<LoopShift>> {
        let mut shifts = Vec::new();
        for (index, (regime, state)) in self.regimes.iter().zip(&self.loops).enumerate() {
            let Regime::Preventative(Preventative { schedule: Schedule::ClosedLoop(settings), .. }) = regime else {
                continue;
            };
            if let Some(state) = state {
                let shift = mean_projection(decoder, &settings.probes, &state.unit)? - state.base;
                shifts.push(LoopShift { name: format!("regime_{index}"), shift, length: state.length });
            }
        }
        Ok(shifts)
    }

    fn state(&self) -> Value {
        // Stored as text, because it parses to identical bits.
        let shifts = self.loops.iter().map(|state| state.as_ref().map_or(0.0, |state| state.shift));
        json!({
            "factors": self.factors.iter().map(|factor| format!("{factor:e}")).collect::<Vec<_>>(),
            "shifts": shifts.map(|shift| format!("{shift:e}")).collect::<Vec<_>>(),
        })
    }

    fn restore(&mut self, state: &Value) -> Result<()> {
        let numbers = |key: &str| -> Option<Vec<f64>> {
            state.get(key)?.as_array()?.iter().map(|value| value.as_str()?.parse().ok()).collect()
        };
        let fits = |numbers: &Vec<f64>| numbers.len() == self.regimes.len();
        let (Some(factors), Some(shifts)) = (numbers("factors").filter(fits), numbers("shifts").filter(fits)) else {
            return Err(bad("the saved state of the regimes", state, "that of the same regimes"));
        };
        self.factors = factors;
        for (state, shift) in self.loops.iter_mut().zip(shifts) {
            if let Some(state) = state {
                state.shift = shift;
            }
        }
        self.make_hook()
    }

    fn replica(&self, device: &Device) -> Result<Option<Box<dyn RunHook>>> {
        let base = self.base.on_device(device);
        let mut replica = Self {
            regimes: self.regimes.clone(),
            factors: self.factors.clone(),
            // Only the original measures; the replica gets the factors with the state.
            loops: self.loops.iter().map(|_| None).collect(),
            penalties: self.penalties.afresh(),
            hook: Box::new(NoHook),
            made_with: None,
            base,
        };
        replica.make_hook()?;
        Ok(Some(Box::new(replica)))
    }

    fn metrics(&self) -> Vec<(String, f64)> {
        let mut metrics = Vec::new();
        for (index, (regime, factor)) in self.regimes.iter().zip(&self.factors).enumerate() {
            if let Regime::Preventative(Preventative { schedule, .. }) = regime
                && *schedule != Schedule::Constant
            {
                metrics.push((format!("regime_{index}_factor"), *factor));
                if let Some(state) = &self.loops[index] {
                    metrics.push((format!("regime_{index}_shift"), state.shift));
                }
            }
        }
        metrics
    }
}
