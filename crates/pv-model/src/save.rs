//! Saves a decoder as the files of a model folder.

pub(crate) mod other_files;
mod stacked;

use std::collections::HashMap;
use std::io::{BufWriter, Write};
use std::path::Path;

use burn::module::Param;
use burn::tensor::{DType, Tensor};
use half::{bf16, f16};
use pv_data::FileError;
use pv_data::files::{WholeFile, write_whole_with};
use serde_json::{Map, Value, json};

use crate::config::{BlockParts, DecoderConfig, ExpectedTensor, expected_tensors};
use crate::decoder::{Decoder, Held, Weight};
use crate::folder::FolderError;
use crate::tensors::to_f32;
use crate::weights::StoredDtype;
use crate::weights::WeightsError;
use crate::{Error, Result};
use stacked::Stacked;

/// The number of values that are copied from the device and converted at a time.
const CHUNK: usize = 4 << 20;

/// The tensor of the decoder that contains a checkpoint's tensor.
#[derive(Clone, Copy)]
enum Holder<'a> {
    Matrix(&'a Weight),
    Vector(&'a Param<Tensor<1>>),
}

/// What a tensor of a checkpoint consists of.
enum Content<'a> {
    Part(Part<'a>),
    Experts(Stacked<'a>),
}

impl Content<'_> {
    /// Passes the values to `give`, in order, some at a time.
    fn each_chunk(&self, give: impl FnMut(&[f32]) -> Result<()>) -> Result<()> {
        match self {
            Self::Part(part) => part.each_chunk(give),
            Self::Experts(stacked) => stacked.each_chunk(give),
        }
    }
}

/// A tensor of a checkpoint: some rows of a tensor of the decoder.
#[derive(Clone, Copy)]
struct Part<'a> {
    holder: Holder<'a>,
    first: usize,
    rows: usize,
}

impl Part<'_> {
    /// Passes the values to `give`, in order, a few million at a time.
    fn each_chunk(&self, mut give: impl FnMut(&[f32]) -> Result<()>) -> Result<()> {
        let Self { holder, first, rows } = *self;
        let matrix = match holder {
            Holder::Vector(vector) => {
                return give(&to_f32(vector.val().without_autodiff().slice(first..first + rows))?);
            }
            Holder::Matrix(matrix) => matrix.without_scales(),
        };
        let [_, width] = matrix.dims();
        let step = (CHUNK / width).max(1);
        for start in (first..first + rows).step_by(step) {
            let end = (start + step).min(first + rows);
            give(&to_f32(matrix.rows(start..end))?)?;
        }
        Ok(())
    }
}

impl Decoder {
    /// Saves the decoder to a folder, which is created if it does not exist: `config.json` and `model.safetensors`, in
    /// the format of Hugging Face's `transformers` and [`Decoder::from_folder`]. Each file is written under a temporary
    /// name and renamed when it is complete. Values are written a few million at a time, or those of one expert, so that
    /// little memory is needed.
    ///
    /// `dtype` is the type in the file: `F32`, `F16` or `BF16`; values are rounded to it. Quantized weights are
    /// dequantized.
    ///
    /// # Errors
    /// [`Error::UnmergedAdapters`]; [`ConfigError::Unsupported`](crate::config::ConfigError::Unsupported) for a
    /// configuration that its family's `config.json` cannot express; [`Error::BadOption`] for another type;
    /// [`FileError::Write`].
    pub fn save(&self, folder: impl AsRef<Path>, dtype: DType) -> Result<()> {
        let folder = folder.as_ref();
        if self.adapters() > 0 {
            return Err(Error::UnmergedAdapters { adapters: self.adapters() });
        }
        let stored = match dtype {
            DType::F32 => StoredDtype::F32,
            DType::F16 => StoredDtype::F16,
            DType::BF16 => StoredDtype::BF16,
            other => {
                let (name, value) = ("the type of saved weights", format!("{other:?}"));
                return Err(Error::BadOption { name, value, expected: "F32, F16 or BF16" });
            }
        };
        let config = DecoderConfig { stored_dtype: Some(stored), ..self.config().clone() };
        let json = serde_json::to_vec_pretty(&config.to_json()?)
            .map_err(|source| FolderError::Json { path: folder.join("config.json"), source })?;
        std::fs::create_dir_all(folder).map_err(|source| FileError::Write { path: folder.to_owned(), source })?;
        self.write_weights(&folder.join("model.safetensors"), stored)?;
        Ok(write_whole_with(&folder.join("config.json"), |path| std::fs::write(path, &json))?)
    }

    fn write_weights(&self, path: &Path, stored: StoredDtype) -> Result<()> {
        let failed = |source| FileError::Write { path: path.to_owned(), source };
        let tensors = self.content(path)?;
        let mut out = BufWriter::with_capacity(1 << 20, WholeFile::create(path)?);
        out.write_all(&header(tensors.iter().map(|(tensor, _)| tensor), stored)).map_err(failed)?;
        for (_, content) in &tensors {
            content.each_chunk(|values| Ok(out.write_all(&encoded(values, stored)).map_err(failed)?))?;
        }
        let file = out.into_inner().map_err(|error| failed(error.into_error()))?;
        Ok(file.finish()?)
    }

    /// The tensors of a checkpoint at `path`, and what they consist of.
    fn content(&self, path: &Path) -> Result<Vec<(ExpectedTensor, Content<'_>)>> {
        let (config, parts) = (self.config(), self.parts());
        let mut found = Vec::new();
        for tensor in expected_tensors(config).filter(|tensor| !stacked::is_expert(config, &tensor.name)) {
            let Some(part) = parts.get(&tensor.name) else {
                let names = vec![tensor.name];
                return Err(WeightsError::MissingTensors { path: path.to_owned(), names }.into());
            };
            found.push((tensor, Content::Part(*part)));
        }
        for (index, block) in self.blocks.iter().enumerate() {
            let of_block = stacked::tensors(config, index, block).into_iter();
            found.extend(of_block.map(|(tensor, stacked)| (tensor, Content::Experts(stacked))));
        }
        Ok(found)
    }

    /// The location of each tensor of a checkpoint.
    fn parts(&self) -> HashMap<String, Part<'_>> {
        let config = self.config();
        let names = &config.names;
        let mut parts = HashMap::new();
        let vector = |tensor| Part { holder: Holder::Vector(tensor), first: 0, rows: config.d_model };
        let matrix = |tensor| Part { holder: Holder::Matrix(tensor), first: 0, rows: config.vocab };
        parts.insert(names.embedding.to_owned(), matrix(&self.embedding));
        for (index, block) in self.blocks.iter().enumerate() {
            let table = BlockParts::of(config, index);
            for (stack, held) in table.stacks().zip(block.held()) {
                for stored in stack.stored() {
                    let name = names.in_block(index, stored.name());
                    let part = |holder| Part { holder, first: stored.first, rows: stored.rows };
                    match held {
                        Held::Norm(norm) => {
                            parts.insert(name, part(Holder::Vector(norm)));
                        }
                        Held::Projection(projection) => {
                            let bias = projection.bias.as_ref().map(|bias| part(Holder::Vector(bias)));
                            parts.extend(bias.map(|bias| (format!("{name}.bias"), bias)));
                            parts.insert(format!("{name}.weight"), part(Holder::Matrix(&projection.weight)));
                        }
                    }
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

/// The start of a safetensors file with these tensors, one after another.
fn header<'a>(tensors: impl Iterator<Item = &'a ExpectedTensor>, stored: StoredDtype) -> Vec<u8> {
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

#[cfg(test)]
mod tests;
