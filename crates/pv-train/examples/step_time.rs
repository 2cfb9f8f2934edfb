//! How long a training step takes: a Llama of about 2.1 million parameters, 32 rows of 80 tokens.
#![allow(clippy::print_stdout, reason = "a program")]

use burn::tensor::Device;
use pv_hooks::NoHook;
use pv_model::{Decoder, DecoderConfig};
use pv_train::{Duration, Sample, TrainOptions, Trainer};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let steps = std::env::args().nth(1).map_or(Ok(20), |steps| steps.parse())?;
    let config = DecoderConfig::from_json(&serde_json::json!({
        "model_type": "llama", "hidden_size": 160, "intermediate_size": 448, "num_hidden_layers": 6, "head_dim": 32,
        "num_attention_heads": 5, "num_key_value_heads": 5, "vocab_size": 2048, "tie_word_embeddings": true,
    }))?;
    println!("{} parameters", config.parameters());
    let decoder = Decoder::init(config, 0, &Device::flex())?;
    let options = TrainOptions {
        learning_rate: 1e-3,
        batch_size: 32,
        duration: Duration::Steps(steps),
        ..TrainOptions::default()
    };
    let mut trainer = Trainer::new(&decoder, options)?;
    let mut times = Vec::new();
    for step in 0..steps {
        // Half of a row is trained, as in a chat.
        let sample = |row: usize| {
            let ids = (0..80).map(|i| ((i * 31 + (step * 32 + row) * 97 + i * i * 7) % 2048) as u32).collect();
            Sample::new(ids, (0..80).map(|i| i >= 40).collect())
        };
        let samples = (0..32).map(sample).collect::<Result<Vec<_>, _>>()?;
        let report = trainer.step(&samples, &mut NoHook)?;
        times.push(report.seconds * 1e3);
        if step < 3 {
            println!(
                "step {}: loss {:.6}, norm {:.5}, {:.0} ms",
                report.step, report.loss, report.grad_norm, times[step]
            );
        }
    }
    times.sort_by(f64::total_cmp);
    println!("median {:.1} ms, fastest {:.1} ms", times[times.len() / 2], times[0]);
    Ok(())
}
