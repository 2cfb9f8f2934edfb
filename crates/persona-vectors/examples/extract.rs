//! Extracts a trait's vector from contrastive system prompts and saves it: `extract MODEL TRAIT OUT`.
//!
//! A trait is a JSON file with instruction pairs and questions. `persona_vectors::vectors::extract` also judges and
//! filters the answers, in a run folder where an interrupted run resumes.
#![allow(clippy::print_stdout, reason = "a program's output")]

use persona_vectors::prelude::*;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let [model, spec, out] = std::env::args().skip(1).collect::<Vec<_>>().try_into().map_err(|_| "MODEL TRAIT OUT")?;
    let model = CausalLm::load(model)?;
    let contrast = Contrast::of(&TraitSpec::load(spec)?)?;
    let options = GenerateOptions { max_new_tokens: 48, ..GenerateOptions::default() };
    let extraction = contrast.extract(&model, &options, 0, |_| ControlFlow::Continue(()))?;
    for layer in 1..=model.config().layers {
        let direction = extraction.vector.direction(Layer::hidden_state(layer))?;
        println!("layer {layer}: ‖v‖ = {:.2}", direction.norm());
    }
    extraction.vector.save(&out)?;
    Ok(())
}
