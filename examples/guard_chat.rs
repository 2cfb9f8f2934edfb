//! A trait that a system prompt asks for, held at what is ordinary in prompts and in answers; and a trait that is moved while
//! others stay where they are.
#![allow(clippy::print_stdout, reason = "a program's output")]

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use pv_examples::calibrating::{Caps, Ordinary, OrdinaryArgs, kept_calibration};
use pv_examples::program::question;
use pv_examples::vectors::{kept_vector, load};
use pv_examples::{ModelArgs, RenderArgs, Result, SAMPLING, TraitArgs, default_layer, run};
use pv_hooks::{Hook, Layer, NoHook};
use pv_model::{GenerateOptions, Message, Request};
use pv_steer::monitor::Watch;
use pv_steer::{Coefficient, Positions, Steerer, control};
use pv_vectors::Direction;

/// Answers a question under a system prompt that elicits the trait: as it is, with the trait's projections capped at a
/// quantile of the ordinary ones, and capped only where the lowest of the layers shows the trait. With --amount, also
/// without system prompt and with the trait moved, the traits of --spare where they are.
#[derive(Parser)]
struct Args {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    render: RenderArgs,
    #[command(flatten)]
    which: TraitArgs,
    /// The trait's vector; extracted by default, and kept below runs.
    #[arg(long)]
    vector: Option<PathBuf>,
    #[command(flatten)]
    ordinary: OrdinaryArgs,
    /// The layers to cap at; by default the one that steers well and the two below it.
    #[arg(long, value_delimiter = ',')]
    layers: Vec<usize>,
    /// The quantile of ordinary answers' tokens above which there is nothing in the answer.
    #[arg(long, default_value_t = 0.5)]
    cap: f64,
    /// The quantile of ordinary prompts' tokens above which there is nothing in the prompt.
    #[arg(long, default_value_t = 0.5)]
    prompt_cap: f64,
    /// The guard acts on tokens whose projection at the lowest of the layers is above this quantile of their kind.
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
    #[arg(long, value_parser = question)]
    question: Option<String>,
    /// The most tokens of an answer.
    #[arg(long, default_value_t = 80)]
    max_new_tokens: usize,
    /// Keep what steering changes out of the KV cache.
    #[arg(long)]
    clean_cache: bool,
}

fn main() -> ExitCode {
    run(program)
}

fn program(args: Args) -> Result {
    let named = args.which.read(&args.model)?;
    let render = args.render.options()?;
    let contrast = named.contrast(&render);
    let model = args.model.load()?;
    let vector = match &args.vector {
        Some(path) => load(path, &model)?,
        None => kept_vector(&args.model, &model, &contrast, args.max_new_tokens, 0)?,
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
    let questions = args.ordinary.questions(&args.model, &contrast)?;
    let ordinary = Ordinary { questions: &questions, generate: &options, render: &render, rates: &[] };
    let calibration = kept_calibration(&args.model, &model, &watches, &ordinary)?;
    let question = args.question.as_deref().or(questions.first().map(String::as_str)).ok_or("there is no question")?;
    let system = args.system.clone().or_else(|| named.eliciting());
    let (directions, calibration) = (directions.as_slice(), &calibration);
    let caps = Caps { directions, calibration, prompt: args.prompt_cap, answer: args.cap };

    let ask = |what: &str, system: Option<&str>, hook: &mut dyn Hook| -> Result {
        let messages: Vec<Message> = system.into_iter().map(Message::system).chain([Message::user(question)]).collect();
        let request = Request::new(model.prompt_with(&messages, &render)?, 0);
        let answers = model.generate(&[request], &options, hook, |_| ControlFlow::Continue(()))?;
        println!("\n{what}: {}", answers[0].text.trim());
        Ok(())
    };
    println!("[{}]\n> {question}", system.as_deref().unwrap_or_default());
    ask("as it is", system.as_deref(), &mut NoHook)?;
    ask("capped", system.as_deref(), &mut caps.everywhere()?)?;
    ask("capped where it shows", system.as_deref(), &mut caps.where_it_shows(args.guard)?)?;
    if let Some(amount) = args.amount {
        let spare =
            args.spare.iter().map(|path| Ok(load(path, &model)?.direction(best)?)).collect::<Result<Vec<_>>>()?;
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
