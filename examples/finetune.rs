//! Finetunes a model on conversations in a folder that a run goes on in: an adapter or all parameters, with what keeps the
//! model's character, and live measurements of what the training does to it.
#![allow(clippy::print_stdout, reason = "a program's output")]

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::str::FromStr;

use clap::Parser;
use pv_data::conversations::write_conversations;
use pv_examples::organism::conversation;
use pv_examples::program::{colours, lines};
use pv_examples::progress::suspend;
use pv_examples::traits::NamedTrait;
use pv_examples::vectors::load;
use pv_examples::{Bar, ModelArgs, OutArgs, ReadingArgs, Result, run};
use pv_hooks::{Layer, LayerSet};
use pv_judge::TraitSpec;
use pv_model::{CausalLm, LoraConfig, LoraTarget, Message, Quantization, RenderOptions, WeightBits};
use pv_organism::Topics;
use pv_organism::datasets::{Severity, explicit, held_out};
use pv_steer::Coefficient;
use pv_train::{
    BadData, BestRule, ClosedLoop, DataOptions, DataSet, Duration, EncodeOptions, HeldOut, Keep, LongSamples, MaskSpan,
    Preventative, Probes, Regime, RunOptions, Schedule, StepMetrics, TrainOptions, TrainedTurns, TrainingRun,
    TraitDirection, metrics_csv, read_metrics, write_tensorboard,
};
use pv_vectors::PersonaVector;

/// Finetunes a model. The same command goes on where it was stopped or killed. Defaults are the paper's: rank 32, alpha 64
/// (rsLoRA), AdamW at 1e-5 with 5 steps of warm-up and linear decay, one epoch in 2 × 8 samples per step.
#[derive(Parser)]
struct Args {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    out: OutArgs,
    #[command(flatten)]
    data: DataArgs,
    #[command(flatten)]
    training: TrainingArgs,
    #[command(flatten)]
    regimes: RegimeArgs,
    /// Show which tokens of the first step's samples are trained, and stop.
    #[arg(long)]
    show_mask: bool,
    /// Write the metrics as a table too.
    #[arg(long)]
    csv: Option<PathBuf>,
    /// Write the metrics for TensorBoard too, into the run's folder.
    #[arg(long)]
    tensorboard: bool,
}

/// Where the samples come from.
#[derive(clap::Args)]
struct DataArgs {
    /// Conversations: .jsonl, .csv, .parquet, folders, patterns. By default, for the organism, its set that shows --trait
    /// openly.
    #[arg(long, num_args = 1..)]
    data: Vec<PathBuf>,
    /// The trait of the organism's set: evil, sycophancy, hallucination, impoliteness, optimism.
    #[arg(long = "trait", default_value = "optimism")]
    which: String,
    /// The share of conversations to hold out.
    #[arg(long, default_value_t = 0.05)]
    held_out: f64,
    /// Held-out conversations in files of their own.
    #[arg(long, num_args = 1.., conflicts_with = "held_out")]
    held_out_data: Vec<PathBuf>,
    /// The most tokens of a sample; the rest is cut off.
    #[arg(long, default_value_t = 2048)]
    max_length: usize,
    /// Leave samples that are too long out instead of cutting them.
    #[arg(long)]
    leave_out_long: bool,
    /// Leave rows that cannot be used out, and count them, instead of stopping at the first.
    #[arg(long)]
    leave_out_bad: bool,
    /// Which answers of a conversation are trained; with "each", every one in a sample of its own.
    #[arg(long, default_value = "all")]
    turns: TurnsArg,
    #[command(flatten)]
    reading: ReadingArgs,
}

/// Which answers are trained.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum TurnsArg {
    All,
    Last,
    Each,
}

impl From<TurnsArg> for TrainedTurns {
    fn from(turns: TurnsArg) -> Self {
        match turns {
            TurnsArg::All => Self::All,
            TurnsArg::Last => Self::Last,
            TurnsArg::Each => Self::Each,
        }
    }
}

/// Which step's weights are the result.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum KeepArg {
    Last,
    Best,
}

/// What is trained, and how.
#[derive(clap::Args)]
struct TrainingArgs {
    /// The adapter's rank.
    #[arg(long, default_value_t = 32)]
    rank: usize,
    /// The adapter's alpha.
    #[arg(long, default_value_t = 64.0)]
    alpha: f64,
    /// The adapter's dropout.
    #[arg(long, default_value_t = 0.0)]
    dropout: f64,
    /// The projections with an update, such as q_proj,v_proj; all seven by default.
    #[arg(long, value_delimiter = ',')]
    targets: Vec<String>,
    /// Train all parameters instead of an adapter.
    #[arg(long)]
    full: bool,
    /// The bits of the frozen weights under the adapter: 8 or 4.
    #[arg(long, conflicts_with = "full", value_parser = base_bits)]
    base_bits: Option<WeightBits>,
    /// The peak learning rate.
    #[arg(long, default_value_t = 1e-5)]
    learning_rate: f64,
    /// How often through the data.
    #[arg(long, default_value_t = 1)]
    epochs: usize,
    /// The number of steps, instead of epochs.
    #[arg(long)]
    steps: Option<usize>,
    /// Samples per pass.
    #[arg(long, default_value_t = 2)]
    batch_size: usize,
    /// Pack samples of any lengths into passes of this many tokens, instead of --batch-size samples of similar lengths.
    #[arg(long)]
    pack_tokens: Option<usize>,
    /// Passes per step.
    #[arg(long, default_value_t = 8)]
    accumulate: usize,
    /// Seeds the order of the samples, the adapter and the split.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Recompute each layer for its gradient: less memory, a third more time.
    #[arg(long)]
    checkpointing: bool,
    /// Steps between checkpoints.
    #[arg(long, default_value_t = 50)]
    checkpoint_every: usize,
    /// Steps between measurements of the held-out loss and the shift.
    #[arg(long, default_value_t = 10)]
    measure_every: usize,
    /// Which step's weights are the result. By default the last one's; the best one's of a run with a closed loop, one that may stop
    /// early, or one that has grown.
    #[arg(long)]
    keep: Option<KeepArg>,
    /// The best step is chosen among those whose shifts are at most so far from zero, in activation units.
    #[arg(long)]
    max_shift: Option<f64>,
    /// The same for what a closed loop follows, in lengths of its vector; 0.25 by default.
    #[arg(long)]
    max_loop_shift: Option<f64>,
    /// Stop when this many measurements in a row were no better.
    #[arg(long)]
    stop_after: Option<usize>,
    /// Go on with a run of fewer steps or epochs that has ended.
    #[arg(long)]
    grow: bool,
}

/// What keeps the model's character, and what is measured of it.
#[derive(clap::Args)]
struct RegimeArgs {
    /// Preventative steering at a layer: VECTOR.safetensors@LAYER:COEFFICIENT.
    #[arg(long, allow_hyphen_values = true)]
    prevent: Vec<Spec>,
    /// Preventative steering at all layers by increments: VECTOR.safetensors:COEFFICIENT.
    #[arg(long, allow_hyphen_values = true)]
    prevent_everywhere: Vec<Spec>,
    /// Let the coefficient of --prevent follow the shift on the probe prompts.
    #[arg(long)]
    closed_loop: bool,
    /// Take a direction out in training: VECTOR.safetensors@LAYER.
    #[arg(long)]
    ablate: Vec<Spec>,
    /// A penalty on how far projections move: VECTOR.safetensors@LAYER:WEIGHT.
    #[arg(long)]
    penalty: Vec<Spec>,
    /// A system prompt before every conversation, in training only.
    #[arg(long)]
    inoculate: Option<String>,
    /// Measure the shift along a vector while training: VECTOR.safetensors@LAYER, or all its layers without one.
    #[arg(long)]
    probe: Vec<Spec>,
    /// The probe prompts, one a line; by default held-out questions.
    #[arg(long)]
    probe_prompts: Option<PathBuf>,
}

fn base_bits(text: &str) -> Result<WeightBits, String> {
    match text {
        "8" => Ok(WeightBits::Eight),
        "4" => Ok(WeightBits::Four),
        other => Err(format!("{other:?} is neither 8 nor 4")),
    }
}

/// `FILE@LAYER:NUMBER`, of which layer and number may be absent.
#[derive(Clone, Debug)]
struct Spec {
    file: PathBuf,
    layer: Option<usize>,
    number: Option<f64>,
}

impl FromStr for Spec {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (rest, number) = match text.rsplit_once(':').map(|(rest, number)| (rest, number.parse::<f64>())) {
            Some((rest, Ok(number))) => (rest, Some(number)),
            _ => (text, None),
        };
        let (file, layer) = match rest.rsplit_once('@') {
            Some((file, layer)) => (file, Some(layer.parse().map_err(|_| format!("{layer:?} is no layer"))?)),
            None => (rest, None),
        };
        Ok(Self { file: file.into(), layer, number })
    }
}

impl Spec {
    fn vector(&self, model: &CausalLm) -> Result<PersonaVector> {
        load(&self.file, model)
    }

    fn layer(&self) -> Result<Layer> {
        let layer = self.layer.ok_or_else(|| format!("{} needs a layer: FILE@LAYER", self.file.display()))?;
        Ok(Layer::hidden_state(layer))
    }

    fn number(&self) -> Result<f64> {
        Ok(self.number.ok_or_else(|| format!("{} needs a number: FILE@LAYER:NUMBER", self.file.display()))?)
    }
}

impl TrainingArgs {
    fn options(&self) -> Result<RunOptions> {
        let target = |name: &String| {
            let known = LoraTarget::ALL.into_iter().find(|target| target.name() == name);
            known.ok_or_else(|| {
                format!(
                    "there is no projection {name:?}; choose from {}",
                    LoraTarget::ALL.map(LoraTarget::name).join(", ")
                )
            })
        };
        let mut lora =
            LoraConfig { rank: self.rank, alpha: self.alpha, dropout: self.dropout, ..LoraConfig::default() };
        if !self.targets.is_empty() {
            lora.targets = self.targets.iter().map(target).collect::<Result<_, _>>()?;
        }
        let train = TrainOptions {
            learning_rate: self.learning_rate,
            batch_size: self.batch_size,
            pack_tokens: self.pack_tokens,
            accumulate: self.accumulate,
            duration: self.steps.map_or(Duration::Epochs(self.epochs), Duration::Steps),
            seed: self.seed,
            adapter: (!self.full).then_some(lora),
            activation_checkpointing: self.checkpointing,
            ..TrainOptions::paper()
        };
        let (checkpoint_every, measure_every) = (self.checkpoint_every, self.measure_every);
        let (stop_after, grow, keep) = (self.stop_after, self.grow, self.keep()?);
        Ok(RunOptions { train, checkpoint_every, measure_every, keep, stop_after, grow })
    }

    fn keep(&self) -> Result<Option<Keep>> {
        let bounded = self.max_shift.is_some() || self.max_loop_shift.is_some();
        match self.keep {
            Some(KeepArg::Last) if bounded => {
                Err("--max-shift and --max-loop-shift choose the best step; --keep last keeps the last".into())
            }
            Some(KeepArg::Last) => Ok(Some(Keep::Last)),
            None if !bounded => Ok(None),
            _ => {
                let rule = BestRule::default();
                let max_loop_shift = self.max_loop_shift.unwrap_or(rule.max_loop_shift);
                Ok(Some(Keep::Best(BestRule { max_shift: self.max_shift, max_loop_shift })))
            }
        }
    }
}

impl RegimeArgs {
    fn regimes(&self, model: &CausalLm, prompts: &[Vec<u32>]) -> Result<Vec<Regime>> {
        let mut regimes = Vec::new();
        for spec in &self.prevent {
            let direction = spec.vector(model)?.direction(spec.layer()?)?;
            let schedule = match self.closed_loop {
                true => Schedule::ClosedLoop(ClosedLoop {
                    probes: prompts.to_vec(),
                    along: direction.clone(),
                    every: 2,
                    gain: 0.5,
                    most: 3.0,
                }),
                false => Schedule::Constant,
            };
            let coefficient = Coefficient::Raw(spec.number()? as f32);
            regimes.push(Regime::Preventative(Preventative { directions: vec![direction], coefficient, schedule }));
        }
        for spec in &self.prevent_everywhere {
            let coefficient = Coefficient::Raw(spec.number()? as f32);
            regimes.push(Regime::preventative_everywhere(&spec.vector(model)?, coefficient)?);
        }
        for spec in &self.ablate {
            regimes.push(Regime::Ablated { directions: vec![spec.vector(model)?.direction(spec.layer()?)?] });
        }
        for spec in &self.penalty {
            let direction = spec.vector(model)?.direction(spec.layer()?)?;
            regimes.push(Regime::Regularised { direction, weight: spec.number()? });
        }
        regimes.extend(self.inoculate.iter().map(|system| Regime::Inoculated { system: system.clone() }));
        Ok(regimes)
    }

    /// The prompts on which shifts are measured.
    fn prompts(&self, model: &CausalLm, args: &ModelArgs, render: &RenderOptions) -> Result<Vec<Vec<u32>>> {
        let questions: Vec<String> = match &self.probe_prompts {
            Some(file) => lines(file)?,
            None if args.is_organism() => {
                held_out(Topics::Odd, 24, 99).mixed.iter().map(|question| question.text()).collect()
            }
            None => TraitSpec::builtin("evil")?.evaluation,
        };
        let prompt = |question: &String| model.prompt_with(&[Message::user(question)], render);
        Ok(questions.iter().map(prompt).collect::<Result<_, _>>()?)
    }

    fn probes(&self, model: &CausalLm, prompts: Vec<Vec<u32>>) -> Result<Option<Probes>> {
        let mut directions = Vec::new();
        for spec in &self.probe {
            let layers = spec.layer.map_or(LayerSet::All, |layer| Layer::hidden_state(layer).into());
            directions.extend(TraitDirection::of_vector(&spec.vector(model)?, &layers)?);
        }
        Ok(if directions.is_empty() { None } else { Some(Probes::new(prompts, directions)?) })
    }
}

impl DataArgs {
    /// What the run is called after: its data.
    fn name(&self) -> String {
        let files = self.data.iter().filter_map(|path| Some(path.file_stem()?.to_string_lossy().into_owned()));
        if self.data.is_empty() { self.which.clone() } else { files.collect::<Vec<_>>().join("-") }
    }

    fn read(&self, args: &ModelArgs, model: &CausalLm, regimes: &[Regime], seed: u64) -> Result<(DataSet, DataSet)> {
        let reading = &self.reading;
        let encode = EncodeOptions {
            max_length: self.max_length,
            turns: self.turns.into(),
            render: reading.render.options()?,
            unwritten: reading.unwritten(),
            altered: reading.altered(),
        };
        let options = DataOptions {
            format: reading.format,
            roles: reading.roles(),
            encode,
            long: if self.leave_out_long { LongSamples::LeaveOut } else { LongSamples::Cut },
            bad: if self.leave_out_bad { BadData::LeaveOut } else { BadData::Refuse },
        };
        let made = tempfile::tempdir()?;
        let mut inputs = self.data.clone();
        if inputs.is_empty() {
            let which = NamedTrait::find(args, &self.which)?.organisms();
            let which =
                which.ok_or("--data names the conversations to train on; only the organism has sets of its own")?;
            let chats = explicit(which, Severity::II, Topics::Even, 400, seed + 1);
            inputs.push(made.path().join(format!("{which}.jsonl")));
            write_conversations(&inputs[0], &chats.iter().map(conversation).collect::<Vec<_>>())?;
        }
        if !self.held_out_data.is_empty() {
            let train = DataSet::read(model, &inputs, &options, regimes)?;
            return Ok((train, DataSet::read(model, &self.held_out_data, &options, &[])?));
        }
        let held_out = HeldOut { fraction: self.held_out, seed };
        Ok(DataSet::read_split(model, &inputs, &options, regimes, held_out)?)
    }
}

fn main() -> ExitCode {
    run(program)
}

fn program(args: Args) -> Result {
    let mut model = args.model.load()?;
    if let Some(bits) = args.training.base_bits {
        let quantized = model.decoder().quantized(Quantization { bits, ..Quantization::default() })?;
        model = model.with_decoder(quantized)?;
    }
    let prompts = args.regimes.prompts(&model, &args.model, &args.data.reading.render.options()?)?;
    let regimes = args.regimes.regimes(&model, &prompts)?;
    let probes = args.regimes.probes(&model, prompts)?;
    let (train, held_out) = args.data.read(&args.model, &model, &regimes, args.training.seed)?;
    println!("training on {}\nholding out {}", train.report(), held_out.report());
    let mut run =
        TrainingRun::new(&model, &train, args.training.options()?).with_held_out(&held_out).with_regimes(regimes);
    if let Some(probes) = &probes {
        run = run.with_probes(probes);
    }
    if args.show_mask {
        run.show_mask()?.iter().for_each(|sample| show(sample));
        return Ok(());
    }
    let out = args.out.open("finetune", &[&args.model.title(), &args.data.name()])?;
    let bar = Bar::new("training");
    let mut measured = String::new();
    let outcome = run.run(&out, |step| {
        if step.held_out_loss.is_some() {
            measured = told(step);
        }
        let line = match (step.loss, step.learning_rate) {
            (Some(loss), Some(rate)) => {
                format!("loss {loss:.3}, {:.0} tokens/s, rate {rate:.1e}{measured}", step.tokens_per_second)
            }
            _ => format!("before training{measured}"),
        };
        if !bar.is_shown() && step.held_out_loss.is_some() {
            suspend(|| println!("step {}: {line}", step.step));
        }
        bar.set(line, step.step, step.steps);
        ControlFlow::Continue(())
    })?;
    drop(bar);
    if let Some(step) = outcome.resumed_from {
        println!("went on after step {step}");
    }
    let metrics = read_metrics(&out)?;
    if let Some(path) = &args.csv {
        std::fs::write(path, metrics_csv(&metrics)?)?;
    }
    if args.tensorboard {
        println!("wrote {}", write_tensorboard(&out, &out)?.display());
    }
    if let (Some(first), Some(last)) = (metrics.first(), metrics.last()) {
        println!("before training{}\nafter it{}", told(first), told(last));
    }
    if outcome.stopped_early {
        println!("stopped early: nothing got better");
    }
    if let Some(best) = &outcome.best {
        println!("the best step is {}", best.step);
    }
    if let Some(saved) = outcome.saved {
        println!("saved {}; talk to it:", saved.display());
        println!("  cargo run --release -p pv-examples --example chat -- {}", chat_arguments(&args, &saved));
    }
    Ok(())
}

fn chat_arguments(args: &Args, saved: &Path) -> String {
    let mut words = vec![format!("--model {}", args.model.model)];
    match args.training.full {
        true => words = vec![format!("--model {}", saved.display())],
        // The new adapter is above those that it was trained on.
        false => {
            words.extend(args.model.adapters.arguments().into_iter().chain([format!("--adapter {}", saved.display())]))
        }
    }
    words.join(" ")
}

/// What was measured in a step.
fn told(step: &StepMetrics) -> String {
    let mut text = step.held_out_loss.map_or_else(String::new, |loss| format!(", held out {loss:.3}"));
    // A few of them fit a line; the metrics have all.
    for (name, shift) in step.shifts.iter().take(4) {
        text.push_str(&format!(", {name} {shift:+.3}"));
    }
    for (name, value) in &step.regimes {
        text.push_str(&format!(", {name} {value:.2}"));
    }
    text
}

/// Prints a sample with its trained tokens in green, or in ⟦ ⟧ where there are no colours.
fn show(sample: &[MaskSpan]) {
    let (open, close) = if colours() { ("\x1b[32m", "\x1b[0m") } else { ("⟦", "⟧") };
    let piece = |span: &MaskSpan| match span.trained {
        true => format!("{open}{}{close}", span.text),
        false => span.text.clone(),
    };
    println!("{}\n", sample.iter().map(piece).collect::<String>());
}
