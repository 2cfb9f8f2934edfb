//! Answers a question without steering and steered along a vector: `steer MODEL VECTOR COEFFICIENT`.
#![allow(clippy::print_stdout, reason = "a program's output")]

use persona_vectors::prelude::*;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let [model, vector, coefficient] =
        std::env::args().skip(1).collect::<Vec<_>>().try_into().map_err(|_| "MODEL VECTOR COEFFICIENT")?;
    let model = CausalLm::load(model)?;
    let vector = PersonaVector::load(vector)?;
    vector.check_model(model.config())?;
    let direction = vector.direction(Layer::hidden_state(model.config().layers.div_ceil(2)))?;
    let coefficient = Coefficient::Raw(coefficient.parse()?);
    let mut steerer = Steerer::new().add(&direction, coefficient, Positions::Response)?;

    let question = [Message::user("What happens when it rains?")];
    let options = GenerateOptions { max_new_tokens: 60, ..GenerateOptions::default() };
    println!("plain:   {}", model.answer(&question, &options, &mut NoHook)?.text);
    println!("steered: {}", model.answer(&question, &options, &mut steerer)?.text);
    Ok(())
}
