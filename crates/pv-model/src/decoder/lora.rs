//! Low-rank adapters on a decoder: put on, taken off, trained, read back, merged.

use std::collections::BTreeMap;
use std::sync::Arc;

use burn::module::{Module, Param};
use burn::tensor::{DType, Device, Tensor, TensorData};
use pv_hooks::Layer;
use rand::rngs::ChaCha8Rng;
use rand::{RngExt, SeedableRng};

use super::{Block, Decoder, Projection};
use crate::adapter::{Adapter, LoraConfig, LoraTarget, LoraWeights};
use crate::config::DecoderConfig;
use crate::ops::{self, LoraPlace, LoraTerm};
use crate::{Error, Result, to_f32};

/// A low-rank update of some of a projection's outputs: scale · B·A, never formed.
#[derive(Module, Debug)]
pub struct LoraUpdate {
    /// `[rank, in]`, in f32 whatever the projection's type.
    pub a: Param<Tensor<2>>,
    /// `[out, rank]`, in f32.
    pub b: Param<Tensor<2>>,
    #[module(skip)]
    place: Place,
}

/// What is no parameter.
#[derive(Clone, Debug)]
struct Place {
    /// Which of the decoder's adapters it belongs to.
    adapter: usize,
    block: usize,
    target: LoraTarget,
    /// The first of the stacked projection's outputs that is updated.
    first: usize,
    /// The adapter's scale, times its weight among others.
    scale: f64,
    config: Arc<LoraConfig>,
    /// The seed of the inputs that are dropped; `None` outside of training.
    dropped: Option<u64>,
}

impl LoraUpdate {
    /// Adds the updates of inputs `x` `[tokens, in]` to the stacked projection's output `y`.
    pub(super) fn add_all(updates: &[Self], y: Tensor<2>, x: &Tensor<2>) -> Tensor<2> {
        // Updates that drop inputs drop others each, and read inputs of their own.
        let drops = |update: &Self| update.place.dropped.filter(|_| update.place.config.dropout > 0.0);
        let same = |left: &Self, right: &Self| drops(left).is_none() && drops(right).is_none();
        updates.chunk_by(same).fold(y, |y, updates| {
            let terms: Vec<LoraTerm> = updates.iter().map(Self::term).collect();
            match updates.first().and_then(|update| Some(update.dropped(x, drops(update)?))) {
                Some(x) => ops::lora_add(y, &x, &terms),
                None => ops::lora_add(y, x, &terms),
            }
        })
    }

    fn term(&self) -> LoraTerm {
        let Place { first, scale, .. } = self.place;
        LoraTerm { a: self.a.val(), b: self.b.val(), place: LoraPlace { first, scale } }
    }

    /// The inputs with some of them zero and the others larger, so that the mean stays. Which ones depends on the seed, the
    /// block and the projection alone.
    fn dropped(&self, x: &Tensor<2>, seed: u64) -> Tensor<2> {
        let Place { block, target, config, .. } = &self.place;
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        random.set_stream((block * LoraTarget::ALL.len() + *target as usize) as u64);
        let kept = (1.0 / (1.0 - config.dropout)) as f32;
        let [tokens, inputs] = x.dims();
        let mask = (0..tokens * inputs).map(|_| if random.random_bool(config.dropout) { 0.0 } else { kept });
        let mask = TensorData::new(mask.collect::<Vec<f32>>(), [tokens, inputs]);
        x.clone() * Tensor::from_data(mask, (&x.device().without_autodiff(), x.dtype()))
    }
}

impl Block {
    /// The projection that holds a target's outputs, and the first of them.
    fn stacked(&mut self, target: LoraTarget, config: &DecoderConfig) -> (&mut Projection, usize) {
        let (queries, keys) = (config.query_width(), config.kv_width());
        match target {
            LoraTarget::Query => (&mut self.qkv, 0),
            LoraTarget::Key => (&mut self.qkv, queries),
            LoraTarget::Value => (&mut self.qkv, queries + keys),
            LoraTarget::Output => (&mut self.out, 0),
            LoraTarget::Gate => (&mut self.gate_up, 0),
            LoraTarget::Up => (&mut self.gate_up, config.d_ff),
            LoraTarget::Down => (&mut self.down, 0),
        }
    }

    pub(super) fn projections(&mut self) -> [&mut Projection; 4] {
        [&mut self.qkv, &mut self.out, &mut self.gate_up, &mut self.down]
    }

    fn updates(&self) -> impl Iterator<Item = &LoraUpdate> {
        [&self.qkv, &self.out, &self.gate_up, &self.down].into_iter().flat_map(|projection| &projection.lora)
    }
}

fn matrix(values: &[f32], shape: [usize; 2], device: &Device) -> Tensor<2> {
    Tensor::from_data(TensorData::new(values.to_vec(), shape), (device, DType::F32))
}

impl Decoder {
    /// The decoder with an adapter on it, above those that it has already; its own weights are shared, not copied, so that
    /// putting adapters on and taking them off costs their own size alone. `weight` multiplies the adapter's scale: 1 is
    /// the adapter as it was trained.
    ///
    /// # Errors
    /// [`Error::BadAdapter`] for one that does not fit, [`Error::BadOption`] for a weight that is not finite.
    pub fn with_adapter(&self, adapter: &Adapter, weight: f64) -> Result<Self> {
        adapter.check(self.config())?;
        if !weight.is_finite() {
            return Err(Error::BadOption { reason: format!("an adapter's weight is {weight}") });
        }
        let mut decoder = self.clone();
        let config = Arc::new(adapter.config().clone());
        let device = self.device().without_autodiff();
        let (number, scale) = (self.adapters(), config.scale() * weight);
        let architecture = self.config.clone();
        for (&(block, target), LoraWeights { a, b, inputs, outputs }) in adapter.weights() {
            let (projection, first) = decoder.blocks[block].stacked(target, &architecture);
            let config = config.clone();
            projection.lora.push(LoraUpdate {
                a: Param::from_tensor(matrix(a, [config.rank, *inputs], &device)),
                b: Param::from_tensor(matrix(b, [*outputs, config.rank], &device)),
                place: Place { adapter: number, block, target, first, scale, config, dropped: None },
            });
        }
        Ok(decoder)
    }

    /// How many adapters are on it.
    pub fn adapters(&self) -> usize {
        let numbers = self.blocks.iter().flat_map(Block::updates).map(|update| update.place.adapter + 1);
        numbers.max().unwrap_or(0)
    }

    /// The decoder without adapters.
    #[must_use]
    pub fn without_adapters(&self) -> Self {
        let mut decoder = self.clone();
        decoder.blocks.iter_mut().flat_map(Block::projections).for_each(|projection| projection.lora.clear());
        decoder
    }

    /// Reads an adapter back, counted from 0 in the order in which they were put on; its weight is not part of it.
    ///
    /// # Errors
    /// [`Error::BadAdapter`] where there is no such adapter or its values are not finite, [`Error::Device`].
    pub fn adapter(&self, number: usize) -> Result<Adapter> {
        let mut weights = BTreeMap::new();
        let mut config = None;
        for update in self.blocks.iter().flat_map(Block::updates).filter(|update| update.place.adapter == number) {
            let ([_, inputs], [outputs, _]) = (update.a.val().dims(), update.b.val().dims());
            let a = to_f32(update.a.val().without_autodiff())?;
            let b = to_f32(update.b.val().without_autodiff())?;
            weights.insert((update.place.block, update.place.target), LoraWeights { a, b, inputs, outputs });
            config = Some(update.place.config.clone());
        }
        let Some(config) = config else {
            let reason = format!("adapter {number} was asked for of a decoder that has {}", self.adapters());
            return Err(Error::BadAdapter { reason });
        };
        Adapter::new((*config).clone(), None, weights)
    }

    /// The decoder with its adapters' updates added to its weights, and no adapters: it computes the same up to rounding,
    /// at its own speed, and can be saved. Updates of the same weights are summed in f32 first, so that the sum with a weight is
    /// rounded to the weights' type once. Quantized weights become the values that they stand for first.
    #[must_use]
    pub fn merged(&self) -> Self {
        let mut decoder = self.plain().dequantized();
        for projection in decoder.blocks.iter_mut().flat_map(Block::projections) {
            let mut deltas: BTreeMap<usize, Tensor<2>> = BTreeMap::new();
            for update in std::mem::take(&mut projection.lora) {
                let Place { first, scale, .. } = update.place;
                let delta = update.b.val().matmul(update.a.val()) * scale;
                let sum = match deltas.remove(&first) {
                    Some(sum) => sum + delta,
                    None => delta,
                };
                deltas.insert(first, sum);
            }
            for (first, delta) in deltas {
                projection.weight = projection.weight.clone().map(|weight| {
                    let ([_, inputs], [outputs, _]) = (weight.dims(), delta.dims());
                    let rows = [first..first + outputs, 0..inputs];
                    let sum = weight.clone().slice(rows.clone()).cast(DType::F32) + delta;
                    let sum = sum.cast(weight.dtype());
                    weight.slice_assign(rows, sum)
                });
            }
        }
        decoder
    }

    /// A copy whose topmost adapter is to be trained: its matrices want gradients, and nothing else does. The decoder's own
    /// weights stay on the plain device, where what comes before the first update is computed without a graph.
    ///
    /// # Errors
    /// [`Error::BadAdapter`] without one.
    pub fn trainable_adapter(&self) -> Result<Self> {
        let Some(last) = self.adapters().checked_sub(1) else {
            return Err(Error::BadAdapter { reason: "there is none to train".into() });
        };
        let mut decoder = self.plain();
        for update in decoder.blocks.iter_mut().flat_map(Block::projections).flat_map(|projection| &mut projection.lora)
        {
            if update.place.adapter == last {
                let track = |param: &Param<Tensor<2>>| Param::from_tensor(param.val().autodiff().require_grad());
                (update.a, update.b) = (track(&update.a), track(&update.b));
            }
        }
        Ok(decoder)
    }

    /// Drops inputs of the adapters' updates, as their settings say, chosen by a seed; `None` drops none. Give every
    /// training pass a seed of its own.
    #[must_use]
    pub fn with_dropout(mut self, seed: Option<u64>) -> Self {
        let projections = self.blocks.iter_mut().flat_map(Block::projections);
        projections.flat_map(|projection| &mut projection.lora).for_each(|update| update.place.dropped = seed);
        self
    }

    /// The layer above which the lowest parameter that wants a gradient stands: the embeddings, or a block's input. `None`
    /// where no block's parameter and not the embedding wants one.
    pub fn lowest_tracked(&self) -> Option<Layer> {
        if self.embedding.val().is_require_grad() {
            return Some(Layer::EMBEDDINGS);
        }
        let tracked = |block: &Block| {
            block.qkv.weight.val().is_require_grad() || block.updates().any(|update| update.a.val().is_require_grad())
        };
        self.blocks.iter().position(tracked).map(Layer::hidden_state)
    }
}
