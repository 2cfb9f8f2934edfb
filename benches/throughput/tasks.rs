//! What is measured.

use std::ops::ControlFlow;
use std::time::Instant;

use pv_examples::Result;
use pv_hooks::{Hook, Layer, LayerSet, NoHook};
use pv_model::batch::{Batch, Sequence};
use pv_model::causal_lm::ForwardOptions;
use pv_model::decoder::Logits;
use pv_model::generate::{CacheType, Event};
use pv_model::{CausalLm, GenerateOptions, Request, Sampling};
use pv_steer::monitor::{Monitor, Watch};
use pv_steer::{Coefficient, Positions, Steerer};
use pv_vectors::Direction;

use crate::measured::{Measured, ids, wave};
use crate::{finetuning, long, pipelines, screening};

const PROMPT: usize = 64;
const NEW: usize = 128;

/// One measure. The peer's script has the same names for the same shapes.
#[derive(Clone, Copy)]
pub(crate) enum Task {
    /// Reading whole sequences, with the output head at every position unless the pass stops early.
    Prefill { batch: usize, seq: usize, middle: bool },
    /// Greedy decoding after a prompt of 64 tokens, 128 new ones.
    Decode { batch: usize, hook: Acting },
    /// Greedy decoding at a context of 4096 tokens, which all rows have in common; the time of reading them is left out.
    Long { batch: usize, cache: CacheType },
    /// Answers of 32 tokens to 20 questions under one system prompt of 200 tokens, which is read once or 20 times.
    Questions { shared: bool },
    /// From a trait's prompts to its vector.
    Extraction,
    /// Projections of texts at the middle layer.
    Scan,
    /// Projections of short chats or their whole projection difference, from the file to the table.
    Screen { chats: usize, difference: bool },
    /// Training steps of a low-rank adapter.
    Finetune { checkpointed: bool, steered: bool },
    /// Training steps on samples of several lengths, packed into one pass.
    FinetunePacked,
    /// A conversation of 20 turns through the model's chat template, again and again.
    Render,
}

/// What happens while a model decodes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Acting {
    Nothing,
    /// A vector is added at the middle layer.
    OneLayer,
    /// A vector is added at every layer.
    AllLayers,
    /// Eight vectors are watched at every layer, and read at every token.
    Monitor,
    /// Tokens are sampled from the most likely ones with nine tenths of the probability.
    Sampling,
}

impl Acting {
    const ALL: [Self; 5] = [Self::Nothing, Self::OneLayer, Self::AllLayers, Self::Monitor, Self::Sampling];

    fn name(self) -> &'static str {
        match self {
            Self::Nothing => "plain",
            Self::OneLayer => "steered",
            Self::AllLayers => "all-layers",
            Self::Monitor => "monitored",
            Self::Sampling => "sampled",
        }
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
            tasks.extend(Acting::ALL.map(|hook| Self::Decode { batch, hook }));
        }
        for batch in [1, 8] {
            tasks.extend(CacheType::ALL.map(|(_, cache)| Self::Long { batch, cache }));
        }
        tasks.extend([false, true].map(|shared| Self::Questions { shared }));
        tasks.extend([Self::Extraction, Self::Scan]);
        for difference in [false, true] {
            tasks.extend([64, 512].map(|chats| Self::Screen { chats, difference }));
        }
        for checkpointed in [false, true] {
            tasks.extend([false, true].map(|steered| Self::Finetune { checkpointed, steered }));
        }
        tasks.extend([Self::FinetunePacked, Self::Render]);
        tasks
    }

    pub(crate) fn name(self) -> String {
        match self {
            Self::Prefill { batch, seq, middle } => {
                format!("prefill-{batch}x{seq}-{}", if middle { "middle" } else { "full" })
            }
            Self::Decode { batch, hook } => format!("decode-{batch}-{}", hook.name()),
            Self::Long { batch, cache } => format!("long-{batch}-{cache}"),
            Self::Questions { shared } => format!("questions-{}", if shared { "shared" } else { "separate" }),
            Self::Extraction => "extraction".to_owned(),
            Self::Scan => "scan".to_owned(),
            Self::Screen { chats, difference } => {
                format!("screen-{}-{chats}", if difference { "difference" } else { "projection" })
            }
            Self::Finetune { checkpointed, steered } => match (checkpointed, steered) {
                (false, false) => "finetune-plain",
                (false, true) => "finetune-steered",
                (true, false) => "finetune-checkpointed",
                (true, true) => "finetune-checkpointed-steered",
            }
            .to_owned(),
            Self::FinetunePacked => "finetune-packed".to_owned(),
            Self::Render => "render-20".to_owned(),
        }
    }

    /// The same with nothing acting, for a task in which something does.
    pub(crate) fn plain(self) -> Option<Self> {
        match self {
            Self::Decode { hook: Acting::Nothing, .. } => None,
            Self::Decode { batch, .. } => Some(Self::Decode { batch, hook: Acting::Nothing }),
            Self::Finetune { checkpointed, steered: true } => Some(Self::Finetune { checkpointed, steered: false }),
            _ => None,
        }
    }

    /// How many tokens a training step takes, where there are steps.
    pub(crate) fn step_tokens(self) -> Option<usize> {
        matches!(self, Self::Finetune { .. } | Self::FinetunePacked).then_some(finetuning::STEP_TOKENS)
    }

    /// Whether the peer's script does it too.
    pub(crate) fn has_peer(self) -> bool {
        let only_ours = matches!(self, Self::Long { .. } | Self::Questions { .. });
        !only_ours && !matches!(self, Self::Decode { hook: Acting::AllLayers | Acting::Monitor | Acting::Sampling, .. })
    }

    /// One run.
    pub(crate) fn run(self, model: &CausalLm) -> Result<Measured> {
        match self {
            Self::Prefill { batch, seq, middle } => prefill(model, batch, seq, middle),
            Self::Decode { batch, hook: Acting::Nothing } => {
                decode(model, batch, Sampling::GREEDY, &mut NoHook, || Ok(()))
            }
            Self::Decode { batch, hook: Acting::Sampling } => {
                let sampling = Sampling { top_p: 0.9, ..Sampling::temperature(1.0) };
                decode(model, batch, sampling, &mut NoHook, || Ok(()))
            }
            Self::Decode { batch, hook: Acting::OneLayer } => {
                let middle = Layer::hidden_state(model.config().layers / 2);
                decode(model, batch, Sampling::GREEDY, &mut steerer(model, [middle])?, || Ok(()))
            }
            Self::Decode { batch, hook: Acting::AllLayers } => {
                let layers = LayerSet::All.resolve(model.config().layers);
                decode(model, batch, Sampling::GREEDY, &mut steerer(model, layers)?, || Ok(()))
            }
            Self::Decode { batch, hook: Acting::Monitor } => {
                let layers = LayerSet::All.resolve(model.config().layers).into_iter();
                let watches = layers.flat_map(|layer| (0..8).map(move |k| (layer, k))).map(|(layer, k)| {
                    let values = wave(model).into_iter().map(|value| value + k as f32).collect();
                    let direction = Direction { layer, values, mean_residual_norm: None };
                    Ok(Watch::new(format!("trait {k}"), direction.unit()?))
                });
                let mut monitor = Monitor::new(watches.collect::<Result<Vec<_>>>()?)?;
                let readings = monitor.readings();
                decode(model, batch, Sampling::GREEDY, &mut monitor, || {
                    Ok(std::hint::black_box(readings.news()).map(|_| ())?)
                })
            }
            Self::Long { batch, cache } => long::decode(model, batch, cache),
            Self::Questions { shared } => long::questions(model, shared),
            Self::Extraction => pipelines::extraction(model),
            Self::Scan => pipelines::projection_scan(model),
            Self::Screen { chats, difference } => screening::screening(model, chats, difference),
            Self::Finetune { checkpointed, steered } => finetuning::finetune(model, checkpointed, steered),
            Self::FinetunePacked => finetuning::packed(model),
            Self::Render => screening::rendering(model),
        }
    }
}

/// Adds a little at these layers.
fn steerer(model: &CausalLm, layers: impl IntoIterator<Item = Layer>) -> Result<Steerer> {
    layers.into_iter().try_fold(Steerer::new(), |steerer, layer| {
        let direction = Direction { layer, values: wave(model), mean_residual_norm: None };
        Ok(steerer.add(&direction, Coefficient::Raw(0.01), Positions::Response)?)
    })
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

/// `at_token` is called as each token is chosen.
fn decode(
    model: &CausalLm,
    batch: usize,
    sampling: Sampling,
    hook: &mut impl Hook,
    at_token: impl Fn() -> Result,
) -> Result<Measured> {
    let requests: Vec<Request> = (0..batch).map(|row| Request::new(ids(model, row, PROMPT), 0)).collect();
    let options = GenerateOptions {
        max_new_tokens: NEW,
        sampling,
        stop_tokens: Some(Vec::new()),
        batch_size: batch,
        ..GenerateOptions::default()
    };
    let (mut tokens, mut failure) = (0, None);
    let start = Instant::now();
    model.generate(&requests, &options, hook, |event| {
        if matches!(event, Event::Token { .. }) {
            tokens += 1;
            failure = failure.take().or(at_token().err());
        }
        ControlFlow::Continue(())
    })?;
    if let Some(error) = failure {
        return Err(error);
    }
    Ok(Measured { tokens, seconds: start.elapsed().as_secs_f64(), check: None })
}
