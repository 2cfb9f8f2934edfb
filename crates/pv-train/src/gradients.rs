//! The loss of one pass and its gradients, computed in one graph for the whole pass or layer by layer.

use burn::tensor::{DType, Tensor};
use pv_hooks::{Hook, HookError, Layer, LayerSet, ModelShape, ResidualContext};
use pv_model::decoder::{Decoder, Pass};

use crate::collate::{Collated, Targets, collate};
use crate::loss::{loss_of, value, weighted_loss, whole};
use crate::optimizer::ParameterGradients;
use crate::run_hook::RunHook;
use crate::{Result, Sample};

/// With activation checkpointing, this many logits, or those of one position, are in memory at a time.
const LOGITS: usize = 8 << 20;

/// The divisors of a pass's sums.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Counts {
    /// The sum of the weights of the step's trained tokens: their number, if all weights are 1.
    pub(crate) trained: f64,
    /// The number of answer tokens in the step.
    pub(crate) answers: usize,
    /// The factor on the loss while gradients are computed; the caller divides the summed gradients by it.
    ///
    /// In f16, values below 6e-8 are zero. Gradients divided by the number of a step's tokens would underflow, so
    /// passes compute the gradients of the sum over tokens, which do not depend on that number. A power of two changes
    /// only exponents. The exponents of f32 and bf16 are large enough.
    pub(crate) scale: f64,
}

impl Counts {
    pub(crate) fn new(samples: &[Sample], dtype: DType) -> Self {
        let tokens: usize = samples.iter().map(Sample::trained_count).sum();
        Self {
            trained: samples.iter().map(Sample::total_weight).sum(),
            answers: samples.iter().map(Sample::answer_tokens).sum(),
            scale: if dtype == DType::F16 { (tokens.max(1) as f64).log2().floor().exp2() } else { 1.0 },
        }
    }

    /// The loss, `[1]`, divided and scaled for the gradients of a pass.
    fn loss(&self, sum: Tensor<1>) -> Tensor<1> {
        sum / self.trained * self.scale
    }

    /// A penalty, `[1]`, divided and scaled in the same way.
    fn penalty(&self, sum: Tensor<1>) -> Tensor<1> {
        sum / self.answers.max(1) as f64 * self.scale
    }
}

/// The sums over the tokens of a pass.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Sums {
    pub(crate) loss: f64,
    pub(crate) penalty: f64,
}

/// Keeps the residual of some layers before another hook acts there.
pub(crate) struct Tap<'a> {
    layers: &'a [Layer],
    pub(crate) seen: Vec<(Layer, Tensor<3>)>,
    inner: &'a mut dyn Hook,
}

impl<'a> Tap<'a> {
    pub(crate) fn new(layers: &'a [Layer], inner: &'a mut dyn Hook) -> Self {
        Self { layers, seen: Vec::new(), inner }
    }
}

impl Hook for Tap<'_> {
    fn name(&self) -> String {
        self.inner.name()
    }

    fn layers(&self) -> LayerSet {
        self.inner.layers()
    }

    fn wants(&self, layer: Layer) -> bool {
        self.layers.contains(&layer) || self.inner.wants(layer)
    }

    fn validate(&self, shape: &ModelShape) -> std::result::Result<(), HookError> {
        self.inner.validate(shape)
    }

    fn on_residual(&mut self, context: &ResidualContext<'_>, residual: Tensor<3>) -> Tensor<3> {
        if self.layers.contains(&context.layer) {
            self.seen.push((context.layer, residual.clone()));
        }
        if self.inner.wants(context.layer) { self.inner.on_residual(context, residual) } else { residual }
    }
}

/// Runs a pass over samples and adds the gradients of the decoder's tracked parameters, multiplied by
/// [`Counts::scale`].
///
/// # Errors
/// Those of the run's hook. A loss that is not finite is no error: it is returned without gradients.
pub(crate) fn accumulate(
    decoder: &Decoder,
    samples: &[&Sample],
    counts: Counts,
    run: &mut (impl RunHook + ?Sized),
    into: &mut ParameterGradients,
) -> Result<Sums> {
    let layers = run.penalised();
    let collated = collate(samples)?;
    let mut tap = Tap::new(&layers, run.hook());
    let residual = decoder.pass(&whole(&collated.batch), None, &mut tap).residual;
    let seen = tap.seen;
    let loss = weighted_loss(decoder, residual, collated.targets);
    let mut sums = Sums { loss: value(loss.clone())?, penalty: 0.0 };
    let mut root = counts.loss(loss);
    for penalty in penalties(run, seen, samples)? {
        sums.penalty += value(penalty.clone())?;
        root = root + counts.penalty(penalty);
    }
    if sums.loss.is_finite() && sums.penalty.is_finite() {
        into.accumulate(decoder, root.backward());
    }
    Ok(sums)
}

/// A scalar `[1]` in f32 whose gradient with respect to the residual `[batch, seq, d_model]` is `down`. Losses are f32
/// in every compute type, because sums in half precision overflow.
fn against(residual: Tensor<3>, down: Tensor<3>) -> Tensor<1> {
    (residual.cast(DType::F32) * down.cast(DType::F32)).sum()
}

fn penalties(
    run: &mut (impl RunHook + ?Sized),
    seen: Vec<(Layer, Tensor<3>)>,
    samples: &[&Sample],
) -> Result<Vec<Tensor<1>>> {
    let penalties = seen.into_iter().map(|(layer, residual)| run.penalty(layer, residual, samples));
    Ok(penalties.collect::<Result<Vec<_>>>()?.into_iter().flatten().collect())
}

/// Like [`accumulate`], with the activations of only one layer in memory at a time: a forward pass without a graph
/// keeps the residual after every layer, without padding; then each layer, from the last to the first, is computed again with its own
/// graph.
pub(crate) fn accumulate_by_layer(
    decoder: &Decoder,
    samples: &[&Sample],
    counts: Counts,
    run: &mut (impl RunHook + ?Sized),
    into: &mut ParameterGradients,
) -> Result<Sums> {
    let layers = run.penalised();
    let Collated { batch, targets } = collate(samples)?;
    let upto = |layer: Layer| Pass { stop_at: Some(layer), ..whole(&batch) };
    let plain = decoder.plain();
    let depth = decoder.config().layers;
    let mut residual = plain.pass(&upto(Layer::EMBEDDINGS), None, run.hook()).residual;
    let mut inputs = Vec::with_capacity(depth);
    for block in 0..depth {
        let (from, to) = (Layer::hidden_state(block), Layer::after_block(block));
        inputs.push(batch.without_padding(residual.clone()));
        residual = plain.continue_pass(&upto(to), from, residual, run.hook());
    }
    let (mut sums, mut upstream) = (Sums::default(), None);
    let together = (LOGITS / decoder.config().vocab.max(1)).max(1);
    for Targets { weight, rows, ids } in targets {
        for (rows, ids) in rows.chunks(together).zip(ids.chunks(together)) {
            let leaf = residual.clone().autodiff().require_grad();
            let loss = loss_of(decoder, leaf.clone(), rows.to_vec(), ids);
            let loss = if weight == 1.0 { loss } else { loss * weight };
            sums.loss += value(loss.clone())?;
            if !sums.loss.is_finite() {
                return Ok(sums);
            }
            let mut gradients = counts.loss(loss).backward();
            upstream = match (upstream, leaf.grad_remove(&mut gradients)) {
                (Some(sum), Some(here)) => Some(sum + here),
                (sum, here) => sum.or(here),
            };
            into.accumulate(decoder, gradients);
        }
    }
    drop(residual);
    let lowest = decoder.lowest_tracked();
    for block in (0..depth).rev() {
        let Some(input) = inputs.pop() else { break };
        // No gradient is needed below the lowest trained parameter.
        let Some(down) = upstream.take().filter(|_| lowest.is_some_and(|lowest| Layer::hidden_state(block) >= lowest))
        else {
            break;
        };
        let (from, to) = (Layer::hidden_state(block), Layer::after_block(block));
        let leaf = batch.with_padding(input).autodiff().require_grad();
        let mut tap = Tap::new(&layers, run.hook());
        let residual = decoder.continue_pass_for_gradient(&upto(to), from, leaf.clone(), &mut tap);
        let seen = tap.seen;
        let mut root = against(residual, down);
        for penalty in penalties(run, seen, samples)? {
            sums.penalty += value(penalty.clone())?;
            root = root + counts.penalty(penalty);
        }
        if !sums.penalty.is_finite() {
            return Ok(sums);
        }
        let mut gradients = root.backward();
        upstream = leaf.grad_remove(&mut gradients);
        into.accumulate(decoder, gradients);
    }
    // The embeddings, if they are trained.
    if let Some(down) = upstream.filter(|_| decoder.embedding.val().is_require_grad()) {
        let residual = decoder.pass(&upto(Layer::EMBEDDINGS), None, run.hook()).residual;
        into.accumulate(decoder, against(residual, down).backward());
    }
    Ok(sums)
}

/// Refuses a run's hook that does not fit the decoder.
///
/// # Errors
/// Those of the hook's own check, or a penalty on a layer that does not exist.
pub(crate) fn check(run: &mut (impl RunHook + ?Sized), decoder: &Decoder) -> Result<()> {
    let shape = decoder.shape();
    for layer in run.penalised() {
        if layer > shape.last_layer() || layer == Layer::EMBEDDINGS {
            let last = shape.last_layer();
            return Err(HookError::LayerOutOfRange { hook: "a penalty".to_owned(), layer, last }.into());
        }
    }
    pv_hooks::hook::check(run.hook(), &shape, None)?;
    Ok(())
}
