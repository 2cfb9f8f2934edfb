//! Adapters of models with experts.

use super::files::{mismatch, write_changed};
use super::*;

/// Experts in the first and the third of three blocks.
fn sparse() -> Decoder {
    let config = DecoderConfig::from_json(&json!({
        "model_type": "qwen3_moe", "hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 3, "head_dim": 4,
        "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 11, "attention_bias": true,
        "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 6, "mlp_only_layers": [1],
    }));
    Decoder::init(config.expect("a configuration"), 5, &Device::flex()).expect("a decoder")
}

/// Updates of attention only.
fn attention() -> LoraConfig {
    let targets = [LoraTarget::Query, LoraTarget::Key, LoraTarget::Value, LoraTarget::Output];
    LoraConfig { targets: targets.into(), ..lora() }
}

#[test]
fn projections_that_a_block_lacks_are_refused() {
    let base = sparse();
    let config = base.config();
    for (lora, wanted) in [
        (lora(), Some((0, LoraTarget::Gate))),
        (LoraConfig { blocks: Some([1, 2].into()), ..lora() }, Some((2, LoraTarget::Gate))),
        (LoraConfig { targets: [LoraTarget::Query, LoraTarget::Down].into(), ..lora() }, Some((0, LoraTarget::Down))),
        (LoraConfig { blocks: Some([1].into()), ..lora() }, None),
        (attention(), None),
    ] {
        let found = match lora.validate(config) {
            Ok(()) => None,
            Err(AdapterError::Experts { block, target }) => Some((block, target)),
            Err(other) => panic!("{other}"),
        };
        assert_eq!(found, wanted);
        match Adapter::init(lora.clone(), config, 1) {
            Ok(adapter) => assert_eq!(adapter.parameters(), lora.parameters(config)),
            Err(error) => assert!(wanted.is_some() && error.to_string().contains("q_proj, k_proj"), "{error}"),
        }
    }
    // All that exist: attention everywhere, and the MLP of one block.
    assert_eq!(lora().parameters(config), attention().parameters(config) + 3 * 3 * (8 + 12));
    // An adapter of the dense model.
    let dense = adapter(lora(), 1);
    assert!(matches!(dense.check(config), Err(AdapterError::Experts { block: 0, target: LoraTarget::Gate })));
    assert!(matches!(base.with_adapter(&dense, 1.0), Err(Error::Adapter(AdapterError::Experts { .. }))));
}

#[test]
fn attention_and_dense_blocks_are_updated() {
    let base = sparse();
    for lora in [attention(), LoraConfig { blocks: Some([1].into()), ..lora() }] {
        let mut adapter = Adapter::init(lora, base.config(), 3).expect("an adapter");
        for weights in adapter.weights.values_mut() {
            weights.b.iter_mut().enumerate().for_each(|(i, value)| *value = (i as f32 * 0.7).sin());
        }
        let adapted = base.with_adapter(&adapter, 1.0).expect("it fits");
        assert_eq!(adapted.adapter(0).expect("it is there"), adapter);
        let found = logits(&adapted);
        assert_ne!(found, logits(&base));
        assert_close(&logits(&adapted.merged()), &found);
        assert_eq!(logits(&adapted.without_adapters()), logits(&base));
        let folder = tempfile::tempdir().expect("a folder");
        adapter.save(folder.path()).expect("it is written");
        assert_eq!(Adapter::load_for(folder.path(), base.config()).expect("it is read"), adapter);
    }
}

/// PEFT passes over names without a module, so that the settings may name projections of MLPs that no block has.
#[test]
fn settings_may_name_projections_that_no_block_has() {
    let folder = tempfile::tempdir().expect("a folder");
    let saved = adapter(attention(), 4);
    let all = LoraTarget::ALL.map(LoraTarget::name);
    let whole = |name: &str| Some(name.to_owned());
    let read = write_changed(folder.path(), &saved, whole, &[("target_modules", json!(all))]).expect("an adapter");
    let mixtral = DecoderConfig::from_json(&json!({
        "model_type": "mixtral", "hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 3, "head_dim": 4,
        "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 11, "num_local_experts": 4,
        "num_experts_per_tok": 2,
    }));
    read.check(&mixtral.expect("a configuration")).expect("it is whole");
    // In a block without experts they are missing.
    let (missing, _) = mismatch(read.check(sparse().config()));
    assert_eq!(missing, ["gate", "up", "down"].map(|part| format!("model.layers.1.mlp.{part}_proj")));
    assert_eq!(mismatch(read.check(decoder().config())).0.len(), 9);
    // Updates of experts.
    let expert = |name: &str| Some(name.replace("self_attn.q_proj", "mlp.experts.2.gate_proj"));
    let refused = write_changed(folder.path(), &saved, expert, &[]);
    assert!(matches!(&refused, Err(AdapterError::Tensor { problem: TensorProblem::Expert, .. })), "{refused:?}");
    let parameters = [("target_parameters", json!(["mlp.experts.gate_up_proj"]))];
    let refused = write_changed(folder.path(), &saved, whole, &parameters).expect_err("updates of parameters");
    assert!(refused.to_string().contains("target_parameters"), "{refused}");
}
