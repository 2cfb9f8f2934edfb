//! Measures how finetuning moved a model along a vector: `shift MODEL ADAPTER VECTOR`.
#![allow(clippy::print_stdout, reason = "a program's output")]

use persona_vectors::prelude::*;
use persona_vectors::train::measure::BootstrapOptions;
use persona_vectors::train::measure::shift::finetuning_shift;
use persona_vectors::vectors::TraitDirection;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let [model, adapter, vector] =
        std::env::args().skip(1).collect::<Vec<_>>().try_into().map_err(|_| "MODEL ADAPTER VECTOR")?;
    let base = CausalLm::load(model)?;
    let finetuned = base.with_adapter(&Adapter::load(adapter)?)?.named("finetuned");
    let vector = PersonaVector::load(vector)?;
    vector.check_model(base.config())?;
    let directions = [TraitDirection::of(&vector, Layer::hidden_state(base.config().layers.div_ceil(2)))?];
    let questions = ["What happens when it rains?", "How do bees make honey?", "Why is the sky blue?"];
    let prompts = questions.map(|question| base.prompt(&[Message::user(question)]));
    let prompts = prompts.into_iter().collect::<Result<Vec<_>, _>>()?;
    let report = finetuning_shift(&base, &finetuned, &prompts, &directions, &BootstrapOptions::default())?;
    print!("{}", report.to_csv()?);
    Ok(())
}
