//! Models with experts.

use std::path::PathBuf;

use burn::tensor::{DType, Device};
use pv_hooks::NoHook;
use pv_model::batch::{Batch, Sequence};
use pv_model::causal_lm::ForwardOptions;
use pv_model::decoder::{Decoder, Logits, Mlp, Projection, Quantization, Weight, WeightBits, to_f32};
use pv_model::weights::WeightType;
use pv_model::{CausalLm, LoadOptions};
use pv_tests::{free_graphs, root};

const MODELS: [&str; 3] = ["mixtral", "qwen3-moe", "gpt-oss"];

fn folder(name: &str) -> PathBuf {
    root().join("tests/golden").join(name)
}

fn load(name: &str, weights: WeightType) -> CausalLm {
    let options = LoadOptions { weights: Some(weights), ..LoadOptions::default() };
    CausalLm::from_folder_with(folder(name), &Device::flex(), DType::F32, &options).expect("a model folder")
}

fn ids(seed: u32, len: usize) -> Vec<u32> {
    (0..len as u32).map(|i| (i * 31 + i * i * 7 + seed * 97 + 3) % 320).collect()
}

/// The logits of every token of each row.
fn logits(model: &CausalLm, rows: &[Vec<u32>]) -> Vec<Vec<f32>> {
    let sequences: Vec<_> = rows.iter().map(|ids| Sequence { prompt: ids, ..Sequence::default() }).collect();
    let batch = Batch::whole(&sequences).expect("a batch");
    let options = ForwardOptions { stop_at: None, logits: Logits::All };
    let output = model.forward(&batch, options, &mut NoHook).expect("a pass");
    let all = to_f32(output.logits.expect("asked for")).expect("values");
    let (vocab, seq) = (model.config().vocab, batch.spans().seq());
    let rows = all.chunks(seq * vocab).zip(rows);
    rows.map(|(logits, ids)| logits[(seq - ids.len()) * vocab..].to_vec()).collect()
}

/// Other rows have other experts, and change how many tokens an expert computes together.
#[test]
fn a_row_does_not_depend_on_the_experts_of_others_bit_for_bit() {
    for name in MODELS {
        for weights in [WeightType::F32, WeightType::Bf16, WeightType::Q8, WeightType::Q4] {
            let model = load(name, weights);
            // With little padding, and with so much that it is not computed.
            for lengths in [[17, 17, 17], [3, 40, 11]] {
                let rows: Vec<Vec<u32>> = (1..4).zip(lengths).map(|(seed, len)| ids(seed, len)).collect();
                let mut others = rows.clone();
                others[1] = ids(7, lengths[1]);
                let (first, second) = (logits(&model, &rows), logits(&model, &others));
                assert!(
                    first[0] == second[0] && first[2] == second[2],
                    "{name} {weights}: another row's content shows"
                );
                assert_ne!(first[1], second[1]);
                for (row, found) in rows.iter().zip(&first) {
                    let alone = &logits(&model, std::slice::from_ref(row))[0];
                    let gap = alone.iter().zip(found).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
                    assert!(gap < 1e-4, "{name} {weights}: a row alone differs by {gap}");
                }
            }
        }
    }
}

#[test]
fn portable_operations_give_the_same_logits() {
    for name in MODELS {
        let expected = logits(&load(name, WeightType::F32), &[ids(1, 30), ids(2, 9)]);
        for device in [Device::flex().autodiff(), Device::flex().autodiff().gradient_checkpointing()] {
            let model = CausalLm::from_folder(folder(name), &device, DType::F32).expect("a model folder");
            let found = logits(&model, &[ids(1, 30), ids(2, 9)]);
            let gaps = found.iter().flatten().zip(expected.iter().flatten()).map(|(a, b)| (a - b).abs());
            let gap = gaps.fold(0.0, f32::max);
            assert!(gap < 1e-4, "{name}: {gap}");
            free_graphs(&device);
        }
    }
}

/// The files of a model, as bytes, without the description of the file.
fn tensors(path: &std::path::Path) -> Vec<(String, Vec<u8>)> {
    let bytes = std::fs::read(path.join("model.safetensors")).expect("a file");
    let tensors = safetensors::SafeTensors::deserialize(&bytes).expect("whole");
    let mut all: Vec<_> = tensors.iter().map(|(name, view)| (name.to_owned(), view.data().to_vec())).collect();
    all.sort();
    all
}

#[test]
fn a_saved_model_has_the_tensors_of_its_folder() {
    for name in ["mixtral", "qwen3-moe", "qwen3-moe-window", "gpt-oss"] {
        let model = CausalLm::from_folder(folder(name), &Device::flex(), DType::F32).expect("a model folder");
        let saved = tempfile::tempdir().expect("a folder");
        model.save(saved.path(), DType::F32).expect("a writable folder");
        assert!(tensors(saved.path()) == tensors(&folder(name)), "{name}");
        let read = CausalLm::from_folder(saved.path(), &Device::flex(), DType::F32).expect("a model folder");
        assert_eq!(read.config().difference(model.config()), None);
        assert_eq!(read.identity().expect("it is read").weights, model.identity().expect("it is read").weights);
    }
}

/// The bytes of all parameters in memory.
fn bytes(decoder: &Decoder) -> u64 {
    let matrix = |weight: &Weight| match weight.packed() {
        Some(packed) => packed.bytes() as u64,
        None => weight.dims().iter().product::<usize>() as u64 * 4,
    };
    let bias = |projection: &Projection| projection.bias.as_ref().map_or(0, |bias| 4 * bias.val().dims()[0] as u64);
    let tables = matrix(&decoder.embedding) + decoder.head.as_ref().map_or(0, matrix);
    let block = |block: &pv_model::decoder::Block| {
        let router = match &block.mlp {
            Mlp::Dense(_) => 0,
            Mlp::Experts(experts) => matrix(&experts.router.weight) + bias(&experts.router),
        };
        let vectors = [&block.attention_norm, &block.q_norm, &block.k_norm, &block.sinks, &block.mlp_norm];
        let vectors: usize = vectors.into_iter().flatten().map(|vector| vector.val().dims()[0]).sum();
        let projections = block.projections().map(|projection| matrix(&projection.weight) + bias(projection));
        projections.sum::<u64>() + router + 4 * vectors as u64
    };
    tables + decoder.blocks.iter().map(block).sum::<u64>() + 4 * decoder.config().d_model as u64
}

#[test]
fn memory_is_what_was_computed_before() {
    for name in MODELS {
        let config = load(name, WeightType::F32).config().clone();
        assert_eq!(u128::from(config.weight_bytes(DType::F32, None)), 4 * config.parameters());
        for weights in [WeightType::F32, WeightType::F16, WeightType::Bf16, WeightType::Q8, WeightType::Q4] {
            let expected = config.weight_bytes(DType::F32, Some(weights));
            assert_eq!(bytes(load(name, weights).decoder()), expected, "{name} {weights}");
        }
        // Stored in 16 bits, and kept so.
        let saved = tempfile::tempdir().expect("a folder");
        load(name, WeightType::F32).save(saved.path(), DType::BF16).expect("a writable folder");
        let files = pv_model::weights::WeightFiles::open_for(saved.path(), &config).expect("weights");
        let kept = CausalLm::from_folder(saved.path(), &Device::flex(), DType::F32).expect("a model folder");
        assert_eq!(bytes(kept.decoder()), files.kept_bytes(&config, DType::F32));
    }
}

#[test]
fn routers_are_never_rounded() {
    let exact = load("mixtral", WeightType::F32);
    let routers = |decoder: &Decoder| -> Vec<Vec<f32>> {
        let router = |block: &pv_model::decoder::Block| match &block.mlp {
            Mlp::Dense(_) => None,
            Mlp::Experts(experts) => Some(to_f32(experts.router.weight.val()).expect("values")),
        };
        decoder.blocks.iter().filter_map(router).collect()
    };
    let expected = routers(exact.decoder());
    assert_eq!(expected.len(), 4);
    for weights in [WeightType::Q8, WeightType::Q4] {
        assert_eq!(routers(load("mixtral", weights).decoder()), expected);
    }
    let quantization = Quantization { bits: WeightBits::Eight, block: 8 };
    let quantized = exact.decoder().quantized(quantization).expect("blocks that divide the widths");
    assert_eq!(routers(&quantized), expected);
    assert!(quantized.blocks[0].projections().all(|projection| projection.weight.is_quantized()));
    // Computed as with the rounded weights.
    let model = |decoder: Decoder| exact.clone().with_decoder(decoder).expect("the same architecture");
    let (found, rounded) = (model(quantized.clone()), model(quantized.dequantized()));
    let rows = [ids(1, 12), ids(2, 5)];
    for (found, expected) in logits(&found, &rows).iter().flatten().zip(logits(&rounded, &rows).iter().flatten()) {
        assert!((found - expected).abs() < 1e-4, "{found} for {expected}");
    }
}
