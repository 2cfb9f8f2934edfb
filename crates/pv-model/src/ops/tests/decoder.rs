//! Gradients of a whole decoder.

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use pv_hooks::{Hook, HookError, Layer, LayerSet, ModelShape, NoHook, Phase, ResidualContext};

use super::*;
use crate::batch::{Batch, Sequence};
use crate::config::MlpBias;
use crate::decoder::{Decoder, Logits, Pass};

/// Replaces all weights with noise.
struct Fill(u64);

impl ModuleMapper for Fill {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        self.0 += 1;
        param.map(|old| {
            let shape = old.shape();
            let values = noise(shape.num_elements(), self.0);
            let values: Vec<f32> = values.iter().map(|v| if D == 1 { 1.0 + 0.3 * v } else { 0.3 * v }).collect();
            Tensor::from_data(TensorData::new(values, shape), (&old.device(), DType::F32)).require_grad()
        })
    }
}

#[derive(Default)]
struct Taken {
    gradients: Option<Gradients>,
    found: Vec<Vec<f32>>,
}

impl ModuleVisitor for Taken {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let gradient = self.gradients.as_mut().and_then(|gradients| param.val().grad_remove(gradients));
        self.found.push(gradient.map_or_else(Vec::new, |gradient| to_f32(gradient).expect("values")));
    }
}

/// Scales the residual, as an intervention would.
struct Halve;

impl Hook for Halve {
    fn name(&self) -> String {
        "halve".to_owned()
    }

    fn layers(&self) -> LayerSet {
        LayerSet::from(Layer::after_block(0))
    }

    fn validate(&self, _: &ModelShape) -> Result<(), HookError> {
        Ok(())
    }

    fn on_residual(&mut self, _: &ResidualContext<'_>, residual: Tensor<3>) -> Tensor<3> {
        residual * 0.5
    }
}

#[test]
fn a_decoders_gradients_are_those_of_the_portable_operations() {
    let rows: Vec<Vec<u32>> =
        [9usize, 70, 1, 31].iter().map(|n| (0..*n).map(|i| ((i * i + 3 * n) % 37) as u32).collect()).collect();
    let sequences: Vec<_> = rows.iter().map(|ids| Sequence { prompt: ids, ..Sequence::default() }).collect();
    let batch = Batch::whole(&sequences).expect("a batch");
    let seq = batch.spans().seq();
    let padding: Vec<usize> = batch.spans().rows().iter().map(|row| row.padding).collect();
    let run = |config: &DecoderConfig, device: Device, hook: &mut dyn Hook| {
        let decoder = Decoder::init(config.clone(), 1, &device).expect("a decoder").map(&mut Fill(0));
        let pass =
            Pass { ids: batch.ids(), spans: batch.spans(), phase: Phase::Full, stop_at: None, logits: Logits::All };
        let logits = decoder.pass(&pass, None, hook).logits.expect("asked for");
        let logits = logits.reshape([batch.ids().len(), config.vocab]);
        let tokens: Vec<i64> =
            (0..batch.ids().len()).filter(|token| token % seq >= padding[token / seq]).map(|t| t as i64).collect();
        let targets: Vec<u32> = tokens.iter().map(|token| (token * 5 % 37) as u32).collect();
        let n = tokens.len();
        let tokens = Tensor::from_data(TensorData::new(tokens, [n]), &Device::flex());
        let loss = cross_entropy(logits.select(0, tokens), &targets);
        let mut taken = Taken::default();
        taken.found.push(to_f32(loss.clone()).expect("values"));
        taken.gradients = Some(loss.backward());
        decoder.visit(&mut taken);
        // Experts without tokens have none.
        let without = taken.found.iter().filter(|values| values.is_empty()).count();
        let most = match (&config.experts, config.mlp_bias) {
            (None, _) => 0,
            (Some(_), MlpBias::None) => 4,
            // As many again are biases, and more experts are without tokens.
            (Some(_), MlpBias::All) => 16,
        };
        assert!(without <= most, "{without} parameters have no gradient");
        taken.found
    };
    let changes = [
        serde_json::json!({}),
        serde_json::json!({ "tie_word_embeddings": true, "attention_bias": true, "mlp_bias": true }),
        serde_json::json!({ "model_type": "qwen3", "num_key_value_heads": 1 }),
        serde_json::json!({ "model_type": "mistral", "sliding_window": 13 }),
        serde_json::json!({ "model_type": "granite", "residual_multiplier": 0.3, "embedding_multiplier": 4.0 }),
        serde_json::json!({ "model_type": "olmo2", "eos_token_id": 2 }),
        serde_json::json!({ "model_type": "phi3", "partial_rotary_factor": 0.75, "eos_token_id": 2 }),
        serde_json::json!({ "model_type": "gemma2", "sliding_window": 13, "attn_logit_softcapping": 3.0 }),
        serde_json::json!({ "model_type": "gemma3_text", "sliding_window": 13, "sliding_window_pattern": 2 }),
        serde_json::json!({ "model_type": "glm4", "eos_token_id": 2 }),
        serde_json::json!({ "model_type": "mixtral", "num_local_experts": 3, "num_experts_per_tok": 2 }),
        serde_json::json!({
            "model_type": "qwen3_moe", "num_experts": 4, "num_experts_per_tok": 1, "moe_intermediate_size": 12,
            "mlp_only_layers": [1], "head_dim": 8,
        }),
        serde_json::json!({
            "model_type": "gpt_oss", "num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 13,
        }),
    ];
    for changes in changes {
        let config = config(&changes);
        for hook in [&mut NoHook as &mut dyn Hook, &mut Halve] {
            let ours = run(&config, Device::flex().autodiff(), hook);
            let reference = run(&config, Device::flex().autodiff().gradient_checkpointing(), hook);
            for (i, (found, expected)) in ours.iter().zip(&reference).enumerate() {
                assert_close(&format!("{changes}, number {i}"), found, expected);
            }
        }
    }
}
