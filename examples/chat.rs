//! A conversation in the terminal, streamed, steered while it goes on.
#![allow(clippy::print_stdout, reason = "a program's output")]

use std::io::{BufRead, Write};
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use pv_examples::vectors::load;
use pv_examples::{ModelArgs, RenderArgs, Result, SAMPLING, default_layer, run};
use pv_hooks::Layer;
use pv_model::{Event, GenerateOptions, Message, Request, Sampling};
use pv_steer::{Coefficient, Positions, Steerer};

/// Chats with a model. Commands: /coef NUMBER changes the strength, /reset forgets the conversation, /quit ends.
#[derive(Parser)]
struct Args {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    render: RenderArgs,
    /// A vector that extract_contrast saved.
    #[arg(long)]
    vector: Option<PathBuf>,
    /// The layer to steer at; the middle one by default, 7 for the organism.
    #[arg(long)]
    layer: Option<usize>,
    /// The coefficient on the raw vector.
    #[arg(long, default_value_t = 1.0, allow_hyphen_values = true)]
    coef: f32,
    /// The system prompt.
    #[arg(long)]
    system: Option<String>,
    /// The sampling temperature; 0 is greedy.
    #[arg(long)]
    temperature: Option<f32>,
    /// The most tokens of an answer.
    #[arg(long, default_value_t = 256)]
    max_new_tokens: usize,
    /// Keep what steering changes out of the KV cache, so that it does not add up over an answer.
    #[arg(long)]
    clean_cache: bool,
}

fn main() -> ExitCode {
    run(program)
}

fn program(args: Args) -> Result {
    let model = args.model.load()?;
    let direction = match &args.vector {
        None => None,
        Some(path) => {
            let vector = load(path, &model)?;
            Some(vector.direction(args.layer.map_or_else(|| default_layer(&args.model, &model), Layer::hidden_state))?)
        }
    };
    let options = GenerateOptions {
        max_new_tokens: args.max_new_tokens,
        sampling: args.temperature.map_or(SAMPLING, Sampling::temperature),
        clean_cache: args.clean_cache,
        ..GenerateOptions::default()
    };
    let opening: Vec<Message> = args.system.iter().map(Message::system).collect();
    let mut conversation = opening.clone();
    let render = args.render.options()?;
    let mut coefficient = args.coef;
    let mut seed = 0;
    let mut input = std::io::stdin().lock();
    loop {
        print!("> ");
        std::io::stdout().flush()?;
        let mut line = String::new();
        if input.read_line(&mut line)? == 0 {
            return Ok(());
        }
        match line.trim().split_once(' ').unwrap_or((line.trim(), "")) {
            ("", _) => continue,
            ("/quit", _) => return Ok(()),
            ("/reset", _) => conversation = opening.clone(),
            ("/coef", number) => match number.trim().parse::<f32>() {
                Ok(number) if direction.is_some() => coefficient = number,
                Ok(_) => println!("there is no vector; start with --vector FILE"),
                Err(_) => println!("{number:?} is not a number"),
            },
            _ => {
                conversation.push(Message::user(line.trim()));
                let mut steerer = match &direction {
                    Some(v) => Some(Steerer::new().add(v, Coefficient::Raw(coefficient), Positions::Response)?),
                    None => None,
                };
                let request = Request::new(model.prompt_with(&conversation, &render)?, seed);
                let answers = model.generate(&[request], &options, &mut steerer, |event| {
                    if let Event::Token { text, .. } = event {
                        print!("{text}");
                        // A terminal that is gone is noticed at the next prompt.
                        let _ = std::io::stdout().flush();
                    }
                    ControlFlow::Continue(())
                })?;
                println!("\n");
                conversation.push(Message::assistant(answers[0].text.as_str()));
                seed += 1;
            }
        }
    }
}
