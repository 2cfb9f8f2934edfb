//! Weight matrices that are packed on the host, and products with them.
//!
//! The type in which a weight is stored is independent of the type of computation: products are computed in f32 from the
//! packed bytes (`pv_kernels::linear_kept`). A packed matrix is constant: gradients pass through its products, and it has none.

use std::ops::Range;
use std::sync::Arc;

use burn::backend::Flex;
use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops};
use burn::module::Module;
use burn_flex::FlexTensor;
use pv_kernels::kept::{Format, KeptRef, dequantize};
use pv_kernels::linear_kept::{grad_input_kept, linear_kept, linear_kept_bf16, linear_kept_rounded, rows_kept};

use super::cpu::{storage, tensor, values};
use super::cpu_autodiff::{Argument, held, primitive, record, upstream};
use super::{Tensor, portable};
use crate::mapped::Bytes;
use crate::weights::Activations;

/// A matrix in the host's memory or in the map of its file, in one of the formats of [`Format`], or with some rows in one and some in others, as
/// stacked projections of files in mixed formats have; copies share it.
#[derive(Module, Debug)]
pub struct PackedMatrix {
    #[module(skip)]
    inner: Arc<Packed>,
}

struct Packed {
    rows: usize,
    columns: usize,
    /// At least one.
    parts: Vec<Part>,
    activations: Activations,
}

/// Rows in one format.
struct Part {
    format: Format,
    /// The numbers of the rows.
    rows: Range<usize>,
    bytes: Bytes,
}

impl Part {
    fn kernel(&self) -> KeptRef<'_> {
        KeptRef { format: self.format, bytes: &self.bytes }
    }
}

impl std::fmt::Debug for Packed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let formats: Vec<&str> = self.parts.iter().map(|part| part.format.name()).collect();
        write!(f, "{} [{}, {}]", formats.join(" + "), self.rows, self.columns)
    }
}

impl PackedMatrix {
    /// A matrix of these columns, from the formats of some rows after another and the bytes of those rows, and the type of
    /// activations in products.
    ///
    /// # Panics
    /// If there is no part, or the bytes of a part are not whole rows of its format.
    pub(crate) fn new(
        columns: usize,
        parts: impl IntoIterator<Item = (Format, Bytes)>,
        activations: Activations,
    ) -> Self {
        let mut rows = 0;
        let part = |(format, bytes): (Format, Bytes)| {
            let row = format.bytes(columns).filter(|row| bytes.len().is_multiple_of((*row).max(1)));
            let Some(row) = row else { panic!("{} bytes are not rows of {columns} values in {format}", bytes.len()) };
            let first = rows;
            rows += bytes.len() / row.max(1);
            Part { format, rows: first..rows, bytes }
        };
        let parts: Vec<Part> = parts.into_iter().map(part).collect();
        assert!(!parts.is_empty(), "a matrix without rows");
        Self { inner: Arc::new(Packed { rows, columns, parts, activations }) }
    }

    /// The formats of the values, in the order of rows.
    pub fn formats(&self) -> impl Iterator<Item = Format> {
        self.inner.parts.iter().map(|part| part.format)
    }

    /// The type of activations in products: f32 if none are rounded.
    pub fn activations(&self) -> Activations {
        match self.formats().any(|format| self.inner.activations.round_for(format)) {
            true => self.inner.activations,
            false => Activations::F32,
        }
    }

    /// The shape, `[out, in]`.
    pub fn dims(&self) -> [usize; 2] {
        [self.inner.rows, self.inner.columns]
    }

    /// The size in bytes.
    pub fn bytes(&self) -> usize {
        self.inner.parts.iter().map(|part| part.bytes.len()).sum()
    }

    /// Those of the bytes that are read in place, in the map of the file.
    pub fn mapped_bytes(&self) -> usize {
        self.inner.parts.iter().filter(|part| part.bytes.is_mapped()).map(|part| part.bytes.len()).sum()
    }

    /// Some rows in f32, on the CPU.
    pub(crate) fn unpacked(&self, rows: Range<usize>) -> Tensor<2> {
        let columns = self.inner.columns;
        let mut out = vec![0.0; rows.len() * columns];
        for part in &self.inner.parts {
            let (start, end) = (rows.start.max(part.rows.start), rows.end.min(part.rows.end));
            if start < end {
                let kept = part.kernel().rows(start - part.rows.start, end - part.rows.start, columns);
                let out = &mut out[(start - rows.start) * columns..(end - rows.start) * columns];
                dequantize(kept.format, kept.bytes, out);
            }
        }
        tensor(out, [rows.len(), columns])
    }

    /// The rows of these numbers in f32, `[ids, in]`.
    pub(super) fn select(&self, ids: &[u32]) -> Tensor<2> {
        let columns = self.inner.columns;
        let ids: Vec<usize> = ids.iter().map(|id| *id as usize).collect();
        let mut out = vec![0.0; ids.len() * columns];
        match &self.inner.parts[..] {
            [whole] => rows_kept(whole.kernel(), &ids, &mut out, columns),
            parts => {
                for (id, out) in ids.iter().zip(out.chunks_mut(columns)) {
                    if let Some(part) = parts.iter().find(|part| part.rows.contains(id)) {
                        rows_kept(part.kernel(), &[id - part.rows.start], out, columns);
                    }
                }
            }
        }
        tensor(out, [ids.len(), columns])
    }

    /// `x · wᵀ + bias`, `[tokens, out]`.
    fn product(&self, x: &[f32], bias: Option<&[f32]>, tokens: usize) -> Vec<f32> {
        let [n, k] = self.dims();
        let linear = match self.inner.activations {
            Activations::F32 => linear_kept,
            Activations::Q8 => linear_kept_rounded,
            Activations::Bf16 => linear_kept_bf16,
        };
        let mut out = vec![0.0; tokens * n];
        if let [whole] = &self.inner.parts[..] {
            linear(x, whole.kernel(), bias, &mut out, tokens, k, n);
            return out;
        }
        for part in &self.inner.parts {
            let width = part.rows.len();
            let mut own = vec![0.0; tokens * width];
            linear(x, part.kernel(), bias.map(|bias| &bias[part.rows.clone()]), &mut own, tokens, k, width);
            for (out, own) in out.chunks_mut(n).zip(own.chunks(width)) {
                out[part.rows.clone()].copy_from_slice(own);
            }
        }
        out
    }

    /// The gradient of [`product`](Self::product) with respect to `x`, `[tokens, in]`, from that of its result. Rounding of
    /// `x` counts as the identity, whose gradient is 0 almost everywhere.
    fn grad_input(&self, upstream: &[f32], tokens: usize) -> Vec<f32> {
        let [n, k] = self.dims();
        let mut out = vec![0.0; tokens * k];
        if let [whole] = &self.inner.parts[..] {
            grad_input_kept(upstream, whole.kernel(), &mut out, tokens, k, n);
            return out;
        }
        let mut own = vec![0.0; tokens * k];
        for part in &self.inner.parts {
            let of_part: Vec<f32> = upstream.chunks(n).flat_map(|row| &row[part.rows.clone()]).copied().collect();
            grad_input_kept(&of_part, part.kernel(), &mut own, tokens, k, part.rows.len());
            out.iter_mut().zip(&own).for_each(|(sum, term)| *sum += term);
        }
        out
    }
}

/// `x · wᵀ + bias`: `[tokens, in]`, `[out, in]`, `[out]` to `[tokens, out]`.
pub(super) fn linear(x: Tensor<2>, w: &PackedMatrix, bias: Option<&Tensor<1>>) -> Tensor<2> {
    on_cpu(&x, w, bias).or_else(|| recorded(&x, w, bias, true)).unwrap_or_else(|| {
        let unpacked = Tensor::from_data(w.unpacked(0..w.dims()[0]).into_data(), (&x.device(), x.dtype()));
        portable::linear(x, &unpacked, bias)
    })
}

fn on_cpu(x: &Tensor<2>, w: &PackedMatrix, bias: Option<&Tensor<1>>) -> Option<Tensor<2>> {
    let [tokens, _] = x.dims();
    let x = storage(x)?;
    let bias = match bias {
        Some(bias) => Some(storage(bias)?),
        None => None,
    };
    let out = w.product(values(&x)?, bias.as_ref().and_then(values), tokens);
    Some(tensor(out, [tokens, w.dims()[0]]))
}

/// Inputs, and optionally biases.
#[derive(Debug)]
struct PackedLinear;

impl<const N: usize> Backward<Flex, N> for PackedLinear {
    type State = PackedMatrix;

    fn backward(self, ops: Ops<PackedMatrix, N>, gradients: &mut Gradients, _: &mut Checkpointer) {
        let upstream: FlexTensor = upstream(&ops, gradients);
        let [n, k] = ops.state.dims();
        let tokens = upstream.layout().shape()[0];
        let node = |index: usize| ops.parents.get(index).and_then(Option::as_ref);
        if let Some(x) = node(0) {
            let out = ops.state.grad_input(held(&upstream), tokens);
            gradients.register::<Flex>(x.id, primitive(out, [tokens, k]));
        }
        if let Some(bias) = node(1) {
            let mut out = vec![0.0; n];
            pv_kernels::gradients::column_sums(held(&upstream), &mut out);
            gradients.register::<Flex>(bias.id, primitive(out, [n]));
        }
    }
}

/// As a node of the graph; without `with_values`, the result has zeros as values.
pub(super) fn recorded(
    x: &Tensor<2>,
    w: &PackedMatrix,
    bias: Option<&Tensor<1>>,
    with_values: bool,
) -> Option<Tensor<2>> {
    let [tokens, _] = x.dims();
    let x = Argument::of(x)?;
    let bias = match bias {
        Some(bias) => Some(Argument::of(bias)?),
        None => None,
    };
    let width = w.dims()[0];
    let out = match with_values {
        true => w.product(x.values()?, bias.as_ref().and_then(Argument::values), tokens),
        false => vec![0.0; tokens * width],
    };
    let out = primitive(out, [tokens, width]);
    Some(match bias {
        Some(bias) => record(PackedLinear, [x.node, bias.node], || w.clone(), out),
        None => record(PackedLinear, [x.node], || w.clone(), out),
    })
}
