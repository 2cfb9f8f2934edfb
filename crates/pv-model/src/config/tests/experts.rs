//! Configurations with experts.

use super::*;

#[test]
fn experts_are_read() {
    let config = read("mixtral", json!({"sliding_window": 16}));
    let experts = ExpertConfig { count: 8, per_token: 2, d_ff: 96, normalised: true, dense_blocks: vec![] };
    assert_eq!((config.experts, config.windows), (Some(experts), vec![Some(16); 4]));
    assert_eq!((config.norm_eps, config.rope), (1e-5, RopeConfig::new(1e6)));
    assert_eq!(read("mixtral", json!({})).windows, [None; 4], "unlike in a Mistral");

    let qwen = |changes| read("qwen3_moe", changes).experts;
    let experts = ExpertConfig { count: 8, per_token: 2, d_ff: 16, normalised: false, dense_blocks: vec![] };
    assert_eq!(qwen(json!({})), Some(experts.clone()));
    let changes = json!({"norm_topk_prob": true, "num_experts": 128, "mlp_only_layers": [3, 0, 3, 99]});
    let other = ExpertConfig { count: 128, normalised: true, dense_blocks: vec![0, 3], ..experts.clone() };
    assert_eq!(qwen(changes), Some(other));
    // The second, the fourth and so on have experts.
    let dense = |blocks: &[usize]| Some(ExpertConfig { dense_blocks: blocks.into(), ..experts.clone() });
    assert_eq!(qwen(json!({"decoder_sparse_step": 2, "mlp_only_layers": null})), dense(&[0, 2]));
    assert_eq!(qwen(json!({"decoder_sparse_step": 2, "mlp_only_layers": [1]})), dense(&[0, 1, 2]));
    for none in [json!({"num_experts": 0}), json!({"decoder_sparse_step": 9}), json!({"mlp_only_layers": [0, 1, 2, 3]})]
    {
        assert_eq!(qwen(none), None);
    }
    let mut saved = config_of("qwen3_moe");
    let number = saved.as_object_mut().expect("an object").remove("num_experts").expect("a number");
    saved["num_local_experts"] = number;
    assert_eq!(DecoderConfig::from_json(&saved).expect("as transformers saves it").experts, Some(experts));
    let config = read("qwen3_moe", json!({"sliding_window": 16, "use_sliding_window": true, "max_window_layers": 3}));
    assert_eq!((config.windows, config.head_dim, config.kv_heads), (vec![Some(16); 4], 8, 2));
    assert_eq!(read("qwen3_moe", json!({"sliding_window": 16})).windows, [None; 4]);

    let names = |family, changes| -> Vec<String> {
        read(family, changes).expected_tensors().into_iter().map(|tensor| tensor.name).collect()
    };
    let names_of_mixtral = names("mixtral", json!({}));
    assert!(names_of_mixtral.contains(&"model.layers.3.block_sparse_moe.experts.7.w2.weight".to_owned()));
    assert!(names_of_mixtral.contains(&"model.layers.3.block_sparse_moe.gate.weight".to_owned()));
    let names_of_qwen = names("qwen3_moe", json!({"mlp_only_layers": [1]}));
    assert!(names_of_qwen.contains(&"model.layers.1.mlp.gate_proj.weight".to_owned()));
    assert!(names_of_qwen.contains(&"model.layers.2.mlp.experts.0.up_proj.weight".to_owned()));
    assert!(!names_of_qwen.iter().any(|name| name.starts_with("model.layers.1.mlp.experts")));
    // Three matrices of 16 · 48 for each of eight experts in place of three of 96 · 48, and a router.
    let parameters = |dense: &[usize]| read("qwen3_moe", json!({"mlp_only_layers": dense})).parameters();
    assert_eq!(parameters(&[]) + 3 * 96 * 48, parameters(&[1]) + 3 * 8 * 16 * 48 + 8 * 48);
}

#[test]
fn impossible_experts_are_refused() {
    for (family, changes, part) in [
        ("qwen3_moe", json!({"num_experts": 1u64 << 40}), "num_experts"),
        ("qwen3_moe", json!({"num_experts": -1}), "num_experts"),
        ("qwen3_moe", json!({"num_experts": 4096, "num_hidden_layers": 4096}), "in all 4096 blocks together"),
        ("qwen3_moe", json!({"num_experts_per_tok": 9}), "an integer from 1 to 8"),
        ("qwen3_moe", json!({"num_experts_per_tok": 0}), "num_experts_per_tok"),
        ("qwen3_moe", json!({"moe_intermediate_size": 0}), "moe_intermediate_size"),
        ("qwen3_moe", json!({"moe_intermediate_size": 1u64 << 30}), "moe_intermediate_size"),
        ("qwen3_moe", json!({"norm_topk_prob": "yes"}), "norm_topk_prob"),
        ("qwen3_moe", json!({"decoder_sparse_step": 0}), "decoder_sparse_step"),
        ("qwen3_moe", json!({"mlp_only_layers": [-1]}), "mlp_only_layers"),
        ("qwen3_moe", json!({"mlp_only_layers": 3}), "mlp_only_layers"),
        ("qwen3_moe", json!({"layer_types": ["sliding_attention"]}), "sliding_window"),
        ("mixtral", json!({"num_local_experts": 0}), "num_local_experts"),
        ("mixtral", json!({"num_local_experts": 2, "num_experts_per_tok": 3}), "an integer from 1 to 2"),
        ("mixtral", json!({"hidden_act": "gelu"}), "hidden_act"),
    ] {
        let message = refusal(family, changes);
        assert!(message.contains(part), "{message}");
    }
    for (family, key) in [
        ("qwen3_moe", "num_experts"),
        ("qwen3_moe", "num_experts_per_tok"),
        ("qwen3_moe", "moe_intermediate_size"),
        ("mixtral", "num_local_experts"),
        ("mixtral", "num_experts_per_tok"),
    ] {
        let mut value = config_of(family);
        value.as_object_mut().expect("an object").remove(key);
        let error = DecoderConfig::from_json(&value).expect_err("an incomplete configuration");
        assert!(matches!(&error, ConfigError::Missing { key: found, .. } if found == key), "{error}");
    }
    // Made by hand.
    let good = read("mixtral", json!({}));
    let experts = good.experts.clone().expect("experts");
    for dense_blocks in [vec![4], vec![1, 0], vec![1, 1], vec![0, 1, 2, 3]] {
        let experts = Some(ExpertConfig { dense_blocks, ..experts.clone() });
        assert!(DecoderConfig { experts, ..good.clone() }.validate().is_err());
    }
    // A configuration of this family has no such key.
    assert!(DecoderConfig { mlp_bias: MlpBias::All, ..good }.to_json().is_err());
}

#[test]
fn gpt_oss_has_sinks_biases_and_windows_by_turns() {
    let config = read("gpt_oss", json!({}));
    assert_eq!((config.windows.clone(), config.head_dim), (vec![Some(128), None, Some(128), None], 64));
    assert_eq!((config.attention_bias, config.mlp_bias), (AttentionBias::QkvAndOutput, MlpBias::All));
    assert_eq!((config.activation, config.attention_sinks), (Activation::ClampedSwiGlu, true));
    assert!(matches!(config.rope.scaling, RopeScaling::Yarn { factor: 32.0, truncate: false, .. }));
    assert!(config.experts.as_ref().is_some_and(|experts| experts.normalised && experts.d_ff == 96));
    let names: Vec<String> = config.expected_tensors().into_iter().map(|tensor| tensor.name).collect();
    for name in ["self_attn.sinks", "mlp.router.bias", "mlp.experts.7.up_proj.bias", "mlp.experts.0.down_proj.weight"] {
        assert!(names.contains(&format!("model.layers.3.{name}")), "{name}");
    }
    assert_eq!(read("gpt_oss", json!({"sliding_window": null})).windows, [None; 4]);
    assert_eq!(read("gpt_oss", json!({"attention_bias": false})).attention_bias, AttentionBias::None);
    for (changes, part) in [
        (json!({"swiglu_limit": 6.0}), "swiglu_limit"),
        (json!({"swiglu_alpha": 1.0}), "swiglu_alpha"),
        (json!({"hidden_act": "gelu_pytorch_tanh"}), "hidden_act"),
        (json!({"quantization_config": {"quant_method": "fp8"}}), "quantization_config"),
        (json!({"num_local_experts": 0}), "num_local_experts"),
    ] {
        let message = refusal("gpt_oss", changes);
        assert!(message.contains(part), "{message}");
    }
    assert!(
        refusal("llama", json!({"quantization_config": {"quant_method": "mxfp4"}})).contains("quantization_config")
    );
}

fn config_of(model_type: &str) -> Value {
    config(model_type, json!({}))
}

#[test]
fn published_models_have_their_published_numbers_of_parameters() {
    let qwen3_30b = json!({
        "model_type": "qwen3_moe", "attention_bias": false, "decoder_sparse_step": 1, "head_dim": 128, "hidden_act": "silu",
        "hidden_size": 2048, "intermediate_size": 6144, "max_position_embeddings": 40960, "max_window_layers": 48,
        "mlp_only_layers": [], "moe_intermediate_size": 768, "norm_topk_prob": true, "num_attention_heads": 32,
        "num_experts": 128, "num_experts_per_tok": 8, "num_hidden_layers": 48, "num_key_value_heads": 4,
        "rope_scaling": null, "rope_theta": 1e6, "sliding_window": null, "tie_word_embeddings": false,
        "torch_dtype": "bfloat16", "use_sliding_window": false, "vocab_size": 151_936,
    });
    let mixtral_8x7b = json!({
        "model_type": "mixtral", "hidden_act": "silu", "hidden_size": 4096, "intermediate_size": 14336,
        "max_position_embeddings": 32768, "num_attention_heads": 32, "num_experts_per_tok": 2, "num_hidden_layers": 32,
        "num_key_value_heads": 8, "num_local_experts": 8, "rope_theta": 1e6, "sliding_window": null,
        "tie_word_embeddings": false, "torch_dtype": "bfloat16", "vocab_size": 32_000,
    });
    let gpt_oss = |layers: usize, experts: usize| {
        let kinds = ["sliding_attention", "full_attention"];
        json!({
            "architectures": ["GptOssForCausalLM"], "attention_bias": true, "attention_dropout": 0.0, "eos_token_id": 200_002,
            "experts_per_token": 4, "head_dim": 64, "hidden_act": "silu", "hidden_size": 2880, "initial_context_length": 4096,
            "initializer_range": 0.02, "intermediate_size": 2880,
            "layer_types": (0..layers).map(|block| kinds[block % 2]).collect::<Vec<_>>(),
            "max_position_embeddings": 131_072, "model_type": "gpt_oss", "num_attention_heads": 64, "num_experts_per_tok": 4,
            "num_hidden_layers": layers, "num_key_value_heads": 8, "num_local_experts": experts,
            "output_router_logits": false, "pad_token_id": 199_999,
            "quantization_config": {
                "modules_to_not_convert": ["model.layers.*.self_attn", "model.layers.*.mlp.router", "model.embed_tokens", "lm_head"],
                "quant_method": "mxfp4",
            },
            "rms_norm_eps": 1e-05,
            "rope_scaling": {
                "beta_fast": 32.0, "beta_slow": 1.0, "factor": 32.0, "original_max_position_embeddings": 4096,
                "rope_type": "yarn", "truncate": false,
            },
            "rope_theta": 150_000, "router_aux_loss_coef": 0.9, "sliding_window": 128, "swiglu_limit": 7.0,
            "tie_word_embeddings": false, "transformers_version": "4.55.0.dev0", "use_cache": true, "vocab_size": 201_088,
        })
    };
    for (config, parameters) in [
        (qwen3_30b, 30_532_122_624),
        (mixtral_8x7b, 46_702_792_704),
        (gpt_oss(24, 32), 20_914_757_184),
        (gpt_oss(36, 128), 116_829_156_672),
    ] {
        let config = DecoderConfig::from_json(&config).expect("a configuration");
        assert_eq!(config.parameters(), parameters, "{}", config.model_type);
        assert_eq!(DecoderConfig::from_json(&config.to_json().expect("it can be said")).expect("read again"), config);
    }
}
