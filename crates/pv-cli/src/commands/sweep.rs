//! Searches for the layer and coefficient at which steering works best: a judge scores answers for the trait and for
//! coherence at every layer and coefficient, or, with successive halving, at the promising ones. A ranking of the
//! layers without a judge is shown for comparison.

mod dose;

use std::ops::ControlFlow;

use comfy_table::Table;
use pv_hooks::{Layer, LayerSet};
use pv_model::CausalLm;
use pv_steer::sweep::{CellResult, ProxyLayer, ProxyOptions, Search, SweepOptions, SweepResults, layer_proxy};
use serde_json::{Value, json};

use crate::invocation::Invocation;
use crate::program::say;
use crate::sweeping::{Subject, SweepArgs, shown};
use crate::{Bar, Result};

/// The arguments of `persona sweep`.
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    #[command(flatten)]
    sweep: SweepArgs,
    /// The layers, counted as in Hugging Face's hidden_states; by default all but the embeddings. With --dose one
    /// layer: by default the middle one, 7 for the organism.
    #[arg(long, visible_alias = "layer", value_delimiter = ',')]
    layers: Vec<usize>,
    /// The steering coefficients, in residual norms; negative ones suppress the trait. By default 0.3,0.4,0.5,0.6, and
    /// with --dose 0,0.1,0.2,0.3,0.35,0.4,0.45,0.5,0.55,0.6.
    #[arg(long, alias = "strengths", value_delimiter = ',', allow_hyphen_values = true)]
    coefs: Vec<f32>,
    /// The number of answers to each question in a grid cell; 1 by default, 3 with --dose.
    #[arg(long, alias = "per-question")]
    rollouts: Option<usize>,
    /// Use successive halving: evaluate every grid cell on this many questions first, and only promising cells on more.
    #[arg(long)]
    halving: Option<usize>,
    /// The coefficient at which the layers are compared without a judge.
    #[arg(long, alias = "proxy-strength", default_value_t = 0.3)]
    proxy_coef: f32,
    /// Measure trait expression by coefficient at one layer, with intervals over questions.
    #[arg(long, conflicts_with_all = ["halving", "proxy_coef"])]
    dose: bool,
    /// With --dose: a system prompt for all answers, such as one that elicits a trait to be suppressed.
    #[arg(long, requires = "dose")]
    system: Option<String>,
    /// With --dose: show the first answer to this many questions at every coefficient.
    #[arg(long, requires = "dose")]
    texts: Option<usize>,
}

pub(super) fn run(args: &Args, here: &Invocation) -> Result<Value> {
    if args.dose {
        return dose::run(args, here);
    }
    let spec = args.sweep.subject.spec()?;
    let model = args.sweep.subject.model.load()?;
    let folder = args.sweep.subject.folder(here, &[], &spec)?;
    let subject = args.sweep.subject.subject(&model, spec, &folder)?;
    let layers: LayerSet = match args.layers.is_empty() {
        true => (1..=model.config().layers).map(Layer::hidden_state).collect(),
        false => args.layers.iter().copied().map(Layer::hidden_state).collect(),
    };
    let strengths = if args.coefs.is_empty() { vec![0.3, 0.4, 0.5, 0.6] } else { args.coefs.clone() };
    let options = SweepOptions {
        layers,
        strengths,
        per_question: args.rollouts.unwrap_or(1),
        search: args.halving.map_or(Search::Full, |first| Search::Halving { first }),
        ..args.sweep.options()?
    };
    let results = args.sweep.run(&model, &subject, &folder, &options)?;
    say!("{} on {}, judged by {}", results.plan.trait_name, results.model.name, results.judge);
    say!(
        "trait expression / coherence, 0 to 100 (questions), by layer and coefficient ({}):",
        results.plan.unit.name()
    );
    say!("{}", grid(&results));
    match results.best() {
        Some(best) => say!(
            "best with a coherence of at least {}: coefficient {} at {}: expression {}, coherence {}",
            results.plan.coherence_min,
            best.strength,
            best.layer,
            shown(&best.expression),
            shown(&best.coherence)
        ),
        None => say!("no cell reaches a coherence of {}", results.plan.coherence_min),
    }
    if let Some(report) = &results.report {
        say!(
            "on the {} held-out questions: expression {}, coherence {}",
            results.plan.reported.len(),
            shown(&report.expression),
            shown(&report.coherence)
        );
    }
    let mut vector = None;
    if results.best().is_some() && !args.sweep.raw {
        let path = folder.join("vector.safetensors");
        results.with_best_layer(&subject.vector)?.save(&path)?;
        say!("saved the vector with its best layer as {}", path.display());
        vector = Some(path);
    }
    let (answers, whole) = (results.answers(), results.plan.full_grid());
    say!("{answers} answers, {:.0} % of the {whole} of a full grid", 100.0 * results.cost());

    let proxy = args.proxy(&model, &subject, &options, &results)?;
    say!("\nsaved {} and {}", folder.join("results.json").display(), folder.join("results.csv").display());
    let cell = |cell: &CellResult| {
        json!({
            "layer": cell.layer.index(),
            "strength": cell.strength,
            "expression": cell.expression,
            "coherence": cell.coherence,
        })
    };
    let cells = results.layers().into_iter().flat_map(|layer| results.cells_at(layer.layer));
    Ok(json!({
        "trait": results.plan.trait_name,
        "model": results.model.name,
        "judge": results.judge,
        "unit": results.plan.unit.name(),
        "folder": folder,
        "best": results.best().map(cell),
        "reported": results.report,
        "vector": vector,
        "cells": cells.map(cell).collect::<Vec<_>>(),
        "answers": answers,
        "layers_without_judge": proxy,
    }))
}

impl Args {
    /// Ranks the layers without a judge, if there are answers to rank them by.
    fn proxy(
        &self,
        model: &CausalLm,
        subject: &Subject,
        options: &SweepOptions,
        results: &SweepResults,
    ) -> Result<Option<Value>> {
        if subject.pairs.is_empty() {
            return Ok(None);
        }
        let proxy = ProxyOptions {
            layers: options.layers.clone(),
            strength: self.proxy_coef,
            unit: options.unit,
            render: options.render.clone(),
            ..ProxyOptions::default()
        };
        let bar = Bar::new("ranking layers");
        let proxy = layer_proxy(model, &subject.vector, &subject.pairs, &proxy, |done, total| {
            bar.set("ranking layers", done, total);
            ControlFlow::Continue(())
        })?;
        drop(bar);
        let ranking = proxy.ranking();
        let shown = ranking.iter().map(|layer| format!("{} ({:+.3})", layer.layer.index(), layer.change));
        say!(
            "\nranking of the layers without a judge, at coefficient {}: gain in log-likelihood of {} answers that show the \
             trait, relative to others (nats per token):\n{}",
            proxy.strength,
            proxy.pairs,
            shown.collect::<Vec<_>>().join(", ")
        );
        let agreement = proxy.agreement(results);
        if let (Some(rho), Some(rank)) = (agreement.rho, agreement.rank) {
            say!(
                "agreement with the judge: ρ = {rho:.2} over {} layers; the first layer is no. {rank} by the judge",
                agreement.layers
            );
        }
        let layer = |layer: &ProxyLayer| json!({ "layer": layer.layer.index(), "change": layer.change });
        Ok(Some(ranking.iter().copied().map(layer).collect()))
    }
}

fn grid(results: &SweepResults) -> Table {
    let mut table = Table::new();
    let mut header = vec!["layer".to_owned()];
    header.extend(results.plan.strengths.iter().map(|strength| format!("{strength}")));
    header.push("largest coherent".to_owned());
    table.set_header(header);
    for layer in results.layers() {
        let mut row = vec![layer.layer.index().to_string()];
        for cell in results.cells_at(layer.layer) {
            let number = |mean: Option<f64>| mean.map_or_else(|| "–".to_owned(), |mean| format!("{mean:.0}"));
            let best = results.best() == Some(cell);
            row.push(format!(
                "{}{} / {} ({})",
                if best { "* " } else { "" },
                number(cell.expression.mean),
                number(cell.coherence.mean),
                cell.expression.questions
            ));
        }
        row.push(layer.strongest.map_or_else(|| "–".to_owned(), |strength| strength.to_string()));
        table.add_row(row);
    }
    table
}
