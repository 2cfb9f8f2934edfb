//! What the sweeps share: trait, vector, judge, folder, progress.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use pv_judge::{Judge, TraitSpec};
use pv_model::generate::CacheType;
use pv_model::{CausalLm, Sampling};
use pv_steer::sweep::{AnswerPair, Estimate, StrengthUnit, Sweep, SweepOptions, SweepResults};
use pv_vectors::{Contrast, PersonaVector};

use crate::invocation::Invocation;
use crate::judging::JudgeArgs;
use crate::traits::named_spec;
use crate::vectors::{ContrastExtraction, Extracted, load};
use crate::{Bar, ModelArgs, OutArgs, RenderArgs, Result};

/// The model and trait, and how answers are generated and judged.
#[derive(clap::Args, Debug)]
pub struct SubjectArgs {
    /// The model.
    #[command(flatten)]
    pub model: ModelArgs,
    /// The trait to judge: a JSON file with a rubric, or a name. The organism has five traits of its own (evil,
    /// sycophancy, hallucination, impoliteness, optimism); evil, sycophancy, hallucination, optimism, humor,
    /// impoliteness and apathy are built in for any model.
    #[arg(long = "trait", value_name = "TRAIT", default_value = "optimism")]
    pub which: String,
    /// Load this vector instead of extracting one. An extracted vector is saved in the run folder as
    /// vector.safetensors.
    #[arg(long)]
    pub vector: Option<PathBuf>,
    /// The judge.
    #[command(flatten)]
    pub judge: JudgeArgs,
    /// How prompts are rendered.
    #[command(flatten)]
    pub render: RenderArgs,
    /// Use only the first N of the trait's evaluation questions.
    #[arg(long)]
    pub questions: Option<usize>,
    /// The maximum number of tokens in an answer.
    #[arg(long, default_value_t = 80)]
    pub max_new_tokens: usize,
    /// The sampling temperature.
    #[arg(long, default_value_t = 0.7)]
    pub temperature: f32,
    /// The seed from which the seeds of all answers are derived.
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// The run folder.
    #[command(flatten)]
    pub out: OutArgs,
}

/// What is steered, with which coefficients, and how it is judged.
#[derive(clap::Args, Debug)]
pub struct SweepArgs {
    /// Model, trait, judge.
    #[command(flatten)]
    pub subject: SubjectArgs,
    /// Interpret the steering coefficients as multiples of the raw vector, not of the residual norm.
    #[arg(long)]
    pub raw: bool,
    /// The minimum mean coherence, 0 to 100, of the chosen layer and coefficient.
    #[arg(long, default_value_t = 75.0)]
    pub coherence_min: f64,
    /// Keep steered values out of the KV cache, so that their effect does not accumulate over an answer.
    #[arg(long)]
    pub clean_cache: bool,
    /// The type in which keys and values are cached: compute (the compute type), or f16, which takes half the memory of f32 and
    /// rounds them.
    #[arg(long, value_name = "TYPE", default_value_t)]
    pub kv_cache: CacheType,
}

/// A trait, its vector, and some answers that the vector was extracted from.
pub struct Subject {
    /// The trait.
    pub spec: TraitSpec,
    /// Its vector.
    pub vector: PersonaVector,
    /// For each question, an answer that shows the trait and one that does not; empty if the vector was loaded from
    /// --vector.
    pub pairs: Vec<AnswerPair>,
}

impl SubjectArgs {
    /// Reads the trait.
    ///
    /// # Errors
    /// An unknown trait, or one without a rubric.
    pub fn spec(&self) -> Result<TraitSpec> {
        let mut spec = named_spec(&self.model, &self.which)?;
        spec.evaluation.truncate(self.questions.unwrap_or(usize::MAX));
        Ok(spec)
    }

    /// Creates the folder of a command's run, named after the given kind, the model and the trait.
    ///
    /// # Errors
    /// A folder that cannot be created.
    pub(crate) fn folder(&self, here: &Invocation, kind: &[&str], spec: &TraitSpec) -> Result<PathBuf> {
        here.open(&self.out, &[kind, &[&self.model.title(), &spec.name]].concat())
    }

    /// Loads the trait's vector, or extracts it into the run folder.
    ///
    /// # Errors
    /// Those of loading and extracting.
    pub fn subject(&self, model: &CausalLm, spec: TraitSpec, folder: &Path) -> Result<Subject> {
        if let Some(path) = &self.vector {
            return Ok(Subject { spec, vector: load(path, model)?, pairs: Vec::new() });
        }
        let contrast = Contrast { render: self.render.options()?, ..Contrast::of(&spec)? };
        let Self { max_new_tokens, seed, .. } = *self;
        let extraction = ContrastExtraction { model, contrast: &contrast, max_new_tokens, seed };
        let Extracted { vector, pairs } = extraction.in_folder(folder)?;
        Ok(Subject { spec, vector, pairs })
    }
}

impl SweepArgs {
    /// The settings that a grid and a dose-response share.
    ///
    /// # Errors
    /// An invalid date.
    pub fn options(&self) -> Result<SweepOptions> {
        Ok(SweepOptions {
            unit: if self.raw { StrengthUnit::Raw } else { StrengthUnit::ResidualNorms },
            max_new_tokens: self.subject.max_new_tokens,
            sampling: Sampling::temperature(self.subject.temperature),
            render: self.subject.render.options()?,
            clean_cache: self.clean_cache,
            cache: self.kv_cache,
            seed: self.subject.seed,
            coherence_min: self.coherence_min,
            ..SweepOptions::default()
        })
    }

    /// Runs a sweep under a progress bar.
    ///
    /// # Errors
    /// Those of [`Sweep::new`] and [`Sweep::run`], and of the judge.
    pub fn run(
        &self,
        model: &CausalLm,
        subject: &Subject,
        folder: &Path,
        options: &SweepOptions,
    ) -> Result<SweepResults> {
        let SubjectArgs { judge, model: args, .. } = &self.subject;
        let judge: Box<dyn Judge + '_> = judge.judge(args, model, &options.render, folder)?;
        let sweep = Sweep::new(model, &subject.vector, &subject.spec, judge.as_ref(), options)?;
        let bar = Bar::new("sweeping");
        Ok(sweep.run(folder, |progress| {
            bar.show("", progress);
            ControlFlow::Continue(())
        })?)
    }
}

/// Formats an estimate with its interval.
pub fn shown(estimate: &Estimate) -> String {
    match (estimate.mean, estimate.low.zip(estimate.high)) {
        (Some(mean), Some((low, high))) => format!("{mean:.0} ({low:.0} to {high:.0})"),
        (Some(mean), None) => format!("{mean:.0}"),
        _ => "–".to_owned(),
    }
}
