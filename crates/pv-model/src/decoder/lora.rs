//! Low-rank adapters on a decoder: adding, removing, training, reading back and merging them.

use std::collections::BTreeMap;
use std::sync::Arc;

use burn::module::{Module, Param};
use burn::tensor::{DType, Device, Tensor, TensorData};
use pv_hooks::Layer;
use rand::rngs::ChaCha8Rng;
use rand::{RngExt, SeedableRng};

use super::{Block, Decoder, Weight};
use crate::adapter::AdapterError;
use crate::adapter::{Adapter, LoraConfig, LoraTarget, LoraWeights};
use crate::config::BlockParts;
use crate::ops::{self, LoraPlace, LoraTerm};
use crate::tensors::to_f32;
use crate::{Error, Result};

/// A low-rank update of some outputs of a projection: scale · B·A, which is never materialised.
#[derive(Module, Debug)]
pub struct LoraUpdate {
    /// `[rank, in]`, in f32 whatever the projection's type.
    pub a: Param<Tensor<2>>,
    /// `[out, rank]`, in f32.
    pub b: Param<Tensor<2>>,
    #[module(skip)]
    place: Place,
}

/// The data of an update that are not parameters.
#[derive(Clone, Debug)]
struct Place {
    /// The index of the adapter on the decoder.
    adapter: usize,
    block: usize,
    target: LoraTarget,
    /// The first updated output of the stacked projection.
    first: usize,
    /// The adapter's scale times its weight.
    scale: f64,
    config: Arc<LoraConfig>,
    /// The dropout seed; `None` outside of training.
    dropped: Option<u64>,
}

impl LoraUpdate {
    /// Adds the updates of inputs `x` `[tokens, in]` to the output `y` of the stacked projection.
    pub(super) fn add_all(updates: &[Self], y: Tensor<2>, x: &Tensor<2>) -> Tensor<2> {
        // With dropout, each update drops other inputs and needs its own copy.
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

    /// The inputs with dropout: some are zero, the others are scaled so that the mean is unchanged. The choice depends
    /// only on the seed, the block and the projection.
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
    fn updates(&self) -> impl Iterator<Item = &LoraUpdate> {
        self.projections().flat_map(|projection| &projection.lora)
    }
}

fn matrix(values: &[f32], shape: [usize; 2], device: &Device) -> Tensor<2> {
    Tensor::from_data(TensorData::new(values.to_vec(), shape), (device, DType::F32))
}

impl Decoder {
    /// The decoder with an adapter, added to its present ones. Its own weights are shared, not copied, so that adding
    /// and removing an adapter costs only the adapter's size. `weight` multiplies the adapter's scale; 1 is the adapter
    /// as trained.
    ///
    /// # Errors
    /// [`Error::Adapter`] for an adapter that does not match, [`Error::BadOption`] for a weight that is not finite.
    pub fn with_adapter(&self, adapter: &Adapter, weight: f64) -> Result<Self> {
        adapter.check(self.config())?;
        if !weight.is_finite() {
            let (name, value) = ("the adapter's weight", weight.to_string());
            return Err(Error::BadOption { name, value, expected: "a finite number" });
        }
        let mut decoder = self.clone();
        let config = Arc::new(adapter.config().clone());
        let device = self.device().without_autodiff();
        let (number, scale) = (self.adapters(), config.scale() * weight);
        for (&(block, target), LoraWeights { a, b, inputs, outputs }) in adapter.weights() {
            let parts = BlockParts::of(&self.config, block);
            let place = parts.projection(target.role()).zip(decoder.blocks[block].projection_mut(target.role()));
            let Some(((stored, _), projection)) = place else { continue };
            let (config, first) = (config.clone(), stored.first);
            projection.lora.push(LoraUpdate {
                a: Param::from_tensor(matrix(a, [config.rank, *inputs], &device)),
                b: Param::from_tensor(matrix(b, [*outputs, config.rank], &device)),
                place: Place { adapter: number, block, target, first, scale, config, dropped: None },
            });
        }
        Ok(decoder)
    }

    /// The number of adapters.
    pub fn adapters(&self) -> usize {
        let numbers = self.blocks.iter().flat_map(Block::updates).map(|update| update.place.adapter + 1);
        numbers.max().unwrap_or(0)
    }

    /// The decoder without adapters.
    #[must_use]
    pub fn without_adapters(&self) -> Self {
        let mut decoder = self.clone();
        decoder.blocks.iter_mut().flat_map(Block::projections_mut).for_each(|projection| projection.lora.clear());
        decoder
    }

    /// Reads an adapter back by its index, from 0, in the order in which adapters were added. Its weight is not part of
    /// it.
    ///
    /// # Errors
    /// [`Error::Adapter`] if there is no such adapter or its values are not finite,
    /// [`DeviceError::Failed`](crate::device::DeviceError::Failed).
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
            return Err(AdapterError::NotFound { number, adapters: self.adapters() }.into());
        };
        Ok(Adapter::new((*config).clone(), None, weights)?.for_model(self.config()))
    }

    /// The decoder with its adapters' updates added to its weights, without adapters. Its results are equal up to
    /// rounding; it runs at the speed of a plain decoder and can be saved. Updates of the same weights are summed in
    /// f32 first, so that the result is rounded to the weights' type once. Quantized weights are dequantized first;
    /// packed matrices in 16 bits become tensors in f32 where there is an update.
    #[must_use]
    pub fn merged(&self) -> Self {
        let mut decoder = self.plain().with_tensors(Weight::is_quantized);
        for projection in decoder.blocks.iter_mut().flat_map(Block::projections_mut) {
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

    /// A copy for training the last adapter: only its matrices have gradients. The decoder's own weights stay on the
    /// device without autodiff; everything before the first update is computed without a graph.
    ///
    /// # Errors
    /// [`AdapterError::NotFound`] for a decoder without adapters.
    pub fn trainable_adapter(&self) -> Result<Self> {
        let Some(last) = self.adapters().checked_sub(1) else {
            return Err(AdapterError::NotFound { number: 0, adapters: 0 }.into());
        };
        let mut decoder = self.plain();
        for update in
            decoder.blocks.iter_mut().flat_map(Block::projections_mut).flat_map(|projection| &mut projection.lora)
        {
            if update.place.adapter == last {
                let track = |param: &Param<Tensor<2>>| Param::from_tensor(param.val().autodiff().require_grad());
                (update.a, update.b) = (track(&update.a), track(&update.b));
            }
        }
        Ok(decoder)
    }

    /// Enables dropout of the inputs of the adapters' updates, according to their settings, with a seed; `None`
    /// disables it. Use a new seed for every training pass.
    #[must_use]
    pub fn with_dropout(mut self, seed: Option<u64>) -> Self {
        let projections = self.blocks.iter_mut().flat_map(Block::projections_mut);
        projections.flat_map(|projection| &mut projection.lora).for_each(|update| update.place.dropped = seed);
        self
    }

    /// The layer before the lowest parameter with a gradient: the embeddings, or a block's input. `None` if neither a
    /// block's parameter nor the embedding has a gradient.
    pub fn lowest_tracked(&self) -> Option<Layer> {
        if self.embedding.is_require_grad() {
            return Some(Layer::EMBEDDINGS);
        }
        let tracked = |block: &Block| {
            block.qkv.weight.is_require_grad() || block.updates().any(|update| update.a.val().is_require_grad())
        };
        self.blocks.iter().position(tracked).map(Layer::hidden_state)
    }
}
