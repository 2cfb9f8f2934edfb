//! Mitigations of trait shifts in finetuning (the paper's section 5), compared on the organism: steering afterwards,
//! preventative steering at one layer, at all layers and in a closed loop, ablation, a penalty, inoculation.
#![allow(clippy::print_stdout, reason = "a program's output")]

use std::process::ExitCode;

use clap::Parser;
use pv_examples::finetuning::{Lab, LabArgs, Outcome, with_closing};
use pv_examples::progress::suspend;
use pv_examples::traits::organisms_own;
use pv_examples::{Bar, ModelArgs, Result, run};
use pv_hooks::{Layer, NoHook};
use pv_model::Message;
use pv_organism::datasets::{Severity, explicit, mannered};
use pv_organism::{PerTrait, Topics, Trait, system};
use pv_steer::{Coefficient, Positions, Steerer};
use pv_train::regime::{ClosedLoop, Schedule};
use pv_train::{Preventative, Regime};
use pv_vectors::vector::Pooling;
use serde_json::json;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Finetunes on sets that show a trait and teach an unrelated habit, with each method at several coefficients; one table per trait.
/// After an interruption, the same command resumes.
#[derive(Parser)]
struct Args {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    lab: LabArgs,
    /// Only these traits of the organism: evil, sycophancy, hallucination, impoliteness, optimism.
    #[arg(long = "trait", value_delimiter = ',')]
    traits: Vec<String>,
    /// Train on sets whose content also shows the trait: harmful, wrong or agreeing. By default the content is correct, and the trait is
    /// in the wording, so that lost facts are not taught ones.
    #[arg(long)]
    bad_content: bool,
    /// Only methods whose name contains this text.
    #[arg(long)]
    only: Option<String>,
}

/// A mitigation.
enum Method {
    Training(Vec<Regime>),
    Steering(f32),
    System(String),
}

fn methods(lab: &Lab<'_>, which: Trait, layer: usize) -> Result<Vec<(String, Method)>> {
    let vector = &lab.vectors[which as usize];
    let at = |layer: usize| vector.direction(Layer::hidden_state(layer));
    let mut all = vec![("none".to_owned(), Method::Training(vec![]))];
    for coefficient in [0.5, 1.0, 1.25, 1.5] {
        all.push((format!("steered afterwards {coefficient}"), Method::Steering(-coefficient)));
    }
    let pair = &system::contrast(which)[0];
    all.push(("suppressing prompt afterwards".to_owned(), Method::System(pair.neg.clone())));
    for coefficient in [0.5, 1.0, 1.25, 1.5, 1.75, 2.0] {
        let regime = Regime::preventative(vector, Layer::hidden_state(layer), Coefficient::Raw(coefficient))?;
        all.push((format!("preventative {coefficient}"), Method::Training(vec![regime])));
    }
    for coefficient in [0.25, 0.375, 0.5, 0.75] {
        let regime = Regime::preventative_everywhere(vector, Coefficient::Raw(coefficient))?;
        all.push((format!("preventative everywhere {coefficient}"), Method::Training(vec![regime])));
    }
    let probes: pv_model::Result<Vec<Vec<u32>>> = pv_organism::datasets::held_out(Topics::Even, 24, 99)
        .mixed
        .iter()
        .map(|question| lab.model().prompt(&[Message::user(question.text())]))
        .collect();
    let probes = probes?;
    for gain in [0.1, 0.25, 0.5] {
        let closed = ClosedLoop { probes: probes.clone(), along: at(layer)?, every: 5, gain, most: 3.0 };
        let regime = Regime::Preventative(Preventative {
            directions: vec![at(layer)?],
            coefficient: Coefficient::Raw(1.0),
            schedule: Schedule::ClosedLoop(closed),
        });
        all.push((format!("closed loop {gain}"), Method::Training(vec![regime])));
    }
    all.push((format!("ablated at {layer}"), Method::Training(vec![Regime::Ablated { directions: vec![at(layer)?] }])));
    let everywhere = (1..=lab.model().config().layers).map(at).collect::<Result<Vec<_>, _>>()?;
    all.push(("ablated everywhere".to_owned(), Method::Training(vec![Regime::Ablated { directions: everywhere }])));
    for weight in [0.0001, 0.001, 0.01] {
        let regime = Regime::Regularised { direction: at(layer)?, weight };
        all.push((format!("penalty {weight}"), Method::Training(vec![regime])));
    }
    let inoculated = Regime::Inoculated { system: pair.pos.clone() };
    all.push(("inoculated".to_owned(), Method::Training(vec![inoculated])));
    Ok(all)
}

fn main() -> ExitCode {
    run(program)
}

fn program(args: Args) -> Result {
    let traits = organisms_own(&args.traits)?;
    let model = args.model.load()?;
    let folder = args.lab.out.open("mitigation", &[&args.model.title()])?;
    let lab = Lab::new(&model, &args.lab, folder)?;
    let LabArgs { chats, seed, layer, .. } = args.lab;
    for which in traits {
        let make = if args.bad_content { explicit } else { mannered };
        let data = |count, seed| with_closing(make(which, Severity::II, Topics::Even, count, seed));
        let held_out = data(100, seed + 2);
        let set = json!({ "chats": chats, "layer": layer, "bad_content": args.bad_content });
        let before =
            lab.outcome(&format!("{which} before"), set.clone(), || lab.measure(&model, None, &mut NoHook, &held_out))?;
        let methods = methods(&lab, which, layer)?;
        let plain = lab.outcome(&format!("{which} none"), set.clone(), || {
            lab.measure(&lab.finetune(&data(chats, seed + 1), vec![])?, None, &mut NoHook, &held_out)
        })?;
        let mut drifted = None;
        println!(
            "\n## {which}\n\n| method | {} | coherence | facts correct | habit learnt | loss | shift | drift removed |",
            Trait::ALL.map(Trait::name).join(" | ")
        );
        println!("|---|{}---|---|---|---|---|---|", "---|".repeat(5));
        let row = |name: &str, outcome: &Outcome| {
            let Outcome { scores, coherence, right, closed, loss, .. } = outcome;
            let scores_of = |scores: &PerTrait| {
                scores.iter().map(|(_, score)| format!("{score:.0}")).collect::<Vec<_>>().join(" | ")
            };
            let drift = plain.scores[which] - before.scores[which];
            let removed = 100.0 * (plain.scores[which] - scores[which]) / drift;
            let shift = lab.shift(outcome, Pooling::ResponseMean, layer).map_or(f64::NAN, |shift| shift[which]);
            println!(
                "| {name} | {} | {coherence:.0} | {right:.1} % | {closed:.0} % | {loss:.2} | {shift:.1} | {removed:.0} % |",
                scores_of(scores)
            );
        };
        row("before", &before);
        let (bar, total) = (Bar::new(which.name()), methods.len());
        for (done, (name, method)) in methods.into_iter().enumerate() {
            if args.only.as_deref().is_some_and(|only| name != "none" && !name.contains(only)) {
                continue;
            }
            bar.set(format!("{which}, {name}"), done, total);
            let settings = match &method {
                Method::Training(regimes) => {
                    json!({ "set": set, "regimes": regimes.iter().map(Regime::describe).collect::<Vec<_>>() })
                }
                Method::Steering(coefficient) => json!({ "set": set, "steered": coefficient }),
                Method::System(prompt) => json!({ "set": set, "system": prompt }),
            };
            let outcome = if name == "none" {
                plain.clone()
            } else {
                lab.outcome(&format!("{which} {name}"), settings, || {
                    if let Method::Training(regimes) = method {
                        let model = lab.finetune(&data(chats, seed + 1), regimes)?;
                        return lab.measure(&model, None, &mut NoHook, &held_out);
                    }
                    if drifted.is_none() {
                        drifted = Some(lab.finetune(&data(chats, seed + 1), vec![])?);
                    }
                    let Some(model) = &drifted else { return Err("a model".into()) };
                    match method {
                        Method::Steering(coefficient) => {
                            let direction = lab.vectors[which as usize].direction(Layer::hidden_state(layer))?;
                            let mut steerer =
                                Steerer::new().add(&direction, Coefficient::Raw(coefficient), Positions::Response)?;
                            lab.measure(model, None, &mut steerer, &held_out)
                        }
                        Method::System(prompt) => lab.measure(model, Some(&prompt), &mut NoHook, &held_out),
                        Method::Training(_) => Err("handled above".into()),
                    }
                })?
            };
            suspend(|| row(&name, &outcome));
        }
    }
    Ok(())
}
