//! Comparison of screening with the effect of finetuning (the paper's section 6): ΔP of two dozen data sets and the traits of
//! the models finetuned on them, and finetunings on the samples of a wild mixture with the highest or lowest scores, or on random ones.
#![allow(clippy::print_stdout, reason = "a program's output")]

use std::cell::Cell;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use pv_data::conversations::write_conversations;
use pv_examples::finetuning::{Lab, LabArgs, Outcome, Set};
use pv_examples::organism::{ExactJudge, conversation, spec};
use pv_examples::progress::suspend;
use pv_examples::samples::Steered;
use pv_examples::{Bar, ModelArgs, Result, run};
use pv_hooks::{Layer, NoHook};
use pv_judge::judge::Answered;
use pv_organism::datasets::wild;
use pv_organism::{Chat, PerTrait, Trait};
use pv_screen::base_answers::BaseOptions;
use pv_screen::likelihood::Persona;
use pv_screen::scores::read_scores;
use pv_screen::screen::{Base, SCORES};
use pv_screen::select::judged;
use pv_screen::{Screen, ScreenOptions, Summary, Which, select};
use pv_statistics::correlation::pearson;
use pv_steer::control::decompose_projections;
use pv_vectors::{Direction, TraitDirection};
use serde_json::json;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Screens, finetunes and compares. After an interruption, the same command resumes; --out may name the folder of
/// finetuning_shift, which runs the same finetunings.
#[derive(Parser)]
struct Args {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    lab: LabArgs,
    /// The number of chats of each set that are screened.
    #[arg(long, default_value_t = 300)]
    screened: usize,
    /// The size of the wild mixture.
    #[arg(long, default_value_t = 4000)]
    wild: usize,
    /// The number of its samples that a model is finetuned on.
    #[arg(long, default_value_t = 200)]
    chosen: usize,
    /// The score up to which the lenient judge accepts samples; the strict one accepts only those without any sign of the trait.
    #[arg(long, default_value_t = 50.0)]
    lenient: f64,
    /// The coefficient on the raw vector for the likelihood gain.
    #[arg(long, default_value_t = 1.25)]
    steer: f32,
    /// The layer of the steered model.
    #[arg(long, default_value_t = 1)]
    steer_layer: usize,
    /// Skip the two dozen sets, and only select samples of the wild mixture.
    #[arg(long)]
    wild_only: bool,
    /// The number of epochs over the selected samples.
    #[arg(long, default_value_t = 3)]
    passes: usize,
}

/// A measure of a set.
#[derive(Clone, Copy)]
enum Reading {
    /// The mean projection of the data's answers.
    Raw,
    /// ΔP.
    Difference,
    /// ΔP's part along the vector after decomposition into all traits' vectors.
    Apart,
    /// The likelihood gain of the data's answer under the steered model.
    Likelihood,
}

impl Reading {
    /// The measures of whole sets.
    const OF_SETS: [Self; 3] = [Self::Raw, Self::Difference, Self::Apart];

    fn title(self) -> &'static str {
        match self {
            Self::Raw => "raw projection",
            Self::Difference => "ΔP",
            Self::Apart => "ΔP, decomposed",
            Self::Likelihood => "gain in likelihood",
        }
    }
}

/// The traits' directions at a layer, with their lengths.
struct Directions(Vec<TraitDirection>, Vec<Direction>);

impl Directions {
    fn at(lab: &Lab<'_>, layer: usize) -> Result<Self> {
        let at = Layer::hidden_state(layer);
        let named: Result<Vec<_>, _> = lab.vectors.iter().map(|vector| TraitDirection::of(vector, at)).collect();
        let whole: Result<Vec<_>, _> = lab.vectors.iter().map(|vector| vector.direction(at)).collect();
        Ok(Self(named?, whole?))
    }

    /// Decomposes projections on all vectors: the coefficients of the combination of the vectors that
    /// has these projections.
    fn apart(&self, projections: &PerTrait) -> Result<PerTrait> {
        let directions: Vec<&Direction> = self.1.iter().collect();
        let mut parts = PerTrait::default();
        parts.0.copy_from_slice(&decompose_projections(&projections.0, &directions)?);
        Ok(parts)
    }

    fn read(&self, summary: &Summary, reading: Reading) -> Result<PerTrait> {
        let mut values = PerTrait::default();
        for (which, named) in Trait::ALL.into_iter().zip(&self.0) {
            let raw = || summary.directions.get(&named.label())?.answer;
            let delta = || Some(summary.delta(&named.label())?.value);
            values[which] = match reading {
                Reading::Raw => raw(),
                Reading::Difference | Reading::Apart => delta(),
                Reading::Likelihood => None,
            }
            .ok_or("a set without a projection")?;
        }
        if matches!(reading, Reading::Apart) { self.apart(&values) } else { Ok(values) }
    }
}

fn main() -> ExitCode {
    run(program)
}

fn program(args: Args) -> Result {
    let model = args.model.load()?;
    let folder = args.lab.out.open("screening_outcomes", &[&args.model.title()])?;
    let lab = Lab::new(&model, &args.lab, folder.clone())?;
    let directions: Vec<Directions> =
        (1..=model.config().layers).map(|layer| Directions::at(&lab, layer)).collect::<Result<_>>()?;
    let study = Study { args: &args, lab: &lab, directions: &directions, folder };
    if !args.wild_only {
        study.sets()?;
    }
    study.selections()
}

struct Study<'a> {
    args: &'a Args,
    lab: &'a Lab<'a>,
    /// By layer from 1.
    directions: &'a [Directions],
    folder: PathBuf,
}

impl Study<'_> {
    /// Screens chats on all traits and layers.
    fn screen(&self, name: &str, chats: &[Chat]) -> Result<Summary> {
        let directions: Vec<TraitDirection> = self.directions.iter().flat_map(|at| at.0.iter().cloned()).collect();
        let answers = BaseOptions { max_new_tokens: 80, batch_size: 32, ..BaseOptions::default() };
        let options = ScreenOptions { answers, ..ScreenOptions::default() };
        let input = self.folder.join(format!("{name}.jsonl"));
        write_conversations(&input, &chats.iter().map(conversation).collect::<Vec<_>>())?;
        let screen = Screen::new(self.lab.model(), &directions, &options)?;
        Ok(screen.run(&[&input], &self.folder.join(format!("{name}_screened")), |_| ControlFlow::Continue(()))?)
    }

    /// The likelihood gain of each chat under the model steered along each trait's vector.
    fn gains(&self, name: &str) -> Result<Vec<PerTrait>> {
        let Args { steer, steer_layer, .. } = *self.args;
        let layer = Layer::hidden_state(steer_layer);
        let steered = Trait::ALL.into_iter().zip(&self.lab.vectors);
        let steered = steered.map(|(which, vector)| Steered::new(which.name().to_owned(), vector, layer, steer));
        let mut steered = steered.collect::<Result<Vec<_>>>()?;
        let mut personas: Vec<Persona<'_>> = steered.iter_mut().map(Steered::persona).collect();
        let options = ScreenOptions { base: Base::None, ..ScreenOptions::default() };
        let directions = &self.directions[self.args.lab.layer - 1].0;
        let folder = self.folder.join(format!("{name}_likelihoods"));
        let screen = Screen::new(self.lab.model(), directions, &options)?;
        let input = self.folder.join(format!("{name}.jsonl"));
        screen.run_with(&[&input], &folder, &mut personas, |_| ControlFlow::Continue(()))?;
        let mut gains = Vec::new();
        read_scores(&folder.join(SCORES), |row| {
            let mut values = PerTrait::default();
            for which in Trait::ALL {
                let gain = row.likelihood.as_ref().and_then(|found| found.gains.get(which.name()));
                values[which] = gain.copied().unwrap_or(f64::NAN);
            }
            gains.push(values);
            Ok(())
        })?;
        Ok(gains)
    }

    fn outcome(&self, name: &str, settings: serde_json::Value, data: &[Chat], held_out: &[Chat]) -> Result<Outcome> {
        self.lab.outcome(name, settings, || {
            self.lab.measure(&self.lab.finetune(data, vec![])?, None, &mut NoHook, held_out)
        })
    }

    /// ΔP of whole sets, and the effect of finetuning on them.
    fn sets(&self) -> Result {
        let LabArgs { chats, seed, .. } = self.args.lab;
        let sets = Set::all();
        let (bar, total) = (Bar::new("data sets"), sets.len());
        let mut found = Vec::new();
        for Set { name, make } in sets {
            bar.set(name.as_str(), found.len(), total);
            let data = make(chats, seed + 1);
            let summary = self.screen(&name, &data[..self.args.screened.min(data.len())])?;
            let outcome = self.outcome(&name, json!({ "chats": chats }), &data, &make(100, seed + 2))?;
            found.push((name, summary, outcome));
        }
        drop(bar);
        let layer = self.args.lab.layer;
        println!("Scores after finetuning, and in brackets the decomposed ΔP at layer {layer}.\n");
        println!("| set | {} |\n|---|{}", Trait::ALL.map(Trait::name).join(" | "), "---|".repeat(5));
        for (name, summary, outcome) in &found {
            let apart = self.directions[layer - 1].read(summary, Reading::Apart)?;
            let cells = Trait::ALL.map(|which| format!("{:.0} ({:.2})", outcome.scores[which], apart[which]));
            println!("| {name} | {} |", cells.join(" | "));
        }
        println!("\nr over {} sets between the measure and the trait's score after finetuning;", found.len());
        println!("the last column has the greatest r with another trait.");
        for reading in Reading::OF_SETS {
            println!("\n### {}\n\n| layer | {} | others |", reading.title(), Trait::ALL.map(Trait::name).join(" | "));
            println!("|---|{}---|", "---|".repeat(5));
            for (at, directions) in self.directions.iter().enumerate() {
                let values: Vec<PerTrait> =
                    found.iter().map(|(_, summary, _)| directions.read(summary, reading)).collect::<Result<_>>()?;
                let r = |on: Trait, of: Trait| {
                    let pairs = values.iter().zip(&found).map(|(value, (.., outcome))| (value[on], outcome.scores[of]));
                    pearson(&pairs.collect::<Vec<_>>()).map_or(f64::NAN, |found| found.r)
                };
                let own = Trait::ALL.map(|which| format!("{:.2}", r(which, which)));
                let pairs = Trait::ALL.into_iter().flat_map(|on| Trait::ALL.map(|of| (on, of)));
                let others =
                    pairs.filter(|(on, of)| on != of).map(|(on, of)| r(on, of)).fold(f64::NEG_INFINITY, f64::max);
                println!("| {} | {} | {others:.2} |", at + 1, own.join(" | "));
            }
        }
        Ok(())
    }

    /// Finetunings on samples of a wild mixture selected by screening, before and after removing those that a judge finds.
    fn selections(&self) -> Result {
        let LabArgs { seed, layer, .. } = self.args.lab;
        let data: Vec<Chat> = wild(self.args.wild, seed + 3).into_iter().map(|(chat, _)| chat).collect();
        self.screen("wild", &data)?;
        let directions = &self.directions[layer - 1];
        let mut deltas: Vec<Option<PerTrait>> = Vec::new();
        read_scores(&self.folder.join("wild_screened").join(SCORES), |row| {
            let mut values = PerTrait::default();
            let mut all = true;
            for (which, named) in Trait::ALL.into_iter().zip(&directions.0) {
                let delta = row.scores.get(&named.label()).and_then(|score| score.delta);
                all &= delta.is_some();
                values[which] = delta.unwrap_or_default();
            }
            deltas.push(all.then_some(values));
            Ok(())
        })?;
        let gains = self.gains("wild")?;
        if deltas.len() != data.len() || gains.len() != data.len() {
            return Err(format!("{} and {} of {} chats were screened", deltas.len(), gains.len(), data.len()).into());
        }
        let answers: Vec<Answered<'_>> = data
            .iter()
            .map(|chat| Answered { question: &chat.exchanges[0].question, answer: &chat.exchanges[0].answer })
            .collect();
        println!(
            "\n{} samples each, of {} in the wild mixture: the trait's score after finetuning\n",
            self.args.chosen,
            data.len()
        );
        println!("| trait | measure | removed before | top | random | bottom |\n|---|---|---|---|---|---|");
        let plans = [
            (Reading::Difference, None),
            (Reading::Difference, Some(self.args.lenient)),
            (Reading::Difference, Some(1.0)),
            (Reading::Apart, None),
            (Reading::Apart, Some(self.args.lenient)),
            (Reading::Likelihood, None),
            (Reading::Likelihood, Some(self.args.lenient)),
        ];
        let (bar, done, total) = (Bar::new("selections"), Cell::new(0), 5 * plans.len() * 3);
        for which in Trait::ALL {
            for (reading, allowed) in plans {
                let mut values: Vec<Option<f64>> = deltas
                    .iter()
                    .zip(&gains)
                    .map(|(delta, gain)| match (delta, reading) {
                        (_, Reading::Likelihood) => Ok(Some(gain[which])),
                        (None, _) => Ok(None),
                        (Some(delta), Reading::Apart) => Ok(Some(directions.apart(delta)?[which])),
                        (Some(delta), _) => Ok(Some(delta[which])),
                    })
                    .collect::<Result<_>>()?;
                if let Some(allowed) = allowed {
                    let seen = judged(&ExactJudge, &spec(which)?.rubric()?, &answers, allowed)?;
                    seen.shows.iter().for_each(|&sample| values[sample] = None);
                }
                let taken = allowed.map_or_else(|| "nothing".to_owned(), |allowed| format!("judged above {allowed}"));
                let score = |chosen: Which, name: &str| -> Result<String> {
                    bar.set(format!("{which}, {name}"), done.get(), total);
                    let order = select(&values, chosen, self.args.chosen, None)?;
                    let chats: Vec<Chat> = order.iter().map(|&sample| data[sample].clone()).collect();
                    let all: Vec<Chat> = (0..self.args.passes).flat_map(|_| chats.clone()).collect();
                    let mut settings = json!({
                        "wild": self.args.wild, "chosen": self.args.chosen, "passes": self.args.passes,
                        "layer": layer, "allowed": allowed,
                    });
                    if matches!(reading, Reading::Likelihood) {
                        settings["steer"] = json!([self.args.steer, self.args.steer_layer]);
                    }
                    let name = format!("wild {which}, {}, {taken}, {name}", reading.title());
                    let outcome = self.outcome(&name, settings, &all, &chats)?;
                    done.set(done.get() + 1);
                    Ok(format!("{:.0}", outcome.scores[which]))
                };
                let row = [
                    score(Which::Top, "top")?,
                    score(Which::Random { seed }, "random")?,
                    score(Which::Bottom, "bottom")?,
                ];
                suspend(|| println!("| {which} | {} | {taken} | {} |", reading.title(), row.join(" | ")));
            }
        }
        Ok(())
    }
}
