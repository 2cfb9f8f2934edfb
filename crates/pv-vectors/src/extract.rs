//! From a trait to its vector: rollouts, judging, filtering, averaging.

use std::ops::ControlFlow;
use std::path::Path;

use pv_hooks::Layer;
use pv_judge::{Judge, Rubric, TraitSpec};
use pv_model::{CausalLm, Message, Sequence};

use crate::rollout::{difference, read_sequences};
use crate::vector::{PersonaVector, Pooling};
use crate::{Error, Filter, Kept, Plan, Progress, Record, Result, RolloutOptions, RolloutRun, cosine};

/// The vector's file in a run's folder.
const VECTOR: &str = "vector.safetensors";
const NEUTRAL: &str = "neutral_vector.safetensors";

/// How a vector is extracted.
#[derive(Clone, Debug, PartialEq)]
pub struct ExtractOptions {
    /// How rollouts are generated.
    pub rollouts: RolloutOptions,
    /// Which of them are kept.
    pub filter: Filter,
    /// What coherence is judged by.
    pub coherence: Rubric,
    /// Whether the kept answers are read again without the instructions that led to them; see [`NeutralReading`].
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

/// A trait's vector, and what it was made of.
#[derive(Debug)]
pub struct TraitExtraction {
    /// The vector.
    pub vector: PersonaVector,
    /// Which rollouts were kept, and why the others were not.
    pub kept: Kept,
    /// The rollouts with their activations and scores.
    pub run: RolloutRun,
    /// The vector of the answers alone, where it was asked for.
    pub neutral: Option<NeutralReading>,
}

/// Extracts a trait's vector: generates rollouts into a folder, has them judged, filters them and averages the
/// activations of the kept ones (method: paper, section 2.2). The vector is saved in the folder too.
///
/// Called again with the same folder it goes on where it was, or, when all is done, only filters and averages.
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
    // What can be refused is refused before hours are spent on rollouts.
    let rubrics = [spec.rubric()?, options.coherence.clone()];
    if rubrics[0].name == rubrics[1].name {
        let reason = format!("the trait and the rubric for coherence are both called {:?}", rubrics[0].name);
        return Err(Error::BadSetting { reason });
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
/// A vector holds a trace of the instructions themselves besides what they made the model say, since the answer's tokens
/// attend to them. This is the part that is in the answers.
#[derive(Clone, Debug, PartialEq)]
pub struct NeutralReading {
    /// The difference of the response means; the prompts are the same on both sides.
    pub vector: PersonaVector,
    /// How it compares with the vector itself, per layer.
    pub layers: Vec<NeutralLayer>,
}

/// Two vectors at a layer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct NeutralLayer {
    /// The layer.
    pub layer: Layer,
    /// The cosine between them; `None` when one has no length.
    pub cosine: Option<f64>,
    /// The length of the vector itself.
    pub norm: f64,
    /// The length of that of the answers alone.
    pub neutral_norm: f64,
}

impl NeutralReading {
    /// Reads the kept answers of a run again.
    ///
    /// # Errors
    /// A model that is not the run's, or whose chat template refuses a lone question; [`Error::Cancelled`].
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
