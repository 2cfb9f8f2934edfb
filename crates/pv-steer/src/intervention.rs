//! What is done to the residual, how strongly, and at which tokens.

use burn::tensor::{DType, Device, Tensor, TensorData};
use pv_hooks::{Layer, TokenSet};
use pv_vectors::Direction;

use crate::{Error, Result};

/// How strongly a direction is added. The unit is part of the type, since the same number means different things.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Coefficient {
    /// Multiplies the raw difference vector, as in the paper.
    Raw(f32),
    /// Multiplies the unit vector times the mean residual norm at the layer. Transfers between layers and models.
    ResidualNorms(f32),
}

impl Coefficient {
    /// The factor on the raw difference vector that this stands for.
    ///
    /// # Errors
    /// [`Error::NoResidualNorm`], [`Error::BadCoefficient`] or [`Error::Degenerate`].
    pub fn raw(self, direction: &Direction) -> Result<f32> {
        let layer = direction.layer;
        let norm = direction.norm();
        if norm == 0.0 || !norm.is_finite() {
            return Err(Error::Degenerate { layer });
        }
        let (value, raw) = match self {
            Self::Raw(value) => (value, value),
            Self::ResidualNorms(value) => {
                let residual = direction.mean_residual_norm.ok_or(Error::NoResidualNorm { layer })?;
                (value, (f64::from(value) * f64::from(residual) / norm) as f32)
            }
        };
        if raw.is_finite() { Ok(raw) } else { Err(Error::BadCoefficient { layer, value }) }
    }
}

/// The tokens at which an intervention acts. Padding is never among them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Positions {
    /// The last prompt token and every response token: what the paper's code does, which acts on the last position of
    /// every forward pass of a generation.
    #[default]
    Response,
    /// The prompt's tokens, and no others.
    Prompt,
    /// Every token.
    All,
}

impl Positions {
    pub(crate) fn tokens(self) -> TokenSet {
        match self {
            Self::Response => TokenSet::Generating,
            Self::Prompt => TokenSet::Prompt,
            Self::All => TokenSet::Real,
        }
    }
}

/// What is done at one layer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Action {
    /// `h + α·v`.
    Add {
        /// The factor on the raw vector.
        raw: f32,
    },
    /// `h − (h·v̂)·v̂`.
    Ablate,
}

/// One action along one direction.
#[derive(Debug)]
pub(crate) struct Intervention {
    pub(crate) layer: Layer,
    pub(crate) positions: Positions,
    pub(crate) action: Action,
    /// `α·v`, or the unit vector, in f32.
    values: Vec<f32>,
    /// The same on the device that asked last.
    on_device: Option<(Device, DType, Tensor<3>)>,
    pub(crate) fired: bool,
}

impl Intervention {
    pub(crate) fn new(direction: &Direction, action: Action, positions: Positions) -> Result<Self> {
        let norm = direction.norm();
        if norm == 0.0 || !norm.is_finite() {
            return Err(Error::Degenerate { layer: direction.layer });
        }
        let factor = match action {
            Action::Add { raw } => f64::from(raw),
            Action::Ablate => 1.0 / norm,
        };
        let values = direction.values.iter().map(|v| (f64::from(*v) * factor) as f32).collect();
        Ok(Self { layer: direction.layer, positions, action, values, on_device: None, fired: false })
    }

    pub(crate) fn width(&self) -> usize {
        self.values.len()
    }

    /// Whether the model can still compute with a residual that holds the vector: the norms square it.
    pub(crate) fn in_range(&self) -> bool {
        self.values.iter().map(|value| f64::from(*value).powi(2)).sum::<f64>() < f64::from(f32::MAX)
    }

    /// The vector as `[1, 1, d_model]` beside a residual. Never on an autodiff device: it is a constant, and a tensor that
    /// was made for a training pass may meet a plain one next.
    fn vector(&mut self, device: &Device, dtype: DType) -> Tensor<3> {
        let device = device.clone().without_autodiff();
        match &self.on_device {
            Some((known, known_dtype, tensor)) if *known == device && *known_dtype == dtype => tensor.clone(),
            _ => {
                let data = TensorData::new(self.values.clone(), [1, 1, self.values.len()]);
                let tensor = Tensor::<3>::from_data(data, (&device, DType::F32)).cast(dtype);
                self.on_device = Some((device, dtype, tensor.clone()));
                tensor
            }
        }
    }

    /// The change to a residual `[batch, seq, d_model]` where every position is acted on; `None` when there is none.
    pub(crate) fn change(&mut self, residual: &Tensor<3>) -> Option<Tensor<3>> {
        let vector = self.vector(&residual.device(), residual.dtype());
        match self.action {
            Action::Add { raw } => (raw != 0.0).then_some(vector),
            Action::Ablate => {
                let along = (residual.clone() * vector.clone()).sum_dim(2);
                Some(along * vector * -1.0)
            }
        }
    }
}
