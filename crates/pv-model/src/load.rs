//! Loads checked weight files into a decoder on a device.

use std::path::Path;

use burn::tensor::{DType, Device, Tensor, TensorData};
use half::{bf16, f16};
use pv_kernels::kept::Format;
use serde::{Deserialize, Serialize};

use crate::config::{BlockParts, DecoderConfig, OutputHead, Part, Role, Stack, TensorNames, expected_tensors};
use crate::decoder::{Block, BlockSource, Decoder, PackedMatrix, Projection, Weight};
use crate::device::{DeviceError, is_cpu};
use crate::folder::{Files, with_files};
use crate::mapped::Bytes;
use crate::weights::{Activations, RawTensor, WeightFiles, WeightType, WeightsError, pack};
use crate::{Error, Result, memory};

/// Reads weights one tensor at a time and converts each to the compute type on its way to the device.
struct Loader<'a> {
    files: &'a WeightFiles,
    device: &'a Device,
    dtype: DType,
    /// The type of matrices, if it is not that of the computation.
    packed: Option<WeightType>,
    /// Whether matrices in 16 bits or in blocks are kept as they are stored.
    as_stored: bool,
    /// Whether matrices are read in place where that is possible.
    map: bool,
    activations: Activations,
}

impl Loader<'_> {
    /// Stacks tensors along their first dimension; the other dimensions are equal.
    fn stacked<const D: usize>(&self, names: &[String]) -> Result<Tensor<D>> {
        let parts = names.iter().map(|name| self.files.get(name)).collect::<Result<Vec<_>, _>>()?;
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

    /// Stacks matrices of equal width along their outputs. `table` is true for embeddings and the output head.
    fn matrix(&self, names: &[String], table: bool) -> Result<Weight> {
        let parts = names.iter().map(|name| self.files.get(name)).collect::<Result<Vec<_>, WeightsError>>()?;
        let columns = parts[0].shape[1];
        let smaller = self.as_stored && parts.iter().any(|part| part.format != Format::F32);
        let format_of = |part: &RawTensor<'_>| match self.packed {
            Some(packed) => Some(packed.format(columns, table)),
            None => smaller.then_some(part.format),
        };
        if parts.iter().any(|part| format_of(part).is_none()) {
            return Ok(self.stacked::<2>(names)?.into());
        }
        // Parts after another in one format are one.
        let alike = parts.chunk_by(|left, right| format_of(left) == format_of(right));
        let packed = alike.map(|parts| {
            let format = format_of(&parts[0]).unwrap_or(Format::F32);
            let stored = self.map && parts.iter().all(|part| part.format == format);
            if let Some(bytes) = stored.then(|| RawTensor::in_place(parts)).flatten() {
                return Ok((format, bytes));
            }
            let rows: usize = parts.iter().map(|part| part.shape[0]).sum();
            let mut bytes = Vec::with_capacity(format.bytes(columns).unwrap_or(0) * rows);
            parts.iter().try_for_each(|part| pack(part, format, &mut bytes))?;
            parts.iter().for_each(RawTensor::release);
            Ok((format, Bytes::Owned(bytes)))
        });
        let packed = packed.collect::<Result<Vec<_>>>()?;
        Ok(Weight::Packed(PackedMatrix::new(columns, packed, self.activations)))
    }
}

/// The tensors of one block.
struct BlockLoader<'a> {
    loader: &'a Loader<'a>,
    names: &'a TensorNames,
    block: usize,
}

impl BlockLoader<'_> {
    fn names(&self, stack: &Stack, suffix: &str) -> Vec<String> {
        stack.stored().map(|stored| self.names.in_block(self.block, stored.name()) + suffix).collect()
    }
}

impl BlockSource for BlockLoader<'_> {
    type Error = Error;

    fn norm(&mut self, stack: &Stack) -> Result<Tensor<1>> {
        self.loader.stacked(&self.names(stack, ""))
    }

    fn projection(&mut self, stack: &Stack) -> Result<Projection> {
        let names = self.names(stack, ".weight");
        let weight = match stack.parts.first() {
            Some(Part { role: Role::Router, .. }) => self.loader.stacked::<2>(&names)?.into(),
            _ => self.loader.matrix(&names, false)?,
        };
        let bias = stack.bias.then(|| self.loader.stacked(&self.names(stack, ".bias"))).transpose()?;
        Ok(Projection::new(weight, bias))
    }
}

/// The values of all parts, concatenated, in the type of `zero`.
fn converted<T: Copy>(
    parts: &[RawTensor<'_>],
    zero: T,
    convert: impl Fn(&RawTensor<'_>, &mut [T]) -> Result<(), WeightsError>,
) -> Result<Vec<T>, WeightsError> {
    let mut values = vec![zero; parts.iter().map(RawTensor::values).sum()];
    let mut rest = values.as_mut_slice();
    for part in parts {
        let (here, after) = rest.split_at_mut(part.values());
        convert(part, here)?;
        rest = after;
    }
    Ok(values)
}

/// Whether activations are rounded in products with a matrix as it is stored in memory.
fn rounds_some(
    activations: Activations,
    files: &WeightFiles,
    config: &DecoderConfig,
    packed: Option<WeightType>,
    as_stored: bool,
) -> bool {
    let mut matrices = expected_tensors(config).filter(|tensor| tensor.shape.len() == 2);
    let rounds = |format: Format| activations.round_for(format);
    match packed {
        Some(kind) => matrices.any(|tensor| rounds(kind.format(tensor.shape[1], false))),
        None => as_stored && matrices.any(|tensor| files.get(&tensor.name).is_ok_and(|found| rounds(found.format))),
    }
}

/// Options for loading a model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LoadOptions {
    /// The type in which weight matrices are stored in memory. `None` for the type that they have in the files (bf16, f16
    /// or a GGUF file's blocks) if the computation is in f32 on the CPU, and otherwise for the compute type. 16-bit weights
    /// give the same results as the same values in f32, to the bit. Another type than that of the computation is for the CPU,
    /// and for computation in f32. Weights in few bits (`q8`, `q4`, blocks) are constant: an adapter can be trained on them, not
    /// the weights.
    pub weights: Option<WeightType>,
    /// The type of activations in products with weights in blocks or in bf16. Another type than f32 changes results, and is
    /// part of the model's identity.
    pub activations: Activations,
    /// Whether to load a model onto the CPU even if its weights exceed the available memory. The operating system may
    /// then end the process.
    pub ignore_memory: bool,
    /// Whether to read weights in place, in a map of their file, where that is possible: matrices that have the file's type
    /// in memory, and stacked ones (queries, keys and values; gate and up) if they are one after the other there. A map
    /// takes no time to load, and processes share it; the files must not be changed as long as the model exists. Results are
    /// the same. Decoding was 5 to 13 % slower, because maps have small pages.
    pub map_weights: bool,
}

impl Decoder {
    /// Like [`Decoder::from_folder_with`], with default options.
    ///
    /// # Errors
    /// Those of [`Decoder::from_folder_with`].
    pub fn from_folder(folder: impl AsRef<Path>, device: &Device, dtype: DType) -> Result<Self> {
        Self::from_folder_with(folder, device, dtype, &LoadOptions::default())
    }

    /// Loads `config.json` and the weights of a model folder, or those of a GGUF file.
    ///
    /// Weights are copied tensor by tensor from a memory map to the device, so that the peak of memory is only slightly
    /// above the model's size. With [`LoadOptions::map_weights`], some are read in the map instead.
    ///
    /// # Errors
    /// Every problem with the files (see [`Error`]),
    /// [`DeviceError::DtypeUnsupported`], or [`Error::NotEnoughMemory`]
    /// before large data are read.
    pub fn from_folder_with(
        folder: impl AsRef<Path>,
        device: &Device,
        dtype: DType,
        options: &LoadOptions,
    ) -> Result<Self> {
        with_files(folder.as_ref(), |files| Self::from_files(files, device, dtype, options))
    }

    /// Like [`from_folder_with`](Self::from_folder_with), for files that are open.
    pub(crate) fn from_files(files: &Files<'_>, device: &Device, dtype: DType, options: &LoadOptions) -> Result<Self> {
        if !device.supports_dtype(dtype) {
            return Err(
                DeviceError::DtypeUnsupported { device: format!("{device:?}"), dtype: format!("{dtype:?}") }.into()
            );
        }
        let folder = files.path();
        let mut config = DecoderConfig::from_files(files)?;
        let files = WeightFiles::open_for(folder, &config)?;
        config.output_head = files.output_head(config.output_head, &config.names)?;
        files.check(&expected_tensors(&config).collect::<Vec<_>>())?;
        let packed = options.weights.filter(|kind| kind.dtype() != Some(dtype));
        let packable = dtype == DType::F32 && is_cpu(device);
        let as_stored = options.weights.is_none() && packable;
        if let Some(weights) = packed
            && !packable
        {
            let (device, dtype) = (format!("{device:?}"), format!("{dtype:?}").to_lowercase());
            return Err(Error::PackedWeights { weights: weights.name(), device, dtype });
        }
        let activations = options.activations;
        if activations != Activations::F32 && !rounds_some(activations, &files, &config, packed, as_stored) {
            return Err(Error::UnusedActivations { activations: activations.name(), weights: activations.weights() });
        }
        if !options.ignore_memory {
            let kept = as_stored.then(|| files.kept_bytes(&config, dtype));
            memory::check(folder, &config, device, dtype, packed, kept)?;
        }
        let map = options.map_weights;
        let loader = Loader { files: &files, device, dtype, packed, as_stored, map, activations };
        let table = |name: &str| loader.matrix(&[name.to_owned()], true);
        let embedding = table(config.names.embedding)?;
        let block = |block| {
            let mut source = BlockLoader { loader: &loader, names: &config.names, block };
            Block::from_source(&BlockParts::of(&config, block), &mut source)
        };
        let blocks = (0..config.layers).map(block).collect::<Result<_>>()?;
        let norm = loader.one(config.names.final_norm)?;
        let untied = config.output_head == OutputHead::Untied;
        let head = untied.then(|| table(config.names.output_head)).transpose()?;
        Ok(Self::new(config, embedding, blocks, norm, head))
    }
}
