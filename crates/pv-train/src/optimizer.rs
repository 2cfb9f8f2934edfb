//! AdamW over all parameters of a decoder, with a state that can be saved.

use std::collections::BTreeMap;

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::optim::{AdamW, AdamWConfig, AdamWState, AdaptiveMomentumState, Optimizer};
use burn::tensor::{DType, Device, Gradients, Tensor, TensorData};
use pv_kernels::adamw;
use pv_model::decoder::{self, Decoder, to_f32};

use crate::error::CheckpointDamage;
use crate::loss::value;
use crate::{Result, TrainOptions};

/// A flattened gradient per parameter, in the order in which a decoder's parameters are visited.
#[derive(Debug, Default)]
pub(crate) struct ParameterGradients {
    all: Vec<Option<Tensor<1>>>,
}

impl ParameterGradients {
    /// Adds the gradients of one backward pass.
    pub(crate) fn accumulate(&mut self, decoder: &Decoder, gradients: Gradients) {
        let mut taker = Taker { gradients, into: self, next: 0 };
        decoder.visit(&mut taker);
    }

    /// Adds the gradients of another device, which are moved to this one.
    pub(crate) fn add(&mut self, other: Self, device: &Device) {
        if self.all.len() < other.all.len() {
            self.all.resize(other.all.len(), None);
        }
        for (held, found) in self.all.iter_mut().zip(other.all) {
            let found = found.map(|found| found.to_device(device));
            *held = match (held.take(), found) {
                (Some(held), Some(found)) => Some(held + found),
                (held, found) => held.or(found),
            };
        }
    }

    /// The Euclidean norm over all parameters.
    pub(crate) fn norm(&self) -> Result<f64> {
        let squares: Vec<Tensor<1>> =
            self.all.iter().flatten().map(|gradient| gradient.clone().square().sum()).collect();
        if squares.is_empty() {
            return Ok(0.0);
        }
        Ok(value(Tensor::cat(squares, 0).sum())?.sqrt())
    }

    /// Multiplies every gradient by a factor.
    pub(crate) fn scale(&mut self, factor: f64) {
        for gradient in self.all.iter_mut().flatten() {
            *gradient = gradient.clone() * factor;
        }
    }
}

struct Taker<'a> {
    gradients: Gradients,
    into: &'a mut ParameterGradients,
    next: usize,
}

impl ModuleVisitor for Taker<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let tensor = param.val();
        let n = tensor.shape().num_elements();
        let found = tensor.grad_remove(&mut self.gradients).map(|gradient| gradient.reshape([n]));
        if self.into.all.len() == self.next {
            self.into.all.push(None);
        }
        let held = &mut self.into.all[self.next];
        *held = match (held.take(), found) {
            (Some(held), Some(found)) => Some(held + found),
            (held, found) => held.or(found),
        };
        self.next += 1;
    }
}

/// A parameter's flattened moments, and the number of updates.
pub(crate) struct Moments {
    pub(crate) updates: usize,
    pub(crate) first: Vec<f32>,
    pub(crate) second: Vec<f32>,
}

/// AdamW, and its moments for each parameter.
pub(crate) struct Optimizers {
    matrices: Rule,
    /// Norms and biases, which have no weight decay.
    vectors: Rule,
    /// In the order of the parameters; empty before the first step.
    states: Vec<Option<AdamWState<1>>>,
}

/// AdamW for some parameters.
#[derive(Clone, Copy, Debug)]
struct Rule {
    beta_1: f32,
    beta_2: f32,
    epsilon: f32,
    weight_decay: f32,
}

impl Rule {
    fn new(options: &TrainOptions) -> Self {
        let TrainOptions { beta_1, beta_2, epsilon, weight_decay, .. } = *options;
        Self { beta_1, beta_2, epsilon, weight_decay }
    }

    /// One step: by a kernel on the CPU, where Burn's optimizer is a dozen passes of one thread, and otherwise by Burn's. The
    /// results are the same to the bit.
    fn step(
        &self,
        rate: f64,
        parameter: Tensor<1>,
        gradient: Tensor<1>,
        state: Option<AdamWState<1>>,
    ) -> (Tensor<1>, Option<AdamWState<1>>) {
        let Self { beta_1, beta_2, epsilon, weight_decay } = *self;
        let (time, moments) = match state {
            Some(AdamWState { momentum }) => (momentum.time, [momentum.moment_1, momentum.moment_2]),
            None => (0, [gradient.zeros_like(), gradient.zeros_like()]),
        };
        let kept = (1.0 - rate * f64::from(weight_decay)) as f32;
        let time_now = i32::try_from(time).map_or(i32::MAX, |time| time.saturating_add(1));
        let rule = adamw::AdamW { rate: rate as f32, kept, beta_1, beta_2, epsilon, time: time_now };
        let [first, second] = moments;
        match decoder::adamw(&rule, &gradient, [parameter, first, second]) {
            Ok([parameter, first, second]) => {
                (parameter, Some(AdamWState { momentum: AdaptiveMomentumState::new(time + 1, first, second) }))
            }
            Err([parameter, first, second]) => {
                let state =
                    (time > 0).then(|| AdamWState { momentum: AdaptiveMomentumState::new(time, first, second) });
                self.of_burn().step(rate, parameter, gradient, state)
            }
        }
    }

    fn of_burn(&self) -> AdamW {
        AdamWConfig::new()
            .with_beta_1(self.beta_1)
            .with_beta_2(self.beta_2)
            .with_epsilon(self.epsilon)
            .with_weight_decay(self.weight_decay)
            .build()
    }
}

impl Optimizers {
    pub(crate) fn new(options: &TrainOptions) -> Self {
        let vectors = Rule { weight_decay: 0.0, ..Rule::new(options) };
        Self { matrices: Rule::new(options), vectors, states: Vec::new() }
    }

    /// Updates the decoder by one step. The gradient of trained parameters without one is zero: those of experts that
    /// computed no token, which are part of one parameter in PyTorch. Other parameters do not change.
    pub(crate) fn step(&mut self, decoder: Decoder, gradients: ParameterGradients, rate: f64) -> Decoder {
        self.states.resize_with(gradients.all.len(), || None);
        decoder.map(&mut Update { optimizers: self, gradients: gradients.all.into_iter(), rate, next: 0 })
    }

    /// The moments of each updated parameter, by the parameter's path in the decoder.
    pub(crate) fn moments(&self, decoder: &Decoder) -> Result<BTreeMap<String, Moments>> {
        let mut moments = BTreeMap::new();
        for (path, state) in paths(decoder).into_iter().zip(&self.states) {
            if let Some(AdamWState { momentum }) = state {
                let first = to_f32(momentum.moment_1.clone())?;
                let second = to_f32(momentum.moment_2.clone())?;
                moments.insert(path.name, Moments { updates: momentum.time, first, second });
            }
        }
        Ok(moments)
    }

    /// Restores the moments that [`moments`](Self::moments) returned; the error states what does not fit the decoder.
    pub(crate) fn restore(
        &mut self,
        decoder: &Decoder,
        mut moments: BTreeMap<String, Moments>,
    ) -> Result<(), CheckpointDamage> {
        let device = decoder.device().without_autodiff();
        let mut states = Vec::new();
        for Path { name, values } in paths(decoder) {
            // Earlier versions had no name for a block's MLP.
            let found = moments.remove(&name).or_else(|| moments.remove(&name.replacen(".mlp.Dense", "", 1)));
            let state = found.map(|Moments { updates, first, second }| {
                if let Some(found) = [first.len(), second.len()].into_iter().find(|found| *found != values) {
                    return Err(CheckpointDamage::MomentCount { parameter: name.clone(), expected: values, found });
                }
                let tensor = |values: Vec<f32>| flat(values, &device);
                Ok(AdamWState { momentum: AdaptiveMomentumState::new(updates, tensor(first), tensor(second)) })
            });
            states.push(state.transpose()?);
        }
        if let Some((parameter, _)) = moments.pop_first() {
            return Err(CheckpointDamage::UnknownParameter { parameter });
        }
        self.states = states;
        Ok(())
    }
}

fn flat(values: Vec<f32>, device: &Device) -> Tensor<1> {
    let len = values.len();
    Tensor::from_data(TensorData::new(values, [len]), (device, DType::F32))
}

struct Update<'a> {
    optimizers: &'a mut Optimizers,
    gradients: std::vec::IntoIter<Option<Tensor<1>>>,
    rate: f64,
    next: usize,
}

impl ModuleMapper for Update<'_> {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let index = self.next;
        self.next += 1;
        // No tensor of the parameter is kept, so that it is updated in place.
        let gradient = match self.gradients.next() {
            Some(Some(gradient)) => gradient,
            Some(None) if param.val().is_require_grad() => {
                param.val().without_autodiff().zeros_like().reshape([param.shape().num_elements()])
            }
            _ => return param,
        };
        let Optimizers { matrices, vectors, states } = &mut *self.optimizers;
        let rule = if D > 1 { matrices } else { vectors };
        let state = states[index].take();
        let rate = self.rate;
        param.map(|tensor| {
            let shape = tensor.shape();
            let flat = tensor.without_autodiff().reshape([shape.num_elements()]);
            let (updated, state) = rule.step(rate, flat, gradient, state);
            states[index] = state;
            Tensor::from_inner(updated.reshape(shape)).require_grad()
        })
    }
}

/// A parameter's path in a decoder, and its number of values.
struct Path {
    name: String,
    values: usize,
}

fn paths(decoder: &Decoder) -> Vec<Path> {
    #[derive(Default)]
    struct Collector {
        at: Vec<String>,
        found: Vec<Path>,
    }
    impl ModuleVisitor for Collector {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            self.found.push(Path { name: self.at.join("."), values: param.val().shape().num_elements() });
        }

        fn enter_module(&mut self, name: &str, _container: &str) {
            self.at.push(name.to_owned());
        }

        fn exit_module(&mut self, _name: &str, _container: &str) {
            self.at.pop();
        }
    }
    let mut collector = Collector::default();
    decoder.visit(&mut collector);
    collector.found
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The kernel's steps are those of Burn's optimizer, to the bit.
    #[test]
    fn a_step_on_the_cpu_is_that_of_burn() {
        let device = Device::flex();
        let wave = |step: usize, n: usize| -> Vec<f32> {
            (0..n).map(|i| ((i * 7919 + step * 104_729) % 2003) as f32 * 1e-3 - 1.0).collect()
        };
        for (n, weight_decay) in [(1, 0.1), (37, 0.0), (100_000, 0.01)] {
            let rule = Rule { beta_1: 0.9, beta_2: 0.999, epsilon: 1e-8, weight_decay };
            let burn = rule.of_burn();
            let parameter = flat(wave(0, n), &device);
            let (mut ours, mut theirs) = ((parameter.clone(), None), (parameter, None));
            for step in 1..5 {
                let (rate, gradient) = (1e-3 / step as f64, flat(wave(step, n), &device));
                ours = rule.step(rate, ours.0, gradient.clone(), ours.1);
                theirs = burn.step(rate, theirs.0, gradient, theirs.1);
                let found = [&ours, &theirs].map(|(parameter, state): &(Tensor<1>, Option<AdamWState<1>>)| {
                    let momentum = &state.as_ref().expect("a state").momentum;
                    let values = [parameter, &momentum.moment_1, &momentum.moment_2].map(|tensor| {
                        to_f32(tensor.clone()).expect("values").into_iter().map(f32::to_bits).collect::<Vec<_>>()
                    });
                    (momentum.time, values)
                });
                assert_eq!(found[0], found[1], "{n} {step}");
            }
        }
    }
}
