//! What the sweeps share: trait, vector, judge, folder, progress.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use pv_judge::{Judge, TraitSpec};
use pv_model::{CausalLm, Sampling};
use pv_steer::{AnswerPair, Estimate, StrengthUnit, Sweep, SweepOptions, SweepResults};
use pv_vectors::{Contrast, Extraction, PersonaVector};

use crate::judging::JudgeArgs;
use crate::traits::{contrast_of, named_spec};
use crate::vectors::{Extracted, extracted, load};
use crate::{Bar, ModelArgs, OutArgs, RenderArgs, Result};

/// Which model and trait, and how answers are generated and judged.
#[derive(clap::Args, Debug)]
pub struct SubjectArgs {
    /// The model.
    #[command(flatten)]
    pub model: ModelArgs,
    /// The trait, which is judged: a JSON file with a rubric, or a name: for the organism one of its own five (evil,
    /// sycophancy, hallucination, impoliteness, optimism); for any model evil, sycophancy, hallucination, optimism, humor,
    /// impoliteness and apathy are built in.
    #[arg(long = "trait", default_value = "optimism")]
    pub which: String,
    /// Take this vector instead of extracting one; the extracted one is kept with the rest, as vector.safetensors.
    #[arg(long)]
    pub vector: Option<PathBuf>,
    /// Who judges.
    #[command(flatten)]
    pub judge: JudgeArgs,
    /// How prompts are rendered.
    #[command(flatten)]
    pub render: RenderArgs,
    /// Only the first questions of the trait's evaluation questions.
    #[arg(long)]
    pub questions: Option<usize>,
    /// The most tokens of an answer.
    #[arg(long, default_value_t = 80)]
    pub max_new_tokens: usize,
    /// The sampling temperature.
    #[arg(long, default_value_t = 0.7)]
    pub temperature: f32,
    /// What the seeds of all answers are derived from.
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// Where the run is kept.
    #[command(flatten)]
    pub out: OutArgs,
}

/// What is steered, how strongly, and how it is judged.
#[derive(clap::Args, Debug)]
pub struct SweepArgs {
    /// Model, trait, judge.
    #[command(flatten)]
    pub subject: SubjectArgs,
    /// Strengths are multiples of the raw vector, not of the residual's norm.
    #[arg(long)]
    pub raw: bool,
    /// The mean coherence, 0 to 100, that a choice must have.
    #[arg(long, default_value_t = 75.0)]
    pub coherence_min: f64,
    /// Keep what steering changes out of the KV cache, so that it does not add up over an answer.
    #[arg(long)]
    pub clean_cache: bool,
}

/// A trait, its vector, and the answers that the vector was made of.
pub struct Subject {
    /// The trait.
    pub spec: TraitSpec,
    /// Its vector.
    pub vector: PersonaVector,
    /// Per question, an answer that shows the trait and one that does not; none where the vector was given.
    pub pairs: Vec<AnswerPair>,
}

impl SubjectArgs {
    /// Reads the trait.
    ///
    /// # Errors
    /// A trait that is not known, or has no rubric.
    pub fn spec(&self) -> Result<TraitSpec> {
        let mut spec = named_spec(&self.model, &self.which)?;
        spec.evaluation.truncate(self.questions.unwrap_or(usize::MAX));
        Ok(spec)
    }

    /// The folder of a program's run.
    ///
    /// # Errors
    /// A folder that cannot be made.
    pub fn folder(&self, program: &str, spec: &TraitSpec) -> Result<PathBuf> {
        self.out.open(program, &[&self.model.title(), &spec.name])
    }

    /// Reads the trait's vector, or extracts it into the run's folder.
    ///
    /// # Errors
    /// What goes wrong with either.
    pub fn subject(&self, model: &CausalLm, spec: TraitSpec, folder: &Path) -> Result<Subject> {
        if let Some(path) = &self.vector {
            return Ok(Subject { spec, vector: load(path, model)?, pairs: Vec::new() });
        }
        let contrast = Contrast { render: self.render.options()?, ..contrast_of(&spec) };
        let Extracted { vector, pairs } = extracted(folder, model, &contrast, self.max_new_tokens, self.seed)?;
        Ok(Subject { spec, vector, pairs })
    }
}

impl SweepArgs {
    /// The settings that both programs share.
    ///
    /// # Errors
    /// A date that is none.
    pub fn options(&self) -> Result<SweepOptions> {
        Ok(SweepOptions {
            unit: if self.raw { StrengthUnit::Raw } else { StrengthUnit::ResidualNorms },
            max_new_tokens: self.subject.max_new_tokens,
            sampling: Sampling::temperature(self.subject.temperature),
            render: self.subject.render.options()?,
            clean_cache: self.clean_cache,
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

/// For each question, the first answer that shows the trait and the first that does not.
pub fn answer_pairs(contrast: &Contrast, extraction: &Extraction) -> Vec<AnswerPair> {
    let mut found: BTreeMap<usize, [Option<&str>; 2]> = BTreeMap::new();
    for answer in extraction.answers.iter().filter(|answer| !answer.generation.tokens.is_empty()) {
        let side = &mut found.entry(answer.question).or_default()[usize::from(!answer.eliciting)];
        side.get_or_insert(&answer.generation.text);
    }
    let pair = |(question, [pro, contra]): (usize, [Option<&str>; 2])| {
        let question = contrast.questions.get(question)?.clone();
        Some(AnswerPair { question, pro: pro?.to_owned(), contra: contra?.to_owned() })
    };
    found.into_iter().filter_map(pair).collect()
}

/// An estimate with its interval.
pub fn shown(estimate: &Estimate) -> String {
    match (estimate.mean, estimate.low.zip(estimate.high)) {
        (Some(mean), Some((low, high))) => format!("{mean:.0} ({low:.0} to {high:.0})"),
        (Some(mean), None) => format!("{mean:.0}"),
        _ => "–".to_owned(),
    }
}
