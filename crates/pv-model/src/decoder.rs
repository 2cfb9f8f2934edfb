//! The decoder: one forward pass for prefill, decoding and training.

mod block;
mod init;
mod lora;
mod mlp;
mod quantized;

use std::collections::BTreeSet;

use burn::module::{Module, Param};
use burn::tensor::{DType, Device, Tensor};
use pv_hooks::{Hook, Layer, ModelShape, Phase, ResidualContext, TokenSpans};
use pv_kernels::kept::Format;

use crate::config::DecoderConfig;
use crate::device::{is_cpu, run_on};
use crate::ops::{self, RotaryAngles};
use crate::weights::Activations;

pub use crate::ops::{KvCache, PackedMatrix, Weight, adamw, cross_entropy};
pub use crate::tensors::to_f32;
pub use block::{Block, Projection};
pub(crate) use block::{BlockSource, Held};
pub use lora::LoraUpdate;
pub use mlp::{Experts, GatedMlp, Mlp};
pub use quantized::{Quantization, WeightBits};

/// Which logits a pass computes. The output head is a large product: omit it where it is not needed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Logits {
    /// None.
    #[default]
    None,
    /// The logits at the last position, from which the next token is chosen.
    Last,
    /// The logits at every position.
    All,
}

/// One forward pass: its tokens, and which layers and logits to compute.
#[derive(Debug)]
pub struct Pass<'a> {
    /// Token ids, row after row, `[batch × seq]`; padding positions may contain any id of the vocabulary.
    pub ids: &'a [u32],
    /// The roles of the tokens, `[batch, seq]`.
    pub spans: &'a TokenSpans,
    /// The kind of pass.
    pub phase: Phase,
    /// The last layer to compute. With a layer, later blocks, the final norm and the output head are not computed;
    /// `None` computes everything.
    pub stop_at: Option<Layer>,
    /// Which logits to compute.
    pub logits: Logits,
}

/// The result of a pass.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct PassOutput {
    /// The raw residual after the last computed layer, with hooks applied, `[batch, seq, d_model]`.
    pub residual: Tensor<3>,
    /// The requested logits in f32, `[batch, 1 or seq, vocab]`.
    pub logits: Option<Tensor<3>>,
}

/// How a pass with a cache computes.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Way {
    /// See [`Decoder::pass_with_clean_cache`].
    pub(crate) clean_cache: bool,
    /// Products in blocks have at least so many rows: if there are fewer tokens, the last one is repeated, so that products
    /// use their methods for many rows.
    pub(crate) least_rows: usize,
}

/// A decoder-only transformer: embeddings, blocks, final norm and output head.
#[derive(Module, Debug)]
pub struct Decoder {
    /// The token embeddings, `[vocab, d_model]`; also the output head if the model ties them.
    pub embedding: Weight,
    /// The blocks, in order.
    pub blocks: Vec<Block>,
    /// The final norm's weight, `[d_model]`.
    pub norm: Param<Tensor<1>>,
    /// The separate output head, `[vocab, d_model]`, if the model has one.
    pub head: Option<Weight>,
    #[module(skip)]
    config: DecoderConfig,
    #[module(skip)]
    rotary: RotaryAngles,
}

impl Decoder {
    pub(crate) fn new(
        config: DecoderConfig,
        embedding: Weight,
        blocks: Vec<Block>,
        norm: Tensor<1>,
        head: Option<Weight>,
    ) -> Self {
        let rotary = RotaryAngles::new(&config);
        Self { embedding, blocks, norm: Param::from_tensor(norm), head, config, rotary }
    }

    /// The architecture.
    pub fn config(&self) -> &DecoderConfig {
        &self.config
    }

    /// The dimensions against which hooks are checked.
    pub fn shape(&self) -> ModelShape {
        ModelShape { blocks: self.config.layers, d_model: self.config.d_model }
    }

    /// The device of the weights.
    pub fn device(&self) -> Device {
        self.embedding.device()
    }

    /// The type in which the blocks compute.
    pub fn dtype(&self) -> DType {
        self.norm.val().dtype()
    }

    /// The formats of packed weight matrices, such as `Q4_K, Q6_K`; `None` if none is packed.
    pub fn packed_formats(&self) -> Option<String> {
        self.formats(|_| true)
    }

    /// The formats among the packed ones whose values are not those of a type of computation.
    pub(crate) fn block_formats(&self) -> Option<String> {
        self.formats(|format| format.block_elements() > 1)
    }

    /// The type of activations in products, if some are rounded.
    pub(crate) fn rounded_activations(&self) -> Option<Activations> {
        self.packed().map(PackedMatrix::activations).find(|kind| *kind != Activations::F32)
    }

    fn packed(&self) -> impl Iterator<Item = &PackedMatrix> {
        let projections = self.blocks.iter().flat_map(Block::projections);
        let matrices = projections.map(|projection| &projection.weight).chain([&self.embedding]).chain(&self.head);
        matrices.filter_map(Weight::packed)
    }

    fn formats(&self, which: impl Fn(&Format) -> bool) -> Option<String> {
        let formats: BTreeSet<String> =
            self.packed().flat_map(PackedMatrix::formats).filter(which).map(|format| format.to_string()).collect();
        (!formats.is_empty()).then(|| formats.into_iter().collect::<Vec<_>>().join(", "))
    }

    /// A copy for training: on the same device with autodiff, with gradients for every parameter. Matrices in 16 bits
    /// become tensors in f32; nothing else is copied until the weights change. Weights in few bits have no gradient.
    pub fn trainable(&self) -> Self {
        self.with_tensors(|weight| !weight.is_quantized()).valid().set_require_grad(true).train()
    }

    /// A copy on another device. Packed matrices, which are for the CPU, become tensors in f32 on other devices.
    #[must_use]
    pub fn on_device(&self, device: &Device) -> Self {
        match is_cpu(device) {
            true => self.clone().to_device(device),
            false => self.with_tensors(|weight| weight.packed().is_some()).to_device(device),
        }
    }

    /// A copy in which the packed or quantized matrices of a kind are tensors in the compute type.
    fn with_tensors(&self, kind: impl Fn(&Weight) -> bool) -> Self {
        let mut decoder = self.clone();
        let dtype = self.dtype();
        let projections = decoder.blocks.iter_mut().flat_map(Block::projections_mut).map(|found| &mut found.weight);
        for weight in projections.chain([&mut decoder.embedding]).chain(&mut decoder.head) {
            if kind(weight) {
                *weight = weight.unpacked(dtype);
            }
        }
        decoder
    }

    /// A copy without autodiff, which uses the device's own kernels.
    pub fn plain(&self) -> Self {
        self.valid()
    }

    /// Runs a pass, calling `hook` after the embeddings and after every block.
    ///
    /// This function checks nothing. Use [`CausalLm::forward`](crate::CausalLm::forward), or make sure that ids are in
    /// the vocabulary and `ids.len()` is `batch × seq`, that [`pv_hooks::hook::check`] has accepted the hook for this
    /// model and `stop_at`, and that a cache has capacity for the window and the same number of rows.
    ///
    /// # Panics
    /// If one of those conditions does not hold.
    pub fn pass(&self, pass: &Pass<'_>, cache: Option<&mut KvCache>, hook: &mut (impl Hook + ?Sized)) -> PassOutput {
        run_on(&self.device(), || self.pass_here(pass, cache, hook, Way::default()))
    }

    /// Like [`pass`](Self::pass), but the cache receives the keys and values of a pass without the hook. The residual
    /// and the logits are those of the hooked pass over the previous content of the cache.
    ///
    /// From the hook's lowest layer on, every block is computed twice: with the hook's changes, and without them for
    /// the cache. Below it, the two are the same.
    ///
    /// # Panics
    /// Like [`pass`](Self::pass).
    pub fn pass_with_clean_cache(
        &self,
        pass: &Pass<'_>,
        cache: &mut KvCache,
        hook: &mut (impl Hook + ?Sized),
    ) -> PassOutput {
        self.pass_by(Way { clean_cache: true, ..Way::default() }, pass, cache, hook)
    }

    /// Like [`pass`](Self::pass), in this way.
    pub(crate) fn pass_by(
        &self,
        way: Way,
        pass: &Pass<'_>,
        cache: &mut KvCache,
        hook: &mut (impl Hook + ?Sized),
    ) -> PassOutput {
        run_on(&self.device(), || self.pass_here(pass, Some(cache), hook, way))
    }

    /// Continues a pass of whole sequences from the residual after the hooks of layer `from`, `[batch, seq, d_model]`,
    /// up to `pass.stop_at`, calling `hook` after each block; returns the residual there. Splitting a pass lets
    /// training hold one layer's activations at a time. `pass.ids` and `pass.logits` are ignored.
    ///
    /// # Panics
    /// Like [`pass`](Self::pass).
    pub fn continue_pass(
        &self,
        pass: &Pass<'_>,
        from: Layer,
        residual: Tensor<3>,
        hook: &mut (impl Hook + ?Sized),
    ) -> Tensor<3> {
        self.continue_for(pass, from, residual, hook, true)
    }

    /// Like [`continue_pass`](Self::continue_pass), for a residual of which only the gradient is needed: the graph is that of
    /// the residual at `pass.stop_at`, whose values are arbitrary unless the hook is called there.
    ///
    /// # Panics
    /// Like [`pass`](Self::pass).
    pub fn continue_pass_for_gradient(
        &self,
        pass: &Pass<'_>,
        from: Layer,
        residual: Tensor<3>,
        hook: &mut (impl Hook + ?Sized),
    ) -> Tensor<3> {
        self.continue_for(pass, from, residual, hook, false)
    }

    fn continue_for(
        &self,
        pass: &Pass<'_>,
        from: Layer,
        residual: Tensor<3>,
        hook: &mut (impl Hook + ?Sized),
        values: bool,
    ) -> Tensor<3> {
        run_on(&self.device(), || {
            let [batch, seq, d_model] = residual.dims();
            let stop = pass.stop_at.map_or(self.config.layers, Layer::index);
            let window = ops::Window::whole(pass.spans);
            let context = ops::PassContext::new(&self.rotary, window, (self.device(), self.dtype()), None);
            (from.index()..stop).fold(residual, |x, index| {
                let x = context.pack(x.reshape([batch * seq, d_model]));
                let (layer, block) = (Layer::after_block(index), &self.blocks[index]);
                let (wanted, window) = (hook.wants(layer), self.config.windows[index]);
                let x = match values || wanted || index + 1 < stop {
                    true => block.forward(x, &context, window, None, &self.config),
                    false => block.forward_for_gradient(x, &context, window, &self.config),
                };
                let x = context.unpack(x).reshape([batch, seq, d_model]);
                match wanted {
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
        Way { clean_cache, least_rows }: Way,
    ) -> PassOutput {
        let (batch, seq) = (pass.spans.batch(), pass.spans.seq());
        let d_model = self.config.d_model;
        let stop = pass.stop_at.map_or(self.config.layers, Layer::index);
        let window = match &mut cache {
            Some(cache) => cache.advance(pass.spans),
            None => ops::Window::whole(pass.spans),
        };
        let place = (self.device(), self.dtype());
        let context = ops::PassContext::new(&self.rotary, window, place, cache.as_ref().map(|_| least_rows));
        // The residual without the hook, from the layer at which the hook may have changed it.
        let mut clean: Option<Tensor<2>> = None;
        let mut call = |layer: Layer, x: Tensor<2>, clean: &mut Option<Tensor<2>>| -> Tensor<2> {
            if !hook.wants(layer) {
                return x;
            }
            if clean_cache && clean.is_none() {
                *clean = Some(x.clone());
            }
            let x = context.unpack(x).reshape([batch, seq, d_model]);
            let x = hook.on_residual(&ResidualContext { layer, phase: pass.phase, spans: pass.spans }, x);
            context.pack(x.reshape([batch * seq, d_model]))
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
                // After the hooked pass, so that these keys and values overwrite those of the hooked residual.
                let layer_cache = cache.as_mut().map(|cache| cache.layer(index));
                clean = Some(block.forward(unhooked, &context, window, layer_cache, &self.config));
            }
            x = call(Layer::after_block(index), x, &mut clean);
        }
        let stopped = stop < self.config.layers || pass.stop_at.is_some();
        let residual = context.unpack(x).reshape([batch, seq, d_model]);
        let logits = match pass.logits {
            _ if stopped => None,
            Logits::None => None,
            Logits::All => Some(self.logits(residual.clone())),
            Logits::Last => Some(self.logits(residual.clone().slice([0..batch, seq - 1..seq, 0..d_model]))),
        };
        PassOutput { residual, logits }
    }

    /// Applies the final norm and the output head to raw residuals of the last layer: `[batch, n, d_model]` to `[batch,
    /// n, vocab]` in f32.
    pub fn logits(&self, residual: Tensor<3>) -> Tensor<3> {
        let [batch, n, d_model] = residual.dims();
        let x = self.final_norm(residual).reshape([batch * n, d_model]);
        let head = self.head.as_ref().unwrap_or(&self.embedding);
        let logits = ops::linear(x, head, None).reshape([batch, n, self.config.vocab]).cast(DType::F32);
        let scale = self.config.scales.logits;
        let logits = if scale == 1.0 { logits } else { logits / scale };
        match self.config.softcaps.logits {
            Some(cap) => ops::softcap(logits, cap),
            None => logits,
        }
    }

    /// Applies the final norm to raw residuals of the last layer, which gives Hugging Face's last hidden state.
    pub fn final_norm(&self, residual: Tensor<3>) -> Tensor<3> {
        let [batch, n, d_model] = residual.dims();
        let factors = ops::norm_factors(self.norm.val(), self.config.norm_weights);
        let x = ops::rms_norm(residual.reshape([batch * n, d_model]), &factors, self.config.norm_eps);
        x.reshape([batch, n, d_model])
    }

    fn embed(&self, ids: &[u32]) -> Tensor<2> {
        let x = self.embedding.select(ids);
        let scale = self.config.scales.embedding;
        if scale == 1.0 { x } else { x * scale }
    }
}
