use burn::module::Module;
use burn::tensor::Device;

use super::*;
use crate::config::{
    Activation, AttentionBias, ConfigError, MlpBias, NormPlacement, NormWeights, OutputHead, QkNorm, RopeConfig,
    RopeScaling, RotaryPairs, Scales, Softcaps, SpecialTokens, TensorNames,
};

fn config(model_type: &str) -> DecoderConfig {
    DecoderConfig {
        model_type: model_type.into(),
        d_model: 12,
        layers: 2,
        heads: 4,
        kv_heads: 2,
        head_dim: 4,
        d_ff: 20,
        experts: None,
        vocab: 17,
        max_positions: 64,
        norm_eps: 1e-5,
        activation: Activation::Silu,
        rope: RopeConfig::new(10_000.0),
        local_rope: None,
        rotary_dim: None,
        rotary_pairs: RotaryPairs::Halves,
        norms: NormPlacement::Before,
        norm_weights: NormWeights::Factors,
        scales: Scales::default(),
        softcaps: Softcaps::default(),
        attention_bias: AttentionBias::None,
        attention_sinks: false,
        mlp_bias: MlpBias::None,
        qk_norm: QkNorm::None,
        windows: vec![None; 2],
        output_head: OutputHead::Tied,
        tokens: SpecialTokens { bos: Some(1), eos: vec![2], pad: None },
        stored_dtype: None,
        names: TensorNames::HUGGING_FACE,
    }
}

/// Other families, from their files.
fn others() -> Vec<DecoderConfig> {
    let longrope = serde_json::json!({
        "rope_type": "longrope", "rope_theta": 1e4, "partial_rotary_factor": 0.75, "short_factor": [1.0, 1.5, 2.0],
        "long_factor": [1.0, 3.0, 9.5],
    });
    let nested = serde_json::json!({
        "sliding_attention": { "rope_type": "default", "rope_theta": 2e4 },
        "full_attention": { "rope_type": "linear", "factor": 8.0, "rope_theta": 1e6 },
    });
    let others = [
        (
            "granite",
            serde_json::json!({ "residual_multiplier": 0.22, "attention_multiplier": 0.015625, "mlp_bias": true }),
        ),
        ("granite", serde_json::json!({ "embedding_multiplier": 12, "logits_scaling": 8, "attention_bias": true })),
        ("olmo2", serde_json::json!({})),
        ("olmo2", serde_json::json!({ "attention_bias": true, "rms_norm_eps": 1e-6 })),
        ("phi3", serde_json::json!({ "sliding_window": 6 })),
        (
            "phi3",
            serde_json::json!({ "head_dim": 8, "rope_parameters": longrope, "original_max_position_embeddings": 32 }),
        ),
        ("gemma2", serde_json::json!({ "attn_logit_softcapping": null, "query_pre_attn_scalar": 144, "head_dim": 8 })),
        ("gemma2", serde_json::json!({ "tie_word_embeddings": false, "sliding_window": 4, "attention_bias": true })),
        ("gemma3_text", serde_json::json!({ "rope_parameters": nested, "sliding_window_pattern": 2, "head_dim": 8 })),
        (
            "gemma3_text",
            serde_json::json!({ "rope_local_base_freq": 5e3, "rope_scaling": { "rope_type": "linear", "factor": 4.0 } }),
        ),
        ("mixtral", serde_json::json!({ "num_local_experts": 3, "num_experts_per_tok": 2, "sliding_window": 6 })),
        ("qwen3_moe", serde_json::json!({ "num_experts": 0, "attention_bias": true })),
        (
            "qwen3_moe",
            serde_json::json!({
                "num_experts": 3, "num_experts_per_tok": 2, "moe_intermediate_size": 8, "mlp_only_layers": [1],
                "norm_topk_prob": true, "use_sliding_window": true, "sliding_window": 6,
            }),
        ),
        ("gpt_oss", serde_json::json!({ "num_local_experts": 3, "num_experts_per_tok": 2, "sliding_window": 6 })),
        (
            "gpt_oss",
            serde_json::json!({
                "num_local_experts": 2, "attention_bias": false, "num_experts_per_tok": 1, "rope_theta": 1e4,
                "rope_scaling": { "rope_type": "default" }, "layer_types": ["full_attention", "sliding_attention"],
            }),
        ),
        ("glm4", serde_json::json!({ "head_dim": 12 })),
        ("glm4", serde_json::json!({ "attention_bias": false, "partial_rotary_factor": 1.0, "head_dim": 8 })),
    ];
    let read = |(model_type, changes): (&str, serde_json::Value)| {
        let mut json = serde_json::json!({
            "model_type": model_type, "hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 4,
            "num_key_value_heads": 2, "head_dim": 4, "intermediate_size": 20, "vocab_size": 17, "eos_token_id": 2,
        });
        for (key, change) in changes.as_object().expect("changes are an object") {
            json[key] = change.clone();
        }
        DecoderConfig::from_json(&json).unwrap_or_else(|error| panic!("{model_type}: {error}"))
    };
    others.map(read).into()
}

/// One model of each family, with every option that its writer can express.
fn configs() -> Vec<DecoderConfig> {
    let llama3 =
        RopeScaling::Llama3 { factor: 8.0, low_freq_factor: 1.0, high_freq_factor: 4.0, original_max_positions: 32 };
    let yarn = RopeScaling::Yarn {
        factor: 4.0,
        beta_fast: 32.0,
        beta_slow: 1.0,
        original_max_positions: 16,
        attention_factor: None,
        mscale: None,
        mscale_all_dim: None,
        truncate: true,
    };
    let first = vec![
        config("llama"),
        DecoderConfig {
            attention_bias: AttentionBias::QkvAndOutput,
            mlp_bias: MlpBias::All,
            output_head: OutputHead::Untied,
            rope: RopeConfig { theta: 5e5, scaling: llama3 },
            tokens: SpecialTokens { bos: None, eos: vec![2, 3], pad: Some(0) },
            ..config("llama")
        },
        DecoderConfig { windows: vec![Some(8); 2], ..config("mistral") },
        DecoderConfig {
            rope: RopeConfig { theta: 1e4, scaling: RopeScaling::Linear { factor: 2.0 } },
            ..config("mistral")
        },
        DecoderConfig {
            attention_bias: AttentionBias::Qkv,
            tokens: SpecialTokens::default(),
            rope: RopeConfig { theta: 1e6, scaling: yarn },
            ..config("qwen2")
        },
        DecoderConfig { attention_bias: AttentionBias::Qkv, windows: vec![None, Some(6)], ..config("qwen2") },
        DecoderConfig { qk_norm: QkNorm::PerHead, windows: vec![Some(6), None], ..config("qwen3") },
    ];
    [first, others()].concat()
}

/// All weights, in order, in f32.
fn weights(decoder: &Decoder) -> Vec<(String, Vec<f32>)> {
    let values = |part: &Part<'_>| {
        let mut values = Vec::new();
        let taken = part.each_chunk(|chunk| {
            values.extend_from_slice(chunk);
            Ok(())
        });
        taken.expect("values");
        values
    };
    let mut named: Vec<_> = decoder.parts().iter().map(|(name, part)| (name.clone(), values(part))).collect();
    named.sort_by(|left, right| left.0.cmp(&right.0));
    named
}

/// Weights that are nowhere constant, so that swapped tensors are detected.
fn decoder(config: DecoderConfig) -> Decoder {
    struct Shift(f64);
    impl burn::module::ModuleMapper for Shift {
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            self.0 += 0.01;
            param.map(|tensor| tensor + self.0)
        }
    }
    Decoder::init(config, 7, &Device::flex()).expect("a decoder").map(&mut Shift(0.0))
}

#[test]
fn what_is_saved_is_loaded() {
    for config in configs() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("new").join("model");
        let saved = decoder(config.clone());
        saved.save(&path, DType::F32).expect("a writable folder");
        let loaded = Decoder::from_folder(&path, &Device::flex(), DType::F32).expect("a whole model");
        assert_eq!(*loaded.config(), DecoderConfig { stored_dtype: Some(StoredDtype::F32), ..config.clone() });
        assert_eq!(config.difference(loaded.config()), None);
        assert_eq!(weights(&loaded), weights(&saved), "{}", config.model_type);

        for (dtype, relative) in [(DType::F16, 1.0 / 2048.0), (DType::BF16, 1.0 / 256.0)] {
            saved.trainable().save(&path, dtype).expect("saving again replaces the files");
            let rounded = Decoder::from_folder(&path, &Device::flex(), DType::F32).expect("a whole model");
            for ((name, rounded), (_, exact)) in weights(&rounded).iter().zip(weights(&saved)) {
                let close = |(r, e): (&f32, &f32)| (r - e).abs() <= e.abs() * relative + 6e-8;
                assert!(rounded.iter().zip(&exact).all(close), "{name} as {dtype:?}");
                // Of many constants, one may have a short binary fraction.
                let short = exact.iter().all(|value| bf16::from_f32(*value).to_f32() == *value);
                assert!(short || *rounded != exact, "{name} as {dtype:?}");
            }
        }
        assert_eq!(std::fs::read_dir(&path).expect("the folder").count(), 2, "a temporary file was left");
    }
}

#[test]
fn what_a_file_cannot_say_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    for (config, wanted) in [
        (DecoderConfig { attention_bias: AttentionBias::Qkv, ..config("llama") }, "attention_bias"),
        (DecoderConfig { windows: vec![Some(4); 2], ..config("llama") }, "windows"),
        (DecoderConfig { qk_norm: QkNorm::PerHead, ..config("mistral") }, "qk_norm"),
        (DecoderConfig { mlp_bias: MlpBias::All, attention_bias: AttentionBias::Qkv, ..config("qwen2") }, "mlp_bias"),
        (config("gpt2"), "model_type"),
    ] {
        let error = decoder(config).save(folder.path(), DType::F32).expect_err("refused");
        assert!(matches!(&error, Error::Config(ConfigError::Unsupported { key, .. }) if key == wanted), "{error}");
    }
    let error = decoder(config("llama")).save(folder.path(), DType::I32).expect_err("refused");
    assert!(matches!(error, Error::BadOption { .. }));
    assert_eq!(std::fs::read_dir(folder.path()).expect("the folder").count(), 0, "something was written");
}

#[test]
fn weights_depend_on_the_seed_alone_and_have_the_right_spread() {
    let wide =
        DecoderConfig { d_model: 64, vocab: 512, d_ff: 128, layers: 8, windows: vec![None; 8], ..config("llama") };
    let init = |seed| Decoder::init(wide.clone(), seed, &Device::flex()).expect("a decoder");
    assert_eq!(weights(&init(1)), weights(&init(1)));
    assert_ne!(weights(&init(1)), weights(&init(2)));
    for (name, values) in weights(&init(1)) {
        let n = values.len() as f64;
        let mean = values.iter().map(|v| f64::from(*v)).sum::<f64>() / n;
        let std = (values.iter().map(|v| (f64::from(*v) - mean).powi(2)).sum::<f64>() / n).sqrt();
        let expected = match () {
            () if name.contains("norm") => (1.0, 0.0),
            () if name.contains("o_proj") || name.contains("down_proj") => (0.0, 0.02 / 4.0),
            () => (0.0, 0.02),
        };
        assert!((mean - expected.0).abs() <= 5.0 * expected.1 / n.sqrt(), "{name}: mean {mean}");
        assert!((std - expected.1).abs() <= 5.0 * expected.1 / (2.0 * n).sqrt(), "{name}: std {std}");
    }
    let bad = DecoderConfig { head_dim: 3, ..config("llama") };
    assert!(matches!(Decoder::init(bad, 0, &Device::flex()), Err(Error::Config(ConfigError::Value { .. }))));
}

#[test]
fn a_trainable_copy_wants_gradients_and_a_plain_one_does_not() {
    let decoder = decoder(config("llama"));
    let trainable = decoder.trainable();
    assert!(
        trainable.embedding.val().is_require_grad()
            && trainable.blocks[1].mlp.all()[0].down.weight.val().is_require_grad()
    );
    assert!(trainable.trainable().embedding.val().is_require_grad());
    let plain = trainable.plain();
    assert!(!plain.embedding.val().is_autodiff() && !plain.device().is_autodiff());
    assert_eq!(weights(&plain), weights(&decoder));
}
