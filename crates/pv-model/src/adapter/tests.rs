mod experts;
mod files;

use burn::tensor::Device;
use pv_hooks::{NoHook, Phase};
use serde_json::{Value, json};

use super::*;
use crate::Error;
use crate::batch::{Batch, Sequence};
use crate::decoder::{Decoder, Logits, Pass};
use crate::tensors::to_f32;

fn decoder() -> Decoder {
    let config = DecoderConfig::from_json(&json!({
        "model_type": "qwen3", "hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 3, "head_dim": 4,
        "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 11, "attention_bias": true,
    }));
    Decoder::init(config.expect("a configuration"), 5, &Device::flex()).expect("a decoder")
}

fn lora() -> LoraConfig {
    LoraConfig { rank: 3, alpha: 6.0, ..LoraConfig::default() }
}

/// An adapter with an effect.
fn adapter(config: LoraConfig, seed: u64) -> Adapter {
    let mut adapter = Adapter::init(config, decoder().config(), seed).expect("an adapter");
    for (i, weights) in adapter.weights.values_mut().enumerate() {
        for (j, value) in weights.b.iter_mut().enumerate() {
            *value = ((i * 37 + j * j + seed as usize) as f32 * 0.7).sin();
        }
    }
    adapter
}

fn logits(decoder: &Decoder) -> Vec<f32> {
    let sequences = [
        Sequence { prompt: &[1, 2, 3, 4], ..Sequence::default() },
        Sequence { prompt: &[7, 8], ..Sequence::default() },
    ];
    let batch = Batch::whole(&sequences).expect("a batch");
    let pass = Pass { ids: batch.ids(), spans: batch.spans(), phase: Phase::Full, stop_at: None, logits: Logits::All };
    to_f32(decoder.pass(&pass, None, &mut NoHook).logits.expect("asked for")).expect("values")
}

#[track_caller]
fn assert_close(found: &[f32], expected: &[f32]) {
    for (found, expected) in found.iter().zip(expected) {
        assert!((found - expected).abs() < 1e-5, "{found}, not {expected}");
    }
}

#[test]
fn a_new_adapter_changes_nothing_and_a_trained_one_is_its_dense_update() {
    let base = decoder();
    let plain = logits(&base);
    let new = Adapter::init(lora(), base.config(), 1).expect("an adapter");
    assert_eq!(logits(&base.with_adapter(&new, 1.0).expect("it fits")), plain, "B is zero");
    assert_eq!(new, Adapter::init(lora(), base.config(), 1).expect("an adapter"));
    assert_ne!(new.hash(), Adapter::init(lora(), base.config(), 2).expect("an adapter").hash());

    let (first, second) = (adapter(lora(), 1), adapter(LoraConfig { rslora: false, rank: 2, ..lora() }, 2));
    let one = base.with_adapter(&first, 1.0).expect("it fits");
    let both = one.with_adapter(&second, 1.0).expect("it fits");
    assert_eq!((base.adapters(), one.adapters(), both.adapters()), (0, 1, 2));
    let changed = logits(&one);
    assert!(changed.iter().zip(&plain).any(|(a, b)| (a - b).abs() > 1e-3), "the adapter acts");
    for decoder in [&one, &both] {
        assert_close(&logits(&decoder.merged()), &logits(decoder));
        assert_eq!(decoder.merged().adapters(), 0);
        assert_eq!(logits(&decoder.without_adapters()), plain, "taken off, it leaves nothing");
    }
    assert_eq!(both.adapter(0).expect("it is there"), first);
    assert_eq!(both.adapter(1).expect("it is there"), second);
    assert!(matches!(both.adapter(2), Err(Error::Adapter(AdapterError::NotFound { number: 2, adapters: 2 }))));
    assert_close(&logits(&one.with_adapter(&first, -1.0).expect("it fits")), &plain);
    let folder = tempfile::tempdir().expect("a folder");
    assert!(matches!(both.save(folder.path(), burn::tensor::DType::F32), Err(Error::UnmergedAdapters { adapters: 2 })));
}

#[test]
fn the_scale_is_that_of_lora_or_of_rslora() {
    let config = |rslora| LoraConfig { rank: 16, alpha: 32.0, rslora, ..LoraConfig::default() };
    assert_eq!(config(true).scale(), 8.0);
    assert_eq!(config(false).scale(), 2.0);
}

#[test]
fn dropout_drops_inputs_in_training_only_and_keeps_the_mean() {
    let base = decoder();
    let dropping = adapter(LoraConfig { dropout: 0.5, ..lora() }, 3);
    let decoder = base.with_adapter(&dropping, 1.0).expect("it fits");
    let whole = logits(&base.with_adapter(&adapter(lora(), 3), 1.0).expect("it fits"));
    assert_eq!(logits(&decoder), whole);
    let seeded = |seed| logits(&decoder.clone().with_dropout(Some(seed)));
    assert_ne!(seeded(1), whole);
    assert_eq!(seeded(1), seeded(1));
    assert_ne!(seeded(1), seeded(2));
    assert_eq!(logits(&decoder.clone().with_dropout(Some(1)).with_dropout(None)), whole);
}

/// Several adapters are summed in f64 and added to the weights once: rounding twice has a larger error.
#[test]
fn merged_weights_are_rounded_once() {
    let base = decoder();
    let exact = |adapters: &[(&Adapter, f64)], block: usize| -> Vec<f64> {
        let [_, inputs] = base.blocks[block].mlp.all()[0].down.weight.val().dims();
        let mut weight: Vec<f64> = halved(&base, block).iter().map(|value| f64::from(*value)).collect();
        for (adapter, by) in adapters {
            let LoraWeights { a, b, outputs, .. } = &adapter.weights[&(block, LoraTarget::Down)];
            let (rank, scale) = (adapter.config.rank, adapter.config.scale() * by);
            for (o, row) in weight.chunks_mut(inputs).enumerate().take(*outputs) {
                for (i, value) in row.iter_mut().enumerate() {
                    let product = |r: usize| f64::from(b[o * rank + r]) * f64::from(a[r * inputs + i]);
                    *value += scale * (0..rank).map(product).sum::<f64>();
                }
            }
        }
        weight
    };
    let bf16 = in_bf16(&base);
    let (first, second) = (adapter(lora(), 1), adapter(LoraConfig { rslora: false, rank: 2, ..lora() }, 2));
    let third = adapter(lora(), 5);
    let parts = [(&first, 1.0), (&second, -0.75), (&third, 0.3)];
    let put = |decoder: &Decoder| {
        parts
            .iter()
            .fold(decoder.clone(), |decoder, (adapter, by)| decoder.with_adapter(adapter, *by).expect("it fits"))
    };
    let merged = put(&bf16).merged();
    let one_by_one = parts
        .iter()
        .fold(bf16.clone(), |decoder, (adapter, by)| decoder.with_adapter(adapter, *by).expect("it fits").merged());
    let values =
        |decoder: &Decoder, block: usize| to_f32(decoder.blocks[block].mlp.all()[0].down.weight.val()).expect("values");
    let mut twice = 0;
    for block in 0..3 {
        for ((found, other), exact) in
            values(&merged, block).iter().zip(values(&one_by_one, block)).zip(exact(&parts, block))
        {
            // Half a unit in the last place of bf16, and the part that f32 adds.
            assert!((f64::from(*found) - exact).abs() <= exact.abs() / 256.0 + 1e-6, "{found} for {exact}");
            let nearest = f64::from(half::bf16::from_f64(exact));
            twice += usize::from(f64::from(other) != nearest);
            let ties = 1e-5 * exact.abs().max(1.0);
            assert!(
                f64::from(*found) == nearest
                    || (f64::from(half::bf16::from_f64(exact + ties)) - f64::from(half::bf16::from_f64(exact - ties)))
                        .abs()
                        > 0.0
            );
        }
    }
    assert!(twice > 5, "merging one by one rounds otherwise: {twice}");
}

/// The down projection of a block in bf16.
fn halved(decoder: &Decoder, block: usize) -> Vec<f32> {
    let values = to_f32(decoder.blocks[block].mlp.all()[0].down.weight.val()).expect("values");
    values.iter().map(|value| half::bf16::from_f32(*value).to_f32()).collect()
}

/// The decoder with its weights in bf16.
fn in_bf16(decoder: &Decoder) -> Decoder {
    let folder = tempfile::tempdir().expect("a folder");
    decoder.save(folder.path(), burn::tensor::DType::BF16).expect("it is written");
    Decoder::from_folder(folder.path(), &Device::flex(), burn::tensor::DType::BF16).expect("it is read")
}
