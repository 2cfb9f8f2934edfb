mod experts;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::folder::FolderError;

/// A small configuration with only the required keys, changed by `changes`.
fn config(model_type: &str, changes: Value) -> Value {
    let mut value = json!({
        "model_type": model_type, "hidden_size": 48, "num_hidden_layers": 4, "num_attention_heads": 6,
        "intermediate_size": 96, "vocab_size": 320, "num_key_value_heads": 2,
    });
    if ["qwen3_moe", "mixtral", "gpt_oss"].contains(&model_type) {
        let number = if model_type != "qwen3_moe" { "num_local_experts" } else { "num_experts" };
        value[number] = json!(8);
        value["num_experts_per_tok"] = json!(2);
        value["moe_intermediate_size"] = json!(16);
    }
    for (key, change) in changes.as_object().expect("changes are an object") {
        value[key] = change.clone();
    }
    value
}

fn read(model_type: &str, changes: Value) -> DecoderConfig {
    DecoderConfig::from_json(&config(model_type, changes)).expect("a good configuration")
}

fn refusal(model_type: &str, changes: Value) -> String {
    DecoderConfig::from_json(&config(model_type, changes)).expect_err("a bad configuration").to_string()
}

#[test]
fn llama_takes_the_defaults_of_transformers() {
    let config = read("llama", json!({"num_key_value_heads": null}));
    assert_eq!((config.head_dim, config.kv_heads, config.max_positions), (8, 6, 2048));
    assert_eq!((config.norm_eps, config.rope.clone()), (1e-6, RopeConfig::new(10_000.0)));
    assert_eq!((config.attention_bias, config.mlp_bias), (AttentionBias::None, MlpBias::None));
    assert_eq!((config.qk_norm, config.output_head), (QkNorm::None, OutputHead::Untied));
    assert_eq!(config.tokens, SpecialTokens { bos: Some(1), eos: vec![2], pad: None });
    assert_eq!((config.windows, config.stored_dtype), (vec![None; 4], None));
}

#[test]
fn llama_biases_all_projections() {
    let config = read("llama", json!({"attention_bias": true, "mlp_bias": true}));
    assert!(config.attention_bias.on_qkv() && config.attention_bias.on_output());
    assert_eq!(config.mlp_bias, MlpBias::All);
    let names: Vec<_> = config.expected_tensors().into_iter().map(|tensor| tensor.name).collect();
    assert_eq!(names.iter().filter(|name| name.ends_with(".bias")).count(), 4 * 7);
    assert!(names.contains(&"model.layers.3.self_attn.o_proj.bias".to_owned()));
}

#[test]
fn qwen2_biases_query_key_and_value_only() {
    let config = read("qwen2", json!({"attention_bias": false}));
    assert_eq!(config.attention_bias, AttentionBias::Qkv);
    assert_eq!((config.tokens, config.max_positions), (SpecialTokens::default(), 32_768));
}

#[test]
fn qwen3_has_its_own_head_width_and_norms() {
    let config = read("qwen3", json!({}));
    assert_eq!((config.head_dim, config.qk_norm, config.query_width()), (128, QkNorm::PerHead, 768));
    assert_eq!(read("qwen3", json!({"attention_bias": true})).attention_bias, AttentionBias::QkvAndOutput);
    let norm = ExpectedTensor { name: "model.layers.0.self_attn.q_norm.weight".into(), shape: vec![128] };
    assert!(config.expected_tensors().contains(&norm));
}

#[test]
fn mistral_has_one_window_for_all_blocks() {
    let window = |changes| read("mistral", changes).windows;
    assert_eq!(window(json!({"sliding_window": null})), [None; 4]);
    assert_eq!(window(json!({"sliding_window": 16})), [Some(16); 4]);
    assert_eq!(window(json!({})), [Some(4096); 4], "an absent window is not the same as null");
    let mixed = json!(["full_attention", "sliding_attention", "full_attention", "full_attention"]);
    assert!(refusal("mistral", json!({"layer_types": mixed})).contains("layer_types"));
}

#[test]
fn qwen_windows_are_off_unless_asked_for() {
    for family in ["qwen2", "qwen3"] {
        let window = |changes| read(family, changes).windows;
        assert_eq!(window(json!({"sliding_window": 16, "max_window_layers": 0})), [None; 4]);
        let on = json!({"use_sliding_window": true, "sliding_window": 16, "max_window_layers": 3});
        assert_eq!(window(on), [None, None, None, Some(16)]);
        let types = json!(["sliding_attention", "full_attention", "sliding_attention", "full_attention"]);
        let on = json!({"use_sliding_window": true, "sliding_window": 16, "layer_types": types});
        assert_eq!(window(on), [Some(16), None, Some(16), None]);
        assert!(refusal(family, json!({"layer_types": types})).contains("sliding_window"));
        assert!(refusal(family, json!({"layer_types": ["full_attention"]})).contains("length 1"));
        assert!(refusal(family, json!({"layer_types": ["linear_attention"]})).contains("linear_attention"));
    }
}

#[test]
fn both_spellings_of_rope_are_read() {
    let linear = RopeConfig { theta: 5e5, scaling: RopeScaling::Linear { factor: 2.0 } };
    for changes in [
        json!({"rope_theta": 5e5, "rope_scaling": {"type": "linear", "factor": 2}}),
        json!({"rope_theta": 500_000, "rope_scaling": {"rope_type": "linear", "type": "yarn", "factor": 2.0}}),
        json!({"rope_parameters": {"rope_theta": 5e5, "rope_type": "linear", "factor": 2.0}}),
        json!({"rope_theta": 5e5, "rope_scaling": {"type": "linear", "factor": 2}, "rope_parameters": {"rope_theta": 1}}),
        json!({"rope_parameters": {
            "full_attention": {"rope_theta": 5e5, "rope_type": "linear", "factor": 2.0},
            "sliding_attention": {"rope_theta": 5e5, "rope_type": "linear", "factor": 2.0},
        }}),
    ] {
        assert_eq!(read("llama", changes).rope, linear);
    }
    let nested = json!({"full_attention": {"rope_theta": 5e5}, "sliding_attention": {"rope_theta": 1e4}});
    assert!(refusal("qwen3", json!({"rope_parameters": nested})).contains("one set of settings"));
}

#[test]
fn yarn_and_llama3_take_the_model_length_where_the_original_is_absent() {
    let yarn = |changes| match read("qwen2", changes).rope.scaling {
        RopeScaling::Yarn { factor, original_max_positions, beta_fast, beta_slow, truncate, .. } => {
            assert_eq!((beta_fast, beta_slow, truncate), (32.0, 1.0, true));
            (factor, original_max_positions)
        }
        other => panic!("{other:?}"),
    };
    let scaling = json!({"type": "yarn", "factor": 4.0, "beta_fast": 0});
    assert_eq!(yarn(json!({"rope_scaling": scaling})), (4.0, 32_768));
    let scaling = json!({"type": "yarn", "factor": null, "original_max_position_embeddings": 8192});
    assert_eq!(yarn(json!({"rope_scaling": scaling})), (4.0, 8192));
    let outer = json!({"rope_scaling": scaling, "original_max_position_embeddings": 16_384});
    assert_eq!(yarn(outer), (2.0, 16_384), "the outer value wins");
}

#[test]
fn unsupported_values_are_named_with_the_supported_ones() {
    for (changes, parts) in [
        (
            json!({"model_type": "gpt2"}),
            [
                "model_type",
                "gpt2",
                "gemma2, gemma3, gemma3_text, glm4, gpt_oss, granite, llama, mistral, mixtral, olmo2, phi3, qwen2, qwen3, \
                 qwen3_moe",
            ],
        ),
        (json!({"hidden_act": "gelu"}), ["hidden_act", "gelu", "silu"]),
        (json!({"rope_scaling": {"type": "dynamic", "factor": 2.0}}), ["rope_scaling.type", "dynamic", "yarn"]),
        (json!({"rope_parameters": {"rope_type": "longrope"}}), ["rope_parameters.rope_type", "longrope", "llama3"]),
        (json!({"quantization_config": {"bits": 4}}), ["quantization_config", "bits", "unquantized"]),
        (json!({"partial_rotary_factor": 0.5}), ["partial_rotary_factor", "0.5", "1.0"]),
        (json!({"torch_dtype": "float64"}), ["torch_dtype", "float64", "bfloat16"]),
        (json!({"sliding_window": 16}), ["sliding_window", "16", "null"]),
    ] {
        let message = refusal("llama", changes);
        assert!(parts.iter().all(|part| message.contains(part)), "{message}");
    }
}

#[test]
fn settings_of_families_are_read() {
    let gemma = read("gemma2", json!({"hidden_size": 256, "sliding_window": 16}));
    assert_eq!((gemma.head_dim, gemma.output_head, gemma.activation), (256, OutputHead::Tied, Activation::GeluTanh));
    assert_eq!(gemma.scales, Scales { embedding: 16.0, attention: Some(0.0625), ..Scales::default() });
    assert_eq!(gemma.softcaps, Softcaps { attention: Some(50.0), logits: Some(30.0) });
    assert_eq!(gemma.windows, [Some(16), None, Some(16), None]);
    assert_eq!(read("gemma2", json!({"final_logit_softcapping": null})).softcaps.logits, None);

    let gemma = read("gemma3_text", json!({"num_hidden_layers": 7, "sliding_window": 16}));
    assert_eq!(gemma.windows, [Some(16), Some(16), Some(16), Some(16), Some(16), None, Some(16)]);
    assert_eq!((gemma.rope, gemma.local_rope), (RopeConfig::new(1e6), Some(RopeConfig::new(1e4))));
    let text = json!({"hidden_size": 64, "num_hidden_layers": 2, "intermediate_size": 96, "num_attention_heads": 4});
    let outer =
        json!({"model_type": "gemma3", "text_config": text, "eos_token_id": [1, 106], "torch_dtype": "bfloat16"});
    let gemma = DecoderConfig::from_json(&outer).expect("a model with images");
    assert_eq!((gemma.model_type.as_str(), gemma.vocab, gemma.kv_heads), ("gemma3_text", 262_208, 4));
    assert_eq!((gemma.tokens.eos, gemma.stored_dtype), (vec![1, 106], Some(StoredDtype::BF16)));
    let mut broken = outer.clone();
    broken["text_config"]["hidden_size"] = json!("wide");
    let message = DecoderConfig::from_json(&broken).expect_err("a bad configuration").to_string();
    assert!(message.contains("text_config.hidden_size"), "{message}");

    let phi = read("phi3", json!({"partial_rotary_factor": 0.75, "head_dim": 16, "sliding_window": 8}));
    assert_eq!((phi.rotary_dim, phi.rotated(), phi.windows), (Some(12), 12, vec![Some(8); 4]));
    let names: Vec<String> = read("phi3", json!({})).expected_tensors().into_iter().map(|tensor| tensor.name).collect();
    assert_eq!(names.iter().filter(|name| name.contains("layers.0.")).count(), 6, "{names:?}");
    let glm = read("glm4", json!({"head_dim": 16}));
    assert_eq!((glm.rotated(), glm.rotary_pairs, glm.attention_bias), (8, RotaryPairs::Neighbours, AttentionBias::Qkv));
    assert_eq!(read("glm4", json!({"vocab_size": 151_552})).tokens.eos, [151_329, 151_336, 151_338]);
    assert_eq!(read("granite", json!({"attention_multiplier": 0.5})).scales.attention, Some(0.5));
    assert_eq!(read("olmo2", json!({})).norm_eps, 1e-5);

    for (family, changes, part) in [
        ("phi3", json!({"rope_scaling": {"type": "linear", "factor": 2.0}}), "longrope"),
        ("phi3", json!({"rope_scaling": {"type": "su", "short_factor": [1], "long_factor": [1]}}), "short_factor"),
        ("phi3", json!({"partial_rotary_factor": 0.4}), "partial_rotary_factor"),
        ("gemma2", json!({"use_bidirectional_attention": true}), "use_bidirectional_attention"),
        ("gemma2", json!({"attn_logit_softcapping": -1.0}), "attn_logit_softcapping"),
        ("gemma3_text", json!({"attn_logit_softcapping": 50.0}), "attn_logit_softcapping"),
        ("gemma3_text", json!({"rope_parameters": {"rope_theta": 1e4}}), "sliding_attention"),
        ("granite", json!({"logits_scaling": 0}), "logits_scaling"),
        ("olmo2", json!({"quantization_config": {"bits": 4}}), "quantization_config"),
        ("glm4", json!({"rope_parameters": {"rope_type": "dynamic", "factor": 2.0}}), "dynamic"),
    ] {
        let message = refusal(family, changes);
        assert!(message.contains(part), "{message}");
    }
}

#[test]
fn impossible_values_are_named() {
    for (key, value) in [
        ("hidden_size", json!(0)),
        ("hidden_size", json!(-48)),
        ("hidden_size", json!(48.5)),
        ("hidden_size", json!("48")),
        ("hidden_size", json!(u64::MAX)),
        ("hidden_size", json!(50)),
        ("num_hidden_layers", json!(4_000_000_000u64)),
        ("num_attention_heads", json!(0)),
        ("num_key_value_heads", json!(4)),
        ("head_dim", json!(7)),
        ("intermediate_size", json!(null)),
        ("vocab_size", json!(1u64 << 40)),
        ("max_position_embeddings", json!(null)),
        ("rms_norm_eps", json!(-1e-6)),
        ("rms_norm_eps", json!("NaN")),
        ("rope_theta", json!(0)),
        ("rope_theta", json!(-1.0)),
        ("rope_theta", json!(null)),
        ("tie_word_embeddings", json!("no")),
        ("eos_token_id", json!([1, "x"])),
        ("bos_token_id", json!([1, 2])),
        ("pad_token_id", json!(320)),
    ] {
        let shown = if key == "head_dim" { "7".into() } else { value.to_string() };
        let message = refusal("llama", json!({key: value}));
        assert!(message.contains(key) && message.contains(&shown), "{message}");
    }
    for (scaling, key) in [
        (json!({"type": "linear"}), "factor"),
        (json!({"type": "linear", "factor": 0.0}), "factor"),
        (json!({"type": "linear", "factor": null}), "factor"),
        (json!({"type": "yarn", "factor": -2}), "factor"),
        (json!({"type": "yarn", "factor": 2, "beta_fast": 1, "beta_slow": 2}), "beta_fast"),
        (json!({"type": "yarn", "factor": 2, "rope_theta": 1}), "rope_theta"),
        (json!({"type": "llama3", "factor": 2, "low_freq_factor": 4, "high_freq_factor": 4}), "high_freq_factor"),
        (json!({"type": "default", "rope_theta": 1e-300}), "rope"),
        (json!([1]), "rope_scaling"),
    ] {
        let message = refusal("llama", json!({"rope_scaling": scaling}));
        assert!(message.contains(key), "{message}");
    }
}

#[test]
fn absent_sizes_are_missing_keys() {
    for key in ["model_type", "hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size"] {
        let mut value = config("llama", json!({}));
        value.as_object_mut().expect("an object").remove(key);
        let error = DecoderConfig::from_json(&value).expect_err("an incomplete configuration");
        assert!(matches!(&error, ConfigError::Missing { key: found, .. } if found == key), "{error}");
    }
}

#[test]
fn token_ids_and_types() {
    let config = read("llama", json!({"eos_token_id": [5, 6], "pad_token_id": -1, "torch_dtype": "bfloat16"}));
    assert_eq!(config.tokens, SpecialTokens { bos: Some(1), eos: vec![5, 6], pad: None });
    assert_eq!(config.stored_dtype, Some(StoredDtype::BF16));
}

#[test]
fn parameters_count_a_tied_head_once() {
    let untied = read("llama", json!({})).parameters();
    let tied = read("llama", json!({"tie_word_embeddings": true})).parameters();
    assert_eq!((untied, untied - tied), (111_024, 320 * 48));
}

#[test]
fn hand_made_configurations_are_checked() {
    let mut config = read("llama", json!({}));
    config.windows.pop();
    assert!(config.validate().is_err());
}

#[test]
fn from_folder_reads_and_names_the_file() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("config.json");
    assert!(matches!(
        DecoderConfig::from_folder(folder.path()),
        Err(ConfigError::Folder(FolderError::NotAModel { .. }))
    ));
    std::fs::write(&path, config("qwen3", json!({})).to_string()).expect("written");
    assert_eq!(DecoderConfig::from_folder(folder.path()).expect("read"), read("qwen3", json!({})));
    for bad in ["", "[", "[]", "3", "{\"model_type\": NaN}"] {
        std::fs::write(&path, bad).expect("written");
        let message = DecoderConfig::from_folder(folder.path()).expect_err("not a configuration").to_string();
        assert!(message.contains("config.json"), "{message}");
    }
}

/// Values of hostile or broken files.
fn odd_value() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        (0u32..64).prop_map(|shift| json!(1u64 << shift)),
        (-2i64..300).prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        ".{0,8}".prop_map(Value::from),
        proptest::collection::vec(-2i64..300, 0..5).prop_map(Value::from),
        Just(json!({"type": "yarn", "factor": 1e300, "beta_fast": 1e-300})),
        Just(json!({"rope_type": "longrope", "short_factor": [1e-300, 2, 3], "long_factor": [1e300, 1, 1]})),
        Just(json!({"full_attention": {"rope_theta": 1e-300}, "sliding_attention": {"rope_type": "yarn"}})),
        Just(json!({"rope_type": "llama3", "factor": 1e-40, "low_freq_factor": 1e-9, "high_freq_factor": 1e9})),
    ]
}

fn key() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec![
        "hidden_size",
        "num_hidden_layers",
        "num_attention_heads",
        "num_key_value_heads",
        "head_dim",
        "vocab_size",
        "intermediate_size",
        "max_position_embeddings",
        "rms_norm_eps",
        "rope_theta",
        "rope_scaling",
        "rope_parameters",
        "sliding_window",
        "use_sliding_window",
        "max_window_layers",
        "layer_types",
        "attention_bias",
        "mlp_bias",
        "tie_word_embeddings",
        "eos_token_id",
        "bos_token_id",
        "pad_token_id",
        "dtype",
        "partial_rotary_factor",
        "query_pre_attn_scalar",
        "attn_logit_softcapping",
        "attention_multiplier",
        "sliding_window_pattern",
        "original_max_position_embeddings",
        "num_experts",
        "num_local_experts",
        "num_experts_per_tok",
        "moe_intermediate_size",
        "decoder_sparse_step",
        "mlp_only_layers",
    ])
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn odd_values_never_panic_and_never_give_an_impossible_decoder(
        family in prop::sample::select(vec![
            "llama", "mistral", "qwen2", "qwen3", "granite", "olmo2", "phi3", "gemma2", "gemma3_text", "glm4",
            "mixtral", "qwen3_moe", "gpt_oss",
        ]),
        changes in proptest::collection::vec((key(), odd_value()), 1..4),
    ) {
        let changes = changes.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
        if let Ok(config) = DecoderConfig::from_json(&config(family, changes)) {
            prop_assert!(config.validate().is_ok());
            prop_assert_eq!(config.heads % config.kv_heads, 0);
            prop_assert_eq!(config.windows.len(), config.layers);
            let (frequencies, scale) = crate::config::RotaryTable::inverse_frequencies(&config.rope, config.rotated());
            prop_assert!(frequencies.iter().all(|f| f.is_finite()) && scale.is_finite());
            prop_assert!(config.parameters() <= isize::MAX as u128 / 4);
        }
    }

    #[test]
    fn random_text_never_panics(text in ".{0,200}") {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(folder.path().join("config.json"), text).expect("written");
        prop_assert!(DecoderConfig::from_folder(folder.path()).is_err());
    }
}
