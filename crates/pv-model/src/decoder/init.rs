//! Random weights, for training a decoder from scratch.

use std::convert::Infallible;

use burn::tensor::{DType, Device, Tensor, TensorData};
use rand::rngs::ChaCha8Rng;
use rand::{RngExt, SeedableRng};

use super::{Block, BlockSource, Decoder, Projection};
use crate::config::{BlockParts, DecoderConfig, NormWeights, OutputHead, Role, Stack};
use crate::device::DeviceError;

/// The standard deviation of embeddings and projections, Hugging Face's `initializer_range`.
const STD: f64 = 0.02;

/// Draws weights on the host, so that they depend on the seed and not on the device.
struct Init<'a> {
    random: ChaCha8Rng,
    device: &'a Device,
    /// The second number of the last pair of normal numbers.
    spare: Option<f64>,
    /// The standard deviation of projections to the residual. A block's contribution to the residual starts small enough
    /// that the sum over all blocks does not grow with their number.
    last_std: f64,
    /// The weight of norms with the factor one.
    norm: f32,
}

impl Init<'_> {
    /// One number from the standard normal distribution (trigonometric form of Box and Muller).
    fn normal(&mut self) -> f64 {
        if let Some(spare) = self.spare.take() {
            return spare;
        }
        // In (0, 1], whose logarithm is finite.
        let radius = (-2.0 * libm::log(1.0 - self.random.random::<f64>())).sqrt();
        let (sin, cos) = libm::sincos(self.random.random::<f64>() * std::f64::consts::TAU);
        self.spare = Some(radius * sin);
        radius * cos
    }

    fn matrix(&mut self, rows: usize, columns: usize, std: f64) -> Tensor<2> {
        let values: Vec<f32> = (0..rows * columns).map(|_| (self.normal() * std) as f32).collect();
        Tensor::from_data(TensorData::new(values, [rows, columns]), (self.device, DType::F32))
    }

    fn constant(&self, width: usize, value: f32) -> Tensor<1> {
        Tensor::from_data(TensorData::new(vec![value; width], [width]), (self.device, DType::F32))
    }
}

impl BlockSource for Init<'_> {
    type Error = Infallible;

    fn norm(&mut self, stack: &Stack) -> Result<Tensor<1>, Infallible> {
        let sinks = stack.parts.iter().any(|part| part.role == Role::Sinks);
        Ok(self.constant(stack.rows(), if sinks { 0.0 } else { self.norm }))
    }

    fn projection(&mut self, stack: &Stack) -> Result<Projection, Infallible> {
        let to_residual = stack.parts.iter().any(|part| matches!(part.role, Role::Output | Role::Down));
        let std = if to_residual { self.last_std } else { STD };
        let weight = self.matrix(stack.rows(), stack.inputs.unwrap_or(0), std);
        Ok(Projection::new(weight, stack.bias.then(|| self.constant(stack.rows(), 0.0))))
    }
}

impl Decoder {
    /// A decoder with random weights in f32: embeddings and projections from a normal distribution of standard
    /// deviation 0.02 (divided by √(2·layers) for projections to the residual), norms with
    /// the factor one, biases and sinks zero.
    ///
    /// The same seed gives the same weights on every device.
    ///
    /// # Errors
    /// An invalid configuration, or [`DeviceError::DtypeUnsupported`].
    pub fn init(config: DecoderConfig, seed: u64, device: &Device) -> crate::Result<Self> {
        config.validate()?;
        if !device.supports_dtype(DType::F32) {
            return Err(DeviceError::DtypeUnsupported { device: format!("{device:?}"), dtype: "F32".to_owned() }.into());
        }
        let norm = match config.norm_weights {
            NormWeights::Factors => 1.0,
            NormWeights::OnePlus => 0.0,
        };
        let last_std = STD / (2.0 * config.layers as f64).sqrt();
        let mut init = Init { random: ChaCha8Rng::seed_from_u64(seed), device, spare: None, last_std, norm };
        let embedding = init.matrix(config.vocab, config.d_model, STD);
        let blocks = (0..config.layers).map(|block| Block::from_source(&BlockParts::of(&config, block), &mut init));
        let Ok(blocks) = blocks.collect::<std::result::Result<_, Infallible>>();
        let norm = init.constant(config.d_model, norm);
        let untied = config.output_head == OutputHead::Untied;
        let head = untied.then(|| init.matrix(config.vocab, config.d_model, STD));
        Ok(Self::new(config, embedding.into(), blocks, norm, head.map(Into::into)))
    }
}
