//! Extracts persona vectors of traits: rollouts under contrastive system prompts, judge, filter, means, and
//! uncertainty. An interrupted run can be resumed.

mod contrast;

use std::ops::ControlFlow;
use std::path::Path;

use comfy_table::{ContentArrangement, Table};
use pv_hooks::LayerSet;
use pv_judge::traits::Polarity;
use pv_judge::{Judge, TraitSpec};
use pv_model::generate::CacheType;
use pv_model::{CausalLm, Sampling};
use pv_organism::Trait;
use pv_vectors::activations::ResampledUnit;
use pv_vectors::filter::{FilterRule, FilterTable, Outcome};
use pv_vectors::uncertainty::{Stability, StabilityOptions, stability};
use pv_vectors::vector::Pooling;
use pv_vectors::{Error, ExtractOptions, Filter, PersonaVector, RolloutOptions, TraitExtraction, extract};
use serde_json::{Map, Value, json};

use crate::invocation::Invocation;
use crate::judging::JudgeArgs;
use crate::program::say;
use crate::separation::Separation;
use crate::traits::NamedTrait;
use crate::vectors::FILE;
use crate::{Bar, ModelArgs, OutArgs, RenderArgs, Result};

/// The arguments of `persona extract`.
#[derive(clap::Args, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "switches of a command line")]
pub(super) struct Args {
    /// A trait: a JSON file or the name of a built-in trait (evil, sycophancy, hallucination, optimism, humor,
    /// impoliteness, apathy; the organism has its own versions of five of them). May be given several times. By default
    /// all traits of the organism for the organism, otherwise evil.
    #[arg(value_name = "TRAIT")]
    traits: Vec<String>,
    /// Extract without a judge: generate one answer per question under every system prompt, and use all of
    /// them.
    #[arg(long)]
    contrast: bool,
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    render: RenderArgs,
    #[command(flatten)]
    judge: JudgeArgs,
    #[command(flatten)]
    out: OutArgs,
    /// The number of answers per question and instruction; with --contrast 1.
    #[arg(long, alias = "per-prompt", default_value_t = 10, conflicts_with = "contrast")]
    rollouts: usize,
    /// The maximum number of tokens in an answer; 1000 by default, 48 with --contrast.
    #[arg(long)]
    max_new_tokens: Option<usize>,
    /// The sampling temperature; with --contrast 0.7.
    #[arg(long, default_value_t = 1.0, conflicts_with = "contrast")]
    temperature: f32,
    /// The type in which keys and values are cached: compute (the compute type), or f16, which takes half the memory of f32 and
    /// rounds them.
    #[arg(long, value_name = "TYPE", default_value_t, conflicts_with = "contrast")]
    kv_cache: CacheType,
    /// The minimum number of kept pairs; fewer are an error.
    #[arg(long, default_value_t = 10, conflicts_with = "contrast")]
    min_kept: usize,
    /// Filter rollouts one by one, not in pairs.
    #[arg(long, conflicts_with = "contrast")]
    unpaired: bool,
    /// Also compute the vector from the same answers, read again without the instructions that elicited them.
    #[arg(long, conflicts_with = "contrast")]
    neutral: bool,
    /// Also save each vector as a control vector for llama.cpp (`--control-vector`).
    #[arg(long)]
    gguf: bool,
    /// The seed from which the seeds of all answers are derived.
    #[arg(long, default_value_t = 0)]
    seed: u64,
}

pub(super) fn run(args: &Args, here: &Invocation) -> Result<Value> {
    if args.contrast && args.judge.is_given() {
        return Err("--contrast uses no judge; omit --judge or --contrast".into());
    }
    let traits = args.names().iter().map(|name| NamedTrait::find(&args.model, name)).collect::<Result<Vec<_>>>()?;
    // Traits that cannot be judged are reported before anything is loaded.
    let specs = match args.contrast {
        true => Vec::new(),
        false => traits.iter().map(|named| named.clone().spec()).collect::<Result<Vec<_>>>()?,
    };
    let model = args.model.load()?;
    let title = args.model.title();
    let mut of = vec![title.as_str()];
    if let [only] = traits.as_slice() {
        of.push(only.name());
    }
    of.extend(args.contrast.then_some("contrast"));
    let out = here.open(&args.out, &of)?;
    let mut found = Vec::new();
    if args.contrast {
        for named in &traits {
            let folder = out.join(named.name());
            let mut one = contrast::run(args, &model, named, &folder)?;
            let loaded = crate::vectors::load(folder.join(FILE), &model)?;
            one["gguf"] = args.gguf.then(|| args.control_vector(&model, &loaded, &folder)).transpose()?.into();
            found.push(one);
            say!("");
        }
        return Ok(json!({ "model": model.name(), "folder": out, "traits": found }));
    }
    let judge = args.judge.judge(&args.model, &model, &args.render.options()?, &out)?;
    say!("judged by {}\n", judge.name());
    for spec in specs {
        let folder = out.join(&spec.name);
        let extraction = args.extract(&model, &spec, judge.as_ref(), &folder)?;
        let mut one = report(&model, &spec, &extraction)?;
        let path = folder.join(FILE);
        say!("saved {}", path.display());
        one["vector"] = json!(path);
        one["gguf"] = args.gguf.then(|| args.control_vector(&model, &extraction.vector, &folder)).transpose()?.into();
        found.push(one);
        say!("");
    }
    Ok(json!({ "model": model.name(), "judge": judge.name(), "folder": out, "traits": found }))
}

impl Args {
    fn names(&self) -> Vec<String> {
        match (self.traits.is_empty(), self.model.is_organism()) {
            (false, _) => self.traits.clone(),
            (true, true) => Trait::ALL.map(|which| which.name().to_owned()).to_vec(),
            (true, false) => vec!["evil".to_owned()],
        }
    }

    /// Saves a vector in llama.cpp's format and returns the message that names the file.
    fn control_vector(&self, model: &CausalLm, vector: &PersonaVector, folder: &Path) -> Result<String> {
        let path = folder.join("vector.gguf");
        // llama.cpp treats Mistral as Llama.
        let family = model.config().model_type.replace("mistral", "llama");
        vector.export_control_vector(&path, &family, Pooling::ResponseMean, &LayerSet::All)?;
        say!("saved {}", path.display());
        Ok(path.display().to_string())
    }

    fn extract(&self, model: &CausalLm, spec: &TraitSpec, judge: &dyn Judge, folder: &Path) -> Result<TraitExtraction> {
        let rule = if self.unpaired { FilterRule::Unpaired } else { FilterRule::Paired };
        let options = ExtractOptions {
            rollouts: RolloutOptions {
                per_prompt: self.rollouts,
                max_new_tokens: self.max_new_tokens.unwrap_or(1000),
                sampling: Sampling::temperature(self.temperature),
                cache: self.kv_cache,
                seed: self.seed,
                render: self.render.options()?,
                ..RolloutOptions::default()
            },
            filter: Filter { rule, min_kept: self.min_kept, ..Filter::default() },
            neutral: self.neutral,
            ..ExtractOptions::default()
        };
        let bar = Bar::new(spec.name.as_str());
        Ok(extract(model, spec, judge, folder, &options, |progress| {
            bar.show(&spec.name, progress);
            ControlFlow::Continue(())
        })?)
    }
}

/// Reports how many rollouts were kept and, for each layer, the vector's norm and uncertainty.
fn report(model: &CausalLm, spec: &TraitSpec, extraction: &TraitExtraction) -> Result<Value> {
    say!("{}\n{}", spec.name, extraction.kept.table);
    let mut table = Table::new();
    table.set_content_arrangement(ContentArrangement::Dynamic);
    table.set_header(["layer", "norm", "split-half cosine", "held-out gap (95 %)", "held-out AUC"]);
    let (mut layers, mut rows, mut resampled, mut unknown) = (Vec::new(), Vec::new(), None, None);
    for layer in LayerSet::All.resolve(model.config().layers) {
        let kept = extraction.run.activations(Pooling::ResponseMean, layer, &extraction.kept)?;
        // Before the first block, the difference can be zero if the answers have equal tokens.
        let Ok(direction) = extraction.vector.direction(layer) else { continue };
        let (row, figures) = match stability(&kept.pos()?, &kept.neg()?, &StabilityOptions::default()) {
            Ok(found) => {
                layers.push(Separation::of(layer, &found));
                resampled = Some(found.gap.resampled);
                uncertainty(&found)
            }
            // The vector is valid anyway.
            Err(error @ Error::TooFewUnits { .. }) => {
                unknown = Some(error);
                Default::default()
            }
            Err(error) => return Err(error.into()),
        };
        table.add_row([layer.to_string(), format!("{:.2}", direction.norm())].into_iter().chain(row));
        rows.push(json!({ "layer": layer.index(), "norm": direction.norm(), "trust": figures }));
    }
    say!("{table}");
    if let Some(error) = unknown {
        tracing::warn!("too few rollouts were kept to estimate the vector's uncertainty: {error}");
    }
    if let Some(unit) = resampled {
        let what = match unit {
            ResampledUnit::QuestionAndPair => "questions and pairs of instructions",
            ResampledUnit::Question => "questions",
            ResampledUnit::Rollout => "answers",
        };
        say!(
            "held-out gap: the difference of both sides' mean projections; vectors of resampled {what}, projections of those not drawn"
        );
    }
    if let Some(summary) = Separation::summary(&layers) {
        say!("{summary}; `persona sweep --vector` finds the layer that steers best");
    }
    let mut cosines = Vec::new();
    if let Some(neutral) = &extraction.neutral {
        cosines = neutral.layers.iter().filter_map(|layer| Some((layer.layer.index(), layer.cosine?))).collect();
        let texts: Vec<String> = cosines.iter().map(|(layer, cosine)| format!("{layer}: {cosine:.3}")).collect();
        say!("cosine with the vector of the answers read without instructions, by layer: {}", texts.join(", "));
    }
    let cosine = |(layer, cosine)| json!({ "layer": layer, "cosine": cosine });
    Ok(json!({
        "trait": spec.name,
        "rollouts": counts(&extraction.kept.table),
        "layers": rows,
        "neutral_cosines": cosines.into_iter().map(cosine).collect::<Vec<_>>(),
    }))
}

/// The uncertainty of a layer's vector, as table cells and as numbers.
fn uncertainty(found: &Stability) -> ([String; 3], Value) {
    let gap = found.gap;
    let row = [
        format!("{:.3}", found.split_half.mean),
        format!("{:.2} ({:.2} to {:.2})", gap.held_out, gap.held_out_interval.low, gap.held_out_interval.high),
        format!("{:.3}", found.held_out_auc),
    ];
    let figures = json!({
        "split_half_cosine": found.split_half.mean,
        "held_out_gap": gap.held_out,
        "held_out_gap_interval": [gap.held_out_interval.low, gap.held_out_interval.high],
        "held_out_auc": found.held_out_auc,
    });
    (row, figures)
}

/// The numbers of kept and rejected rollouts for each polarity, by reason.
fn counts(table: &FilterTable) -> Value {
    let name = |outcome| match outcome {
        Outcome::Kept => "kept",
        Outcome::EmptyAnswer => "empty_answer",
        Outcome::Abstained => "judge_abstained",
        Outcome::TraitScore => "trait_score",
        Outcome::Coherence => "coherence",
        Outcome::PartnerDropped => "partner_dropped",
    };
    let sides = |outcome| [Polarity::Pos, Polarity::Neg].map(|side| table.count(side, outcome));
    let counted = |outcome| (name(outcome).to_owned(), json!(sides(outcome)));
    Outcome::ALL.into_iter().map(counted).collect::<Map<_, _>>().into()
}
