//! The supported architectures of GGUF files, as rows of data.

use serde_json::{Map, Value as Json};

use super::experts::ExpertFamily;
use super::{GgufModelError, Model, gemma, rope};

/// How the files of one `general.architecture` translate to a family of Hugging Face's.
#[allow(clippy::struct_excessive_bools, reason = "a row of independent facts")]
pub(super) struct Architecture {
    /// `general.architecture`.
    pub(super) name: &'static str,
    /// `model_type` of the `config.json`.
    pub(super) model_type: &'static str,
    /// `model_type` for models with `attention.sliding_window`; `None` if such models are not supported.
    pub(super) windowed: Option<&'static str>,
    /// Whether the rows of queries and keys are permuted so that each head's rotary pairs are neighbours.
    pub(super) permuted: bool,
    /// Whether the weights of norms are stored with the 1 that the family adds to them.
    pub(super) one_plus: bool,
    /// Whether a part of each head may be rotated only.
    pub(super) partly_rotated: bool,
    /// Whether the special tokens of a SentencePiece tokenizer take the spaces after them, which a file does not say.
    pub(super) strips_after_special: bool,
    /// Settings other than those of all architectures: the key in the file, that of the `config.json`, and whether a model
    /// needs it.
    pub(super) settings: &'static [(&'static str, &'static str, bool)],
    /// Settings that follow from several keys or from tensors, and the keys of which [`extra`](Self::extra) reads them.
    pub(super) extra: Option<Extra>,
    pub(super) extra_keys: &'static [&'static str],
    /// Tensors outside of blocks that are settings.
    pub(super) extra_tensors: &'static [&'static str],
    /// The family of models with experts; `None` if such models are not supported.
    pub(super) experts: Option<ExpertFamily>,
    /// Tensors with other names than those of all architectures, see [`IN_BLOCK`].
    pub(super) in_block: &'static [(&'static str, &'static str)],
}

/// Adds settings to the `config.json`.
pub(super) type Extra = fn(&Model<'_>, &mut Map<String, Json>) -> Result<(), GgufModelError>;

const PLAIN: Architecture = Architecture {
    name: "",
    model_type: "",
    windowed: None,
    permuted: false,
    one_plus: false,
    partly_rotated: false,
    strips_after_special: false,
    settings: &[],
    extra: None,
    extra_keys: &[],
    extra_tensors: &[],
    experts: None,
    in_block: &[],
};

/// Gemma's names of norms.
const GEMMA_NORMS: &[(&str, &str)] = &[
    ("post_attention_norm", "post_attention_layernorm"),
    ("ffn_norm", "pre_feedforward_layernorm"),
    ("post_ffw_norm", "post_feedforward_layernorm"),
];

static ARCHITECTURES: [Architecture; 11] = [
    // Llama, SmolLM2, Mistral and Mixtral.
    Architecture {
        name: "llama",
        model_type: "llama",
        windowed: Some("mistral"),
        permuted: true,
        experts: Some(ExpertFamily {
            model_type: "mixtral",
            always: false,
            count: "num_local_experts",
            width: "intermediate_size",
            fixed: &[],
        }),
        in_block: &[
            ("ffn_gate_inp", "block_sparse_moe.gate"),
            ("ffn_gate_exps", "block_sparse_moe.experts.{}.w1"),
            ("ffn_up_exps", "block_sparse_moe.experts.{}.w3"),
            ("ffn_down_exps", "block_sparse_moe.experts.{}.w2"),
        ],
        ..PLAIN
    },
    Architecture { name: "qwen2", model_type: "qwen2", ..PLAIN },
    Architecture { name: "qwen3", model_type: "qwen3", ..PLAIN },
    Architecture {
        name: "qwen3moe",
        model_type: "qwen3_moe",
        experts: Some(ExpertFamily {
            model_type: "qwen3_moe",
            always: true,
            count: "num_experts",
            width: "moe_intermediate_size",
            fixed: &[("norm_topk_prob", true)],
        }),
        in_block: &[
            ("ffn_gate_inp", "mlp.gate"),
            ("ffn_gate_exps", "mlp.experts.{}.gate_proj"),
            ("ffn_up_exps", "mlp.experts.{}.up_proj"),
            ("ffn_down_exps", "mlp.experts.{}.down_proj"),
        ],
        ..PLAIN
    },
    Architecture {
        name: "gemma2",
        model_type: "gemma2",
        windowed: Some("gemma2"),
        one_plus: true,
        settings: &[
            ("attn_logit_softcapping", "attn_logit_softcapping", false),
            ("final_logit_softcapping", "final_logit_softcapping", false),
        ],
        extra: Some(gemma::gemma2),
        in_block: GEMMA_NORMS,
        ..PLAIN
    },
    Architecture {
        name: "gemma3",
        model_type: "gemma3_text",
        windowed: Some("gemma3_text"),
        one_plus: true,
        settings: &[
            ("final_logit_softcapping", "final_logit_softcapping", false),
            ("rope.freq_base_swa", "rope_local_base_freq", false),
        ],
        extra: Some(gemma::gemma3),
        extra_keys: &[gemma::PATTERN],
        in_block: GEMMA_NORMS,
        ..PLAIN
    },
    Architecture {
        name: "phi3",
        model_type: "phi3",
        windowed: Some("phi3"),
        partly_rotated: true,
        strips_after_special: true,
        extra: Some(rope::longrope),
        extra_keys: &[rope::ATTENTION_FACTOR],
        extra_tensors: &rope::LONGROPE,
        in_block: &[("attn_qkv", "self_attn.qkv_proj"), ("ffn_up", "mlp.gate_up_proj")],
        ..PLAIN
    },
    Architecture {
        name: "olmo2",
        model_type: "olmo2",
        in_block: &[
            ("post_attention_norm", "post_attention_layernorm"),
            ("post_ffw_norm", "post_feedforward_layernorm"),
        ],
        ..PLAIN
    },
    Architecture {
        name: "granite",
        model_type: "granite",
        permuted: true,
        settings: &[
            ("embedding_scale", "embedding_multiplier", true),
            ("attention.scale", "attention_multiplier", true),
            ("residual_scale", "residual_multiplier", true),
            ("logit_scale", "logits_scaling", true),
        ],
        ..PLAIN
    },
    Architecture {
        name: "glm4",
        model_type: "glm4",
        partly_rotated: true,
        in_block: &[
            ("post_attention_norm", "post_self_attn_layernorm"),
            ("post_ffw_norm", "post_mlp_layernorm"),
            ("ffn_up", "mlp.gate_up_proj"),
        ],
        ..PLAIN
    },
    Architecture {
        name: "gpt-oss",
        model_type: "gpt_oss",
        windowed: Some("gpt_oss"),
        experts: Some(ExpertFamily {
            model_type: "gpt_oss",
            always: true,
            count: "num_local_experts",
            width: "intermediate_size",
            fixed: &[],
        }),
        extra: Some(rope::not_truncated),
        in_block: &[
            ("post_attention_norm", "post_attention_layernorm"),
            ("attn_sinks", "self_attn.sinks"),
            ("ffn_gate_inp", "mlp.router"),
            ("ffn_gate_exps", "mlp.experts.{}.gate_proj"),
            ("ffn_up_exps", "mlp.experts.{}.up_proj"),
            ("ffn_down_exps", "mlp.experts.{}.down_proj"),
        ],
        ..PLAIN
    },
];

impl Architecture {
    /// The row of a `general.architecture`.
    pub(super) fn of(name: &str) -> Option<&'static Self> {
        ARCHITECTURES.iter().find(|row| row.name == name)
    }

    /// The names of all, for messages.
    pub(super) fn names() -> String {
        ARCHITECTURES.each_ref().map(|row| row.name).join(", ")
    }
}

/// The tensors outside of blocks, and their names in a checkpoint.
pub(super) const OUTSIDE: [(&str, &str); 3] = [
    ("token_embd.weight", "model.embed_tokens.weight"),
    ("output_norm.weight", "model.norm.weight"),
    ("output.weight", "lm_head.weight"),
];

/// The parts of a block, without `.weight` or `.bias`, and their names in a checkpoint.
pub(super) const IN_BLOCK: [(&str, &str); 11] = [
    ("attn_norm", "input_layernorm"),
    ("attn_q", "self_attn.q_proj"),
    ("attn_k", "self_attn.k_proj"),
    ("attn_v", "self_attn.v_proj"),
    ("attn_output", "self_attn.o_proj"),
    ("attn_q_norm", "self_attn.q_norm"),
    ("attn_k_norm", "self_attn.k_norm"),
    ("ffn_norm", "post_attention_layernorm"),
    ("ffn_gate", "mlp.gate_proj"),
    ("ffn_up", "mlp.up_proj"),
    ("ffn_down", "mlp.down_proj"),
];
