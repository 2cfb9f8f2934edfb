//! What capping, control, monitoring, sweeps and screening reach on the model organism, with 95 % intervals.
//!
//! Tests assert what holds on every processor; how much an experiment shows is measured here. Answers are sampled, so the
//! figures differ a little from processor to processor and from seed to seed. A promise is broken when the whole interval
//! is on the wrong side of its bar.
#![allow(clippy::print_stdout, reason = "a program's output")]

mod capping;
mod control;
mod measured;
mod monitoring;
mod screening;
mod sweeps;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::process::ExitCode;

use clap::{Parser, ValueEnum};
use pv_examples::organism::contrast;
use pv_examples::{ModelArgs, Result, extract, run};
use pv_model::CausalLm;
use pv_organism::Trait;
use pv_vectors::PersonaVector;

use measured::Promises;

/// Measures what the tools reach on the model organism, prints the tables as Markdown, and fails when a promise is broken.
#[derive(Parser)]
struct Args {
    #[command(flatten)]
    model: ModelArgs,
    /// Only these sections.
    #[arg(long, value_enum)]
    only: Vec<Section>,
    /// Moves the seeds of questions and answers.
    #[arg(long, default_value_t = 0)]
    seed: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Section {
    Capping,
    Control,
    Monitoring,
    Sweeps,
    Separation,
    Likelihood,
}

/// The model, its vectors and the promises.
struct Study<'a> {
    model: &'a CausalLm,
    seed: u64,
    promises: RefCell<Promises>,
    vectors: RefCell<BTreeMap<(&'static str, Share), PersonaVector>>,
}

/// From which part of a trait's contrast a vector is extracted: enough for these purposes, and quick.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Share {
    /// All five pairs of instructions, ten of the twenty questions.
    HalfOfTheQuestions,
    /// Two pairs of instructions, all questions.
    TwoPairs,
}

impl Study<'_> {
    fn vector(&self, which: Trait, share: Share) -> Result<PersonaVector> {
        if let Some(known) = self.vectors.borrow().get(&(which.name(), share)) {
            return Ok(known.clone());
        }
        let mut contrast = contrast(which);
        match share {
            Share::HalfOfTheQuestions => contrast.questions.truncate(10),
            Share::TwoPairs => contrast.instruction.truncate(2),
        }
        let vector = extract(self.model, &contrast, 80, self.seed)?.vector;
        self.vectors.borrow_mut().insert((which.name(), share), vector.clone());
        Ok(vector)
    }

    /// Another seed for another run of the program.
    fn seeded(&self, seed: u64) -> u64 {
        seed + 10_000 * self.seed
    }
}

fn main() -> ExitCode {
    run(program)
}

fn program(args: Args) -> Result<ExitCode> {
    let model = args.model.load()?;
    let study = Study { model: &model, seed: args.seed, promises: RefCell::default(), vectors: RefCell::default() };
    for section in Section::value_variants() {
        if !args.only.is_empty() && !args.only.contains(section) {
            continue;
        }
        match section {
            Section::Capping => study.capping()?,
            Section::Control => study.control()?,
            Section::Monitoring => study.monitoring()?,
            Section::Sweeps => study.sweeps()?,
            Section::Separation => study.separation()?,
            Section::Likelihood => study.likelihood()?,
        }
    }
    let promises = study.promises.into_inner();
    println!("\nPromises: {promises}");
    Ok(if promises.broken == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
