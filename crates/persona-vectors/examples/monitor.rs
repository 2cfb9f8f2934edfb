//! Prints the projection of every token of an answer on a vector: `monitor MODEL VECTOR`.
#![allow(clippy::print_stdout, reason = "a program's output")]

use persona_vectors::model::generate::Event;
use persona_vectors::prelude::*;
use persona_vectors::steer::monitor::{Monitor, Watch};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let [model, vector] = std::env::args().skip(1).collect::<Vec<_>>().try_into().map_err(|_| "MODEL VECTOR")?;
    let model = CausalLm::load(model)?;
    let vector = PersonaVector::load(vector)?;
    vector.check_model(model.config())?;
    let mut monitor = Monitor::new([Watch::of(&vector, Layer::hidden_state(model.config().layers.div_ceil(2)))?])?;
    let readings = monitor.readings();

    let request = Request::new(model.prompt(&[Message::user("What happens when it rains?")])?, 0);
    let options = GenerateOptions { max_new_tokens: 60, feed_last_token: true, ..GenerateOptions::default() };
    model.generate(&[request], &options, &mut monitor, |event| {
        if let Event::Token { text, .. } = event {
            print!("{text}");
        }
        ControlFlow::Continue(())
    })?;
    println!();
    for reading in readings.news()? {
        println!("{:?}: {:+.3}", reading.at, reading.values[0]);
    }
    Ok(())
}
