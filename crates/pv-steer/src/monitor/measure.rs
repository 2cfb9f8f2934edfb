//! Asking a model under many prompts, and judging what the projections foretold.

use std::ops::ControlFlow;
use std::path::Path;

use pv_judge::{Answered, Judge, Rubric};
use pv_model::{CausalLm, GenerateOptions, Message, RenderOptions, Request};
use serde::{Deserialize, Serialize};

use super::{
    Error, ModelRecord, Monitor, MonitoringCorrelation, MonitoringPoint, Result, Watch, WatchId, correlations, file,
};

/// A prompt whose answers are foretold and judged.
#[derive(Clone, Debug, PartialEq)]
pub struct MonitoredPrompt {
    /// Its name in the results.
    pub id: String,
    /// What it was made to do.
    pub condition: String,
    /// The conversation, up to the question.
    pub messages: Vec<Message>,
    /// The question, as the judge is told it.
    pub question: String,
}

/// How the prompts are answered.
#[derive(Clone, Debug, PartialEq)]
pub struct MeasureOptions {
    /// How many answers to each prompt.
    pub rollouts: usize,
    /// The seed of the first answer; answer `i` over all prompts has `seed + i`.
    pub seed: u64,
    /// How answers are generated.
    pub generate: GenerateOptions,
    /// How prompts are rendered.
    pub render: RenderOptions,
}

/// What was measured, with what it takes to draw or repeat it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MonitoringStudy {
    /// The model.
    pub model: ModelRecord,
    /// The judge's name.
    pub judge: String,
    /// How many answers to each prompt.
    pub rollouts: usize,
    /// The seed of the first.
    pub seed: u64,
    /// How they were generated.
    pub generate: GenerateOptions,
    /// How prompts were rendered.
    #[serde(default, skip_serializing_if = "RenderOptions::is_default")]
    pub render: RenderOptions,
    /// The directions.
    pub directions: Vec<WatchId>,
    /// Every prompt on every direction.
    pub points: Vec<MonitoringPoint>,
    /// What follows from them.
    pub correlations: Vec<MonitoringCorrelation>,
}

impl MonitoringStudy {
    /// Writes it as JSON, whole or not at all; [`write_points`](super::write_points) writes the points alone as CSV.
    ///
    /// # Errors
    /// [`Error::Write`].
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        file::write_json(path.as_ref(), self)
    }

    /// Reads what [`save`](Self::save) wrote.
    ///
    /// # Errors
    /// [`Error::Read`] or [`Error::BadFile`].
    pub fn load(path: impl AsRef<Path>) -> Result<Self> {
        file::read_json(path.as_ref(), "a study of monitoring")
    }
}

/// Projects the last token of each prompt on every direction, answers the prompt, has the answers judged for the direction's
/// trait, and correlates the two (method: arXiv 2507.21509, monitoring).
///
/// # Errors
/// [`Error::BadSetting`] without prompts, answers, or a rubric of each trait's name; those of
/// [`Monitor::new`], of generating and of judging; [`Error::NotFinite`].
pub fn measure(
    model: &CausalLm,
    watches: &[Watch],
    prompts: &[MonitoredPrompt],
    rubrics: &[Rubric],
    judge: &dyn Judge,
    options: &MeasureOptions,
) -> Result<MonitoringStudy> {
    let bad = |reason: String| Err(Error::BadSetting { reason });
    let MeasureOptions { rollouts, seed, .. } = *options;
    if prompts.is_empty() || rollouts == 0 {
        return bad(format!("a measurement of {} prompts with {rollouts} answers each", prompts.len()));
    }
    let mut monitor = Monitor::new(watches.iter().cloned())?;
    let rubric = |watch: &Watch| rubrics.iter().position(|rubric| rubric.name == watch.trait_name);
    let mut rubric_of = Vec::with_capacity(watches.len());
    for watch in watches {
        match rubric(watch) {
            Some(rubric) => rubric_of.push(rubric),
            None => return bad(format!("there is no rubric for {}", watch.trait_name)),
        }
    }
    let render = options.render.as_prompt();
    let mut requests = Vec::with_capacity(prompts.len());
    for (i, prompt) in prompts.iter().enumerate() {
        let seed = seed.wrapping_add((i * rollouts) as u64);
        requests.push(Request::rollouts(model.prompt_with(&prompt.messages, &render)?, rollouts, seed));
    }
    let answers = model.generate(&requests, &options.generate, &mut monitor, |_| ControlFlow::Continue(()))?;
    let answered: Vec<Answered<'_>> = answers
        .iter()
        .enumerate()
        .map(|(i, answer)| Answered { question: &prompts[i / rollouts].question, answer: &answer.text })
        .collect();
    let verdicts = judge.judge(rubrics, &answered, &mut |_| ControlFlow::Continue(()))?;
    if verdicts.len() != answered.len() || verdicts.iter().any(|verdicts| verdicts.len() != rubrics.len()) {
        return bad(format!("{} did not judge every answer by every rubric", judge.name()));
    }

    let read = monitor.readings().take_all()?;
    let mut points = Vec::with_capacity(prompts.len() * watches.len());
    for (i, prompt) in prompts.iter().enumerate() {
        let first = i * rollouts;
        let projections = read.get(&first).and_then(|answer| answer.prompt_last()).unwrap_or_default();
        for (number, watch) in watches.iter().enumerate() {
            let scores = verdicts[first..first + rollouts].iter();
            let scores: Vec<f64> = scores.filter_map(|verdicts| verdicts[rubric_of[number]].value()).collect();
            let projection = projections.get(number).copied().unwrap_or(f32::NAN);
            if !projection.is_finite() {
                let (trait_name, layer) = (watch.trait_name.clone(), watch.layer());
                return Err(Error::NotFinite { trait_name, layer });
            }
            let n = scores.len();
            points.push(MonitoringPoint {
                prompt: prompt.id.clone(),
                condition: prompt.condition.clone(),
                trait_name: watch.trait_name.clone(),
                layer: watch.layer(),
                projection: f64::from(projection),
                expression: (n > 0).then(|| scores.iter().sum::<f64>() / n as f64),
                n,
            });
        }
    }
    Ok(MonitoringStudy {
        model: model.id().into(),
        judge: judge.name(),
        rollouts,
        seed,
        generate: options.generate.clone(),
        render: options.render.closed(),
        directions: watches.iter().map(Watch::id).collect(),
        correlations: correlations(&points),
        points,
    })
}
