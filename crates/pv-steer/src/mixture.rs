//! A separate mixture of directions for every row of a batch.

use std::collections::{BTreeMap, BTreeSet};

use burn::tensor::{DType, Device, Tensor};
use ndarray::{ArrayView2, Axis};
use pv_hooks::tokens::Coverage;
use pv_hooks::{Hook, HookError, Layer, LayerSet, ModelShape, ResidualContext, TokenSpans};
use pv_model::Request;
use pv_vectors::Direction;

use crate::constant::{Constant, to, upload};
use crate::error::SteeringError;
use crate::{Coefficient, Positions, Result};

/// Adds to every sequence of a run its own mixture of directions: `h ← h + Σₖ αₖ·vₖ`, where the `α` are the row of a
/// matrix `[sequences, K]` and each of the `K` directions acts at its own layer. One batch can thus contain many
/// strengths and traits, and a sweep needs no separate run for each.
///
/// The tokens of a row equal those of a separate run that is steered by a [`Steerer`](crate::Steerer) with its row of
/// coefficients. A sequence whose coefficients are all 0 is unchanged, bit for bit.
///
/// # Shared prompts
/// Answers of one [`Request`] share the computation of its prompt, which cannot be steered differently for each answer.
/// If they have different mixtures and [`Positions`] include prompt tokens, the mixture does not act there at all, and
/// the run ends with an error; [`check`](Self::check) detects this in advance. Either use separate requests, or act
/// from the first generated token on ([`Positions::ResponseFrom(0)`](Positions::ResponseFrom)), where every answer has
/// its own row. With [`for_requests`](Self::for_requests) there is no such conflict.
///
/// # Cost
/// The mixtures of a pass are computed on the device, `[batch, K] × [K, d_model]` for each layer, and cached while the
/// rows stay the same, so that a decoding step costs one addition per layer.
#[derive(Debug)]
pub struct Mixture {
    positions: Positions,
    /// For each sequence, the index of its row among the distinct ones.
    kinds: Vec<usize>,
    layers: Vec<MixedLayer>,
    objection: Option<Objection>,
}

/// The directions of one layer.
#[derive(Debug)]
struct MixedLayer {
    layer: Layer,
    /// The raw vectors, `[K, d_model]`.
    vectors: Constant,
    /// The factors on them, `[kinds, K]`: one row for each distinct row of coefficients.
    factors: Vec<Vec<f32>>,
    formed: Option<Formed>,
    fired: bool,
}

/// The change computed for the rows of the last pass.
#[derive(Debug)]
struct Formed {
    kinds: Vec<Option<usize>>,
    device: Device,
    dtype: DType,
    /// `[batch, 1, d_model]`; `None` if it is zero.
    change: Option<Tensor<3>>,
}

/// The fault of a run, reported at its end.
#[derive(Clone, Copy, Debug)]
enum Objection {
    Unknown { sequence: usize },
    Conflict { first: usize, second: usize },
}

impl Mixture {
    /// One row of coefficients for each sequence of a run (in [`CausalLm::generate`](pv_model::CausalLm::generate): for
    /// each answer, counted over all requests), `[sequences, directions]`.
    ///
    /// # Errors
    /// [`SteeringError::BadMatrix`] for a matrix without rows, or whose number of columns is not the number of directions, of
    /// which there must be at least one; [`SteeringError::OtherWidth`] for directions of different widths, and those of
    /// [`Coefficient::raw`].
    pub fn new(
        directions: &[Direction],
        coefficients: ArrayView2<'_, Coefficient>,
        positions: Positions,
    ) -> Result<Self> {
        let (rows, columns) = coefficients.dim();
        let bad = SteeringError::BadMatrix { rows, columns, directions: directions.len() };
        let Some(first) = directions.first().filter(|_| rows > 0 && columns == directions.len()) else {
            return Err(bad.into());
        };
        let width = first.values.len();
        if let Some(index) = directions.iter().position(|direction| direction.values.len() != width) {
            return Err(
                SteeringError::OtherWidth { index, expected: width, found: directions[index].values.len() }.into()
            );
        }
        let mut distinct: Vec<Vec<f32>> = Vec::new();
        let mut known = BTreeMap::new();
        let mut kinds = Vec::with_capacity(rows);
        for row in coefficients.outer_iter() {
            // Adding 0 turns −0 into 0.
            let raw = |(coefficient, direction): (&Coefficient, &Direction)| Ok(coefficient.raw(direction)? + 0.0);
            let row = row.iter().zip(directions).map(raw).collect::<Result<Vec<f32>>>()?;
            let bits: Vec<u32> = row.iter().map(|factor| factor.to_bits()).collect();
            kinds.push(*known.entry(bits).or_insert_with(|| {
                distinct.push(row);
                distinct.len() - 1
            }));
        }
        let layers: BTreeSet<Layer> = directions.iter().map(|direction| direction.layer).collect();
        let layers = layers.into_iter().map(|layer| {
            let of: Vec<usize> = (0..directions.len()).filter(|k| directions[*k].layer == layer).collect();
            let vectors = of.iter().flat_map(|k| directions[*k].values.iter().copied()).collect();
            let factors = distinct.iter().map(|row| of.iter().map(|k| row[*k]).collect()).collect();
            MixedLayer { layer, vectors: Constant::new(vectors, width), factors, formed: None, fired: false }
        });
        Ok(Self { positions, kinds, layers: layers.collect(), objection: None })
    }

    /// One row of coefficients for each request, shared by all of its answers: `[requests, directions]`.
    ///
    /// # Errors
    /// Those of [`new`](Self::new), and [`SteeringError::TooFewRows`] for fewer rows than requests.
    pub fn for_requests(
        directions: &[Direction],
        coefficients: ArrayView2<'_, Coefficient>,
        requests: &[Request],
        positions: Positions,
    ) -> Result<Self> {
        let rows = coefficients.nrows();
        if rows < requests.len() {
            return Err(SteeringError::TooFewRows { rows, needed: requests.len() }.into());
        }
        let each = requests.iter().enumerate();
        let of: Vec<usize> = each.flat_map(|(row, request)| vec![row; request.seeds.len()]).collect();
        Self::new(directions, coefficients.select(Axis(0), &of).view(), positions)
    }

    /// Refuses requests for which a generation would end with an error: more answers than rows, or answers with
    /// different mixtures that share the computation of a prompt that the mixture acts on.
    ///
    /// # Errors
    /// [`SteeringError::TooFewRows`], [`SteeringError::SharedPrompt`].
    pub fn check(&self, requests: &[Request]) -> Result<()> {
        let needed = requests.iter().map(|request| request.seeds.len()).sum();
        if self.kinds.len() < needed {
            return Err(SteeringError::TooFewRows { rows: self.kinds.len(), needed }.into());
        }
        if matches!(self.positions, Positions::ResponseFrom(_)) {
            return Ok(());
        }
        let mut start = 0;
        for (request, answers) in requests.iter().map(|request| request.seeds.len()).enumerate() {
            let sequences: Vec<usize> = (start..start + answers).collect();
            if let Err(Objection::Conflict { first, second }) = self.kind_of(&sequences) {
                return Err(SteeringError::SharedPrompt { request, first, second }.into());
            }
            start += answers;
        }
        Ok(())
    }

    /// The common kind of the sequences that a row stands for.
    fn kind_of(&self, sequences: &[usize]) -> Result<Option<usize>, Objection> {
        let Some(&first) = sequences.first() else { return Ok(None) };
        let kind = |sequence: usize| self.kinds.get(sequence).copied().ok_or(Objection::Unknown { sequence });
        let found = kind(first)?;
        for &second in &sequences[1..] {
            if kind(second)? != found {
                return Err(Objection::Conflict { first, second });
            }
        }
        Ok(Some(found))
    }
}

impl MixedLayer {
    /// The change of each row, `[batch, 1, d_model]`; `None` if it is zero.
    fn change(&mut self, kinds: Vec<Option<usize>>, device: &Device, dtype: DType) -> Option<Tensor<3>> {
        let known = |f: &&Formed| f.kinds == kinds && f.device == *device && f.dtype == dtype;
        if let Some(formed) = self.formed.as_ref().filter(known) {
            return formed.change.clone();
        }
        let k = self.factors.first().map_or(0, Vec::len);
        let nothing = vec![0.0; k];
        let row = |kind: &Option<usize>| kind.map_or(&nothing, |kind| &self.factors[kind]);
        let factors: Vec<f32> = kinds.iter().flat_map(row).copied().collect();
        let change = factors.iter().any(|factor| *factor != 0.0).then(|| {
            // Products and sums instead of a matrix product, whose order of summation may depend on the number of rows
            // and whose precision may depend on the device. The computation is small, and only done when rows change.
            let factors = upload(factors, [kinds.len(), k, 1], device);
            to((self.vectors.on(device, DType::F32) * factors).sum_dim(1), dtype)
        });
        self.formed = Some(Formed { kinds, device: device.clone(), dtype, change: change.clone() });
        change
    }

    /// Whether the square of the largest mixture does not overflow.
    fn in_range(&self) -> bool {
        let norm = |v: &[f32]| v.iter().map(|value| f64::from(*value).powi(2)).sum::<f64>().sqrt();
        let norms: Vec<f64> = self.vectors.values.chunks(self.vectors.width.max(1)).map(norm).collect();
        let length = |row: &Vec<f32>| row.iter().zip(&norms).map(|(factor, norm)| f64::from(factor.abs()) * norm).sum();
        self.factors.iter().map(length).all(|length: f64| length.powi(2) < f64::from(f32::MAX))
    }
}

/// The kind of every row that has tokens to act on.
fn kinds_of(mixture: &Mixture, spans: &TokenSpans) -> (Vec<Option<usize>>, Option<Objection>) {
    let tokens = mixture.positions.tokens();
    let mut objection = None;
    let kinds = spans.rows().iter().enumerate().map(|(index, row)| {
        spans.positions(index, tokens).next()?;
        match mixture.kind_of(&row.sequences) {
            Ok(kind) => kind,
            Err(found) => {
                objection = objection.or(Some(found));
                None
            }
        }
    });
    (kinds.collect(), objection)
}

impl Hook for Mixture {
    fn name(&self) -> String {
        "mixture".to_owned()
    }

    fn layers(&self) -> LayerSet {
        self.layers.iter().map(|mixed| mixed.layer).collect()
    }

    fn wants(&self, layer: Layer) -> bool {
        self.layers.iter().any(|mixed| mixed.layer == layer)
    }

    fn validate(&self, shape: &ModelShape) -> Result<(), HookError> {
        for mixed in &self.layers {
            let (hook, layer, expected, found) = (self.name(), mixed.layer, shape.d_model, mixed.vectors.width);
            if found != expected {
                return Err(HookError::WidthMismatch { hook, layer, expected, found });
            }
            if !mixed.in_range() {
                return Err(HookError::BadVector { hook, layer, reason: "the square of a mixture overflows f32" });
            }
        }
        Ok(())
    }

    fn on_residual(&mut self, context: &ResidualContext<'_>, residual: Tensor<3>) -> Tensor<3> {
        let (spans, tokens) = (context.spans, self.positions.tokens());
        let coverage = spans.coverage(tokens);
        if coverage == Coverage::Nothing {
            return residual;
        }
        let (kinds, objection) = kinds_of(self, spans);
        self.objection = self.objection.or(objection);
        let Some(mixed) = self.layers.iter_mut().find(|mixed| mixed.layer == context.layer) else { return residual };
        mixed.fired = true;
        let device = residual.device().without_autodiff();
        let dtype = residual.dtype();
        let Some(change) = mixed.change(kinds, &device, dtype) else { return residual };
        // A row's only token is acted on or has a change of zero.
        if coverage == Coverage::Everything || spans.seq() == 1 {
            return residual + change;
        }
        residual + change * to(spans.mask(tokens, &device), dtype)
    }

    fn shares_prefix(&self, sequences: &[usize]) -> bool {
        match self.positions {
            Positions::Response | Positions::ResponseFrom(_) => true,
            Positions::Prompt | Positions::All => self.kind_of(sequences).is_ok(),
        }
    }

    fn finish(&mut self) -> Result<(), HookError> {
        let objection = self.objection.take();
        let mut idle = None;
        for mixed in &mut self.layers {
            if !std::mem::take(&mut mixed.fired) {
                idle = idle.or(Some(mixed.layer));
            }
        }
        match (objection, idle) {
            (Some(Objection::Unknown { sequence }), _) => {
                Err(HookError::UnknownSequence { hook: self.name(), known: self.kinds.len(), sequence })
            }
            (Some(Objection::Conflict { first, second }), _) => {
                Err(HookError::SharedTokens { hook: self.name(), first, second })
            }
            (None, Some(layer)) => {
                Err(HookError::NeverFired { hook: format!("{} ({:?} tokens at {layer})", self.name(), self.positions) })
            }
            (None, None) => Ok(()),
        }
    }
}
