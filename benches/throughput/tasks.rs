//! What is measured.

use std::error::Error;
use std::ops::ControlFlow;
use std::time::Instant;

use pv_hooks::{Hook, Layer, NoHook};
use pv_model::{Batch, CausalLm, Event, ForwardOptions, GenerateOptions, Logits, Request, Sequence};
use pv_steer::{Coefficient, Positions, Steerer};
use pv_vectors::Direction;

const PROMPT: usize = 64;
const NEW: usize = 128;

/// One measure. The peer's script has the same names for the same shapes.
#[derive(Clone, Copy)]
pub(crate) enum Task {
    /// Reading whole sequences, with the output head at every position unless the pass stops early.
    Prefill { batch: usize, seq: usize, middle: bool },
    /// Greedy decoding after a prompt of 64 tokens, 128 new ones.
    Decode { batch: usize, steered: bool },
}

impl Task {
    pub(crate) fn all() -> Vec<Self> {
        let mut tasks = Vec::new();
        for (batch, seq) in [(1, 512), (8, 128)] {
            for middle in [false, true] {
                tasks.push(Self::Prefill { batch, seq, middle });
            }
        }
        for batch in [1, 8, 16] {
            for steered in [false, true] {
                tasks.push(Self::Decode { batch, steered });
            }
        }
        tasks
    }

    pub(crate) fn name(self) -> String {
        match self {
            Self::Prefill { batch, seq, middle } => {
                format!("prefill-{batch}x{seq}-{}", if middle { "middle" } else { "full" })
            }
            Self::Decode { batch, steered } => {
                format!("decode-{batch}-{}", if steered { "steered" } else { "plain" })
            }
        }
    }

    /// The same without steering, for a steered task.
    pub(crate) fn plain(self) -> Option<Self> {
        match self {
            Self::Decode { batch, steered: true } => Some(Self::Decode { batch, steered: false }),
            _ => None,
        }
    }

    /// One run, in tokens per second.
    pub(crate) fn run(self, model: &CausalLm) -> Result<f64, Box<dyn Error>> {
        match self {
            Self::Prefill { batch, seq, middle } => prefill(model, batch, seq, middle),
            Self::Decode { batch, steered: false } => decode(model, batch, &mut NoHook),
            Self::Decode { batch, steered: true } => {
                let layer = Layer::hidden_state(model.config().layers / 2);
                let values = (0..model.config().d_model).map(|i| (i as f32).sin()).collect();
                let direction = Direction { layer, values, mean_residual_norm: None };
                let mut steerer = Steerer::new().add(&direction, Coefficient::Raw(0.01), Positions::Response)?;
                decode(model, batch, &mut steerer)
            }
        }
    }
}

/// Token ids that are spread over the vocabulary and the same in the peer's script.
fn ids(model: &CausalLm, row: usize, n: usize) -> Vec<u32> {
    (0..n).map(|i| ((i * 7919 + row * 104_729 + 17) % model.config().vocab) as u32).collect()
}

fn prefill(model: &CausalLm, batch: usize, seq: usize, middle: bool) -> Result<f64, Box<dyn Error>> {
    let rows: Vec<Vec<u32>> = (0..batch).map(|row| ids(model, row, seq)).collect();
    let sequences: Vec<_> = rows.iter().map(|ids| Sequence { prompt: ids, ..Sequence::default() }).collect();
    let batch_of = Batch::whole(&sequences)?;
    let options = match middle {
        true => ForwardOptions { stop_at: Some(Layer::hidden_state(model.config().layers / 2)), logits: Logits::None },
        false => ForwardOptions { stop_at: None, logits: Logits::All },
    };
    let start = Instant::now();
    let output = model.forward(&batch_of, options, &mut NoHook)?;
    output.residual.device().sync().map_err(|error| format!("{error:?}"))?;
    Ok((batch * seq) as f64 / start.elapsed().as_secs_f64())
}

fn decode(model: &CausalLm, batch: usize, hook: &mut impl Hook) -> Result<f64, Box<dyn Error>> {
    let requests: Vec<Request> = (0..batch).map(|row| Request::new(ids(model, row, PROMPT), 0)).collect();
    let options = GenerateOptions {
        max_new_tokens: NEW,
        stop_tokens: Some(Vec::new()),
        batch_size: batch,
        ..GenerateOptions::default()
    };
    let mut tokens = 0;
    let start = Instant::now();
    model.generate(&requests, &options, hook, |event| {
        tokens += usize::from(matches!(event, Event::Token { .. }));
        ControlFlow::Continue(())
    })?;
    Ok(tokens as f64 / start.elapsed().as_secs_f64())
}
