//! A model's memory use, computed from its configuration alone.

use burn::tensor::DType;
use comfy_table::Table;
use pv_model::DecoderConfig;
use pv_model::LoraConfig;
use pv_model::folder::FolderError;
use pv_model::generate::CacheType;
use pv_model::weights::{WeightFiles, WeightType, WeightsError};
use serde_json::{Value, json};

use crate::program::say;
use crate::{ModelArgs, Result};

/// The arguments of `persona model memory`.
#[derive(Debug, clap::Args)]
pub(in crate::commands) struct Args {
    /// The model: a Hugging Face folder, a GGUF file, org/name, or "organism".
    #[arg(value_name = "MODEL", default_value = "organism")]
    model: String,
    /// The number of tokens in a sequence, prompt and answer together.
    #[arg(long, default_value_t = 2048)]
    tokens: u64,
    /// The number of sequences in a batch.
    #[arg(long, default_value_t = 1)]
    batch_size: u64,
    /// The type in which keys and values are cached: compute (the compute type) or f16.
    #[arg(long, value_name = "TYPE", default_value_t)]
    kv_cache: CacheType,
    /// The rank of a trained adapter on all projections.
    #[arg(long, default_value_t = 32)]
    rank: u64,
}

/// Compute types, and the types in which weights can be stored for computation in f32 on the CPU.
const TYPES: [(&str, Type); 6] = [
    ("f32", Type { compute: DType::F32, weights: None }),
    ("f16", Type { compute: DType::F16, weights: None }),
    ("bf16", Type { compute: DType::BF16, weights: None }),
    ("f32, weights in bf16", Type { compute: DType::F32, weights: Some(WeightType::Bf16) }),
    ("f32, weights in q8", Type { compute: DType::F32, weights: Some(WeightType::Q8) }),
    ("f32, weights in q4", Type { compute: DType::F32, weights: Some(WeightType::Q4) }),
];
/// Bytes per trained parameter: its value, its gradient and AdamW's two moments, in f32.
const TRAINED: u64 = 16;

/// The type of computation, and that of the weights if it is another.
#[derive(Clone, Copy, Debug)]
struct Type {
    compute: DType,
    weights: Option<WeightType>,
}

/// The bytes that a use takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Bytes {
    weights: u64,
    keys_and_values: u64,
    trained: u64,
}

impl Bytes {
    fn all(self) -> u64 {
        self.weights.saturating_add(self.keys_and_values).saturating_add(self.trained)
    }

    fn to_json(self, dtype: &str, usage: &str) -> Value {
        let Self { weights, keys_and_values, trained } = self;
        json!({
            "dtype": dtype,
            "use": usage,
            "weights": weights,
            "keys_and_values": keys_and_values,
            "trained": trained,
            "bytes": self.all(),
        })
    }
}

/// What a model is used for.
#[derive(Clone, Copy, Debug)]
enum Usage {
    Answering { tokens: u64, rows: u64, cache: CacheType },
    Adapter { rank: u64 },
    Everything,
}

impl Usage {
    fn of(self, config: &DecoderConfig, kind: Type) -> Bytes {
        let parameters = u64::try_from(config.parameters()).unwrap_or(u64::MAX);
        let weights = config.weight_bytes(kind.compute, kind.weights);
        let none = Bytes { weights, keys_and_values: 0, trained: 0 };
        match self {
            Self::Answering { tokens, rows, cache } => {
                let each = cache.bytes(config, kind.compute);
                Bytes { keys_and_values: each.saturating_mul(tokens).saturating_mul(rows), ..none }
            }
            Self::Adapter { rank } => {
                let lora = LoraConfig { rank: 1, ..LoraConfig::default() };
                let all = lora.parameters(config) as u64;
                Bytes { trained: all.saturating_mul(rank).saturating_mul(TRAINED), ..none }
            }
            // The weights are counted among the trained parameters.
            Self::Everything => Bytes { weights: 0, trained: parameters.saturating_mul(TRAINED), ..none },
        }
    }
}

pub(super) fn run(args: &Args) -> Result<Value> {
    let folder = ModelArgs::cpu(args.model.as_str()).folder()?;
    let config = DecoderConfig::from_folder(&folder)?;
    let Args { tokens, batch_size: rows, rank, kv_cache: cache, .. } = *args;
    let in_type = if cache == CacheType::Compute { String::new() } else { format!(", cached in {cache}") };
    let answering = format!("answering: {rows} × {tokens} tokens{in_type}");
    let usage = Usage::Answering { tokens, rows, cache };
    let mut uses: Vec<(&str, String, Bytes)> = Vec::new();
    let files = match WeightFiles::open_for(&folder, &config) {
        Ok(files) => Some(files),
        // Without weights, the configuration is enough.
        Err(WeightsError::Folder(FolderError::NotAModel { .. })) => None,
        Err(error) => return Err(error.into()),
    };
    let weights = files.map(|files| files.kept_bytes(&config, DType::F32));
    if let Some(weights) = weights.filter(|bytes| *bytes < config.weight_bytes(DType::F32, None)) {
        let bytes = usage.of(&config, TYPES[0].1);
        uses.push(("f32, weights as stored", answering.clone(), Bytes { weights, ..bytes }));
    }
    for (name, kind) in TYPES {
        uses.push((name, answering.clone(), usage.of(&config, kind)));
        uses.push((name, format!("training an adapter of rank {rank}"), Usage::Adapter { rank }.of(&config, kind)));
    }
    // Training all parameters is possible in f32 only.
    uses.push(("f32", "training all parameters".to_owned(), Usage::Everything.of(&config, TYPES[0].1)));
    let mut table = Table::new();
    table.set_header(["type", "use", "weights", "keys and values", "trained", "total"]);
    for (dtype, usage, bytes) in &uses {
        let cells = [bytes.weights, bytes.keys_and_values, bytes.trained, bytes.all()].map(shown);
        table.add_row([(*dtype).to_owned(), usage.clone()].into_iter().chain(cells));
    }
    say!("{}: {} parameters\n{table}", args.model, config.parameters());
    say!("Activations of a forward pass are not included; they grow with the number of tokens in it.");
    let rows = uses.iter().map(|(dtype, usage, bytes)| bytes.to_json(dtype, usage));
    Ok(json!({ "model": args.model, "uses": rows.collect::<Vec<_>>() }))
}

/// Formats bytes in the largest unit in which the value is at least 1.
fn shown(bytes: u64) -> String {
    match bytes {
        0 => "–".to_owned(),
        1..0x10_0000 => format!("{:.1} KiB", bytes as f64 / f64::from(1 << 10)),
        0x10_0000..0x4000_0000 => format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20)),
        _ => format!("{:.1} GiB", bytes as f64 / f64::from(1 << 30)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn llama_2_7b_has_the_published_sizes() {
        let config = DecoderConfig::from_json(&json!({
            "model_type": "llama", "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32,
            "num_attention_heads": 32, "vocab_size": 32000,
        }))
        .expect("a configuration");
        let half = Type { compute: DType::BF16, weights: None };
        // 6 738 415 616 parameters; half a megabyte of keys and values per token in 16 bits.
        let cache = CacheType::Compute;
        let answering = Usage::Answering { tokens: 4096, rows: 2, cache }.of(&config, half);
        assert_eq!((answering.weights, answering.keys_and_values), (13_476_831_232, 2 * 4096 * 524_288));
        // PEFT counts 79 953 920 parameters in an adapter of rank 32 on all seven projections.
        let adapter = Usage::Adapter { rank: 32 }.of(&config, half);
        assert_eq!((adapter.weights, adapter.trained), (answering.weights, 16 * 79_953_920));
        let everything = Usage::Everything.of(&config, TYPES[0].1);
        // In Q8_0, 32 weights take 34 bytes; the 65 norms are in f32.
        let q8 = Type { compute: DType::F32, weights: Some(WeightType::Q8) };
        let norms = 65 * 4096;
        let answering = Usage::Answering { tokens: 1, rows: 1, cache }.of(&config, q8);
        assert_eq!(answering.weights, (6_738_415_616 - norms) / 32 * 34 + 4 * norms);
        assert_eq!(everything.all(), 16 * 6_738_415_616);
        // 32 bits with q8 by default, and half of that on request.
        let halved = Usage::Answering { tokens: 1, rows: 1, cache: CacheType::F16 }.of(&config, q8);
        assert_eq!((answering.keys_and_values, halved.keys_and_values), (2 * 524_288, 524_288));
        assert_eq!(shown(everything.all()), "100.4 GiB");
        assert_eq!(["–", "1.0 KiB", "1.0 MiB"].map(str::to_owned), [0, 1 << 10, 1 << 20].map(shown));
    }
}
