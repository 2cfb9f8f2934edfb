//! Which model something was computed with, its weights included.

use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::Tensor;
use pv_model::{CausalLm, to_f32};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::{ModelStamp, Result};

/// How many values at either end of each parameter are looked at.
const SAMPLED: usize = 64;

/// A model's name, architecture, template and type, and what tells it from another with other weights.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelIdentity {
    /// The model's name, architecture, template and type.
    #[serde(flatten)]
    pub stamp: ModelStamp,
    /// SHA-256 of the first and the last 64 values of every parameter, in hex: not proof against malice, but any training
    /// changes it.
    pub weights: String,
}

impl ModelIdentity {
    /// Of a model.
    ///
    /// # Errors
    /// A device that does not hand over the weights.
    pub fn of(model: &CausalLm) -> Result<Self> {
        let mut sampler = Sampler { hash: Sha256::new(), failed: None };
        model.decoder().visit(&mut sampler);
        match sampler.failed {
            Some(error) => Err(error.into()),
            None => Ok(Self { stamp: ModelStamp::of(model), weights: hex::encode(sampler.hash.finalize()) }),
        }
    }
}

struct Sampler {
    hash: Sha256,
    failed: Option<pv_model::Error>,
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
