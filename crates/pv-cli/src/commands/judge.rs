//! Measures the quality of a judge's scores for a trait: whether it separates answers under eliciting system prompts
//! from answers under suppressing ones, and whether it scores ordinary answers as coherent.

use std::path::Path;

use comfy_table::Table;
use pv_data::RunFolder;
use pv_data::runs::through_text;
use pv_hooks::NoHook;
use pv_judge::traits::Polarity;
use pv_judge::{Judge, Rubric, TraitSpec};
use pv_model::{CausalLm, GenerateOptions, Message, Sampling};
use pv_statistics::separation::roc_auc;
use pv_vectors::judged_answers::JudgedAnswers;
use serde_json::{Value, json};

use crate::invocation::Invocation;
use crate::program::say;
use crate::sweeping::SubjectArgs;
use crate::{Bar, Result};

/// The subcommands of `persona judge`.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// Judge answers to a trait's evaluation questions under its contrastive system prompts and without a system
    /// prompt.
    Check(Args),
}

impl Command {
    pub(super) fn run(self, here: &Invocation) -> Result<Value> {
        match self {
            Self::Check(args) => check(&args.subject, here),
        }
    }
}

/// The arguments of `persona judge check`.
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    #[command(flatten)]
    subject: SubjectArgs,
}

/// The index of a system prompt and that of a question.
type Place = (usize, usize);

fn check(args: &SubjectArgs, here: &Invocation) -> Result<Value> {
    let spec = args.spec()?;
    let model = args.model.load()?;
    let out = args.folder(here, &[], &spec)?;
    let judge = args.judge.judge(&args.model, &model, &args.render.options()?, &out)?;
    say!("{} on {}, judged by {}", spec.name, model.name(), judge.name());

    let pairs = 0..spec.instruction.len();
    let both = pairs.flat_map(|pair| [(pair, Polarity::Pos), (pair, Polarity::Neg)]).map(Some);
    let conditions: Vec<Option<(usize, Polarity)>> = both.chain([None]).collect();
    let answers = judged(args, &model, &spec, &conditions, judge.as_ref(), &out)?;

    let mut table = Table::new();
    table.set_header(["system prompt", "answers", "no score", "expression", "coherence"]);
    // Trait expression of all answers that have a score, for and against the trait.
    let mut sides = [Vec::new(), Vec::new()];
    let (mut aucs, mut rows) = (Vec::new(), Vec::new());
    for (number, which) in conditions.into_iter().enumerate() {
        let total = spec.evaluation.len();
        let scores = |rubric: usize| -> Vec<f64> {
            (0..total).filter_map(|question| answers.get((number, question))?.score(rubric)).collect()
        };
        let (expression, coherence) = (scores(0), scores(1));
        let mean = |values: &[f64]| match values.len() {
            0 => "–".to_owned(),
            n => format!("{:.0}", values.iter().sum::<f64>() / n as f64),
        };
        let name = match which {
            None => "none".to_owned(),
            Some((pair, Polarity::Pos)) => format!("{pair} pos"),
            Some((pair, Polarity::Neg)) => format!("{pair} neg"),
        };
        rows.push(json!({ "system": name, "answers": total, "expression": expression, "coherence": coherence }));
        let none = (total - expression.len()).to_string();
        table.add_row([name, total.to_string(), none, mean(&expression), mean(&coherence)]);
        match which {
            Some((_, Polarity::Pos)) => sides[0].push(expression),
            Some((_, Polarity::Neg)) => {
                aucs.push(sides[0].last().and_then(|pos| roc_auc(pos, &expression)));
                sides[1].push(expression);
            }
            None => {}
        }
    }
    say!("{table}");
    let number = |auc: Option<f64>| auc.map_or_else(|| "unknown".to_owned(), |auc| format!("{auc:.3}"));
    let [pos, neg] = sides.map(|side| side.concat());
    let auc = roc_auc(&pos, &neg);
    say!(
        "AUC of pos against neg: {} over {} and {} answers; pair by pair {}",
        number(auc),
        pos.len(),
        neg.len(),
        aucs.iter().copied().map(number).collect::<Vec<_>>().join(", ")
    );
    Ok(json!({
        "trait": spec.name,
        "model": model.name(),
        "judge": judge.name(),
        "folder": out,
        "systems": rows,
        "auc": auc,
        "auc_by_pair": aucs,
    }))
}

/// Answers to the evaluation questions under each system prompt, with their verdicts. Both are saved as they are
/// computed.
fn judged(
    args: &SubjectArgs,
    model: &CausalLm,
    spec: &TraitSpec,
    conditions: &[Option<(usize, Polarity)>],
    judge: &dyn Judge,
    out: &Path,
) -> Result<JudgedAnswers<Place>> {
    let rubrics = [spec.rubric()?, Rubric::coherence()];
    let systems: Vec<Option<String>> =
        conditions.iter().map(|which| which.and_then(|(pair, polarity)| spec.system_prompt(pair, polarity))).collect();
    let render = args.render.options()?;
    let folder = RunFolder::lock(out)?;
    folder.claim(
        "run.json",
        &through_text(&json!({
            "model": model.identity()?,
            "judge": judge.name(),
            "rubrics": [&rubrics[0].name, &spec.eval_prompt],
            "systems": systems,
            "questions": spec.evaluation,
            "max_new_tokens": args.max_new_tokens,
            "temperature": args.temperature,
            "seed": args.seed,
            "render": render,
        })),
    )?;
    let mut prompts = Vec::with_capacity(systems.len());
    for system in &systems {
        let messages = |question: &String| -> Vec<Message> {
            system.iter().map(Message::system).chain([Message::user(question)]).collect()
        };
        let here = spec.evaluation.iter().map(|question| model.prompt_with(&messages(question), &render));
        prompts.push(here.collect::<pv_model::Result<Vec<Vec<u32>>>>()?);
    }
    let questions = spec.evaluation.len();
    let places: Vec<Place> = (0..systems.len()).flat_map(|at| (0..questions).map(move |q| (at, q))).collect();
    let seed = |(_, question): Place| args.seed.wrapping_add(question as u64);
    let options = GenerateOptions {
        max_new_tokens: args.max_new_tokens,
        sampling: Sampling::temperature(args.temperature),
        batch_size: 32,
        ..GenerateOptions::default()
    };
    let mut answers = JudgedAnswers::open(folder, |place| places.binary_search(&place).is_ok().then(|| seed(place)))?;
    let bar = Bar::new("answering");
    let mut done = answers.answered(&places);
    let asked = |(at, question): Place| (prompts[at][question].as_slice(), seed((at, question)));
    answers.generate(model, &places, asked, options, &mut NoHook, || -> pv_steer::Result<()> {
        done += 1;
        bar.set("answering", done, places.len());
        Ok(())
    })?;
    let mut done = answers.judged(&places);
    let question = |(_, question): Place| spec.evaluation[question].as_str();
    answers.judge(judge, &places, [&rubrics[0], &rubrics[1]], question, || -> pv_steer::Result<()> {
        done += 1;
        bar.set("judging", done, 2 * places.len());
        Ok(())
    })?;
    answers.sort()?;
    Ok(answers)
}
