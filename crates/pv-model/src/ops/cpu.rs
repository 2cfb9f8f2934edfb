//! The decoder's operations on the CPU backend's own storage, through pv-kernels.
//!
//! Each function returns `None` if it does not apply: for another backend, another type than f32, or a tensor in an
//! autodiff graph. The portable operation is used then.

use burn::backend::Flex;
use burn::tensor::{DType, Element, Shape};
use burn_flex::{FlexTensor, Layout};
use bytemuck::Pod;
use half::f16;
use half::slice::HalfFloatSliceExt;

use pv_kernels::cache::{write_cache, write_cache_f16};

use super::{Activation, AttentionShape, LayerCache, PassContext, Tensor};

/// The tensor's own storage, if it is contiguous f32 on the CPU backend.
pub(super) fn storage<const D: usize>(tensor: &Tensor<D>) -> Option<FlexTensor> {
    storage_in(tensor, DType::F32)
}

fn storage_in<const D: usize>(tensor: &Tensor<D>, dtype: DType) -> Option<FlexTensor> {
    if tensor.dtype() != dtype {
        return None;
    }
    Some(contiguous(tensor.clone().try_into_primitive::<Flex>().ok()?))
}

pub(super) fn contiguous(tensor: FlexTensor) -> FlexTensor {
    if tensor.is_contiguous() { tensor } else { tensor.to_contiguous() }
}

/// Like [`storage`], for writing: the storage contains the tensor's values and nothing else.
pub(super) fn writable<const D: usize>(tensor: &Tensor<D>) -> Option<FlexTensor> {
    whole::<f32>(storage(tensor)?)
}

/// A contiguous tensor whose storage contains its values and nothing else.
fn whole<E: Element + Pod>(tensor: FlexTensor) -> Option<FlexTensor> {
    let values = tensor.as_slice::<E>()?;
    if size_of_val(values) == tensor.bytes().len() {
        return Some(tensor);
    }
    let copy = burn::tensor::Bytes::from_elems(values.to_vec());
    Some(FlexTensor::new(copy, Layout::contiguous(tensor.layout().shape().clone()), E::dtype()))
}

/// The values of a contiguous f32 tensor.
pub(super) fn values(tensor: &FlexTensor) -> Option<&[f32]> {
    tensor.as_slice::<f32>()
}

/// A tensor of a shape from its values.
pub(super) fn tensor<const D: usize>(values: Vec<f32>, shape: [usize; D]) -> Tensor<D> {
    let bytes = burn::tensor::Bytes::from_elems(values);
    let primitive = FlexTensor::new(bytes, Layout::contiguous(Shape::from(shape)), DType::F32);
    Tensor::from_primitive::<Flex>(primitive)
}

pub(super) fn linear(x: &Tensor<2>, w: &Tensor<2>, bias: Option<&Tensor<1>>) -> Option<Tensor<2>> {
    let ([m, k], [n, _]) = (x.dims(), w.dims());
    let (x, w) = (storage(x)?, storage(w)?);
    let bias = match bias {
        Some(bias) => Some(storage(bias)?),
        None => None,
    };
    let bias = bias.as_ref().and_then(values);
    let mut out = vec![0.0; m * n];
    pv_kernels::linear::linear(values(&x)?, values(&w)?, bias, &mut out, m, k, n);
    Some(tensor(out, [m, n]))
}

pub(super) fn rms_norm(x: &Tensor<2>, w: &Tensor<1>, eps: f64) -> Option<Tensor<2>> {
    let shape = x.dims();
    let (x, w) = (storage(x)?, storage(w)?);
    let mut out = vec![0.0; shape[0] * shape[1]];
    pv_kernels::norm::rms_norm(values(&x)?, values(&w)?, eps as f32, &mut out);
    Some(tensor(out, shape))
}

/// The sum, in `x`'s own storage if it has no other owner; returns `x` as the error if this does not apply.
#[expect(clippy::result_large_err, reason = "the error is the argument itself")]
pub(super) fn add(x: Tensor<2>, delta: &Tensor<2>) -> Result<Tensor<2>, Tensor<2>> {
    let Some((mut sum, delta)) = writable(&x).zip(storage(delta)) else { return Err(x) };
    let Some(delta) = values(&delta) else { return Err(x) };
    drop(x);
    pv_kernels::elementwise::add_in_place(sum.storage_mut::<f32>(), delta);
    Ok(Tensor::from_primitive::<Flex>(sum))
}

/// Like [`add`], and the norm of the sum.
#[expect(clippy::result_large_err, reason = "as for `add`")]
pub(super) fn add_rms_norm(
    x: Tensor<2>,
    delta: &Tensor<2>,
    w: &Tensor<1>,
    eps: f64,
) -> Result<(Tensor<2>, Tensor<2>), Tensor<2>> {
    let shape = x.dims();
    let Some(((mut sum, delta), w)) = writable(&x).zip(storage(delta)).zip(storage(w)) else { return Err(x) };
    let (Some(delta), Some(w)) = (values(&delta), values(&w)) else { return Err(x) };
    drop(x);
    let mut out = vec![0.0; shape[0] * shape[1]];
    pv_kernels::norm::add_rms_norm(sum.storage_mut::<f32>(), delta, w, eps as f32, &mut out);
    Ok((Tensor::from_primitive::<Flex>(sum), tensor(out, shape)))
}

pub(super) fn gated(gate_up: &Tensor<2>, activation: Activation) -> Option<Tensor<2>> {
    let [m, width] = gate_up.dims();
    let gate_up = storage(gate_up)?;
    let mut out = vec![0.0; m * width / 2];
    pv_kernels::gated::gated(activation.kernel(), values(&gate_up)?, &mut out, m, width / 2);
    Some(tensor(out, [m, width / 2]))
}

pub(super) fn qk_norm(
    qkv: &Tensor<2>,
    q: &Tensor<1>,
    k: &Tensor<1>,
    shape: &AttentionShape,
    eps: f64,
) -> Option<Tensor<2>> {
    let dims = qkv.dims();
    let (qkv, q, k) = (storage(qkv)?, storage(q)?, storage(k)?);
    let mut out = values(&qkv)?.to_vec();
    for (part, w) in shape.parts().into_iter().zip([&q, &k]) {
        let w = values(w)?;
        let heads = part.len() / w.len();
        pv_kernels::norm::rms_norm_heads_in_place(&mut out, dims[1], part.start, heads, w, eps as f32);
    }
    Some(tensor(out, dims))
}

pub(super) fn attention(
    qkv: &Tensor<2>,
    sinks: Option<&Tensor<1>>,
    shape: &AttentionShape,
    context: &PassContext,
    cache: Option<&mut LayerCache>,
) -> Option<Tensor<2>> {
    let AttentionShape { heads, kv_heads, head_dim, window, scale, softcap, .. } = *shape;
    let (batch, seq, column) = (context.window.starts.len(), context.window.seq, context.window.column);
    let sinks = match sinks {
        Some(sinks) => Some(storage(sinks)?),
        None => None,
    };
    let sinks = sinks.as_ref().and_then(self::values);
    let mut qkv = writable(qkv)?;
    let table = context.table(shape);
    let stride = (heads + 2 * kv_heads) * head_dim;
    // Copies only if the product has another owner.
    let rotated = qkv.storage_mut::<f32>();
    pv_kernels::rope::rope_in_place(
        rotated,
        stride,
        heads + kv_heads,
        head_dim,
        table.half,
        &table.cos,
        &table.sin,
        &table.offsets,
    );
    let shape = |capacity| pv_kernels::attention::AttentionShape {
        batch,
        seq,
        heads,
        kv_heads,
        head_dim,
        capacity,
        column,
        window,
        scale: scale as f32,
        softcap: softcap.map(|cap| cap as f32),
    };
    let starts = &context.window.starts;
    let mut out = vec![0.0; batch * seq * heads * head_dim];
    let Some(cache) = cache else {
        let size = batch * kv_heads * seq * head_dim;
        let (mut keys, mut values) = (vec![0.0; size], vec![0.0; size]);
        write_cache(&shape(seq), rotated, &mut keys, &mut values);
        pv_kernels::attention::attention(&shape(seq), rotated, &keys, &values, starts, sinks, &mut out);
        return Some(tensor(out, [batch * seq, heads * head_dim]));
    };
    let (keys, values) = cache.kv.take()?;
    let (shape, dtype) = (shape(keys.dims()[2]), keys.dtype());
    let writable = |tensor: &Tensor<4>| match dtype {
        DType::F16 => whole::<f16>(storage_in(tensor, dtype)?),
        _ => writable(tensor),
    };
    let (mut keys, mut values) = match writable(&keys).zip(writable(&values)) {
        // The tensors release their storage here, so that it has one owner and is written in place.
        Some(owned) => {
            drop((keys, values));
            owned
        }
        None => {
            cache.kv = Some((keys, values));
            return None;
        }
    };
    if dtype == DType::F16 {
        let (keys, values) = (keys.storage_mut::<f16>(), values.storage_mut::<f16>());
        let (keys, values) = (keys.reinterpret_cast_mut(), values.reinterpret_cast_mut());
        if !write_cache_f16(&shape, rotated, keys, values) {
            let written = rotated.chunks_exact(stride).flat_map(|row| &row[heads * head_dim..]);
            cache.note(tensor(vec![written.fold(0.0, |most, value| value.abs().max(most))], [1]));
        }
        pv_kernels::attention::attention_f16(&shape, rotated, keys, values, starts, sinks, &mut out);
    } else {
        let (keys, values) = (keys.storage_mut::<f32>(), values.storage_mut::<f32>());
        write_cache(&shape, rotated, keys, values);
        pv_kernels::attention::attention(&shape, rotated, keys, values, starts, sinks, &mut out);
    }
    cache.kv = Some((Tensor::from_primitive::<Flex>(keys), Tensor::from_primitive::<Flex>(values)));
    Some(tensor(out, [batch * seq, heads * head_dim]))
}

#[expect(clippy::result_large_err, reason = "as for `add`")]
pub(super) fn adamw(
    rule: &pv_kernels::adamw::AdamW,
    gradient: &Tensor<1>,
    state: [Tensor<1>; 3],
) -> Result<[Tensor<1>; 3], [Tensor<1>; 3]> {
    let [parameter, first, second] = &state;
    let owned = writable(parameter).zip(writable(first)).zip(writable(second));
    let Some((((mut parameter, mut first), mut second), gradient)) = owned.zip(storage(gradient)) else {
        return Err(state);
    };
    let Some(gradient) = values(&gradient) else { return Err(state) };
    drop(state);
    rule.update(parameter.storage_mut(), gradient, first.storage_mut(), second.storage_mut());
    Ok([parameter, first, second].map(Tensor::from_primitive::<Flex>))
}

pub(super) fn cross_entropy(logits: &Tensor<2>, targets: &[u32]) -> Option<Tensor<1>> {
    let vocab = logits.dims()[1];
    let logits = storage(logits)?;
    let targets: Vec<usize> = targets.iter().map(|target| *target as usize).collect();
    let mut log_sums = vec![0.0; targets.len()];
    Some(tensor(vec![pv_kernels::gradients::cross_entropy(values(&logits)?, &targets, vocab, &mut log_sums)], [1]))
}

pub(super) fn log_probs(logits: &Tensor<2>, targets: &[u32]) -> Option<Vec<f32>> {
    let vocab = logits.dims()[1];
    let logits = storage(logits)?;
    let logits = values(&logits)?;
    let targets: Vec<usize> = targets.iter().map(|target| *target as usize).collect();
    let mut log_sums = vec![0.0; targets.len()];
    pv_kernels::gradients::cross_entropy(logits, &targets, vocab, &mut log_sums);
    let rows = logits.chunks_exact(vocab).zip(&targets).zip(&log_sums);
    Some(rows.map(|((row, target), log_sum)| row[*target] - log_sum).collect())
}
