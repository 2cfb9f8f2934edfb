//! The decoder: one forward for prefill, decoding and training.

mod block;
mod init;
mod kv_cache;
mod lora;
mod quantized;
mod rotary;

use burn::module::{Module, Param};
use burn::tensor::{DType, Device, Tensor};
use pv_hooks::{Hook, Layer, ModelShape, Phase, ResidualContext, TokenSpans};

use crate::config::DecoderConfig;
use crate::ops;

pub use block::{Block, Projection};
pub use kv_cache::KvCache;
pub(crate) use kv_cache::LayerCache;
pub use lora::LoraUpdate;
pub use quantized::{Quantization, WeightBits};
pub(crate) use rotary::{RotaryAngles, RotaryTable};

/// Which positions' logits a pass computes. The output head is a large product: leave it out where nothing reads it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Logits {
    /// None.
    #[default]
    None,
    /// Those at the window's last position, from which the next token is chosen.
    Last,
    /// Those at every position.
    All,
}

/// One forward pass: its tokens, and how far it goes.
#[derive(Debug)]
pub struct Pass<'a> {
    /// Token ids, row after row, `[batch × seq]`; padding positions may hold any id of the vocabulary.
    pub ids: &'a [u32],
    /// What the tokens are, `[batch, seq]`.
    pub spans: &'a TokenSpans,
    /// The kind of pass.
    pub phase: Phase,
    /// The last layer to compute: no later block, no final norm and no output head. `None` goes to the end.
    pub stop_at: Option<Layer>,
    /// Which logits to compute.
    pub logits: Logits,
}

/// What a pass computed.
#[derive(Clone, Debug)]
pub struct PassOutput {
    /// The raw residual after the last layer that was computed (hooks applied), `[batch, seq, d_model]`.
    pub residual: Tensor<3>,
    /// The logits asked for in f32, `[batch, 1 or seq, vocab]`.
    pub logits: Option<Tensor<3>>,
}

/// A decoder-only transformer: embeddings, blocks, final norm and output head.
#[derive(Module, Debug)]
pub struct Decoder {
    /// The token embeddings, `[vocab, d_model]`; the output head too where the model ties them.
    pub embedding: Param<Tensor<2>>,
    /// The blocks, from the first to the last.
    pub blocks: Vec<Block>,
    /// The final norm's weight, `[d_model]`.
    pub norm: Param<Tensor<1>>,
    /// An output head of its own, `[vocab, d_model]`, where the model has one.
    pub head: Option<Param<Tensor<2>>>,
    #[module(skip)]
    config: DecoderConfig,
    #[module(skip)]
    rotary: RotaryAngles,
}

impl Decoder {
    pub(crate) fn new(
        config: DecoderConfig,
        embedding: Tensor<2>,
        blocks: Vec<Block>,
        norm: Tensor<1>,
        head: Option<Tensor<2>>,
    ) -> Self {
        let rotary = RotaryAngles::new(&config);
        Self {
            embedding: Param::from_tensor(embedding),
            blocks,
            norm: Param::from_tensor(norm),
            head: head.map(Param::from_tensor),
            config,
            rotary,
        }
    }

    /// The architecture.
    pub fn config(&self) -> &DecoderConfig {
        &self.config
    }

    /// What hooks are checked against.
    pub fn shape(&self) -> ModelShape {
        ModelShape { blocks: self.config.layers, d_model: self.config.d_model }
    }

    /// The device of the weights.
    pub fn device(&self) -> Device {
        self.embedding.val().device()
    }

    /// The element type of the weights, in which the blocks compute.
    pub fn dtype(&self) -> DType {
        self.embedding.val().dtype()
    }

    /// A copy to be trained: on the same device with autodiff, where every parameter wants a gradient. Nothing is copied
    /// until the weights change.
    pub fn trainable(&self) -> Self {
        self.valid().set_require_grad(true).train()
    }

    /// A copy without autodiff, for which the device's own kernels are used.
    pub fn plain(&self) -> Self {
        self.valid()
    }

    /// Runs a pass, calling `hook` after the embeddings and after every block.
    ///
    /// This is the inner seam: it checks nothing. Call [`CausalLm::forward`](crate::CausalLm::forward), or make sure
    /// that ids are below the vocabulary's size and `ids.len()` is `batch × seq`, that [`pv_hooks::check`] has accepted
    /// the hook for this model and `stop_at`, and that a cache has room for the window and holds as many rows.
    ///
    /// # Panics
    /// When those conditions do not hold.
    pub fn pass(&self, pass: &Pass<'_>, cache: Option<&mut KvCache>, hook: &mut (impl Hook + ?Sized)) -> PassOutput {
        // Inside the pool, parallel kernels share their work with this thread instead of putting it to sleep.
        rayon::scope(|_| self.pass_here(pass, cache, hook, false))
    }

    /// As [`pass`](Self::pass), but the cache is left with the keys and values of a pass without hook. What is computed
    /// here, residual and logits, is the hooked pass over what the cache held before.
    ///
    /// From the lowest layer that the hook wants, every block is computed twice: with the hook's changes, then, for the
    /// cache, without. Below, the two are the same.
    ///
    /// # Panics
    /// As [`pass`](Self::pass).
    pub fn pass_with_clean_cache(
        &self,
        pass: &Pass<'_>,
        cache: &mut KvCache,
        hook: &mut (impl Hook + ?Sized),
    ) -> PassOutput {
        rayon::scope(|_| self.pass_here(pass, Some(cache), hook, true))
    }

    /// Goes on with a pass of whole sequences from the residual that `from` has after its hooks, `[batch, seq, d_model]`, up
    /// to `pass.stop_at`, calling `hook` after each block on the way; returns the residual there. Taking a pass in pieces
    /// lets training keep one layer's activations at a time. `pass.ids` and `pass.logits` are not looked at.
    ///
    /// # Panics
    /// As [`pass`](Self::pass).
    pub fn continue_pass(
        &self,
        pass: &Pass<'_>,
        from: Layer,
        residual: Tensor<3>,
        hook: &mut (impl Hook + ?Sized),
    ) -> Tensor<3> {
        rayon::scope(|_| {
            let [batch, seq, d_model] = residual.dims();
            let stop = pass.stop_at.map_or(self.config.layers, Layer::index);
            let window = ops::Window::whole(pass.spans);
            let context = ops::PassContext::new(&self.rotary, window, self.device(), self.dtype());
            (from.index()..stop).fold(residual, |x, index| {
                let x = context.leave_out(x.reshape([batch * seq, d_model]));
                let x = self.blocks[index].forward(x, &context, self.config.windows[index], None, &self.config);
                let (layer, x) = (Layer::after_block(index), context.fill_in(x).reshape([batch, seq, d_model]));
                match hook.wants(layer) {
                    true => hook.on_residual(&ResidualContext { layer, phase: pass.phase, spans: pass.spans }, x),
                    false => x,
                }
            })
        })
    }

    fn pass_here(
        &self,
        pass: &Pass<'_>,
        mut cache: Option<&mut KvCache>,
        hook: &mut (impl Hook + ?Sized),
        clean_cache: bool,
    ) -> PassOutput {
        let (batch, seq) = (pass.spans.batch(), pass.spans.seq());
        let d_model = self.config.d_model;
        let stop = pass.stop_at.map_or(self.config.layers, Layer::index);
        let window = match &mut cache {
            Some(cache) => cache.advance(pass.spans),
            None => ops::Window::whole(pass.spans),
        };
        let context = ops::PassContext::new(&self.rotary, window, self.device(), self.dtype());
        // The residual without hook, from where the hook may have changed it.
        let mut clean: Option<Tensor<2>> = None;
        let mut call = |layer: Layer, x: Tensor<2>, clean: &mut Option<Tensor<2>>| -> Tensor<2> {
            if !hook.wants(layer) {
                return x;
            }
            if clean_cache && clean.is_none() {
                *clean = Some(x.clone());
            }
            let x = context.fill_in(x).reshape([batch, seq, d_model]);
            let x = hook.on_residual(&ResidualContext { layer, phase: pass.phase, spans: pass.spans }, x);
            context.leave_out(x.reshape([batch * seq, d_model]))
        };
        let mut x = match &context.ragged {
            Some(ragged) => self.embed(&ragged.ids(pass.ids)),
            None => self.embed(pass.ids),
        };
        x = call(Layer::EMBEDDINGS, x, &mut clean);
        for (index, block) in self.blocks.iter().take(stop).enumerate() {
            let window = self.config.windows[index];
            let layer_cache = cache.as_mut().map(|cache| cache.layer(index));
            x = block.forward(x, &context, window, layer_cache, &self.config);
            if let Some(unhooked) = clean.take() {
                // Second, so that these keys and values overwrite those of the hooked residual.
                let layer_cache = cache.as_mut().map(|cache| cache.layer(index));
                clean = Some(block.forward(unhooked, &context, window, layer_cache, &self.config));
            }
            x = call(Layer::after_block(index), x, &mut clean);
        }
        let stopped = stop < self.config.layers || pass.stop_at.is_some();
        let residual = context.fill_in(x).reshape([batch, seq, d_model]);
        let logits = match pass.logits {
            _ if stopped => None,
            Logits::None => None,
            Logits::All => Some(self.logits(residual.clone())),
            Logits::Last => Some(self.logits(residual.clone().slice([0..batch, seq - 1..seq, 0..d_model]))),
        };
        PassOutput { residual, logits }
    }

    /// The final norm and the output head on raw residuals of the last layer: `[batch, n, d_model]` to
    /// `[batch, n, vocab]` in f32.
    pub fn logits(&self, residual: Tensor<3>) -> Tensor<3> {
        let [batch, n, d_model] = residual.dims();
        let x = self.final_norm(residual).reshape([batch * n, d_model]);
        let head = self.head.as_ref().unwrap_or(&self.embedding);
        ops::linear(x, &head.val(), None).reshape([batch, n, self.config.vocab]).cast(DType::F32)
    }

    /// The final norm alone: raw residuals of the last layer to what Hugging Face lists as the last hidden state.
    pub fn final_norm(&self, residual: Tensor<3>) -> Tensor<3> {
        let [batch, n, d_model] = residual.dims();
        let x = ops::rms_norm(residual.reshape([batch * n, d_model]), &self.norm.val(), self.config.norm_eps);
        x.reshape([batch, n, d_model])
    }

    fn embed(&self, ids: &[u32]) -> Tensor<2> {
        let embedding = self.embedding.val();
        let ids = ops::indices(ids.iter().map(|id| *id as usize), &embedding.device());
        embedding.select(0, ids)
    }
}
