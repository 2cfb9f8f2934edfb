//! A ranking of layers without a judge, by how steering changes the probabilities of given answers.

use std::ops::ControlFlow;

use pv_hooks::{Hook, Layer, LayerSet, NoHook};
use pv_model::batch::{Batch, Sequence};
use pv_model::causal_lm::ForwardOptions;
use pv_model::decoder::{cross_entropy, to_f32};
use pv_model::{CausalLm, RenderOptions};
use pv_statistics::Interval;
use pv_statistics::correlation::spearman;
use pv_statistics::intervals::mean_interval;
use pv_statistics::moments::mean;
use pv_vectors::PersonaVector;
use serde::{Deserialize, Serialize, Serializer};

use super::estimate::LEVEL;
use super::plan::StrengthUnit;
use super::results::SweepResults;
use super::subject::{directions, prompt};
use crate::error::{SettingError, SweepError};
use crate::{Error, Positions, Result, Steerer};

/// A question with one answer that shows the trait and one that does not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AnswerPair {
    /// The question.
    pub question: String,
    /// The answer that shows the trait.
    pub pro: String,
    /// The answer that does not.
    pub contra: String,
}

/// Options of the ranking.
#[derive(Clone, Debug, PartialEq)]
pub struct ProxyOptions {
    /// The layers. [`LayerSet::All`] takes every layer at which the vector has a direction.
    pub layers: LayerSet,
    /// The strength, equal at every layer.
    pub strength: f32,
    /// The unit of the strength.
    pub unit: StrengthUnit,
    /// The tokens.
    pub positions: Positions,
    /// The system prompt; `None` by default.
    pub system: Option<String>,
    /// How prompts are rendered.
    pub render: RenderOptions,
    /// The maximum number of tokens in one pass, padding included; a longer text is read alone.
    pub pass_tokens: usize,
}

impl Default for ProxyOptions {
    /// All layers at a fifth of the residual's norm.
    fn default() -> Self {
        Self {
            layers: LayerSet::All,
            strength: 0.2,
            unit: StrengthUnit::default(),
            positions: Positions::default(),
            system: None,
            render: RenderOptions::default(),
            pass_tokens: 2048,
        }
    }
}

/// The effect of steering at one layer, in nats per token.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ProxyLayer {
    /// The layer.
    pub layer: Layer,
    /// The change against the unsteered model, as the mean over pairs: the change of the mean log-probability of the
    /// pro answer's tokens minus that of the contra answer's.
    pub change: f64,
    /// Student's 95 % interval of the change over pairs; `None` for one pair.
    #[serde(serialize_with = "as_pair")]
    pub interval: Option<Interval>,
    /// The change of the pro answers only.
    pub pro: f64,
    /// The change of the contra answers only.
    pub contra: f64,
}

/// Files contain an interval as `[low, high]`; the form with fields is also read.
fn as_pair<S: Serializer>(interval: &Option<Interval>, serializer: S) -> Result<S::Ok, S::Error> {
    interval.map(|Interval { low, high }| (low, high)).serialize(serializer)
}

/// Layers, and how steering at each changes the probabilities of given answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct LayerProxy {
    /// The strength.
    pub strength: f32,
    /// Its unit.
    pub unit: StrengthUnit,
    /// The number of answer pairs.
    pub pairs: usize,
    /// The options with which prompts were rendered.
    #[serde(default, skip_serializing_if = "RenderOptions::is_default")]
    pub render: RenderOptions,
    /// In ascending order of layers.
    pub layers: Vec<ProxyLayer>,
}

/// The agreement between a proxy and a sweep about layers.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ProxyAgreement {
    /// Spearman's ρ, over the layers, between the proxy's change and the largest expression of a coherent cell; `None`
    /// with fewer than three layers in both.
    pub rho: Option<f64>,
    /// The number of layers that are in both and have a coherent cell.
    pub layers: usize,
    /// The proxy's best layer.
    pub proxy_best: Option<Layer>,
    /// The sweep's best layer.
    pub sweep_best: Option<Layer>,
    /// The rank of the proxy's best layer in the sweep, from 1; `None` if it has no coherent cell.
    pub rank: Option<usize>,
    /// The best expression at the sweep's best layer minus that at the proxy's, in points.
    pub shortfall: Option<f64>,
}

/// Reads given answers under steering at each layer, and measures how much likelier the pro answers become compared
/// with the contra answers. Each text is read once per layer; nothing is generated, and no judge is needed.
///
/// The proxy does not measure coherence: at strengths that make the text incoherent it is of little use. The callback
/// receives the numbers of layers done and in all, with the unsteered pass counted as one.
///
/// # Errors
/// [`SweepError::NoPairs`], [`SweepError::EmptyAnswer`], [`SweepError::NoLayers`]; a strength that is 0 or not finite; a vector that
/// does not fit the model or lacks a layer; [`Error::Cancelled`].
pub fn layer_proxy(
    model: &CausalLm,
    vector: &PersonaVector,
    pairs: &[AnswerPair],
    options: &ProxyOptions,
    mut on_layer: impl FnMut(usize, usize) -> ControlFlow<()>,
) -> Result<LayerProxy> {
    vector.check_model(model.config())?;
    let directions = directions(vector, &options.layers)?;
    if options.strength == 0.0 {
        return Err(SettingError::Zero { name: "the strength, which then changes nothing," }.into());
    }
    let coefficient = options.unit.coefficient(options.strength);
    let steerers = directions.iter().map(|direction| Steerer::new().add(direction, coefficient, options.positions));
    let steerers = steerers.collect::<Result<Vec<_>, _>>()?;
    let texts = Texts::new(model, pairs, options)?;
    let total = directions.len() + 1;
    let mut done = 0;
    let mut read = |hook: &mut dyn Hook| {
        let means = texts.means(model, hook)?;
        done += 1;
        if on_layer(done, total).is_break() { Err(Error::Cancelled) } else { Ok(means) }
    };
    let unsteered = read(&mut NoHook)?;
    let mut layers = Vec::with_capacity(directions.len());
    for (direction, mut steerer) in directions.iter().zip(steerers) {
        let steered = read(&mut steerer)?;
        let side = |side: usize| -> Vec<f64> {
            steered.iter().zip(&unsteered).map(|(steered, before)| steered[side] - before[side]).collect()
        };
        let (pro, contra) = (side(0), side(1));
        let changes: Vec<f64> = pro.iter().zip(&contra).map(|(pro, contra)| pro - contra).collect();
        let of = |values: &[f64]| mean(values).unwrap_or_default();
        layers.push(ProxyLayer {
            layer: direction.layer,
            change: of(&changes),
            interval: mean_interval(&changes, LEVEL),
            pro: of(&pro),
            contra: of(&contra),
        });
    }
    let (strength, unit, render) = (options.strength, options.unit, options.render.closed());
    Ok(LayerProxy { strength, unit, pairs: pairs.len(), render, layers })
}

/// The pairs as tokens.
struct Texts {
    /// Pro and contra answer of the first pair, then of the next: token ids of prompt and answer.
    texts: Vec<(Vec<u32>, Vec<u32>)>,
    /// The indices of the texts in each pass, grouped by similar length.
    passes: Vec<Vec<usize>>,
}

impl Texts {
    fn new(model: &CausalLm, pairs: &[AnswerPair], options: &ProxyOptions) -> Result<Self> {
        if pairs.is_empty() {
            return Err(SweepError::NoPairs.into());
        }
        let mut texts = Vec::with_capacity(2 * pairs.len());
        for (pair, AnswerPair { question, pro, contra }) in pairs.iter().enumerate() {
            let prompt = prompt(model, options.system.as_deref(), question, &options.render)?;
            if prompt.is_empty() {
                return Err(pv_model::Error::EmptyPrompt { index: pair }.into());
            }
            for (side, text) in [("pro", pro), ("contra", contra)] {
                let answer = model.tokenizer()?.encode_rendered(text)?;
                if answer.is_empty() {
                    return Err(SweepError::EmptyAnswer { pair, side }.into());
                }
                texts.push((prompt.clone(), answer));
            }
        }
        let length = |text: usize| texts[text].0.len() + texts[text].1.len();
        let mut order: Vec<usize> = (0..texts.len()).collect();
        order.sort_by_key(|&text| length(text));
        let mut passes: Vec<Vec<usize>> = Vec::new();
        for text in order {
            match passes.last_mut() {
                // The last one is the longest so far.
                Some(pass) if (pass.len() + 1) * length(text) <= options.pass_tokens => pass.push(text),
                _ => passes.push(vec![text]),
            }
        }
        Ok(Self { texts, passes })
    }

    /// The mean log-probability of the tokens of the pro and of the contra answer, per pair, in nats per token. With
    /// sums, pairs would be weighted by their lengths.
    fn means(&self, model: &CausalLm, hook: &mut dyn Hook) -> Result<Vec<[f64; 2]>> {
        let mut means = vec![[0.0; 2]; self.texts.len() / 2];
        for pass in &self.passes {
            let sequences = pass.iter().map(|&text| Sequence {
                prompt: &self.texts[text].0,
                response: &self.texts[text].1,
                rest: &[],
            });
            let batch = Batch::whole(&sequences.collect::<Vec<_>>())?;
            let residual = model.forward(&batch, ForwardOptions::default(), hook)?.residual;
            let [_, _, d_model] = residual.dims();
            for (row, &text) in pass.iter().enumerate() {
                let answer = &self.texts[text].1;
                // A token is predicted at the position before it.
                let first = batch.spans().rows()[row].response.start - 1;
                let here = residual.clone().slice([row..row + 1, first..first + answer.len(), 0..d_model]);
                let logits = model.decoder().logits(here);
                let [_, n, vocab] = logits.dims();
                let loss = to_f32(cross_entropy(logits.reshape([n, vocab]), answer))?;
                let loss = loss.first().copied().filter(|loss| loss.is_finite());
                let loss = loss.ok_or(pv_model::Error::BadLogits { sequence: text })?;
                means[text / 2][text % 2] = -f64::from(loss) / n as f64;
            }
        }
        Ok(means)
    }
}

impl LayerProxy {
    /// The layers in descending order of change; of equal ones, the lower layer first.
    pub fn ranking(&self) -> Vec<&ProxyLayer> {
        let mut layers: Vec<&ProxyLayer> = self.layers.iter().collect();
        layers.sort_by(|a, b| b.change.total_cmp(&a.change));
        layers
    }

    /// The layer with the largest change.
    pub fn best_layer(&self) -> Option<Layer> {
        self.ranking().first().map(|layer| layer.layer)
    }

    /// The agreement with the layers that a judge's scores select. Layers without a coherent cell are skipped.
    pub fn agreement(&self, sweep: &SweepResults) -> ProxyAgreement {
        let judged = sweep.layers();
        let mut both: Vec<(Layer, f64, f64)> = Vec::new();
        for ProxyLayer { layer, change, .. } in &self.layers {
            let judged = judged.iter().find(|judged| judged.layer == *layer).and_then(|judged| judged.best);
            if let Some(expression) = judged.and_then(|cell| cell.expression.mean) {
                both.push((*layer, *change, expression));
            }
        }
        let proxy_best = self.best_layer();
        let here = both.iter().find(|(layer, ..)| Some(*layer) == proxy_best).map(|(.., expression)| *expression);
        let most = both.iter().map(|(.., expression)| *expression).max_by(f64::total_cmp);
        ProxyAgreement {
            rho: spearman(&both.iter().map(|(_, change, expression)| (*change, *expression)).collect::<Vec<_>>()),
            layers: both.len(),
            proxy_best,
            sweep_best: sweep.best_layer(),
            rank: here.map(|here| 1 + both.iter().filter(|(.., expression)| *expression > here).count()),
            shortfall: here.zip(most).map(|(here, most)| most - here),
        }
    }
}
