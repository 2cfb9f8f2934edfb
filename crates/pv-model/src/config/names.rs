//! The names of tensors in checkpoints.

/// The names of tensors in a checkpoint. Names within a block lack the block's prefix; see [`TensorNames::in_block`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TensorNames {
    /// The embedding, `[vocab, d_model]`.
    pub embedding: &'static str,
    /// The prefix of the block's index.
    pub blocks: &'static str,
    /// The norm before attention, `[d_model]`.
    pub attention_norm: &'static str,
    /// The query projection, without `.weight` or `.bias`.
    pub query: &'static str,
    /// The key projection.
    pub key: &'static str,
    /// The value projection.
    pub value: &'static str,
    /// The sinks of attention, `[heads]`.
    pub sinks: &'static str,
    /// The output projection of attention.
    pub output: &'static str,
    /// The norm of each query head, `[head_dim]`.
    pub query_norm: &'static str,
    /// The norm of each key head, `[head_dim]`.
    pub key_norm: &'static str,
    /// The norm after attention, `[d_model]`.
    pub attention_out_norm: &'static str,
    /// The norm before the feed-forward part, `[d_model]`.
    pub mlp_norm: &'static str,
    /// The norm after the feed-forward part, `[d_model]`.
    pub mlp_out_norm: &'static str,
    /// The gate projection.
    pub gate: &'static str,
    /// The up projection.
    pub up: &'static str,
    /// The down projection.
    pub down: &'static str,
    /// The router of a block with experts, without `.weight`.
    pub router: &'static str,
    /// The prefix of an expert's number.
    pub experts: &'static str,
    /// The gate projection of an expert, after its number.
    pub expert_gate: &'static str,
    /// The up projection of an expert.
    pub expert_up: &'static str,
    /// The down projection of an expert.
    pub expert_down: &'static str,
    /// Whether a file has the experts of a block in one tensor for each part, see
    /// [`WeightFiles`](crate::weights::WeightFiles). The names of single experts' tensors are then ours.
    pub stacked_experts: bool,
    /// The norm after the last block, `[d_model]`.
    pub final_norm: &'static str,
    /// The untied output head, `[vocab, d_model]`.
    pub output_head: &'static str,
    /// Beginnings of names in some checkpoints, and what they stand for.
    pub aliases: &'static [(&'static str, &'static str)],
    /// Beginnings of the names of tensors that are not part of the decoder, such as those for images.
    pub ignored: &'static [&'static str],
}

impl TensorNames {
    /// The names of most families. Projections with the same name are one tensor, in the order of the fields.
    pub const HUGGING_FACE: Self = Self {
        embedding: "model.embed_tokens.weight",
        blocks: "model.layers",
        attention_norm: "input_layernorm.weight",
        query: "self_attn.q_proj",
        key: "self_attn.k_proj",
        value: "self_attn.v_proj",
        sinks: "self_attn.sinks",
        output: "self_attn.o_proj",
        query_norm: "self_attn.q_norm.weight",
        key_norm: "self_attn.k_norm.weight",
        attention_out_norm: "post_attention_layernorm.weight",
        mlp_norm: "post_attention_layernorm.weight",
        mlp_out_norm: "post_feedforward_layernorm.weight",
        gate: "mlp.gate_proj",
        up: "mlp.up_proj",
        down: "mlp.down_proj",
        router: "mlp.gate",
        experts: "mlp.experts",
        expert_gate: "gate_proj",
        expert_up: "up_proj",
        expert_down: "down_proj",
        stacked_experts: false,
        final_norm: "model.norm.weight",
        output_head: "lm_head.weight",
        aliases: &[],
        ignored: &[],
    };

    /// The full name of a block's tensor, such as `model.layers.3.input_layernorm.weight`.
    pub fn in_block(&self, block: usize, name: &str) -> String {
        format!("{}.{block}.{name}", self.blocks)
    }

    /// Whether a tensor of this full name is a router's weight. It has the compute type even where other matrices are
    /// kept in fewer bits: it is small, and a rounded router chooses other experts.
    pub(crate) fn is_router(&self, tensor: &str) -> bool {
        let name = tensor.strip_suffix(".weight").and_then(|name| name.strip_suffix(self.router));
        name.is_some_and(|block| block.ends_with('.'))
    }
}
