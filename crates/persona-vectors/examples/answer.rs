//! Loads a model and answers one question: `answer MODEL QUESTION`.
#![allow(clippy::print_stdout, reason = "a program's output")]

use persona_vectors::prelude::*;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let model = CausalLm::load(args.next().unwrap_or_else(|| "examples/organism/model".into()))?;
    let question = args.next().unwrap_or_else(|| "What happens when it rains?".into());
    let options = GenerateOptions { max_new_tokens: 60, ..GenerateOptions::default() };
    let answer = model.answer(&[Message::user(question)], &options, &mut NoHook)?;
    println!("{} ({:?} after {} tokens)", answer.text, answer.finish, answer.tokens.len());
    Ok(())
}
