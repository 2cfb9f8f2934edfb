//! Which model a result is of, its weights included.

use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::{CausalLm, Error, Result, to_f32};

/// How many values at either end of each parameter are looked at.
const SAMPLED: usize = 64;

/// Which model a result is of: its name, architecture, chat template, type and weights. Made by [`CausalLm::identity`], and
/// kept in the files of everything that is computed with a model.
///
/// Files of older versions hold less; what they do not say is empty, 0 or `None` here, and counts as equal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelIdentity {
    /// The model's name: that of its folder or on the hub.
    pub name: String,
    /// SHA-256 of its architecture, in hex: [`DecoderConfig::hash`](crate::DecoderConfig::hash).
    pub config_hash: String,
    /// SHA-256 of its default chat template's source, in hex, where it has one.
    pub template_hash: Option<String>,
    /// The type that it computes in.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub dtype: String,
    /// Its number of layers, embeddings included.
    #[serde(default, skip_serializing_if = "is_unknown")]
    pub layers: usize,
    /// Its width.
    #[serde(default, skip_serializing_if = "is_unknown")]
    pub d_model: usize,
    /// SHA-256 of the first and the last 64 values of every parameter, adapters' included, in hex: not proof against malice,
    /// but any training changes it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weights: Option<String>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "as serde calls it")]
fn is_unknown(number: &usize) -> bool {
    *number == 0
}

impl ModelIdentity {
    /// The first part in which another model differs, with the values of both; what either does not know is not compared.
    pub fn difference(&self, other: &Self) -> Option<(&'static str, String, String)> {
        let template = |identity: &Self| identity.template_hash.clone().unwrap_or_else(|| "none".to_owned());
        let number = |number: usize| if number == 0 { String::new() } else { number.to_string() };
        let weights = |identity: &Self| identity.weights.clone().unwrap_or_default();
        let parts = [
            ("model", self.name.clone(), other.name.clone()),
            ("model's architecture hash", self.config_hash.clone(), other.config_hash.clone()),
            ("chat template's hash", template(self), template(other)),
            ("model's type", self.dtype.clone(), other.dtype.clone()),
            ("model's number of layers", number(self.layers), number(other.layers)),
            ("model's width", number(self.d_model), number(other.d_model)),
            ("model's weights' hash", weights(self), weights(other)),
        ];
        parts.into_iter().find(|(_, ours, theirs)| !ours.is_empty() && !theirs.is_empty() && ours != theirs)
    }
}

impl CausalLm {
    /// Which model this is, for the files of what is computed with it. Reads a little of every parameter from the device.
    ///
    /// # Errors
    /// A device that does not hand over the weights.
    pub fn identity(&self) -> Result<ModelIdentity> {
        let mut sampler = Sampler { hash: Sha256::new(), failed: None };
        self.decoder().visit(&mut sampler);
        if let Some(error) = sampler.failed {
            return Err(error);
        }
        let template = self.chat_template().ok().and_then(|template| template.source("default"));
        Ok(ModelIdentity {
            name: self.name().to_owned(),
            config_hash: self.config().hash(),
            template_hash: template.map(pv_data::sha256),
            dtype: format!("{:?}", self.decoder().dtype()),
            layers: self.config().layers + 1,
            d_model: self.config().d_model,
            weights: Some(hex::encode(sampler.hash.finalize())),
        })
    }
}

struct Sampler {
    hash: Sha256,
    failed: Option<Error>,
}

impl ModuleVisitor for Sampler {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        // Quantized weights by the values that they stand for.
        let tensor = param.val().without_autodiff().dequantize();
        let dims = tensor.dims();
        let n: usize = dims.iter().product();
        dims.iter().for_each(|size| self.hash.update(size.to_le_bytes()));
        let (flat, part) = (tensor.reshape([n]), n.min(SAMPLED));
        for start in [0, n - part] {
            match to_f32(flat.clone().narrow(0, start, part)) {
                Ok(values) => values.iter().for_each(|value| self.hash.update(value.to_le_bytes())),
                Err(error) => self.failed = Some(error),
            }
        }
    }
}
