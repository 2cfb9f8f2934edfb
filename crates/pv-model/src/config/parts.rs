//! The table of a block's parts: the role, the name on disk and the shape of each, and which of them are one matrix in
//! memory. Loading, saving, initialising, counting and adapters all walk it.

use std::borrow::Cow;

use super::{DecoderConfig, ExpertConfig, MlpBias, OutputHead, QkNorm};

/// What a part of a block does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    AttentionNorm,
    Query,
    Key,
    Value,
    QueryNorm,
    KeyNorm,
    Sinks,
    Output,
    AttentionOutNorm,
    MlpNorm,
    Router,
    Gate,
    Up,
    Down,
    MlpOutNorm,
}

/// One part: some rows of a tensor in memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Part {
    pub(crate) role: Role,
    /// The name within the block: that of the tensor for a norm; without `.weight` and `.bias` for a projection.
    pub(crate) name: Cow<'static, str>,
    pub(crate) rows: usize,
}

/// The parts of one tensor in memory, one after another along its first dimension: projections of the same input, or one
/// norm.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Stack {
    pub(crate) parts: Vec<Part>,
    /// The number of inputs of projections; `None` for the vector of a norm or of sinks.
    pub(crate) inputs: Option<usize>,
    pub(crate) bias: bool,
}

/// A tensor on disk: one part of a stack, or neighbouring parts that have the same name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stored<'a> {
    pub(crate) parts: &'a [Part],
    /// The first of its rows in the stack.
    pub(crate) first: usize,
    pub(crate) rows: usize,
}

impl Stored<'_> {
    pub(crate) fn name(&self) -> &str {
        self.parts.first().map_or("", |part| &part.name)
    }
}

impl Stack {
    fn norm(role: Role, name: &'static str, width: usize) -> Self {
        Self { parts: vec![Part { role, name: name.into(), rows: width }], inputs: None, bias: false }
    }

    fn projections<const N: usize, Name: Into<Cow<'static, str>>>(
        inputs: usize,
        bias: bool,
        parts: [(Role, Name, usize); N],
    ) -> Self {
        let part = |(role, name, rows): (Role, Name, usize)| Part { role, name: name.into(), rows };
        Self { parts: parts.into_iter().map(part).collect(), inputs: Some(inputs), bias }
    }

    /// The number of rows of all parts.
    pub(crate) fn rows(&self) -> usize {
        self.parts.iter().map(|part| part.rows).sum()
    }

    /// The tensors on disk, in order.
    pub(crate) fn stored(&self) -> impl Iterator<Item = Stored<'_>> {
        let mut first = 0;
        self.parts.chunk_by(|left, right| left.name == right.name).map(move |parts| {
            let rows = parts.iter().map(|part| part.rows).sum();
            first += rows;
            Stored { parts, first: first - rows, rows }
        })
    }

    /// The suffixes of the names of a tensor's values on disk, and the widths of a row (`None` for a vector).
    pub(crate) fn values(&self) -> impl Iterator<Item = (&'static str, Option<usize>)> {
        let (weight, bias) = match self.inputs {
            None => (("", None), None),
            Some(inputs) => ((".weight", Some(inputs)), self.bias.then_some((".bias", None))),
        };
        std::iter::once(weight).chain(bias)
    }
}

/// A gated MLP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct GatedParts {
    pub(crate) gate_up: Stack,
    pub(crate) down: Stack,
}

impl GatedParts {
    fn new(d_model: usize, d_ff: usize, bias: bool, [gate, up, down]: [Cow<'static, str>; 3]) -> Self {
        Self {
            gate_up: Stack::projections(d_model, bias, [(Role::Gate, gate, d_ff), (Role::Up, up, d_ff)]),
            down: Stack::projections(d_ff, bias, [(Role::Down, down, d_model)]),
        }
    }
}

/// The feed-forward part of a block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum MlpParts {
    Dense(GatedParts),
    Experts { config: ExpertConfig, router: Stack, experts: Vec<GatedParts> },
}

impl MlpParts {
    fn of(config: &DecoderConfig, block: usize) -> Self {
        let (names, d_model) = (&config.names, config.d_model);
        let Some(experts) = config.experts.as_ref().filter(|experts| experts.in_block(block)) else {
            let names = [names.gate, names.up, names.down].map(Cow::from);
            return Self::Dense(GatedParts::new(d_model, config.d_ff, config.mlp_bias == MlpBias::All, names));
        };
        let bias = config.mlp_bias == MlpBias::All;
        let expert = |number: usize| {
            let parts = [names.expert_gate, names.expert_up, names.expert_down];
            let names = parts.map(|part| format!("{}.{number}.{part}", names.experts).into());
            GatedParts::new(d_model, experts.d_ff, bias, names)
        };
        Self::Experts {
            config: experts.clone(),
            router: Stack::projections(d_model, bias, [(Role::Router, names.router, experts.count)]),
            experts: (0..experts.count).map(expert).collect(),
        }
    }

    fn stacks(&self) -> Vec<&Stack> {
        match self {
            Self::Dense(GatedParts { gate_up, down }) => vec![gate_up, down],
            Self::Experts { router, experts, .. } => std::iter::once(router)
                .chain(experts.iter().flat_map(|expert| [&expert.gate_up, &expert.down]))
                .collect(),
        }
    }
}

/// The tensors of a block in memory, in the order of the forward pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct BlockParts {
    pub(crate) attention_norm: Option<Stack>,
    pub(crate) qkv: Stack,
    pub(crate) query_norm: Option<Stack>,
    pub(crate) key_norm: Option<Stack>,
    pub(crate) sinks: Option<Stack>,
    pub(crate) output: Stack,
    pub(crate) attention_out_norm: Option<Stack>,
    pub(crate) mlp_norm: Option<Stack>,
    pub(crate) mlp: MlpParts,
    pub(crate) mlp_out_norm: Option<Stack>,
}

impl BlockParts {
    pub(crate) fn of(config: &DecoderConfig, block: usize) -> Self {
        let names = &config.names;
        let (d_model, queries, keys) = (config.d_model, config.query_width(), config.kv_width());
        let qkv = [(Role::Query, names.query, queries), (Role::Key, names.key, keys), (Role::Value, names.value, keys)];
        let head_norm = |role, name, width| match config.qk_norm {
            QkNorm::None => None,
            QkNorm::PerHead => Some(Stack::norm(role, name, config.head_dim)),
            QkNorm::Whole => Some(Stack::norm(role, name, width)),
        };
        let before = |role, name| config.norms.before().then(|| Stack::norm(role, name, d_model));
        let after = |role, name| config.norms.after().then(|| Stack::norm(role, name, d_model));
        let attention = config.attention_bias;
        Self {
            attention_norm: before(Role::AttentionNorm, names.attention_norm),
            qkv: Stack::projections(d_model, attention.on_qkv(), qkv),
            query_norm: head_norm(Role::QueryNorm, names.query_norm, queries),
            key_norm: head_norm(Role::KeyNorm, names.key_norm, keys),
            sinks: config.attention_sinks.then(|| Stack::norm(Role::Sinks, names.sinks, config.heads)),
            output: Stack::projections(queries, attention.on_output(), [(Role::Output, names.output, d_model)]),
            attention_out_norm: after(Role::AttentionOutNorm, names.attention_out_norm),
            mlp_norm: before(Role::MlpNorm, names.mlp_norm),
            mlp: MlpParts::of(config, block),
            mlp_out_norm: after(Role::MlpOutNorm, names.mlp_out_norm),
        }
    }

    /// The stacks in order.
    pub(crate) fn stacks(&self) -> impl Iterator<Item = &Stack> {
        let attention = [
            self.attention_norm.as_ref(),
            Some(&self.qkv),
            self.query_norm.as_ref(),
            self.key_norm.as_ref(),
            self.sinks.as_ref(),
            Some(&self.output),
            self.attention_out_norm.as_ref(),
            self.mlp_norm.as_ref(),
        ];
        attention.into_iter().flatten().chain(self.mlp.stacks()).chain(&self.mlp_out_norm)
    }

    /// The projection on disk that contains a part with this role, and its number of inputs. The projections of experts
    /// are not among them: there are several with each role.
    pub(crate) fn projection(&self, role: Role) -> Option<(Stored<'_>, usize)> {
        let mlp = match &self.mlp {
            MlpParts::Dense(mlp) => vec![&mlp.gate_up, &mlp.down],
            MlpParts::Experts { .. } => Vec::new(),
        };
        [&self.qkv, &self.output].into_iter().chain(mlp).find_map(|stack| {
            let inputs = stack.inputs?;
            let stored = stack.stored().find(|stored| stored.parts.iter().any(|part| part.role == role))?;
            Some((stored, inputs))
        })
    }
}

/// A tensor that a decoder needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExpectedTensor {
    /// The name in the checkpoint.
    pub name: String,
    /// The shape in the checkpoint; that of a projection is `[out, in]`.
    pub shape: Vec<usize>,
}

/// All tensors of the decoder, in the order of the forward pass. A tied output head is not among them.
///
/// An iterator, so that counting the parameters of a hostile configuration allocates little memory.
pub(crate) fn expected_tensors(config: &DecoderConfig) -> impl Iterator<Item = ExpectedTensor> + '_ {
    let names = &config.names;
    let tensor = |name: &str, shape: &[usize]| ExpectedTensor { name: name.into(), shape: shape.into() };
    let before = [tensor(names.embedding, &[config.vocab, config.d_model])];
    let blocks = (0..config.layers).flat_map(move |block| in_block(config, block));
    let head = match config.output_head {
        OutputHead::Tied => None,
        OutputHead::Untied => Some(tensor(names.output_head, &[config.vocab, config.d_model])),
    };
    let after = [tensor(names.final_norm, &[config.d_model])];
    before.into_iter().chain(blocks).chain(after).chain(head)
}

fn in_block(config: &DecoderConfig, block: usize) -> Vec<ExpectedTensor> {
    let mut tensors = Vec::new();
    for stack in BlockParts::of(config, block).stacks() {
        for stored in stack.stored() {
            tensors.extend(stack.values().map(|(suffix, width)| ExpectedTensor {
                name: config.names.in_block(block, stored.name()) + suffix,
                shape: std::iter::once(stored.rows).chain(width).collect(),
            }));
        }
    }
    tensors
}
