//! Scores training data by its projection difference: `screen MODEL VECTOR FOLDER DATA…`.
//!
//! The same command in the same folder resumes an interrupted screening.
#![allow(clippy::print_stdout, reason = "a program's output")]

use std::path::Path;

use persona_vectors::prelude::*;
use persona_vectors::vectors::TraitDirection;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [model, vector, folder, data @ ..] = args.as_slice() else { return Err("MODEL VECTOR FOLDER DATA…".into()) };
    let model = CausalLm::load(model)?;
    let vector = PersonaVector::load(vector)?;
    vector.check_model(model.config())?;
    let layer = Layer::hidden_state(model.config().layers.div_ceil(2));
    let directions = [TraitDirection::of(&vector, layer)?];
    let mut options = ScreenOptions::default();
    options.answers.max_new_tokens = 48;
    let screen = Screen::new(&model, &directions, &options)?;
    let summary = screen.run(data, Path::new(folder), |_| ControlFlow::Continue(()))?;
    println!("{} answers, {} of them distinct", summary.answers, summary.distinct);
    for (label, direction) in &summary.directions {
        println!("{label}: {}", serde_json::to_string(direction)?);
    }
    Ok(())
}
