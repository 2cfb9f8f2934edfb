//! Measures a trait's projections on ordinary traffic and saves them in a file for
//! `persona monitor chat --calibration`.

use std::path::PathBuf;

use comfy_table::Table;
use serde_json::{Value, json};

use super::{KINDS, WatchArgs};
use crate::Result;
use crate::program::say;

/// The arguments of `persona monitor calibrate`.
#[derive(clap::Args, Debug)]
pub(in crate::commands) struct Args {
    #[command(flatten)]
    watch: WatchArgs,
    /// The file to save to. By default the calibration is only cached below runs, where runs with the same settings
    /// find it.
    #[arg(long)]
    file: Option<PathBuf>,
}

pub(super) fn run(args: &Args) -> Result<Value> {
    let watched = args.watch.load()?;
    let calibration = args.watch.calibration(&watched)?;
    if let Some(file) = &args.file {
        calibration.save(file)?;
        say!("saved {}", file.display());
    }
    let quantiles = [0.05, 0.5, 0.95, 0.99];
    let mut table = Table::new();
    table.set_header(["reading".to_owned(), "answers".to_owned()].into_iter().chain(quantiles.map(|q| format!("{q}"))));
    let mut found = Vec::new();
    for (kind, place) in KINDS {
        let answers = calibration.answers(0, kind).unwrap_or_default();
        let values = quantiles.map(|share| calibration.distribution(0, kind).and_then(|known| known.quantile(share)));
        let shown = values.map(|value| value.map_or_else(|| "–".to_owned(), |value| format!("{value:+.3}")));
        table.add_row([place.to_owned(), answers.to_string()].into_iter().chain(shown));
        let values: Vec<_> = quantiles.iter().zip(values).map(|(share, value)| json!([share, value])).collect();
        found.push(json!({ "reading": place, "answers": answers, "quantiles": values }));
    }
    let name = &watched.watches[0].trait_name;
    say!(
        "{name} at {} while {} answers {} ordinary questions; quantiles of the projection:",
        watched.layer,
        watched.model.name(),
        watched.questions.len()
    );
    say!("{table}");
    Ok(json!({
        "trait": name,
        "model": watched.model.name(),
        "layer": watched.layer.index(),
        "questions": watched.questions.len(),
        "readings": found,
        "file": args.file,
    }))
}
