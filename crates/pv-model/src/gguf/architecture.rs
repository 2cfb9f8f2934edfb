//! The supported architectures of GGUF files, as rows of data.

/// How the files of one `general.architecture` translate to a family of Hugging Face's.
pub(super) struct Architecture {
    /// `general.architecture`.
    pub(super) name: &'static str,
    /// `model_type` of the `config.json`.
    pub(super) model_type: &'static str,
    /// `model_type` for models with `attention.sliding_window`; `None` if such models are not supported.
    pub(super) windowed: Option<&'static str>,
    /// Whether the rows of queries and keys are permuted so that each head's rotary pairs are neighbours.
    pub(super) permuted: bool,
    /// Settings other than those of all architectures: the key in the file and that of the `config.json`.
    pub(super) settings: &'static [(&'static str, &'static str)],
    /// Tensors with other names than those of all architectures, see [`IN_BLOCK`].
    pub(super) in_block: &'static [(&'static str, &'static str)],
}

const ARCHITECTURES: [Architecture; 3] = [
    // Llama, SmolLM2 and Mistral.
    Architecture {
        name: "llama",
        model_type: "llama",
        windowed: Some("mistral"),
        permuted: true,
        settings: &[],
        in_block: &[],
    },
    Architecture { name: "qwen2", model_type: "qwen2", windowed: None, permuted: false, settings: &[], in_block: &[] },
    Architecture { name: "qwen3", model_type: "qwen3", windowed: None, permuted: false, settings: &[], in_block: &[] },
];

impl Architecture {
    /// The row of a `general.architecture`.
    pub(super) fn of(name: &str) -> Option<&'static Self> {
        const ROWS: &[Architecture] = &ARCHITECTURES;
        ROWS.iter().find(|row| row.name == name)
    }

    /// The names of all, for messages.
    pub(super) fn names() -> String {
        ARCHITECTURES.map(|row| row.name).join(", ")
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
