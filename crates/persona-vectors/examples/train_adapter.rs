//! Trains a low-rank adapter on conversations with preventative steering: `train_adapter MODEL DATA VECTOR FOLDER`.
//!
//! The same command in the same folder resumes an interrupted run.
#![allow(clippy::print_stdout, reason = "a program's output")]

use persona_vectors::prelude::*;
use persona_vectors::train::trainer::Duration;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let [model, data, vector, folder] =
        std::env::args().skip(1).collect::<Vec<_>>().try_into().map_err(|_| "MODEL DATA VECTOR FOLDER")?;
    let model = CausalLm::load(model)?;
    let vector = PersonaVector::load(vector)?;
    vector.check_model(model.config())?;
    let layer = Layer::hidden_state(model.config().layers.div_ceil(2));
    let regimes = [Regime::preventative(&vector, layer, Coefficient::Raw(1.0))?];

    let data = DataSet::read(&model, [data], &DataOptions::default(), &regimes)?;
    // The paper's settings: an adapter of rank 32 on all projections, AdamW at 1e-5.
    let train = TrainOptions { duration: Duration::Steps(4), ..TrainOptions::paper() };
    let run = TrainingRun::new(&model, &data, RunOptions { train, ..RunOptions::default() }).with_regimes(regimes);
    let outcome = run.run(&folder, |step| {
        println!("step {} of {}: loss {:?}", step.step, step.steps, step.loss);
        ControlFlow::Continue(())
    })?;
    println!("saved {:?}", outcome.saved);
    Ok(())
}
