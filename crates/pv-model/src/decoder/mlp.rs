//! The feed-forward part of a block: one gated MLP, or experts and their router.

use burn::module::Module;
use burn::tensor::Tensor;

use super::block::{BlockSource, Held, Projection};
use crate::config::{Activation, ExpertConfig, GatedParts, MlpParts};
use crate::ops::{self, Routing};

/// A gated MLP: `down(activation(gate(x)) · up(x))`.
#[derive(Module, Debug)]
pub struct GatedMlp {
    /// Gate and up projections, stacked: `[2·d_ff, d_model]`.
    pub gate_up: Projection,
    /// Down projection, `[d_model, d_ff]`.
    pub down: Projection,
}

impl GatedMlp {
    fn from_source<S: BlockSource>(parts: &GatedParts, source: &mut S) -> Result<Self, S::Error> {
        Ok(Self { gate_up: source.projection(&parts.gate_up)?, down: source.projection(&parts.down)? })
    }

    /// `[tokens, d_model]` to `[tokens, d_model]`.
    fn forward(&self, x: Tensor<2>, activation: Activation) -> Tensor<2> {
        self.down.forward(ops::gated(self.gate_up.forward(x), activation))
    }

    /// Like [`forward`](Self::forward), for a result of which only the gradient is needed.
    pub(super) fn forward_for_gradient(&self, x: Tensor<2>, activation: Activation) -> Tensor<2> {
        self.down.forward_for_gradient(ops::gated(self.gate_up.forward(x), activation))
    }
}

/// Experts, of which a router chooses some for each token.
#[derive(Module, Debug)]
pub struct Experts {
    /// The router, `[experts, d_model]`: its outputs are the logits of the choice. It has the compute type, also where
    /// other matrices are packed.
    pub router: Projection,
    /// The experts, by number.
    pub experts: Vec<GatedMlp>,
    #[module(skip)]
    config: ExpertConfig,
}

impl Experts {
    /// `[tokens, d_model]` to `[tokens, d_model]`. An expert computes its own tokens only.
    fn forward(&self, x: Tensor<2>, activation: Activation) -> Tensor<2> {
        let routing = Routing::of(self.router.forward(x.clone()), &self.config);
        routing.sum(x, |number, x| self.experts[number].forward(x, activation))
    }
}

/// The feed-forward part of a block.
#[derive(Module, Debug)]
pub enum Mlp {
    /// One MLP for all tokens.
    Dense(GatedMlp),
    /// A mixture of experts.
    Experts(Experts),
}

impl Mlp {
    pub(super) fn from_source<S: BlockSource>(parts: &MlpParts, source: &mut S) -> Result<Self, S::Error> {
        Ok(match parts {
            MlpParts::Dense(parts) => Self::Dense(GatedMlp::from_source(parts, source)?),
            MlpParts::Experts { config, router, experts } => Self::Experts(Experts {
                router: source.projection(router)?,
                experts: experts.iter().map(|parts| GatedMlp::from_source(parts, source)).collect::<Result<_, _>>()?,
                config: config.clone(),
            }),
        })
    }

    /// The MLP, or all experts, by number.
    pub fn all(&self) -> &[GatedMlp] {
        match self {
            Self::Dense(mlp) => std::slice::from_ref(mlp),
            Self::Experts(Experts { experts, .. }) => experts,
        }
    }

    pub(super) fn all_mut(&mut self) -> &mut [GatedMlp] {
        match self {
            Self::Dense(mlp) => std::slice::from_mut(mlp),
            Self::Experts(Experts { experts, .. }) => experts,
        }
    }

    /// The MLP of a block without experts.
    pub(super) fn dense_mut(&mut self) -> Option<&mut GatedMlp> {
        match self {
            Self::Dense(mlp) => Some(mlp),
            Self::Experts(_) => None,
        }
    }

    /// The tensors, in the order of the table.
    pub(super) fn held(&self) -> impl Iterator<Item = Held<'_>> {
        let router = match self {
            Self::Dense(_) => None,
            Self::Experts(Experts { router, .. }) => Some(router),
        };
        let experts = self.all().iter().flat_map(|mlp| [&mlp.gate_up, &mlp.down]);
        router.into_iter().chain(experts).map(Held::Projection)
    }

    /// `[tokens, d_model]` to `[tokens, d_model]`.
    pub(super) fn forward(&self, x: Tensor<2>, activation: Activation) -> Tensor<2> {
        match self {
            Self::Dense(mlp) => mlp.forward(x, activation),
            Self::Experts(experts) => experts.forward(x, activation),
        }
    }
}
