//! Models before and after: trait expression and coherence by a judge, the finetuning shift along persona vectors from the
//! first model to the others, MMLU, and perplexity. A run that was broken off goes on.
#![allow(clippy::print_stdout, reason = "a program's output")]

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;
use comfy_table::Table;
use pv_examples::folder::make;
use pv_examples::judging::JudgeArgs;
use pv_examples::sweeping::shown;
use pv_examples::traits::{contrast_of, named_spec};
use pv_examples::vectors::{extracted, load};
use pv_examples::{AdapterArgs, Bar, LoadArgs, ModelArgs, OutArgs, RenderArgs, Result, default_layer, run};
use pv_hooks::{Layer, LayerSet, NoHook};
use pv_judge::TraitSpec;
use pv_model::{CausalLm, Sampling};
use pv_organism::Trait;
use pv_train::mmlu::{Mmlu, MmluOptions, MmluResults, QuestionSet};
use pv_train::{
    BootstrapOptions, Change, Comparison, EvaluateOptions, Evaluation, EvaluationResults, Perplexity,
    PerplexityOptions, ProjectionTable, ShiftReport, TraitDirection, perplexity,
};
use pv_vectors::{Contrast, PersonaVector};
use serde_json::json;

/// Measures one or more models; all changes are from the first. With --adapter, the first model with the adapters on it is
/// measured too, after the others.
#[derive(Parser)]
struct Args {
    /// The models: folders, names, or "organism". The first one decides on the traits and the judge.
    #[arg(default_value = "organism")]
    models: Vec<String>,
    #[command(flatten)]
    loading: LoadArgs,
    #[command(flatten)]
    adapters: AdapterArgs,
    /// A trait: a JSON file, or a name that is built in. May be given several times; all of the organism's by default, else
    /// evil, sycophancy and hallucination.
    #[arg(long = "trait")]
    traits: Vec<String>,
    #[command(flatten)]
    render: RenderArgs,
    #[command(flatten)]
    judge: JudgeArgs,
    /// Only the first questions of each trait.
    #[arg(long)]
    questions: Option<usize>,
    /// Answers to each question; 10 in the paper.
    #[arg(long, default_value_t = 1)]
    per_question: usize,
    /// The most tokens of an answer.
    #[arg(long, default_value_t = 80)]
    max_new_tokens: usize,
    /// The sampling temperature.
    #[arg(long, default_value_t = 0.7)]
    temperature: f32,
    /// A system prompt.
    #[arg(long)]
    system: Option<String>,
    /// What the seeds of all answers are derived from.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Where persona_vectors put its vectors (a folder per trait); they are extracted in short from the first model
    /// otherwise, when there are several models.
    #[arg(long)]
    vectors: Option<PathBuf>,
    /// The layers of the shift, counted as in Hugging Face's hidden_states; the middle by default.
    #[arg(long, value_delimiter = ',')]
    layers: Vec<usize>,
    /// A folder with MMLU's SUBJECT_dev.csv and SUBJECT_test.csv.
    #[arg(long)]
    mmlu: Option<PathBuf>,
    /// Only the first questions of each subject.
    #[arg(long)]
    mmlu_questions: Option<usize>,
    /// A text to take the perplexity of.
    #[arg(long)]
    perplexity: Option<PathBuf>,
    #[command(flatten)]
    out: OutArgs,
}

/// What was measured of one model, beside the traits.
struct Further {
    mmlu: Option<MmluResults>,
    perplexity: Option<Perplexity>,
}

fn main() -> ExitCode {
    run(program)
}

fn program(args: Args) -> Result {
    let models = args.models();
    let Some(first_args) = models.first() else { return Err("no model".into()) };
    let specs = args.specs(first_args)?;
    let first = first_args.load()?;
    let names: Vec<String> = models.iter().map(ModelArgs::title).collect();
    let titles = titles(&names);
    let out = args.out.open("evaluate", &names.iter().map(String::as_str).collect::<Vec<_>>())?;
    let judge = args.judge.judge(first_args, &first, &args.render.options()?, &out)?;
    println!("judged by {}\n", judge.name());
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
        // Each trait's own questions, on its own vector.
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
    println!("trait expression / coherence, 0 to 100 (95 %), and the change of the expression from the first model:");
    println!("{}", expression_table(&comparison, &specs));
    if !shifts.is_empty() {
        println!("finetuning shift from {}, in activation units (95 %):\n{}", titles[0], shift_table(&shifts));
    }
    if further.iter().any(|found| found.mmlu.is_some() || found.perplexity.is_some()) {
        println!("{}", further_table(&titles, &further));
    }
    save(&out, &titles, &comparison, &shifts, &further)?;
    println!("saved evaluation.json, expression.csv and further tables in {}", out.display());
    Ok(())
}

/// What models are called in tables: by their names, with a number where another has the same one.
fn titles(names: &[String]) -> Vec<String> {
    let title = |(at, name): (usize, &String)| match names.iter().filter(|other| *other == name).count() {
        1 => name.clone(),
        _ => format!("{name} ({})", at + 1),
    };
    names.iter().enumerate().map(title).collect()
}

impl Args {
    /// The models, and at last the first one with the adapters on it.
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
            per_question: self.per_question,
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

    /// A vector per trait.
    fn vectors(&self, first: &CausalLm, specs: &[TraitSpec], out: &Path) -> Result<Vec<PersonaVector>> {
        let one = |spec: &TraitSpec| match &self.vectors {
            Some(folder) => load(folder.join(&spec.name).join("vector.safetensors"), first),
            None => {
                let folder = out.join("vectors").join(&spec.name);
                make(&folder)?;
                let contrast = Contrast { render: self.render.options()?, ..contrast_of(spec) };
                Ok(extracted(&folder, first, &contrast, self.max_new_tokens, self.seed)?.vector)
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

/// A change with its interval.
fn changed(change: &Change, digits: usize) -> String {
    match change.interval {
        Some(i) => format!("{:+.digits$} ({:+.digits$} to {:+.digits$})", change.mean, i.low, i.high),
        None => format!("{:+.digits$}", change.mean),
    }
}

fn expression_table(comparison: &Comparison, specs: &[TraitSpec]) -> Table {
    let mut table = Table::new();
    table.set_header([vec!["trait".to_owned()], comparison.models.clone()].concat());
    for spec in specs {
        let mut row = vec![spec.name.clone()];
        for model in &comparison.models {
            let Some(found) = comparison.get(&spec.name, model) else { continue };
            let change = found.expression_change.map_or_else(String::new, |c| format!("\n{}", changed(&c, 0)));
            let silent = match found.expression.abstained + found.coherence.abstained {
                0 => String::new(),
                _ => format!("\n{} / {} not scored", found.expression.abstained, found.coherence.abstained),
            };
            row.push(format!("{} / {}{change}{silent}", shown(&found.expression), shown(&found.coherence)));
        }
        table.add_row(row);
    }
    table
}

fn shift_table(shifts: &[(String, Vec<ShiftReport>)]) -> Table {
    let mut table = Table::new();
    table.set_header(["trait", "layer", "model", "before", "after", "shift"]);
    for shift in shifts
        .iter()
        .flat_map(|(name, reports)| reports.iter().flat_map(|report| &report.shifts).map(move |shift| (name, shift)))
    {
        let (name, shift) = shift;
        let number = |value: f64| format!("{value:.2}");
        let (base, finetuned) = (number(shift.base), number(shift.finetuned));
        let layer = shift.layer.index().to_string();
        table.add_row([&shift.trait_name, &layer, name, &base, &finetuned, &changed(&shift.shift, 2)]);
    }
    table
}

fn further_table(titles: &[String], further: &[Further]) -> Table {
    let mut table = Table::new();
    table.set_header(["model", "MMLU, all questions (95 %)", "MMLU, mean over subjects (95 %)", "perplexity"]);
    let percent =
        |value: f64, low: f64, high: f64| format!("{:.1} % ({:.1} to {:.1})", 100.0 * value, 100.0 * low, 100.0 * high);
    for (title, found) in titles.iter().zip(further) {
        let mmlu = found.mmlu.as_ref().map(|found| {
            let (micro, interval) = (found.micro, found.macro_interval);
            [percent(micro.value, micro.low, micro.high), percent(found.macro_average, interval.low, interval.high)]
        });
        let [micro, macro_average] = mmlu.unwrap_or_else(|| ["–", "–"].map(str::to_owned));
        let perplexity = found.perplexity.map_or_else(|| "–".to_owned(), |found| format!("{:.3}", found.perplexity));
        table.add_row([title.clone(), micro, macro_average, perplexity]);
    }
    table
}

fn save(
    folder: &Path,
    titles: &[String],
    comparison: &Comparison,
    shifts: &[(String, Vec<ShiftReport>)],
    further: &[Further],
) -> Result {
    let further = titles.iter().zip(further);
    let further: Vec<_> = further
        .map(|(title, found)| {
            let mmlu = found
                .mmlu
                .as_ref()
                .map(|m| json!({"micro": m.micro, "macro": m.macro_average, "macro_interval": m.macro_interval}));
            json!({"model": title, "mmlu": mmlu, "perplexity": found.perplexity})
        })
        .collect();
    let named = |(name, reports): &(String, Vec<ShiftReport>)| json!({"model": name, "traits": reports});
    let all = json!({
        "expression": comparison,
        "shifts": shifts.iter().map(named).collect::<Vec<_>>(),
        "further": further,
    });
    std::fs::write(folder.join("evaluation.json"), serde_json::to_string_pretty(&all)?)?;
    std::fs::write(folder.join("expression.csv"), comparison.to_csv()?)?;
    for (at, (_, reports)) in shifts.iter().enumerate() {
        let tables = reports.iter().map(ShiftReport::to_csv).collect::<Result<Vec<_>, _>>()?;
        let rows = tables.iter().enumerate().flat_map(|(i, table)| table.lines().skip(usize::from(i > 0)));
        let text = rows.collect::<Vec<_>>().join("\n") + "\n";
        std::fs::write(folder.join(format!("shift-{}.csv", at + 1)), text)?;
    }
    Ok(())
}
