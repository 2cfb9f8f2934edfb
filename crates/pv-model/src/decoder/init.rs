//! Random weights, to train a decoder from nothing.

use burn::tensor::{DType, Device, Tensor, TensorData};
use rand::rngs::ChaCha8Rng;
use rand::{RngExt, SeedableRng};

use super::{Block, Decoder, Projection};
use crate::config::{DecoderConfig, MlpBias, OutputHead, QkNorm};
use crate::{Error, Result};

/// The standard deviation of embeddings and projections, Hugging Face's `initializer_range`.
const STD: f64 = 0.02;

/// Draws weights on the host, so that they depend on the seed and not on the device.
struct Init<'a> {
    random: ChaCha8Rng,
    device: &'a Device,
    /// The second number of the last pair of normal numbers.
    spare: Option<f64>,
}

impl Init<'_> {
    /// One number from the standard normal distribution (Box and Muller's polar-free form).
    fn normal(&mut self) -> f64 {
        if let Some(spare) = self.spare.take() {
            return spare;
        }
        // In (0, 1], whose logarithm is finite.
        let radius = (-2.0 * (1.0 - self.random.random::<f64>()).ln()).sqrt();
        let (sin, cos) = (self.random.random::<f64>() * std::f64::consts::TAU).sin_cos();
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

    fn projection(&mut self, rows: usize, columns: usize, std: f64, bias: bool) -> Projection {
        let weight = self.matrix(rows, columns, std);
        Projection::new(weight, bias.then(|| self.constant(rows, 0.0)))
    }

    fn block(&mut self, config: &DecoderConfig) -> Block {
        let (queries, d_model, d_ff) = (config.query_width(), config.d_model, config.d_ff);
        let mlp_bias = config.mlp_bias == MlpBias::All;
        let attention = config.attention_bias;
        // What a block adds to the residual starts small enough that the sum over all blocks does not grow with them.
        let last = STD / (2.0 * config.layers as f64).sqrt();
        let norm = (config.qk_norm == QkNorm::PerHead)
            .then(|| (self.constant(config.head_dim, 1.0), self.constant(config.head_dim, 1.0)));
        Block::new(
            self.constant(d_model, 1.0),
            self.projection(queries + 2 * config.kv_width(), d_model, STD, attention.on_qkv()),
            norm,
            self.projection(d_model, queries, last, attention.on_output()),
            self.constant(d_model, 1.0),
            self.projection(2 * d_ff, d_model, STD, mlp_bias),
            self.projection(d_model, d_ff, last, mlp_bias),
        )
    }
}

impl Decoder {
    /// A decoder with random weights in f32: embeddings and projections from a normal distribution of standard
    /// deviation 0.02 (divided by √(2·layers) where a projection writes to the residual), norms one, biases zero.
    ///
    /// The same seed gives the same weights on every device.
    ///
    /// # Errors
    /// A configuration that no decoder can have, or [`Error::DtypeUnsupported`].
    pub fn init(config: DecoderConfig, seed: u64, device: &Device) -> Result<Self> {
        config.validate()?;
        if !device.supports_dtype(DType::F32) {
            return Err(Error::DtypeUnsupported { device: format!("{device:?}"), dtype: "F32".to_owned() });
        }
        let mut init = Init { random: ChaCha8Rng::seed_from_u64(seed), device, spare: None };
        let embedding = init.matrix(config.vocab, config.d_model, STD);
        let blocks = (0..config.layers).map(|_| init.block(&config)).collect();
        let norm = init.constant(config.d_model, 1.0);
        let untied = config.output_head == OutputHead::Untied;
        let head = untied.then(|| init.matrix(config.vocab, config.d_model, STD));
        Ok(Self::new(config, embedding, blocks, norm, head))
    }
}
