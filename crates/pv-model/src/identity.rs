//! The identity of a model, including its weights.

use burn::module::Param;
use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::decoder::{Decoder, Held, Projection, Weight};
use crate::tensors::to_f32;
use crate::{CausalLm, Result};

/// The number of values hashed at either end of each parameter.
const SAMPLED: usize = 64;

/// The identity of a model: its name, architecture, chat template, compute type and weights. [`CausalLm::identity`]
/// computes it; it is stored in the files of every result that is computed with a model.
///
/// Files of older versions contain less. A field that they lack is empty, 0 or `None`, and counts as equal in
/// comparisons.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelIdentity {
    /// The model's name: that of its folder or on the hub.
    pub name: String,
    /// SHA-256 of the architecture, in hexadecimal: [`DecoderConfig::hash`](crate::DecoderConfig::hash).
    pub config_hash: String,
    /// SHA-256 of the source of the default chat template, in hexadecimal, if there is one.
    pub template_hash: Option<String>,
    /// The compute type.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub dtype: String,
    /// The number of layers, including the embeddings.
    #[serde(default, skip_serializing_if = "is_unknown")]
    pub layers: usize,
    /// The width of the residual stream.
    #[serde(default, skip_serializing_if = "is_unknown")]
    pub d_model: usize,
    /// The formats in which the weight matrices are stored, if they are packed in another type than the compute type.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub packed: Option<String>,
    /// The type of activations in products with weights in blocks, if it is not that of the computation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub activations: Option<String>,
    /// SHA-256 of the first and the last 64 values of every parameter, including those of adapters, in hexadecimal. Any
    /// training changes it; it does not protect against deliberate manipulation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weights: Option<String>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "as serde calls it")]
fn is_unknown(number: &usize) -> bool {
    *number == 0
}

impl ModelIdentity {
    /// The first field in which two identities differ, with the values of `self` and `other`. Fields that are unknown
    /// in either are not compared.
    pub fn difference(&self, other: &Self) -> Option<(&'static str, String, String)> {
        let template = |identity: &Self| identity.template_hash.clone().unwrap_or_else(|| "none".to_owned());
        let number = |number: usize| if number == 0 { String::new() } else { number.to_string() };
        let packed = |identity: &Self| identity.packed.clone().unwrap_or_else(|| "not packed".to_owned());
        let activations = |identity: &Self| identity.activations.clone().unwrap_or_else(|| "not rounded".to_owned());
        let weights = |identity: &Self| identity.weights.clone().unwrap_or_default();
        let parts = [
            ("model", self.name.clone(), other.name.clone()),
            ("model's architecture hash", self.config_hash.clone(), other.config_hash.clone()),
            ("chat template's hash", template(self), template(other)),
            ("model's type", self.dtype.clone(), other.dtype.clone()),
            ("format of the model's weights", packed(self), packed(other)),
            ("type of the model's activations", activations(self), activations(other)),
            ("model's number of layers", number(self.layers), number(other.layers)),
            ("model's width", number(self.d_model), number(other.d_model)),
            ("model's weights' hash", weights(self), weights(other)),
        ];
        parts.into_iter().find(|(_, ours, theirs)| !ours.is_empty() && !theirs.is_empty() && ours != theirs)
    }
}

impl CausalLm {
    /// The model's identity, for files of results. Reads a few values of every parameter from the device.
    ///
    /// # Errors
    /// [`DeviceError::Failed`](crate::device::DeviceError::Failed), if the device does not return the weights.
    pub fn identity(&self) -> Result<ModelIdentity> {
        let template = self.chat_template().ok().and_then(|template| template.source("default"));
        Ok(ModelIdentity {
            name: self.name().to_owned(),
            config_hash: self.config().hash(),
            template_hash: template.map(pv_data::files::sha256),
            dtype: format!("{:?}", self.decoder().dtype()),
            layers: self.config().layers + 1,
            d_model: self.config().d_model,
            packed: self.decoder().block_formats(),
            activations: self.decoder().rounded_activations().map(|kind| kind.name().to_owned()),
            weights: Some(weights_hash(self.decoder())?),
        })
    }
}

fn weights_hash(decoder: &Decoder) -> Result<String> {
    let mut sampler = Sampler { hash: Sha256::new() };
    sampler.matrix(&decoder.embedding)?;
    for block in &decoder.blocks {
        for held in block.held() {
            match held {
                Held::Norm(norm) => sampler.tensor(norm)?,
                Held::Projection(projection) => sampler.projection(projection)?,
            }
        }
    }
    sampler.tensor(&decoder.norm)?;
    if let Some(head) = &decoder.head {
        sampler.matrix(head)?;
    }
    Ok(hex::encode(sampler.hash.finalize()))
}

/// Hashes the shape of each parameter, and its first and last values.
struct Sampler {
    hash: Sha256,
}

impl Sampler {
    fn projection(&mut self, projection: &Projection) -> Result<()> {
        self.matrix(&projection.weight)?;
        projection.bias.iter().try_for_each(|bias| self.tensor(bias))?;
        projection.lora.iter().try_for_each(|update| {
            self.tensor(&update.a)?;
            self.tensor(&update.b)
        })
    }

    fn matrix(&mut self, weight: &Weight) -> Result<()> {
        let [rows, columns] = weight.dims();
        match weight {
            Weight::Tensor(tensor) => self.tensor(tensor),
            Weight::Packed(_) => {
                self.shape(&[rows, columns]);
                // The rows at either end that contain the sampled values.
                let part = SAMPLED.min(rows * columns);
                let some = part.div_ceil(columns.max(1));
                let first = to_f32(weight.rows(0..some))?;
                let last = to_f32(weight.rows(rows - some..rows))?;
                self.values(&first[..part]);
                self.values(&last[last.len() - part..]);
                Ok(())
            }
        }
    }

    fn tensor<const D: usize>(&mut self, param: &Param<Tensor<D>>) -> Result<()> {
        // Quantized weights are dequantized.
        let tensor = param.val().without_autodiff().dequantize();
        let dims = tensor.dims();
        let n: usize = dims.iter().product();
        self.shape(&dims);
        let (flat, part) = (tensor.reshape([n]), n.min(SAMPLED));
        for start in [0, n - part] {
            self.values(&to_f32(flat.clone().narrow(0, start, part))?);
        }
        Ok(())
    }

    fn shape(&mut self, dims: &[usize]) {
        dims.iter().for_each(|size| self.hash.update(size.to_le_bytes()));
    }

    fn values(&mut self, values: &[f32]) {
        values.iter().for_each(|value| self.hash.update(value.to_le_bytes()));
    }
}
