//! The seam that everything else depends on: what may happen to the residual stream between two layers.

use burn::tensor::Tensor;

use crate::{HookError, Layer, LayerSet, Phase, TokenSpans};

/// The dimensions of the model that hooks are checked against.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ModelShape {
    /// The number of blocks `N`; the layers are `0..=N`.
    pub blocks: usize,
    /// The width of the residual stream.
    pub d_model: usize,
}

impl ModelShape {
    /// The output of the last block.
    pub fn last_layer(&self) -> Layer {
        Layer::hidden_state(self.blocks)
    }
}

/// Where and when a hook is being called.
#[derive(Clone, Copy, Debug)]
pub struct ResidualContext<'a> {
    /// The layer whose residual is passed.
    pub layer: Layer,
    /// The kind of pass.
    pub phase: Phase,
    /// The tokens of the pass.
    pub spans: &'a TokenSpans,
}

/// Something that sees, and may change, the residual stream between two layers.
///
/// # Contract
/// A hook is an argument of a forward pass; no model keeps one. Whoever runs passes with it calls, in this order:
/// 1. [`check`], once, before the first tensor operation: it asks [`layers`](Hook::layers) and
///    [`validate`](Hook::validate), which is where every objection must be raised;
/// 2. [`on_residual`](Hook::on_residual), for each wanted layer of each pass, from the lowest layer up. It cannot fail;
///    it returns a tensor of the same shape and element type. Positions of padding mean nothing, but hold finite values;
/// 3. [`finish`](Hook::finish), once, at the end of the run. A hook that had nothing to do reports it there, so that no
///    run goes on unsteered in silence.
///
/// A pass may call its hook from another thread than the one that started it, hence `Send`.
///
/// # Order
/// Hooks compose: tuples, slices and vectors of hooks are hooks. At one layer the members act in the order in which
/// they stand, each on the result of the one before. A recorder after an intervention sees the changed residual.
pub trait Hook: Send {
    /// What errors call this hook.
    fn name(&self) -> String;

    /// The layers at which the hook wants to be called.
    fn layers(&self) -> LayerSet;

    /// Whether the hook wants to be called at this layer; the same as asking [`layers`](Hook::layers), and cheaper
    /// where a hook overrides it.
    fn wants(&self, layer: Layer) -> bool {
        self.layers().contains(layer)
    }

    /// Objects to layers that a pass would not reach: those above the model's `last` layer, or above `stop`. A hook made
    /// of others asks each of them, so that the error names the one it is about.
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

    /// Objects to a model that the hook does not fit.
    ///
    /// # Errors
    /// Whatever does not fit; layers that the model lacks are refused by [`check`] already.
    fn validate(&self, shape: &ModelShape) -> Result<(), HookError>;

    /// Takes the residual `[batch, seq, d_model]` of `context.layer` and returns what the next block shall see, in the
    /// same shape.
    fn on_residual(&mut self, context: &ResidualContext<'_>, residual: Tensor<3>) -> Tensor<3>;

    /// Ends a run. A hook made of others ends all of them, and returns the first error.
    ///
    /// # Errors
    /// [`HookError::NeverFired`] when the run held no token for the hook.
    fn finish(&mut self) -> Result<(), HookError> {
        Ok(())
    }
}

/// Refuses a hook that does not fit a model, or whose layers a pass up to `stop` would not reach.
///
/// # Errors
/// [`HookError::LayerOutOfRange`], [`HookError::LayerAfterStop`], or what the hook itself objects to.
pub fn check(hook: &(impl Hook + ?Sized), shape: &ModelShape, stop: Option<Layer>) -> Result<(), HookError> {
    hook.check_layers(shape.last_layer(), stop)?;
    hook.validate(shape)
}

/// No hook at all.
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
}

macro_rules! forwarding_hook {
    ($target:ty, $($generics:tt)+) => {
        /// Stands for the hook itself.
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

    fn finish(&mut self) -> Result<(), HookError> {
        let mut result = Ok(());
        for hook in self {
            result = result.and(hook.finish());
        }
        result
    }
}

/// Nothing, or the hook.
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

            fn finish(&mut self) -> Result<(), HookError> {
                Ok(())$(.and(self.$index.finish()))+
            }
        }
    };
}

tuple_hook!(A 0, B 1);
tuple_hook!(A 0, B 1, C 2);
tuple_hook!(A 0, B 1, C 2, D 3);
