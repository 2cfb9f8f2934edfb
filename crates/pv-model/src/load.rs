//! From checked weight files to a decoder on a device.

use std::path::Path;

use burn::tensor::{DType, Device, Tensor, TensorData};
use half::{bf16, f16};
use serde::{Deserialize, Serialize};

use crate::config::{DecoderConfig, MlpBias, OutputHead, QkNorm};
use crate::decoder::{Block, Decoder, Projection};
use crate::families::expected_tensors;
use crate::weights::{RawTensor, WeightFiles};
use crate::{Error, Result, memory};

/// Reads weights one tensor at a time, converting each to the compute type on its way to the device.
struct Loader<'a> {
    files: &'a WeightFiles,
    device: &'a Device,
    dtype: DType,
}

impl Loader<'_> {
    /// Stacks tensors along their first dimension; all have the same other dimensions.
    fn stacked<const D: usize>(&self, names: &[String]) -> Result<Tensor<D>> {
        let parts = names.iter().map(|name| self.files.get(name)).collect::<Result<Vec<_>>>()?;
        let mut shape = parts[0].shape.clone();
        shape[0] = parts.iter().map(|part| part.shape[0]).sum();
        let data = match self.dtype {
            DType::F16 => TensorData::new(converted(&parts, f16::ZERO, |part, out| part.to_f16_into(out))?, shape),
            DType::BF16 => TensorData::new(converted(&parts, bf16::ZERO, |part, out| part.to_bf16_into(out))?, shape),
            _ => TensorData::new(converted(&parts, 0f32, |part, out| part.to_f32_into(out))?, shape),
        };
        names.iter().for_each(|name| self.files.release(name));
        Ok(Tensor::from_data(data, (self.device, self.dtype)))
    }

    fn one<const D: usize>(&self, name: &str) -> Result<Tensor<D>> {
        self.stacked(&[name.to_owned()])
    }

    fn projection(&self, config: &DecoderConfig, block: usize, parts: &[&str], bias: bool) -> Result<Projection> {
        let names = |kind: &str| {
            parts.iter().map(|part| config.names.in_block(block, &format!("{part}.{kind}"))).collect::<Vec<_>>()
        };
        let bias = bias.then(|| self.stacked(&names("bias"))).transpose()?;
        Ok(Projection::new(self.stacked(&names("weight"))?, bias))
    }

    fn block(&self, config: &DecoderConfig, block: usize) -> Result<Block> {
        let names = &config.names;
        let vector = |name: &str| self.one::<1>(&names.in_block(block, name));
        let normed = config.qk_norm == QkNorm::PerHead;
        let mlp_bias = config.mlp_bias == MlpBias::All;
        let attention = config.attention_bias;
        Ok(Block::new(
            vector(names.attention_norm)?,
            self.projection(config, block, &[names.query, names.key, names.value], attention.on_qkv())?,
            normed.then(|| Ok::<_, Error>((vector(names.query_norm)?, vector(names.key_norm)?))).transpose()?,
            self.projection(config, block, &[names.output], attention.on_output())?,
            vector(names.mlp_norm)?,
            self.projection(config, block, &[names.gate, names.up], mlp_bias)?,
            self.projection(config, block, &[names.down], mlp_bias)?,
        ))
    }
}

/// The values of all parts, one after another, in the type of `zero`.
fn converted<T: Copy>(
    parts: &[RawTensor<'_>],
    zero: T,
    convert: impl Fn(&RawTensor<'_>, &mut [T]) -> Result<()>,
) -> Result<Vec<T>> {
    let mut values = vec![zero; parts.iter().map(RawTensor::values).sum()];
    let mut rest = values.as_mut_slice();
    for part in parts {
        let (here, after) = rest.split_at_mut(part.values());
        convert(part, here)?;
        rest = after;
    }
    Ok(values)
}

/// How a model is loaded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LoadOptions {
    /// Loads a model onto the CPU even when its weights are larger than the memory that is free. The system may then end the
    /// process.
    pub ignore_memory: bool,
}

impl Decoder {
    /// As [`Decoder::from_folder_with`], with the default options.
    ///
    /// # Errors
    /// As [`Decoder::from_folder_with`].
    pub fn from_folder(folder: impl AsRef<Path>, device: &Device, dtype: DType) -> Result<Self> {
        Self::from_folder_with(folder, device, dtype, &LoadOptions::default())
    }

    /// Reads `config.json` and the weights of a model folder.
    ///
    /// Weights go tensor by tensor from a memory map to the device, so that little more than the model itself is ever
    /// in memory.
    ///
    /// # Errors
    /// Anything wrong with the files (see [`Error`]), [`Error::DtypeUnsupported`], or [`Error::NotEnoughMemory`] before anything
    /// large is read.
    pub fn from_folder_with(
        folder: impl AsRef<Path>,
        device: &Device,
        dtype: DType,
        options: &LoadOptions,
    ) -> Result<Self> {
        if !device.supports_dtype(dtype) {
            return Err(Error::DtypeUnsupported { device: format!("{device:?}"), dtype: format!("{dtype:?}") });
        }
        let folder = folder.as_ref();
        let mut config = DecoderConfig::from_folder(folder)?;
        let files = WeightFiles::open(folder)?;
        config.output_head = files.output_head(config.output_head, &config.names)?;
        files.check(&expected_tensors(&config).collect::<Vec<_>>())?;
        if !options.ignore_memory {
            memory::check(folder, &config, device, dtype)?;
        }
        let loader = Loader { files: &files, device, dtype };
        let embedding = loader.one(config.names.embedding)?;
        let blocks = (0..config.layers).map(|block| loader.block(&config, block)).collect::<Result<_>>()?;
        let norm = loader.one(config.names.final_norm)?;
        let untied = config.output_head == OutputHead::Untied;
        let head = untied.then(|| loader.one(config.names.output_head)).transpose()?;
        Ok(Self::new(config, embedding, blocks, norm, head))
    }
}
