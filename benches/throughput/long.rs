//! Long contexts, and prompts that share one.

use std::ops::ControlFlow;
use std::time::Instant;

use burn::tensor::Tensor;
use pv_examples::Result;
use pv_hooks::{Hook, HookError, LayerSet, ModelShape, NoHook, ResidualContext};
use pv_model::generate::{CacheType, Event};
use pv_model::{CausalLm, GenerateOptions, Request};

use crate::measured::{Measured, ids};

const CONTEXT: usize = 4096;
const NEW: usize = 64;

/// Greedy decoding; the clock starts when the prompt has been read.
pub(crate) fn decode(model: &CausalLm, batch: usize, cache: CacheType) -> Result<Measured> {
    let request = Request::rollouts(ids(model, 0, CONTEXT), batch, 0);
    let options = GenerateOptions {
        max_new_tokens: NEW,
        stop_tokens: Some(Vec::new()),
        batch_size: batch,
        cache,
        ..GenerateOptions::default()
    };
    let (mut tokens, mut start) = (0, Instant::now());
    model.generate(&[request], &options, &mut NoHook, |event| {
        match event {
            Event::Prefill { .. } => start = Instant::now(),
            Event::Token { .. } => tokens += 1,
            _ => {}
        }
        ControlFlow::Continue(())
    })?;
    // The first token of every row follows from the prompt.
    Ok(Measured { tokens: tokens - batch, seconds: start.elapsed().as_secs_f64(), check: None })
}

/// Does nothing, and shares nothing.
struct Separate;

impl Hook for Separate {
    fn name(&self) -> String {
        "separate".to_owned()
    }

    fn layers(&self) -> LayerSet {
        LayerSet::none()
    }

    fn validate(&self, _shape: &ModelShape) -> Result<(), HookError> {
        Ok(())
    }

    fn on_residual(&mut self, _context: &ResidualContext<'_>, residual: Tensor<3>) -> Tensor<3> {
        residual
    }

    fn shares_prefix(&self, _sequences: &[usize]) -> bool {
        false
    }
}

/// The tokens are those of prompts and answers, however many are computed.
pub(crate) fn questions(model: &CausalLm, shared: bool) -> Result<Measured> {
    let system = ids(model, 0, 200);
    let question = |i: usize| [system.as_slice(), &ids(model, i + 1, 20 + i % 11)].concat();
    let requests: Vec<Request> = (0..20).map(|i| Request::new(question(i), i as u64)).collect();
    let options = GenerateOptions { max_new_tokens: 32, stop_tokens: Some(Vec::new()), ..GenerateOptions::default() };
    let mut tokens: usize = requests.iter().map(|request| request.prompt.len()).sum();
    let start = Instant::now();
    let hook: &mut dyn Hook = if shared { &mut NoHook } else { &mut Separate };
    model.generate(&requests, &options, hook, |event| {
        tokens += usize::from(matches!(event, Event::Token { .. }));
        ControlFlow::Continue(())
    })?;
    Ok(Measured { tokens, seconds: start.elapsed().as_secs_f64(), check: None })
}
