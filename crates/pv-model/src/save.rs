//! From a decoder to the files of a model folder.

pub(crate) mod beside;

use std::collections::HashMap;
use std::io::{BufWriter, Write};
use std::path::Path;

use burn::module::Param;
use burn::tensor::{DType, Tensor};
use half::{bf16, f16};
use pv_data::FileError;
use pv_data::files::WholeFile;
use serde_json::{Map, Value, json};

use crate::config::DecoderConfig;
use crate::decoder::{Decoder, Projection};
use crate::families::{ExpectedTensor, expected_tensors};
use crate::weights::StoredDtype;
use crate::{Error, Result, to_f32};

/// So many values are taken from the device and converted at a time.
const CHUNK: usize = 4 << 20;

/// The tensor of the decoder that holds a checkpoint's tensor.
#[derive(Clone, Copy)]
enum Holder<'a> {
    Matrix(&'a Param<Tensor<2>>),
    Vector(&'a Param<Tensor<1>>),
    Weight(&'a Projection),
}

/// A tensor of a checkpoint: so many rows of one of the decoder's.
#[derive(Clone, Copy)]
struct Part<'a> {
    holder: Holder<'a>,
    first: usize,
    rows: usize,
}

impl Part<'_> {
    /// Hands the values over, in order, a few million at a time.
    fn each_chunk(&self, dtype: DType, mut give: impl FnMut(&[f32]) -> Result<()>) -> Result<()> {
        let Self { holder, first, rows } = *self;
        let matrix = match holder {
            Holder::Vector(vector) => {
                return give(&to_f32(vector.val().without_autodiff().slice(first..first + rows))?);
            }
            Holder::Matrix(matrix) => matrix.val(),
            Holder::Weight(projection) => projection.weight_in(dtype),
        };
        let matrix = matrix.without_autodiff();
        let [_, width] = matrix.dims();
        let step = (CHUNK / width).max(1);
        for start in (first..first + rows).step_by(step) {
            let end = (start + step).min(first + rows);
            give(&to_f32(matrix.clone().slice([start..end, 0..width]))?)?;
        }
        Ok(())
    }
}

impl Decoder {
    /// Writes the decoder to a folder, which is made where it does not exist: `config.json` and `model.safetensors`, in
    /// the form that Hugging Face's `transformers` and [`Decoder::from_folder`] read. Each file is written under
    /// another name first, so that none is ever seen half-written. Values go to the file a few million at a time: beside the
    /// decoder itself, only those are in memory.
    ///
    /// `dtype` is that of the file, `F32`, `F16` or `BF16`; values are rounded to it. Quantized weights are written as the values that
    /// they stand for.
    ///
    /// # Errors
    /// [`Error::UnmergedAdapters`], [`Error::ConfigUnsupported`] for a configuration that its family's `config.json` cannot express,
    /// [`Error::BadOption`] for another type, [`FileError::Write`](pv_data::FileError::Write).
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
        std::fs::create_dir_all(folder).map_err(|source| FileError::Write { path: folder.to_owned(), source })?;
        self.write_weights(&folder.join("model.safetensors"), stored)?;
        write_with(&folder.join("config.json"), |path| std::fs::write(path, &json))
    }

    fn write_weights(&self, path: &Path, stored: StoredDtype) -> Result<()> {
        let failed = |source| FileError::Write { path: path.to_owned(), source };
        let tensors: Vec<ExpectedTensor> = expected_tensors(self.config()).collect();
        let parts = self.parts();
        let mut out = BufWriter::with_capacity(1 << 20, WholeFile::create(path)?);
        out.write_all(&header(&tensors, stored)).map_err(failed)?;
        let dtype = self.dtype();
        for tensor in &tensors {
            let part = parts
                .get(&tensor.name)
                .ok_or_else(|| Error::MissingTensors { path: path.to_owned(), names: vec![tensor.name.clone()] })?;
            part.each_chunk(dtype, |values| Ok(out.write_all(&encoded(values, stored)).map_err(failed)?))?;
        }
        let file = out.into_inner().map_err(|error| failed(error.into_error()))?;
        Ok(file.finish()?)
    }

    /// Where each tensor of a checkpoint is held.
    fn parts(&self) -> HashMap<String, Part<'_>> {
        let config = self.config();
        let names = &config.names;
        let (queries, keys, d_model, d_ff) = (config.query_width(), config.kv_width(), config.d_model, config.d_ff);
        let mut parts = HashMap::new();
        let vector = |tensor| Part { holder: Holder::Vector(tensor), first: 0, rows: d_model };
        let matrix = |tensor| Part { holder: Holder::Matrix(tensor), first: 0, rows: config.vocab };
        parts.insert(names.embedding.to_owned(), matrix(&self.embedding));
        for (index, block) in self.blocks.iter().enumerate() {
            let name = |part: &str| names.in_block(index, part);
            parts.insert(name(names.attention_norm), vector(&block.attention_norm));
            parts.insert(name(names.mlp_norm), vector(&block.mlp_norm));
            let norms = [(names.query_norm, &block.q_norm), (names.key_norm, &block.k_norm)];
            for (norm, tensor) in norms.into_iter().filter_map(|(norm, tensor)| Some((norm, tensor.as_ref()?))) {
                parts.insert(name(norm), Part { rows: config.head_dim, ..vector(tensor) });
            }
            // Projections that read the same input are stacked along their outputs.
            let stacked = [
                (&block.qkv, vec![(names.query, queries), (names.key, keys), (names.value, keys)]),
                (&block.out, vec![(names.output, d_model)]),
                (&block.gate_up, vec![(names.gate, d_ff), (names.up, d_ff)]),
                (&block.down, vec![(names.down, d_model)]),
            ];
            for (projection, outputs) in stacked {
                let mut first = 0;
                for (part, rows) in outputs {
                    let weight = Part { holder: Holder::Weight(projection), first, rows };
                    parts.insert(name(&format!("{part}.weight")), weight);
                    if let Some(bias) = &projection.bias {
                        parts.insert(name(&format!("{part}.bias")), Part { holder: Holder::Vector(bias), first, rows });
                    }
                    first += rows;
                }
            }
        }
        parts.insert(names.final_norm.to_owned(), vector(&self.norm));
        if let Some(head) = &self.head {
            parts.insert(names.output_head.to_owned(), matrix(head));
        }
        parts
    }
}

/// The start of a safetensors file that holds these tensors, one after another.
fn header(tensors: &[ExpectedTensor], stored: StoredDtype) -> Vec<u8> {
    let dtype = match stored {
        StoredDtype::F32 => "F32",
        StoredDtype::F16 => "F16",
        StoredDtype::BF16 => "BF16",
    };
    let mut map = Map::from_iter([("__metadata__".to_owned(), json!({ "format": "pt" }))]);
    let mut start = 0;
    for tensor in tensors {
        let end = start + tensor.shape.iter().product::<usize>() * stored.bytes();
        map.insert(tensor.name.clone(), json!({ "dtype": dtype, "shape": tensor.shape, "data_offsets": [start, end] }));
        start = end;
    }
    let mut json = Value::Object(map).to_string().into_bytes();
    // Values are aligned.
    json.resize(json.len().next_multiple_of(8), b' ');
    let mut bytes = (json.len() as u64).to_le_bytes().to_vec();
    bytes.append(&mut json);
    bytes
}

fn encoded(values: &[f32], stored: StoredDtype) -> Vec<u8> {
    match stored {
        StoredDtype::F32 => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
        StoredDtype::F16 => values.iter().flat_map(|v| f16::from_f32(*v).to_le_bytes()).collect(),
        StoredDtype::BF16 => values.iter().flat_map(|v| bf16::from_f32(*v).to_le_bytes()).collect(),
    }
}

/// Lets `write` fill a temporary file beside `path`, which then takes its place.
pub(crate) fn write_with(path: &Path, write: impl FnOnce(&Path) -> std::io::Result<()>) -> Result<()> {
    let file = WholeFile::create(path)?;
    write(file.temporary_path()).map_err(FileError::write(path))?;
    Ok(file.finish()?)
}

#[cfg(test)]
mod tests;
