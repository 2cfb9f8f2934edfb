//! Where and how strongly to steer: answers at every layer and strength are judged for the trait and for coherence, or, by
//! successive halving, those that are worth it. Beside it, a ranking of the layers that needs no judge.
#![allow(clippy::print_stdout, reason = "a program's output")]

use std::ops::ControlFlow;
use std::process::ExitCode;

use clap::Parser;
use comfy_table::Table;
use pv_examples::sweeping::{SweepArgs, shown};
use pv_examples::{Bar, Result, run};
use pv_hooks::{Layer, LayerSet};
use pv_steer::{ProxyOptions, Search, SweepOptions, SweepResults, layer_proxy};

/// Finds the layer and the strength at which a trait's vector steers best.
#[derive(Parser)]
struct Args {
    #[command(flatten)]
    sweep: SweepArgs,
    /// The layers, counted as in Hugging Face's hidden_states; all but the embeddings by default.
    #[arg(long, value_delimiter = ',')]
    layers: Vec<usize>,
    /// The strengths, in residual norms.
    #[arg(long, value_delimiter = ',', allow_hyphen_values = true, default_value = "0.3,0.4,0.5,0.6")]
    strengths: Vec<f32>,
    /// Answers to each question in a cell.
    #[arg(long, default_value_t = 1)]
    per_question: usize,
    /// Successive halving: give every cell this many questions first, and more only to those that are worth it.
    #[arg(long)]
    halving: Option<usize>,
    /// The strength at which the proxy compares layers.
    #[arg(long, default_value_t = 0.3)]
    proxy_strength: f32,
}

fn main() -> ExitCode {
    run(program)
}

fn program(args: Args) -> Result {
    let spec = args.sweep.subject.spec()?;
    let model = args.sweep.subject.model.load()?;
    let folder = args.sweep.subject.folder("sweep", &spec)?;
    let subject = args.sweep.subject.subject(&model, spec, &folder)?;
    let layers: LayerSet = match args.layers.is_empty() {
        true => (1..=model.config().layers).map(Layer::hidden_state).collect(),
        false => args.layers.iter().copied().map(Layer::hidden_state).collect(),
    };
    let options = SweepOptions {
        layers: layers.clone(),
        strengths: args.strengths.clone(),
        per_question: args.per_question,
        search: args.halving.map_or(Search::Full, |first| Search::Halving { first }),
        ..args.sweep.options()?
    };
    let results = args.sweep.run(&model, &subject, &folder, &options)?;
    println!("{} on {}, judged by {}", results.plan.trait_name, results.model.name, results.judge);
    println!(
        "trait expression / coherence, 0 to 100 (questions), by layer and strength ({}):",
        results.plan.unit.name()
    );
    println!("{}", grid(&results));
    match results.best() {
        Some(best) => println!(
            "best with a coherence of at least {}: strength {} at {}: expression {}, coherence {}",
            results.plan.coherence_min,
            best.strength,
            best.layer,
            shown(&best.expression),
            shown(&best.coherence)
        ),
        None => println!("no cell reaches a coherence of {}", results.plan.coherence_min),
    }
    let (answers, whole) = (results.answers(), results.plan.full_grid());
    println!("{answers} answers, {:.0} % of the {whole} of a full grid", 100.0 * results.cost());

    if !subject.pairs.is_empty() {
        let proxy = ProxyOptions {
            layers,
            strength: args.proxy_strength,
            unit: options.unit,
            render: options.render.clone(),
            ..ProxyOptions::default()
        };
        let bar = Bar::new("ranking layers");
        let proxy = layer_proxy(&model, &subject.vector, &subject.pairs, &proxy, |done, total| {
            bar.set("ranking layers", done, total);
            ControlFlow::Continue(())
        })?;
        drop(bar);
        let ranking = proxy.ranking();
        let ranking = ranking.iter().map(|layer| format!("{} ({:+.3})", layer.layer.index(), layer.change));
        println!(
            "\nwithout a judge, at strength {}: layers by how much likelier {} answers that show the trait become against \
             others (nats per token):\n{}",
            proxy.strength,
            proxy.pairs,
            ranking.collect::<Vec<_>>().join(", ")
        );
        let agreement = proxy.agreement(&results);
        if let (Some(rho), Some(rank)) = (agreement.rho, agreement.rank) {
            println!(
                "agreement with the judge: ρ = {rho:.2} over {} layers; its first is the judge's no. {rank}",
                agreement.layers
            );
        }
    }
    println!("\nsaved {} and {}", folder.join("results.json").display(), folder.join("results.csv").display());
    Ok(())
}

fn grid(results: &SweepResults) -> Table {
    let mut table = Table::new();
    let mut header = vec!["layer".to_owned()];
    header.extend(results.plan.strengths.iter().map(|strength| format!("{strength}")));
    header.push("strongest coherent".to_owned());
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
