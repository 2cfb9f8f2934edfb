//! One transformer block: attention and a feed-forward part, each preceded by a norm and added to the residual.

use burn::module::{Module, Param};
use burn::tensor::Tensor;

use super::LoraUpdate;
use super::mlp::Mlp;
use crate::config::{BlockParts, DecoderConfig, Role, Stack};
use crate::ops::{self, AttentionShape, LayerCache, PassContext, Weight};

/// A linear map, stored as on disk: `[out, in]`.
#[derive(Module, Debug)]
pub struct Projection {
    /// The weight, `[out, in]`.
    pub weight: Weight,
    /// The bias, `[out]`, if the model has one.
    pub bias: Option<Param<Tensor<1>>>,
    /// The updates of adapters, in the order in which the adapters were added.
    pub lora: Vec<LoraUpdate>,
}

impl Projection {
    pub(crate) fn new(weight: impl Into<Weight>, bias: Option<Tensor<1>>) -> Self {
        Self { weight: weight.into(), bias: bias.map(Param::from_tensor), lora: Vec::new() }
    }

    /// `[tokens, in]` to `[tokens, out]`.
    pub fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        self.forward_by(ops::linear, x)
    }

    /// Like [`forward`](Self::forward), for a result of which only the gradient is needed.
    pub(super) fn forward_for_gradient(&self, x: Tensor<2>) -> Tensor<2> {
        self.forward_by(ops::linear_for_gradient, x)
    }

    fn forward_by(
        &self,
        linear: impl FnOnce(Tensor<2>, &Weight, Option<&Tensor<1>>) -> Tensor<2>,
        x: Tensor<2>,
    ) -> Tensor<2> {
        let bias = self.bias.as_ref().map(Param::val);
        if self.lora.is_empty() {
            return linear(x, &self.weight, bias.as_ref());
        }
        let y = linear(x.clone(), &self.weight, bias.as_ref());
        LoraUpdate::add_all(&self.lora, y, &x)
    }
}

/// Where the tensors of a new block come from.
pub(crate) trait BlockSource {
    type Error;

    /// The vector of a norm or of sinks.
    fn norm(&mut self, stack: &Stack) -> Result<Tensor<1>, Self::Error>;

    /// Projections of one input, stacked.
    fn projection(&mut self, stack: &Stack) -> Result<Projection, Self::Error>;
}

/// A tensor of a block in memory.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Held<'a> {
    Norm(&'a Param<Tensor<1>>),
    Projection(&'a Projection),
}

/// One transformer block. Projections that read the same input are stacked, so that each is one product.
#[derive(Module, Debug)]
pub struct Block {
    /// The norm before attention, `[d_model]`, if the model has one.
    pub attention_norm: Option<Param<Tensor<1>>>,
    /// Queries, keys and values, stacked: `[(heads + 2·kv_heads)·head_dim, d_model]`.
    pub qkv: Projection,
    /// The norm of each query head, `[head_dim]`, or of all of them, `[heads·head_dim]`, if the model has one.
    pub q_norm: Option<Param<Tensor<1>>>,
    /// The norm of each key head, `[head_dim]`, or of all of them, `[kv_heads·head_dim]`, if the model has one.
    pub k_norm: Option<Param<Tensor<1>>>,
    /// The sink of each query head, `[heads]`, if the model has them.
    pub sinks: Option<Param<Tensor<1>>>,
    /// The projection of the heads' outputs to the residual: `[d_model, heads·head_dim]`.
    pub out: Projection,
    /// The norm after attention, `[d_model]`, if the model has one.
    pub attention_out_norm: Option<Param<Tensor<1>>>,
    /// The norm before the MLP, `[d_model]`, if the model has one.
    pub mlp_norm: Option<Param<Tensor<1>>>,
    /// The MLP, or experts and their router.
    pub mlp: Mlp,
    /// The norm after the MLP, `[d_model]`, if the model has one.
    pub mlp_out_norm: Option<Param<Tensor<1>>>,
}

impl Block {
    /// A block with the tensors of a source, which are taken in the order of the table.
    pub(crate) fn from_source<S: BlockSource>(parts: &BlockParts, source: &mut S) -> Result<Self, S::Error> {
        let norm = |source: &mut S, stack: &Option<Stack>| {
            stack.as_ref().map(|stack| source.norm(stack).map(Param::from_tensor)).transpose()
        };
        Ok(Self {
            attention_norm: norm(source, &parts.attention_norm)?,
            qkv: source.projection(&parts.qkv)?,
            q_norm: norm(source, &parts.query_norm)?,
            k_norm: norm(source, &parts.key_norm)?,
            sinks: norm(source, &parts.sinks)?,
            out: source.projection(&parts.output)?,
            attention_out_norm: norm(source, &parts.attention_out_norm)?,
            mlp_norm: norm(source, &parts.mlp_norm)?,
            mlp: Mlp::from_source(&parts.mlp, source)?,
            mlp_out_norm: norm(source, &parts.mlp_out_norm)?,
        })
    }

    /// The tensors of the stacks of [`BlockParts::stacks`], in the same order.
    pub(crate) fn held(&self) -> impl Iterator<Item = Held<'_>> {
        let attention = [
            self.attention_norm.as_ref().map(Held::Norm),
            Some(Held::Projection(&self.qkv)),
            self.q_norm.as_ref().map(Held::Norm),
            self.k_norm.as_ref().map(Held::Norm),
            self.sinks.as_ref().map(Held::Norm),
            Some(Held::Projection(&self.out)),
            self.attention_out_norm.as_ref().map(Held::Norm),
            self.mlp_norm.as_ref().map(Held::Norm),
        ];
        attention.into_iter().flatten().chain(self.mlp.held()).chain(self.mlp_out_norm.as_ref().map(Held::Norm))
    }

    /// The projections, of all experts too, without the router.
    pub fn projections(&self) -> impl Iterator<Item = &Projection> {
        let mlp = self.mlp.all().iter().flat_map(|mlp| [&mlp.gate_up, &mlp.down]);
        [&self.qkv, &self.out].into_iter().chain(mlp)
    }

    pub(super) fn projections_mut(&mut self) -> impl Iterator<Item = &mut Projection> {
        let mlp = self.mlp.all_mut().iter_mut().flat_map(|mlp| [&mut mlp.gate_up, &mut mlp.down]);
        [&mut self.qkv, &mut self.out].into_iter().chain(mlp)
    }

    /// The projection that contains the outputs of a part; `None` for those of experts.
    pub(super) fn projection_mut(&mut self, role: Role) -> Option<&mut Projection> {
        match role {
            Role::Query | Role::Key | Role::Value => Some(&mut self.qkv),
            Role::Output => Some(&mut self.out),
            Role::Gate | Role::Up => self.mlp.dense_mut().map(|mlp| &mut mlp.gate_up),
            Role::Down => self.mlp.dense_mut().map(|mlp| &mut mlp.down),
            Role::AttentionNorm
            | Role::QueryNorm
            | Role::KeyNorm
            | Role::Sinks
            | Role::AttentionOutNorm
            | Role::MlpNorm
            | Role::Router
            | Role::MlpOutNorm => None,
        }
    }

    /// Maps the residual `[tokens, d_model]` before the block to the residual after it.
    pub(crate) fn forward(
        &self,
        x: Tensor<2>,
        context: &PassContext,
        window: Option<usize>,
        cache: Option<&mut LayerCache>,
        config: &DecoderConfig,
    ) -> Tensor<2> {
        self.forward_for(x, context, window, cache, config, true)
    }

    /// Like [`forward`](Self::forward), for a residual of which only the gradient is needed: its values are arbitrary.
    pub(crate) fn forward_for_gradient(
        &self,
        x: Tensor<2>,
        context: &PassContext,
        window: Option<usize>,
        config: &DecoderConfig,
    ) -> Tensor<2> {
        self.forward_for(x, context, window, None, config, false)
    }

    fn forward_for(
        &self,
        x: Tensor<2>,
        context: &PassContext,
        window: Option<usize>,
        cache: Option<&mut LayerCache>,
        config: &DecoderConfig,
        values: bool,
    ) -> Tensor<2> {
        let shape = AttentionShape::of(config, window);
        let eps = config.norm_eps;
        let weight = |norm: &Param<Tensor<1>>| ops::norm_factors(norm.val(), config.norm_weights);
        // What a sublayer adds to the residual.
        let added = |delta: Tensor<2>, norm: &Option<Param<Tensor<1>>>| {
            let delta = match norm {
                Some(norm) => ops::rms_norm(delta, &weight(norm), eps),
                None => delta,
            };
            if config.scales.residual == 1.0 { delta } else { delta * config.scales.residual }
        };
        let qkv = match &self.attention_norm {
            Some(norm) => self.qkv.forward(ops::rms_norm(x.clone(), &weight(norm), eps)),
            None => self.qkv.forward(x.clone()),
        };
        let qkv = match (&self.q_norm, &self.k_norm) {
            (Some(q), Some(k)) => ops::qk_norm(qkv, &weight(q), &weight(k), &shape, eps),
            _ => qkv,
        };
        let sinks = self.sinks.as_ref().map(Param::val);
        let heads = ops::attention(qkv, sinks.as_ref(), &shape, context, cache);
        let delta = added(self.out.forward(heads), &self.attention_out_norm);
        let (x, input) = match &self.mlp_norm {
            Some(norm) => ops::add_rms_norm(x, delta, &weight(norm), eps),
            None => {
                let x = ops::add(x, delta);
                (x.clone(), x)
            }
        };
        let mlp = match &self.mlp {
            // A norm's gradient depends on its argument, and that of a choice of experts on their results.
            Mlp::Dense(mlp) if !values && self.mlp_out_norm.is_none() => {
                mlp.forward_for_gradient(input, config.activation)
            }
            mlp => mlp.forward(input, config.activation),
        };
        ops::add(x, added(mlp, &self.mlp_out_norm))
    }
}
