//! A trait that a system prompt asks for, held at what is ordinary; and a trait that is moved while others stay where they
//! are.
#![allow(clippy::print_stdout, reason = "a program's output")]

use std::ops::ControlFlow;
use std::path::PathBuf;

use clap::Parser;
use pv_examples::calibrating::{calibrate, ordinary_questions};
use pv_examples::{ModelArgs, Result, SAMPLING, TraitArgs, default_layer, extract};
use pv_hooks::{Hook, Layer, NoHook};
use pv_model::{CausalLm, GenerateOptions, Message, Request};
use pv_organism::system;
use pv_steer::monitor::{Calibration, Kind, Watch};
use pv_steer::{Coefficient, Condition, Positions, Steerer, control};
use pv_vectors::{Direction, PersonaVector};

/// Answers a question under a system prompt that elicits the trait: as it is, with the trait's projections capped at a
/// quantile of the ordinary ones, and capped only where the lowest of the layers shows the trait. With --amount, also
/// without system prompt and with the trait moved, the traits of --spare where they are.
#[derive(Parser)]
struct Args {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    which: TraitArgs,
    /// The trait's vector; extracted anew by default.
    #[arg(long)]
    vector: Option<PathBuf>,
    /// The layers to cap at; by default the one that steers well and the two below it.
    #[arg(long, value_delimiter = ',')]
    layers: Vec<usize>,
    /// The quantile of ordinary tokens' projections above which there is nothing.
    #[arg(long, default_value_t = 0.5)]
    cap: f64,
    /// The guard acts on tokens whose projection at the lowest of the layers is above this quantile.
    #[arg(long, default_value_t = 0.9)]
    guard: f64,
    /// Move the trait's projection by so much, in activation units.
    #[arg(long, allow_hyphen_values = true)]
    amount: Option<f64>,
    /// Vectors of traits whose projections stay where they are meanwhile.
    #[arg(long, requires = "amount")]
    spare: Vec<PathBuf>,
    /// The system prompt; one that elicits the trait by default.
    #[arg(long)]
    system: Option<String>,
    /// The question.
    #[arg(long)]
    question: Option<String>,
    /// The most tokens of an answer.
    #[arg(long, default_value_t = 80)]
    max_new_tokens: usize,
    /// Keep what steering changes out of the KV cache.
    #[arg(long)]
    clean_cache: bool,
}

fn main() -> Result {
    let args = Args::parse();
    let contrast = args.which.read(&args.model)?;
    let model = args.model.load()?;
    let load = |path: &PathBuf| -> Result<PersonaVector> {
        let vector = PersonaVector::load(path)?;
        vector.check_model(model.id(), &model.shape())?;
        Ok(vector)
    };
    let vector = match &args.vector {
        Some(path) => load(path)?,
        None => extract(&model, &contrast, args.max_new_tokens, 0)?.vector,
    };
    let best = default_layer(&args.model, &model);
    let mut layers: Vec<Layer> = match args.layers.is_empty() {
        true => (best.index().saturating_sub(2)..=best.index()).map(Layer::hidden_state).collect(),
        false => args.layers.iter().copied().map(Layer::hidden_state).collect(),
    };
    layers.sort();
    let directions = layers.iter().map(|layer| vector.direction(*layer)).collect::<Result<Vec<_>, _>>()?;
    let options = GenerateOptions {
        max_new_tokens: args.max_new_tokens,
        sampling: SAMPLING,
        clean_cache: args.clean_cache,
        ..GenerateOptions::default()
    };
    let watches = layers.iter().map(|layer| Watch::of(&vector, *layer)).collect::<Result<Vec<_>, _>>()?;
    let ordinary = ordinary_questions(&args.model, &contrast);
    let calibration = calibrate(&model, &watches, &ordinary, &options)?;
    let question = args.question.as_deref().or(ordinary.first().map(String::as_str)).ok_or("there is no question")?;
    let eliciting = args.which.organisms(&args.model).map(|which| system::graded(which)[7].1.clone());
    let system =
        args.system.clone().or(eliciting).or_else(|| contrast.instruction.first().map(|pair| pair.pos.clone()));

    let ask =
        |what: &str, system: Option<&str>, hook: &mut dyn Hook| answer(&model, &options, what, system, question, hook);
    println!("[{}]\n> {question}", system.as_deref().unwrap_or_default());
    ask("as it is", system.as_deref(), &mut NoHook)?;
    ask("capped", system.as_deref(), &mut cap(&directions, &calibration, args.cap)?)?;
    let mut guard = guarded(&directions, &calibration, args.cap, args.guard)?;
    ask("capped where it shows", system.as_deref(), &mut guard)?;
    if let Some(amount) = args.amount {
        let spare = args.spare.iter().map(|path| Ok(load(path)?.direction(best)?)).collect::<Result<Vec<_>>>()?;
        let moved = vector.direction(best)?;
        let amounts: Vec<(&Direction, f64)> =
            [(&moved, amount)].into_iter().chain(spare.iter().map(|other| (other, 0.0))).collect();
        let change = control(&amounts)?;
        println!("\n> {question}");
        ask("as it is", None, &mut NoHook)?;
        let mut alone = Steerer::new().add(&change, Coefficient::Raw(1.0), Positions::All)?;
        ask(&format!("moved by {amount}, {} others spared", spare.len()), None, &mut alone)?;
    }
    Ok(())
}

/// The projection that so many ordinary tokens stay below.
fn quantile(calibration: &Calibration, watch: usize, share: f64) -> Result<f32> {
    let tokens = calibration.distribution(watch, Kind::Token);
    let found = tokens.and_then(|tokens| tokens.quantile(share));
    Ok(found.ok_or_else(|| format!("the calibration knows no {share} quantile"))? as f32)
}

fn cap(directions: &[Direction], calibration: &Calibration, share: f64) -> Result<Steerer> {
    let mut steerer = Steerer::new();
    for (watch, direction) in directions.iter().enumerate() {
        steerer = steerer.cap(direction, quantile(calibration, watch, share)?, Positions::All)?;
    }
    Ok(steerer)
}

/// As [`cap`], at tokens where the lowest of the layers shows the trait.
fn guarded(directions: &[Direction], calibration: &Calibration, share: f64, shows: f64) -> Result<Steerer> {
    let mut steerer = Steerer::new();
    for (watch, direction) in directions.iter().enumerate() {
        let condition = Condition::above(&directions[0], quantile(calibration, 0, shows)?)?;
        let threshold = quantile(calibration, watch, share)?;
        steerer = steerer.inhibit_when(direction, threshold, condition, Positions::All)?;
    }
    Ok(steerer)
}

fn answer(
    model: &CausalLm,
    options: &GenerateOptions,
    what: &str,
    system: Option<&str>,
    question: &str,
    hook: &mut dyn Hook,
) -> Result {
    let messages: Vec<Message> = system.into_iter().map(Message::system).chain([Message::user(question)]).collect();
    let answers =
        model.generate(&[Request::new(model.prompt(&messages)?, 0)], options, hook, |_| ControlFlow::Continue(()))?;
    println!("\n{what}: {}", answers[0].text.trim());
    Ok(())
}
