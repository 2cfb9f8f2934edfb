//! What is measured.

use std::ops::ControlFlow;
use std::time::Instant;

use pv_examples::Result;
use pv_hooks::{Hook, Layer, NoHook};
use pv_model::{Batch, CausalLm, Event, ForwardOptions, GenerateOptions, Logits, Request, Sequence};
use pv_steer::{Coefficient, Positions, Steerer};
use pv_vectors::Direction;

use crate::pipelines;

const PROMPT: usize = 64;
const NEW: usize = 128;

/// One measure. The peer's script has the same names for the same shapes.
#[derive(Clone, Copy)]
pub(crate) enum Task {
    /// Reading whole sequences, with the output head at every position unless the pass stops early.
    Prefill { batch: usize, seq: usize, middle: bool },
    /// Greedy decoding after a prompt of 64 tokens, 128 new ones.
    Decode { batch: usize, steered: bool },
    /// From a trait's prompts to its vector.
    Extraction,
    /// Projections of texts at the middle layer.
    Scan,
}

/// What a run did.
pub(crate) struct Measured {
    pub(crate) tokens: usize,
    pub(crate) seconds: f64,
    /// A number that a peer which does the same work arrives at too.
    pub(crate) check: Option<f64>,
}

impl Measured {
    pub(crate) fn tokens_per_s(&self) -> f64 {
        self.tokens as f64 / self.seconds
    }
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
        tasks.extend([Self::Extraction, Self::Scan]);
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
            Self::Extraction => "extraction".to_owned(),
            Self::Scan => "scan".to_owned(),
        }
    }

    /// The same without steering, for a steered task.
    pub(crate) fn plain(self) -> Option<Self> {
        match self {
            Self::Decode { batch, steered: true } => Some(Self::Decode { batch, steered: false }),
            _ => None,
        }
    }

    /// One run.
    pub(crate) fn run(self, model: &CausalLm) -> Result<Measured> {
        match self {
            Self::Prefill { batch, seq, middle } => prefill(model, batch, seq, middle),
            Self::Decode { batch, steered: false } => decode(model, batch, &mut NoHook),
            Self::Decode { batch, steered: true } => {
                let layer = Layer::hidden_state(model.config().layers / 2);
                let direction = Direction { layer, values: wave(model), mean_residual_norm: None };
                let mut steerer = Steerer::new().add(&direction, Coefficient::Raw(0.01), Positions::Response)?;
                decode(model, batch, &mut steerer)
            }
            Self::Extraction => pipelines::extraction(model),
            Self::Scan => pipelines::projection_scan(model),
        }
    }
}

/// Token ids that are spread over the vocabulary and the same in the peer's script.
pub(crate) fn ids(model: &CausalLm, row: usize, n: usize) -> Vec<u32> {
    (0..n).map(|i| ((i * 7919 + row * 104_729 + 17) % model.config().vocab) as u32).collect()
}

/// A direction that is the same in the peer's script.
pub(crate) fn wave(model: &CausalLm) -> Vec<f32> {
    (0..model.config().d_model).map(|i| (i as f32).sin()).collect()
}

fn prefill(model: &CausalLm, batch: usize, seq: usize, middle: bool) -> Result<Measured> {
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
    Ok(Measured { tokens: batch * seq, seconds: start.elapsed().as_secs_f64(), check: None })
}

fn decode(model: &CausalLm, batch: usize, hook: &mut impl Hook) -> Result<Measured> {
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
    Ok(Measured { tokens, seconds: start.elapsed().as_secs_f64(), check: None })
}
