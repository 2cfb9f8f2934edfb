//! Measures models before and after finetuning: trait expression and coherence by a judge, the finetuning shift along
//! persona vectors from the first model to the others, MMLU, and perplexity. An interrupted run can be resumed.

mod tables;

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use pv_data::files::write_whole;
use pv_hooks::{Layer, LayerSet, NoHook};
use pv_judge::TraitSpec;
use pv_model::{CausalLm, Sampling};
use pv_organism::Trait;
use pv_train::measure::BootstrapOptions;
use pv_train::measure::evaluate::{Comparison, EvaluateOptions, Evaluation, EvaluationResults};
use pv_train::measure::mmlu::{Mmlu, MmluOptions, MmluResults, QuestionSet};
use pv_train::measure::perplexity::{Perplexity, PerplexityOptions, perplexity};
use pv_train::measure::shift::{ProjectionTable, ShiftReport};
use pv_vectors::{Contrast, PersonaVector, TraitDirection};
use serde_json::{Value, json};

use crate::folder::make;
use crate::invocation::Invocation;
use crate::judging::JudgeArgs;
use crate::program::say;
use crate::traits::named_spec;
use crate::vectors::{ContrastExtraction, FILE, load};
use crate::{AdapterArgs, Bar, LoadArgs, ModelArgs, OutArgs, RenderArgs, Result, default_layer};

/// The arguments of `persona eval`.
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// The models: folders, names, or "organism". The first one determines the default traits and judge.
    #[arg(default_value = "organism")]
    models: Vec<String>,
    #[command(flatten)]
    loading: LoadArgs,
    #[command(flatten)]
    adapters: AdapterArgs,
    /// A trait: a JSON file or the name of a built-in trait. May be given several times. By default all traits of the
    /// organism for the organism, otherwise evil, sycophancy and hallucination.
    #[arg(long = "trait", value_name = "TRAIT")]
    traits: Vec<String>,
    #[command(flatten)]
    render: RenderArgs,
    #[command(flatten)]
    judge: JudgeArgs,
    /// Use only the first N questions of each trait.
    #[arg(long)]
    questions: Option<usize>,
    /// The number of answers to each question.
    #[arg(long, alias = "per-question", default_value_t = 10)]
    rollouts: usize,
    /// The maximum number of tokens in an answer.
    #[arg(long, default_value_t = 1000)]
    max_new_tokens: usize,
    /// The sampling temperature.
    #[arg(long, default_value_t = 1.0)]
    temperature: f32,
    /// The system prompt.
    #[arg(long)]
    system: Option<String>,
    /// The seed from which the seeds of all answers are derived.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// The folder where `persona extract` saved its vectors (a folder per trait). By default, if there are several
    /// models, vectors are extracted from the first one without a judge.
    #[arg(long)]
    vectors: Option<PathBuf>,
    /// The layers of the shift, counted as in Hugging Face's hidden_states; the middle layer by default.
    #[arg(long, value_delimiter = ',')]
    layers: Vec<usize>,
    /// A folder with MMLU's SUBJECT_dev.csv and SUBJECT_test.csv.
    #[arg(long)]
    mmlu: Option<PathBuf>,
    /// Use only the first N questions of each subject.
    #[arg(long)]
    mmlu_questions: Option<usize>,
    /// A text file to measure perplexity on.
    #[arg(long)]
    perplexity: Option<PathBuf>,
    #[command(flatten)]
    out: OutArgs,
}

/// The maximum number of tokens in the answers of an extraction without a judge.
const SHORT: usize = 80;

/// The measurements of one model other than traits.
struct Further {
    mmlu: Option<MmluResults>,
    perplexity: Option<Perplexity>,
}

pub(super) fn run(args: &Args, here: &Invocation) -> Result<Value> {
    let models = args.models();
    let Some(first_args) = models.first() else { return Err("no model".into()) };
    let specs = args.specs(first_args)?;
    let first = first_args.load()?;
    let names: Vec<String> = models.iter().map(ModelArgs::title).collect();
    let titles = titles(&names);
    let out = here.open(&args.out, &names.iter().map(String::as_str).collect::<Vec<_>>())?;
    let judge = args.judge.judge(first_args, &first, &args.render.options()?, &out)?;
    say!("judged by {}\n", judge.name());
    let vectors = if models.len() > 1 { args.vectors(&first, &specs, &out)? } else { Vec::new() };
    let layers = args.layers(first_args, &first);

    let (mut evaluations, mut further, mut bases, mut shifts) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for (at, (one, title)) in models.iter().zip(&titles).enumerate() {
        let other = if at > 0 { Some(one.load()?) } else { None };
        let model = other.as_ref().unwrap_or(&first);
        let folder = out.join(format!("{at}-{}", model.name().replace('/', "--")));
        let evaluation = Evaluation::new(model, &specs, judge.as_ref(), &args.options()?)?;
        evaluations.push((title.clone(), answered(&evaluation, &folder.join("traits"), title)?));
        further.push(args.further(model, &folder)?);
        // Each trait's own questions, projected on its own vector.
        let mut reports = Vec::new();
        for (which, vector) in vectors.iter().enumerate() {
            let directions = TraitDirection::of_vector(vector, &layers)?;
            let prompts = evaluation.prompts(&specs[which].name).unwrap_or_default();
            let table = ProjectionTable::measure(model, prompts, &directions, |_| ControlFlow::Continue(()))?;
            match at {
                0 => bases.push(table),
                _ => reports.push(bases[which].shift_to(&table, &BootstrapOptions::default())?),
            }
        }
        if at > 0 {
            shifts.push((title.clone(), reports));
        }
    }
    let comparison = Comparison::new(&evaluations, &BootstrapOptions::default())?;
    say!("trait expression / coherence, 0 to 100 (95 %), and the change of the expression from the first model:");
    say!("{}", tables::expression(&comparison, &specs));
    if !shifts.is_empty() {
        say!("finetuning shift from {}, in activation units (95 %):\n{}", titles[0], tables::shifts(&shifts));
    }
    if further.iter().any(|found| found.mmlu.is_some() || found.perplexity.is_some()) {
        say!("{}", tables::further(&titles, &further));
    }
    let mut document = results(&titles, &comparison, &shifts, &further);
    save(&out, &document, &comparison, &shifts)?;
    say!("saved evaluation.json, expression.csv and further tables in {}", out.display());
    document["folder"] = json!(out);
    document["judge"] = json!(judge.name());
    Ok(document)
}

/// The models' titles in tables: their names, with a number for names that occur more than once.
fn titles(names: &[String]) -> Vec<String> {
    let title = |(at, name): (usize, &String)| match names.iter().filter(|other| *other == name).count() {
        1 => name.clone(),
        _ => format!("{name} ({})", at + 1),
    };
    names.iter().enumerate().map(title).collect()
}

impl Args {
    /// The models, followed by the first one with the adapters.
    fn models(&self) -> Vec<ModelArgs> {
        let one = |name: &String, adapters| ModelArgs { model: name.clone(), loading: self.loading.clone(), adapters };
        let mut models: Vec<ModelArgs> = self.models.iter().map(|name| one(name, AdapterArgs::default())).collect();
        let adapted = self.models.first().filter(|_| !self.adapters.adapters.is_empty());
        models.extend(adapted.map(|name| one(name, self.adapters.clone())));
        models
    }

    fn specs(&self, first: &ModelArgs) -> Result<Vec<TraitSpec>> {
        let mut names = self.traits.clone();
        if names.is_empty() && first.is_organism() {
            names = Trait::ALL.map(|which| which.name().to_owned()).to_vec();
        } else if names.is_empty() {
            names = ["evil", "sycophancy", "hallucination"].map(str::to_owned).to_vec();
        }
        let mut specs = names.iter().map(|name| named_spec(first, name)).collect::<Result<Vec<_>>>()?;
        specs.iter_mut().for_each(|spec| spec.evaluation.truncate(self.questions.unwrap_or(usize::MAX)));
        Ok(specs)
    }

    fn options(&self) -> Result<EvaluateOptions> {
        Ok(EvaluateOptions {
            system: self.system.clone(),
            per_question: self.rollouts,
            max_new_tokens: self.max_new_tokens,
            sampling: Sampling::temperature(self.temperature),
            seed: self.seed,
            render: self.render.options()?,
            ..EvaluateOptions::default()
        })
    }

    fn layers(&self, first_args: &ModelArgs, first: &CausalLm) -> LayerSet {
        match self.layers.is_empty() {
            true => default_layer(first_args, first).into(),
            false => self.layers.iter().copied().map(Layer::hidden_state).collect(),
        }
    }

    /// One vector per trait.
    fn vectors(&self, first: &CausalLm, specs: &[TraitSpec], out: &Path) -> Result<Vec<PersonaVector>> {
        let one = |spec: &TraitSpec| match &self.vectors {
            Some(folder) => load(folder.join(&spec.name).join(FILE), first),
            None => {
                let folder = out.join("vectors").join(&spec.name);
                make(&folder)?;
                let contrast = Contrast { render: self.render.options()?, ..Contrast::of(spec)? };
                let extraction = ContrastExtraction {
                    model: first,
                    contrast: &contrast,
                    max_new_tokens: self.max_new_tokens.min(SHORT),
                    seed: self.seed,
                };
                Ok(extraction.in_folder(&folder)?.vector)
            }
        };
        specs.iter().map(one).collect()
    }

    fn further(&self, model: &CausalLm, folder: &Path) -> Result<Further> {
        let bar = Bar::new(model.name());
        let step = |what: &'static str, done: usize, total: usize| {
            bar.set(format!("{}: {what}", model.name()), done, total);
            ControlFlow::Continue(())
        };
        let mut found = Further { mmlu: None, perplexity: None };
        if let Some(questions) = &self.mmlu {
            let set = QuestionSet::read_folder(questions)?.first_of_each(self.mmlu_questions.unwrap_or(usize::MAX));
            let mmlu = Mmlu::new(model, &set, &MmluOptions::default())?;
            let results = mmlu.run(folder.join("mmlu"), &mut NoHook, |done, total| step("MMLU", done, total))?;
            found.mmlu = Some(results);
        }
        if let Some(file) = &self.perplexity {
            let text = std::fs::read_to_string(file).map_err(|error| format!("{}: {error}", file.display()))?;
            let mut options = PerplexityOptions::default();
            options.window = options.window.min(model.config().max_positions);
            options.stride = options.stride.min(options.window / 2);
            let on_window = |done, total| step("perplexity", done, total);
            found.perplexity = Some(perplexity(model, &text, &options, &mut NoHook, on_window)?);
        }
        Ok(found)
    }
}

fn answered(evaluation: &Evaluation<'_>, folder: &Path, name: &str) -> Result<EvaluationResults> {
    let bar = Bar::new(name);
    Ok(evaluation.run(folder, &mut NoHook, |progress| {
        bar.show(name, progress);
        ControlFlow::Continue(())
    })?)
}

/// All results in one document.
fn results(
    titles: &[String],
    comparison: &Comparison,
    shifts: &[(String, Vec<ShiftReport>)],
    further: &[Further],
) -> Value {
    let further = titles.iter().zip(further);
    let further = further.map(|(title, found)| {
        let mmlu = found
            .mmlu
            .as_ref()
            .map(|m| json!({"micro": m.micro, "macro": m.macro_average, "macro_interval": m.macro_interval}));
        json!({"model": title, "mmlu": mmlu, "perplexity": found.perplexity})
    });
    let named = |(name, reports): &(String, Vec<ShiftReport>)| json!({"model": name, "traits": reports});
    json!({
        "expression": comparison,
        "shifts": shifts.iter().map(named).collect::<Vec<_>>(),
        "further": further.collect::<Vec<_>>(),
    })
}

fn save(folder: &Path, all: &Value, comparison: &Comparison, shifts: &[(String, Vec<ShiftReport>)]) -> Result {
    write_whole(folder.join("evaluation.json"), serde_json::to_string_pretty(all)?)?;
    write_whole(folder.join("expression.csv"), comparison.to_csv()?)?;
    for (at, (_, reports)) in shifts.iter().enumerate() {
        let tables = reports.iter().map(ShiftReport::to_csv).collect::<Result<Vec<_>, _>>()?;
        let rows = tables.iter().enumerate().flat_map(|(i, table)| table.lines().skip(usize::from(i > 0)));
        let text = rows.collect::<Vec<_>>().join("\n") + "\n";
        write_whole(folder.join(format!("shift-{}.csv", at + 1)), text)?;
    }
    Ok(())
}
