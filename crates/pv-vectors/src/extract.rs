//! From a trait to its vector: generate, judge, filter and average.

use std::ops::ControlFlow;
use std::path::Path;

use pv_hooks::Layer;
use pv_judge::{Judge, Rubric, TraitSpec};
use pv_model::batch::Sequence;
use pv_model::{CausalLm, Message};

use crate::error::SettingError;
use crate::filter::Kept;
use crate::progress::Progress;
use crate::projection::cosine;
use crate::rollout::{Plan, Record, RolloutRun, difference, read_sequences};
use crate::vector::{PersonaVector, Pooling};
use crate::{Filter, Result, RolloutOptions};

/// The vector's file in a run's folder.
const VECTOR: &str = "vector.safetensors";
const NEUTRAL: &str = "neutral_vector.safetensors";

/// Options of an extraction.
#[derive(Clone, Debug, PartialEq)]
pub struct ExtractOptions {
    /// The options of the rollouts.
    pub rollouts: RolloutOptions,
    /// The filter of the rollouts.
    pub filter: Filter,
    /// The rubric for coherence.
    pub coherence: Rubric,
    /// Whether the kept answers are read again without their instructions; see [`NeutralReading`].
    pub neutral: bool,
}

impl Default for ExtractOptions {
    fn default() -> Self {
        Self {
            rollouts: RolloutOptions::default(),
            filter: Filter::default(),
            coherence: Rubric::coherence(),
            neutral: false,
        }
    }
}

/// A trait's vector, with the rollouts it was computed from.
#[derive(Debug)]
#[non_exhaustive]
pub struct TraitExtraction {
    /// The vector.
    pub vector: PersonaVector,
    /// The kept rollouts, and the counts of dropped ones by reason.
    pub kept: Kept,
    /// The rollouts with their activations and scores.
    pub run: RolloutRun,
    /// The vector of the answers alone, if requested.
    pub neutral: Option<NeutralReading>,
}

/// Extracts a trait's vector: generates rollouts in a folder, has them judged, filters them and averages the
/// activations of the kept ones (method: paper, section 2.2). The vector is also saved in the folder.
///
/// A further call with the same folder resumes the run; if the run is complete, it only filters and averages.
///
/// ```no_run
/// # use std::ops::ControlFlow;
/// # use pv_vectors::{ExtractOptions, extract};
/// # fn example(model: &pv_model::CausalLm, judge: &dyn pv_judge::Judge) -> pv_vectors::Result<()> {
/// let spec = pv_judge::TraitSpec::builtin("evil")?;
/// let options = ExtractOptions::default();
/// let found = extract(model, &spec, judge, "runs/evil", &options, |_| ControlFlow::Continue(()))?;
/// println!("{}", found.kept.table);
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// Those of [`RolloutRun::open`], [`RolloutRun::generate`], [`RolloutRun::score`] and [`RolloutRun::filter`].
pub fn extract(
    model: &CausalLm,
    spec: &TraitSpec,
    judge: &dyn Judge,
    folder: impl AsRef<Path>,
    options: &ExtractOptions,
    mut on_progress: impl FnMut(Progress) -> ControlFlow<()>,
) -> Result<TraitExtraction> {
    // Invalid options are refused before hours are spent on rollouts.
    let rubrics = [spec.rubric()?, options.coherence.clone()];
    if rubrics[0].name == rubrics[1].name {
        return Err(SettingError::SameRubrics { name: rubrics[0].name.clone() }.into());
    }
    options.filter.check()?;
    let mut run = RolloutRun::open(folder, model, Plan::new(spec, options.rollouts.clone())?)?;
    run.generate(model, &mut on_progress)?;
    run.score(judge, &rubrics, &mut on_progress)?;
    let kept = run.filter(&options.filter)?;
    let vector = run.vector(&kept)?;
    run.write_vector(VECTOR, &vector)?;
    let neutral = match options.neutral {
        true => Some(NeutralReading::new(model, &run, &kept, &mut on_progress)?),
        false => None,
    };
    if let Some(neutral) = &neutral {
        run.write_vector(NEUTRAL, &neutral.vector)?;
    }
    Ok(TraitExtraction { vector, kept, run, neutral })
}

/// The kept answers, read again after their questions alone, under the model's default prompt.
///
/// A vector contains a trace of the instructions themselves, besides their effect on the answers, because the answer's
/// tokens attend to them. This vector contains the effect on the answers only.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct NeutralReading {
    /// The difference of the response means; the prompts are the same on both sides.
    pub vector: PersonaVector,
    /// The comparison with the vector itself, per layer.
    pub layers: Vec<NeutralLayer>,
}

/// The comparison of the two vectors at a layer.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct NeutralLayer {
    /// The layer.
    pub layer: Layer,
    /// The cosine between them; `None` if one has length zero.
    pub cosine: Option<f64>,
    /// The norm of the vector itself, in activation units.
    pub norm: f64,
    /// The norm of the vector of the answers alone, in activation units.
    pub neutral_norm: f64,
}

impl NeutralReading {
    /// Reads the kept answers of a run again and computes their vector.
    ///
    /// # Errors
    /// A model that is not the run's, or whose chat template refuses a question without system prompt;
    /// [`Error::Cancelled`](crate::Error::Cancelled).
    pub fn new(
        model: &CausalLm,
        run: &RolloutRun,
        kept: &Kept,
        on_progress: impl FnMut(Progress) -> ControlFlow<()>,
    ) -> Result<Self> {
        run.check_model(model)?;
        let with_instructions = run.vector(kept)?;
        let indices: Vec<usize> = kept.pos.iter().chain(&kept.neg).copied().collect();
        let records = indices.iter().filter_map(|&index| run.records().get(index));
        let records: Vec<&Record> = records.collect();
        let render = run.plan().options().render.as_prompt();
        let prompts: Vec<Vec<u32>> = records
            .iter()
            .map(|record| Ok(model.prompt_with(&[Message::user(&record.question)], &render)?))
            .collect::<Result<_>>()?;
        let sequences: Vec<Sequence<'_>> = prompts
            .iter()
            .zip(&records)
            .map(|(prompt, record)| Sequence { prompt, response: &record.tokens, rest: &[] })
            .collect();
        let means = read_sequences(model, &sequences, run.plan().options().batch_size, on_progress)?;
        let all: Vec<usize> = (0..indices.len()).collect();
        let (pos, neg) = all.split_at(kept.pos.len().min(all.len()));
        let vector = difference(means.as_slice(), &[Pooling::ResponseMean], [pos, neg], run.provenance(kept))?;
        let layers = (0..vector.shape().0).map(Layer::hidden_state).filter_map(|layer| {
            let values = |vector: &PersonaVector| Some(vector.table(Pooling::ResponseMean)?.get(layer)?.to_vec());
            let direction = |values| crate::Direction { layer, values, mean_residual_norm: None };
            let (full, neutral) = (direction(values(&with_instructions)?), direction(values(&vector)?));
            Some(NeutralLayer {
                layer,
                cosine: cosine(&neutral.values, &full),
                norm: full.norm(),
                neutral_norm: neutral.norm(),
            })
        });
        let layers = layers.collect();
        Ok(Self { vector, layers })
    }
}
