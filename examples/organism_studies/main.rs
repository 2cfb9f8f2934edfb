//! Effects of capping, control, monitoring, sweeps and screening on the model organism, with 95 % intervals.
//!
//! Tests assert what holds on every processor; the sizes of effects are measured here. Answers are sampled, so the
//! results differ a little between processors and seeds. A bound is not met if the whole interval
//! is on its wrong side.
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
use pv_examples::vectors::ContrastExtraction;
use pv_examples::{ModelArgs, Result, run};
use pv_model::CausalLm;
use pv_organism::Trait;
use pv_vectors::{Contrast, PersonaVector};

use measured::Bounds;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Measures the tools' effects on the model organism, prints the tables as Markdown, and fails if a documented bound is not met.
#[derive(Parser)]
struct Args {
    #[command(flatten)]
    model: ModelArgs,
    /// Only these sections.
    #[arg(long, value_enum)]
    only: Vec<Section>,
    /// Changes the seeds of questions and answers.
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

/// The model, its vectors and the bounds.
struct Study<'a> {
    model: &'a CausalLm,
    seed: u64,
    bounds: RefCell<Bounds>,
    vectors: RefCell<BTreeMap<(&'static str, Share), PersonaVector>>,
}

/// The part of a trait's contrast from which a vector is extracted, which is enough here and faster.
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
        let vector = self.extraction(&contrast).run()?.vector;
        self.vectors.borrow_mut().insert((which.name(), share), vector.clone());
        Ok(vector)
    }

    fn extraction<'a>(&'a self, contrast: &'a Contrast) -> ContrastExtraction<'a> {
        ContrastExtraction { model: self.model, contrast, max_new_tokens: 80, seed: self.seed }
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
    let study = Study { model: &model, seed: args.seed, bounds: RefCell::default(), vectors: RefCell::default() };
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
    let bounds = study.bounds.into_inner();
    println!("\nBounds: {bounds}");
    Ok(if bounds.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
