use burn::tensor::Device;
use pv_hooks::{NoHook, Phase};
use serde_json::{Value, json};

use super::*;
use crate::{Batch, Decoder, Logits, Pass, Sequence, to_f32};

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

/// An adapter that does something.
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
    assert!(matches!(both.adapter(2), Err(Error::BadAdapter { .. })));
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

#[test]
fn folders_are_read_as_they_were_written() {
    let folder = tempfile::tempdir().expect("a folder");
    let some = LoraConfig {
        targets: [LoraTarget::Query, LoraTarget::Down].into(),
        blocks: Some([0, 2].into()),
        alpha: 2.5,
        dropout: 0.1,
        ..lora()
    };
    for config in [lora(), some, LoraConfig { rslora: false, ..lora() }] {
        let saved = adapter(config, 4).with_base("org/name");
        saved.save(folder.path()).expect("it is written");
        assert_eq!(Adapter::load(folder.path()).expect("it is read"), saved);
    }
}

#[test]
fn what_cannot_be_run_faithfully_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("adapter_config.json");
    assert!(matches!(Adapter::load(folder.path()), Err(Error::NotAnAdapterFolder { .. })));
    adapter(lora(), 4).save(folder.path()).expect("it is written");
    let written: Value = serde_json::from_slice(&std::fs::read(&path).expect("it is there")).expect("JSON");
    let with = |key: &str, value: Value| {
        let mut changed = written.clone();
        changed[key] = value;
        std::fs::write(&path, changed.to_string()).expect("it is written");
        Adapter::load(folder.path())
    };
    for (key, value) in [
        ("use_dora", json!(true)),
        ("rank_pattern", json!({"q_proj": 8})),
        ("modules_to_save", json!(["lm_head"])),
        ("bias", json!("all")),
        ("peft_type", json!("IA3")),
        ("init_lora_weights", json!("pissa")),
    ] {
        assert!(matches!(with(key, value), Err(Error::ConfigUnsupported { key: found, .. }) if found == key));
    }
    for (key, value) in [("r", json!(0)), ("lora_alpha", json!("x")), ("use_rslora", json!(1))] {
        assert!(matches!(with(key, value), Err(Error::ConfigValue { key: found, .. }) if found == key));
    }
    assert!(matches!(with("r", json!(5)), Err(Error::AdapterTensor { .. })));
    assert!(matches!(with("r", Value::Null), Err(Error::ConfigMissing { .. })));

    let config = decoder().config().clone();
    let narrow = DecoderConfig { d_ff: 10, ..config.clone() };
    assert!(matches!(adapter(lora(), 1).check(&narrow), Err(Error::BadAdapter { .. })));
    let short = DecoderConfig { layers: 2, ..config.clone() };
    assert!(matches!(adapter(lora(), 1).check(&short), Err(Error::BadAdapter { .. })));
    for bad in [
        LoraConfig { rank: 0, ..lora() },
        LoraConfig { alpha: f64::NAN, ..lora() },
        LoraConfig { dropout: 1.0, ..lora() },
        LoraConfig { targets: BTreeSet::new(), ..lora() },
        LoraConfig { blocks: Some([3].into()), ..lora() },
    ] {
        assert!(matches!(Adapter::init(bad, &config, 0), Err(Error::BadOption { .. })));
    }
}
