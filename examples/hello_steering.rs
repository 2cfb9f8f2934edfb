//! The shortest program that steers: one question, answered plainly and along a direction.
//!
//! It takes the vector that `extract_contrast` writes.
#![allow(clippy::print_stdout, reason = "a program's output")]

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use pv_examples::{Result, run};
use pv_hooks::{Layer, NoHook};
use pv_model::{CausalLm, GenerateOptions, Message, Request, default_dtype, device};
use pv_steer::{Coefficient, Positions, Steerer};
use pv_vectors::PersonaVector;

/// Answers one question plainly, and steered along a vector.
#[derive(Parser)]
struct Args {
    /// The model's folder.
    #[arg(default_value = "examples/organism/model")]
    model: PathBuf,
    /// The vector's file, which extract_contrast writes.
    #[arg(default_value = "models/optimism.safetensors")]
    vector: PathBuf,
}

fn main() -> ExitCode {
    run(program)
}

fn program(args: Args) -> Result {
    let device = device("flex")?;
    let model = CausalLm::from_folder(args.model, &device, default_dtype(&device))?;
    let vector = PersonaVector::load(args.vector)?;
    vector.check_model(model.config())?;

    let direction = vector.direction(Layer::hidden_state(model.config().layers.div_ceil(2)))?;
    let mut steerer = Steerer::new().add(&direction, Coefficient::Raw(2.0), Positions::Response)?;

    let prompt = model.prompt(&[Message::user("What happens when it rains?")])?;
    let requests = [Request::new(prompt, 0)];
    let options = GenerateOptions { max_new_tokens: 60, ..GenerateOptions::default() };
    let plain = model.generate(&requests, &options, &mut NoHook, |_| ControlFlow::Continue(()))?;
    let steered = model.generate(&requests, &options, &mut steerer, |_| ControlFlow::Continue(()))?;
    println!("plain:   {}\n\nsteered: {}", plain[0].text, steered[0].text);
    Ok(())
}
