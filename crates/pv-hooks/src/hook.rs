//! The [`Hook`] trait: code that sees, and may change, the residual stream between two layers.

use burn::tensor::Tensor;

use crate::{HookError, Layer, LayerSet, Phase, TokenSpans};

/// The dimensions of a model, against which hooks are checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ModelShape {
    /// The number of blocks `N`. The model has the layers `0..=N`.
    pub blocks: usize,
    /// The width of the residual stream.
    pub d_model: usize,
}

impl ModelShape {
    /// The layer after the last block.
    pub fn last_layer(&self) -> Layer {
        Layer::hidden_state(self.blocks)
    }
}

/// Where and when a hook is called.
#[derive(Clone, Copy, Debug)]
pub struct ResidualContext<'a> {
    /// The layer whose residual is passed.
    pub layer: Layer,
    /// The kind of pass.
    pub phase: Phase,
    /// The tokens of the pass.
    pub spans: &'a TokenSpans,
}

/// A value that sees, and may change, the residual stream between two layers.
///
/// # Contract
/// A hook is an argument of a forward pass; a model never stores one. The code that runs the passes calls, in this order:
/// 1. [`check`], once, before the first tensor operation. It calls [`layers`](Hook::layers) and
///    [`validate`](Hook::validate). A hook must report every problem there.
/// 2. [`on_residual`](Hook::on_residual), for each requested layer of each pass, from the lowest layer up. It cannot fail.
///    It returns a tensor of the same shape and element type. Values at padding positions are meaningless, but finite.
/// 3. [`finish`](Hook::finish), once, at the end of the run. A hook that never acted returns an error there, so that no
///    run proceeds unsteered unnoticed.
///
/// A pass may call its hook from another thread than the one that started the pass, hence `Send`.
///
/// # Order
/// Hooks compose: tuples, slices and vectors of hooks are hooks. At one layer the members act in their order, each on
/// the result of the previous one. A recorder after an intervention records the changed residual.
pub trait Hook: Send {
    /// The name of the hook in error messages.
    fn name(&self) -> String;

    /// The layers at which the hook is called.
    fn layers(&self) -> LayerSet;

    /// Whether the hook is called at this layer. Equivalent to `self.layers().contains(layer)`; override it where that
    /// is cheaper.
    fn wants(&self, layer: Layer) -> bool {
        self.layers().contains(layer)
    }

    /// Rejects layers that a pass would not reach: those above the model's `last` layer or above `stop`. A composed
    /// hook checks each member, so that the error names the member.
    ///
    /// # Errors
    /// [`HookError::LayerOutOfRange`] or [`HookError::LayerAfterStop`].
    fn check_layers(&self, last: Layer, stop: Option<Layer>) -> Result<(), HookError> {
        let LayerSet::These(layers) = self.layers() else { return Ok(()) };
        for layer in layers {
            if layer > last {
                return Err(HookError::LayerOutOfRange { hook: self.name(), layer, last });
            }
            if let Some(stop) = stop.filter(|stop| layer > *stop) {
                return Err(HookError::LayerAfterStop { hook: self.name(), layer, stop });
            }
        }
        Ok(())
    }

    /// Rejects a model that the hook does not fit.
    ///
    /// # Errors
    /// Any property of the model that does not fit. [`check`] already rejects layers that the model does not have.
    fn validate(&self, shape: &ModelShape) -> Result<(), HookError>;

    /// Receives the residual `[batch, seq, d_model]` of `context.layer` and returns the input of the next block, in the
    /// same shape.
    fn on_residual(&mut self, context: &ResidualContext<'_>, residual: Tensor<3>) -> Tensor<3>;

    /// Whether a prefix of a prompt, without the prompt's last token, may be computed once for all of these sequences, whose
    /// prompts begin with it. A hook that agrees
    /// - does the same to a prompt token before the last for each of these sequences, whatever the other tokens of the pass
    ///   are; and
    /// - takes such a token into account at most once for each sequence, whether it is in one pass whose row represents all of
    ///   them, or in later passes of single sequences as well, or in both.
    ///
    /// A pass over a prefix has no last prompt token ([`RowSpans::prompt_last`](crate::tokens::RowSpans::prompt_last)), and
    /// the rows that continue it have an [`offset`](crate::tokens::RowSpans::offset). The results of a hook that agrees do
    /// not depend on whether the prefix was shared. By default, only a hook without layers agrees.
    fn shares_prefix(&self, sequences: &[usize]) -> bool {
        let _ = sequences;
        self.layers() == LayerSet::none()
    }

    /// Ends a run. A composed hook ends all its members and returns the first error.
    ///
    /// # Errors
    /// [`HookError::NeverFired`] when the run had no token that the hook acts on.
    fn finish(&mut self) -> Result<(), HookError> {
        Ok(())
    }
}

/// Rejects a hook that does not fit a model, or whose layers a pass up to `stop` would not reach.
///
/// # Errors
/// [`HookError::LayerOutOfRange`], [`HookError::LayerAfterStop`], or the error of the hook's own validation.
pub fn check(hook: &(impl Hook + ?Sized), shape: &ModelShape, stop: Option<Layer>) -> Result<(), HookError> {
    hook.check_layers(shape.last_layer(), stop)?;
    hook.validate(shape)
}

/// A hook that does nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoHook;

impl Hook for NoHook {
    fn name(&self) -> String {
        "no hook".to_owned()
    }

    fn layers(&self) -> LayerSet {
        LayerSet::none()
    }

    fn wants(&self, _layer: Layer) -> bool {
        false
    }

    fn validate(&self, _shape: &ModelShape) -> Result<(), HookError> {
        Ok(())
    }

    fn on_residual(&mut self, _context: &ResidualContext<'_>, residual: Tensor<3>) -> Tensor<3> {
        residual
    }

    fn shares_prefix(&self, _sequences: &[usize]) -> bool {
        true
    }
}

macro_rules! forwarding_hook {
    ($target:ty, $($generics:tt)+) => {
        /// Forwards to the inner hook.
        impl<$($generics)+> Hook for $target {
            fn name(&self) -> String {
                (**self).name()
            }

            fn layers(&self) -> LayerSet {
                (**self).layers()
            }

            fn wants(&self, layer: Layer) -> bool {
                (**self).wants(layer)
            }

            fn check_layers(&self, last: Layer, stop: Option<Layer>) -> Result<(), HookError> {
                (**self).check_layers(last, stop)
            }

            fn validate(&self, shape: &ModelShape) -> Result<(), HookError> {
                (**self).validate(shape)
            }

            fn on_residual(&mut self, context: &ResidualContext<'_>, residual: Tensor<3>) -> Tensor<3> {
                (**self).on_residual(context, residual)
            }

            fn shares_prefix(&self, sequences: &[usize]) -> bool {
                (**self).shares_prefix(sequences)
            }

            fn finish(&mut self) -> Result<(), HookError> {
                (**self).finish()
            }
        }
    };
}

forwarding_hook!(&mut H, H: Hook + ?Sized);
forwarding_hook!(Box<H>, H: Hook + ?Sized);
forwarding_hook!(Vec<H>, H: Hook);

/// The members act in order.
impl<H: Hook> Hook for [H] {
    fn name(&self) -> String {
        self.iter().map(Hook::name).collect::<Vec<_>>().join(" + ")
    }

    fn layers(&self) -> LayerSet {
        self.iter().map(Hook::layers).fold(LayerSet::none(), LayerSet::union)
    }

    fn wants(&self, layer: Layer) -> bool {
        self.iter().any(|hook| hook.wants(layer))
    }

    fn check_layers(&self, last: Layer, stop: Option<Layer>) -> Result<(), HookError> {
        self.iter().try_for_each(|hook| hook.check_layers(last, stop))
    }

    fn validate(&self, shape: &ModelShape) -> Result<(), HookError> {
        self.iter().try_for_each(|hook| hook.validate(shape))
    }

    fn on_residual(&mut self, context: &ResidualContext<'_>, residual: Tensor<3>) -> Tensor<3> {
        self.iter_mut().filter(|hook| hook.wants(context.layer)).fold(residual, |x, hook| hook.on_residual(context, x))
    }

    fn shares_prefix(&self, sequences: &[usize]) -> bool {
        self.iter().all(|hook| hook.shares_prefix(sequences))
    }

    fn finish(&mut self) -> Result<(), HookError> {
        let mut result = Ok(());
        for hook in self {
            result = result.and(hook.finish());
        }
        result
    }
}

/// `None` does nothing.
impl<H: Hook> Hook for Option<H> {
    fn name(&self) -> String {
        self.as_ref().map_or_else(|| NoHook.name(), Hook::name)
    }

    fn layers(&self) -> LayerSet {
        self.as_ref().map_or_else(LayerSet::none, Hook::layers)
    }

    fn wants(&self, layer: Layer) -> bool {
        self.as_ref().is_some_and(|hook| hook.wants(layer))
    }

    fn check_layers(&self, last: Layer, stop: Option<Layer>) -> Result<(), HookError> {
        self.as_ref().map_or(Ok(()), |hook| hook.check_layers(last, stop))
    }

    fn validate(&self, shape: &ModelShape) -> Result<(), HookError> {
        self.as_ref().map_or(Ok(()), |hook| hook.validate(shape))
    }

    fn on_residual(&mut self, context: &ResidualContext<'_>, residual: Tensor<3>) -> Tensor<3> {
        match self {
            Some(hook) => hook.on_residual(context, residual),
            None => residual,
        }
    }

    fn shares_prefix(&self, sequences: &[usize]) -> bool {
        self.as_ref().is_none_or(|hook| hook.shares_prefix(sequences))
    }

    fn finish(&mut self) -> Result<(), HookError> {
        self.as_mut().map_or(Ok(()), Hook::finish)
    }
}

macro_rules! tuple_hook {
    ($($member:ident $index:tt),+) => {
        /// The members act in order.
        impl<$($member: Hook),+> Hook for ($($member,)+) {
            fn name(&self) -> String {
                [$(self.$index.name()),+].join(" + ")
            }

            fn layers(&self) -> LayerSet {
                LayerSet::none()$(.union(self.$index.layers()))+
            }

            fn wants(&self, layer: Layer) -> bool {
                $(self.$index.wants(layer))||+
            }

            fn check_layers(&self, last: Layer, stop: Option<Layer>) -> Result<(), HookError> {
                $(self.$index.check_layers(last, stop)?;)+
                Ok(())
            }

            fn validate(&self, shape: &ModelShape) -> Result<(), HookError> {
                $(self.$index.validate(shape)?;)+
                Ok(())
            }

            fn on_residual(&mut self, context: &ResidualContext<'_>, residual: Tensor<3>) -> Tensor<3> {
                $(let residual = if self.$index.wants(context.layer) {
                    self.$index.on_residual(context, residual)
                } else {
                    residual
                };)+
                residual
            }

            fn shares_prefix(&self, sequences: &[usize]) -> bool {
                $(self.$index.shares_prefix(sequences))&&+
            }

            fn finish(&mut self) -> Result<(), HookError> {
                Ok(())$(.and(self.$index.finish()))+
            }
        }
    };
}

tuple_hook!(A 0, B 1);
tuple_hook!(A 0, B 1, C 2);
tuple_hook!(A 0, B 1, C 2, D 3);
