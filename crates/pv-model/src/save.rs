//! From a decoder to the files of a model folder.

use std::borrow::Cow;
use std::collections::HashMap;
use std::path::Path;

use burn::module::Param;
use burn::tensor::{DType, Tensor};
use half::{bf16, f16};
use safetensors::tensor::{Dtype, View};

use crate::config::DecoderConfig;
use crate::decoder::{Decoder, Projection};
use crate::families::expected_tensors;
use crate::weights::StoredDtype;
use crate::whole_file::{persist, temporary};
use crate::{Error, Result, to_f32};

/// One tensor of the file; its values are converted when they are written, so that one copy is in memory at a time.
struct Stored {
    shape: Vec<usize>,
    values: Vec<f32>,
    dtype: StoredDtype,
}

impl View for Stored {
    fn dtype(&self) -> Dtype {
        match self.dtype {
            StoredDtype::F32 => Dtype::F32,
            StoredDtype::F16 => Dtype::F16,
            StoredDtype::BF16 => Dtype::BF16,
        }
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        let values = self.values.iter();
        Cow::Owned(match self.dtype {
            StoredDtype::F32 => values.flat_map(|v| v.to_le_bytes()).collect(),
            StoredDtype::F16 => values.flat_map(|v| f16::from_f32(*v).to_le_bytes()).collect(),
            StoredDtype::BF16 => values.flat_map(|v| bf16::from_f32(*v).to_le_bytes()).collect(),
        })
    }

    fn data_len(&self) -> usize {
        self.values.len() * if self.dtype == StoredDtype::F32 { 4 } else { 2 }
    }
}

/// The values of every tensor under the name it has in a checkpoint.
struct Named<'a> {
    config: &'a DecoderConfig,
    values: HashMap<String, Vec<f32>>,
}

impl Named<'_> {
    fn whole<const D: usize>(&mut self, name: String, tensor: &Param<Tensor<D>>) -> Result<()> {
        self.values.insert(name, to_f32(tensor.val().without_autodiff())?);
        Ok(())
    }

    fn in_block<const D: usize>(&mut self, block: usize, name: &str, tensor: &Param<Tensor<D>>) -> Result<()> {
        self.whole(self.config.names.in_block(block, name), tensor)
    }

    /// Takes a stacked tensor apart along its first dimension, into parts of so many rows.
    fn split<const D: usize>(&mut self, stacked: &Param<Tensor<D>>, parts: &[(String, usize)]) -> Result<()> {
        let values = to_f32(stacked.val().without_autodiff())?;
        let rows: usize = parts.iter().map(|(_, rows)| rows).sum();
        let mut rest = values.as_slice();
        for (name, part) in parts {
            let (here, after) = rest.split_at(part * values.len() / rows);
            self.values.insert(name.clone(), here.to_vec());
            rest = after;
        }
        Ok(())
    }

    fn projection(&mut self, block: usize, projection: &Projection, parts: &[(&str, usize)]) -> Result<()> {
        let named = |kind: &str| -> Vec<_> {
            let name = |part: &str| self.config.names.in_block(block, &format!("{part}.{kind}"));
            parts.iter().map(|(part, rows)| (name(part), *rows)).collect()
        };
        let (weights, biases) = (named("weight"), named("bias"));
        self.split(&projection.weight, &weights)?;
        projection.bias.as_ref().map_or(Ok(()), |bias| self.split(bias, &biases))
    }
}

impl Decoder {
    /// Writes the decoder to a folder, which is made where it does not exist: `config.json` and `model.safetensors`, in
    /// the form that Hugging Face's `transformers` and [`Decoder::from_folder`] read. Each file is written under
    /// another name first, so that none is ever seen half-written.
    ///
    /// `dtype` is that of the file, `F32`, `F16` or `BF16`; values are rounded to it. Quantized weights are written as the values that
    /// they stand for.
    ///
    /// # Errors
    /// [`Error::UnmergedAdapters`], [`Error::ConfigUnsupported`] for a configuration that its family's `config.json` cannot express,
    /// [`Error::BadOption`] for another type, [`Error::Write`].
    pub fn save(&self, folder: impl AsRef<Path>, dtype: DType) -> Result<()> {
        let folder = folder.as_ref();
        if self.adapters() > 0 {
            return Err(Error::UnmergedAdapters { adapters: self.adapters() });
        }
        let stored = match dtype {
            DType::F32 => StoredDtype::F32,
            DType::F16 => StoredDtype::F16,
            DType::BF16 => StoredDtype::BF16,
            other => return Err(Error::BadOption { reason: format!("weights cannot be saved as {other:?}") }),
        };
        let config = DecoderConfig { stored_dtype: Some(stored), ..self.config().clone() };
        let json = serde_json::to_vec_pretty(&config.to_json()?)
            .map_err(|source| Error::Json { path: folder.join("config.json"), source })?;
        std::fs::create_dir_all(folder).map_err(|source| Error::Write { path: folder.to_owned(), source })?;
        let mut values = self.dequantized().named_values()?;
        let tensors = expected_tensors(&config).map(|tensor| {
            let values = values.remove(&tensor.name).unwrap_or_default();
            (tensor.name, Stored { shape: tensor.shape, values, dtype: stored })
        });
        let tensors: Vec<_> = tensors.collect();
        let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
        write_with(&folder.join("model.safetensors"), |path| {
            safetensors::serialize_to_file(tensors, Some(metadata), path).map_err(std::io::Error::other)
        })?;
        write_with(&folder.join("config.json"), |path| std::fs::write(path, &json))
    }

    fn named_values(&self) -> Result<HashMap<String, Vec<f32>>> {
        let config = self.config();
        let names = &config.names;
        let (queries, keys, d_model, d_ff) = (config.query_width(), config.kv_width(), config.d_model, config.d_ff);
        let mut named = Named { config, values: HashMap::new() };
        named.whole(names.embedding.to_owned(), &self.embedding)?;
        for (index, block) in self.blocks.iter().enumerate() {
            named.in_block(index, names.attention_norm, &block.attention_norm)?;
            let qkv = [(names.query, queries), (names.key, keys), (names.value, keys)];
            named.projection(index, &block.qkv, &qkv)?;
            if let (Some(q), Some(k)) = (&block.q_norm, &block.k_norm) {
                named.in_block(index, names.query_norm, q)?;
                named.in_block(index, names.key_norm, k)?;
            }
            named.projection(index, &block.out, &[(names.output, d_model)])?;
            named.in_block(index, names.mlp_norm, &block.mlp_norm)?;
            named.projection(index, &block.gate_up, &[(names.gate, d_ff), (names.up, d_ff)])?;
            named.projection(index, &block.down, &[(names.down, d_model)])?;
        }
        named.whole(names.final_norm.to_owned(), &self.norm)?;
        if let Some(head) = &self.head {
            named.whole(names.output_head.to_owned(), head)?;
        }
        Ok(named.values)
    }
}

/// Lets `write` fill a temporary file beside `path`, which then takes its place.
pub(crate) fn write_with(path: &Path, write: impl FnOnce(&Path) -> std::io::Result<()>) -> Result<()> {
    let failed = |source| Error::Write { path: path.to_owned(), source };
    let (file, _) = temporary(path).map_err(failed)?;
    // By its path, where what was written may be another file than the one that was made.
    let written = write(file.path()).and_then(|()| std::fs::File::open(file.path())?.sync_all());
    written.and_then(|()| persist(file, path)).map_err(failed)
}

#[cfg(test)]
mod tests;
