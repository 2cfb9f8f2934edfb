//! The tables of a screening.

use comfy_table::{Table, presets};
use pv_hooks::Layer;
use pv_screen::scores::ScoreRow;
use pv_statistics::separation::{auc, histograms};
use pv_steer::control::decompose_projections;
use pv_vectors::{PersonaVector, TraitDirection};

use super::Screened;
use crate::Result;
use crate::program::say;

/// Each vector's own part of each data set's ΔP. Without this decomposition, similar vectors count the same change
/// twice.
pub(super) fn decomposed(
    screened: &[Screened],
    vectors: &[PersonaVector],
    directions: &[TraitDirection],
    layer: Layer,
) -> Result<Table> {
    let whole: Vec<_> = vectors.iter().map(|vector| vector.direction(layer)).collect::<Result<_, _>>()?;
    let mut table = Table::new();
    let names = vectors.iter().map(|vector| vector.provenance().trait_name.clone());
    table.load_preset(presets::UTF8_HORIZONTAL_ONLY).set_header(std::iter::once("data set".to_owned()).chain(names));
    for set in screened {
        let deltas: Option<Vec<f64>> =
            directions.iter().map(|named| Some(set.summary.delta(&named.label())?.value)).collect();
        let cells = match deltas {
            Some(deltas) => decompose_projections(&deltas, &whole.iter().collect::<Vec<_>>())?
                .into_iter()
                .map(|part| format!("{part:.2}"))
                .collect(),
            None => vec!["–".to_owned(); vectors.len()],
        };
        table.add_row(std::iter::once(set.name.clone()).chain(cells));
    }
    Ok(table)
}

pub(super) fn ranking(screened: &[Screened], label: &str) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::UTF8_HORIZONTAL_ONLY);
    let mut header = vec!["data set", "ΔP", "95 %", "answers", "base answers (truncated)", "skipped"];
    header.extend(screened.iter().any(|set| set.summary.likelihood.is_some()).then_some("gain (nats)"));
    header.extend(screened.iter().any(|set| set.judged.is_some()).then_some("show the trait (not scored)"));
    table.set_header(header);
    for Screened { name, summary, judged, .. } in screened {
        let sample = summary.directions.get(label).and_then(|found| found.as_sample);
        let found = sample.or(summary.delta(label).copied());
        let interval = found.map_or_else(String::new, |e| format!("{:.2} to {:.2}", e.interval.low, e.interval.high));
        let judged = judged.as_ref().map(|found| format!("{} ({})", found.shows.len(), found.unknown.len()));
        let cells = [
            name.clone(),
            found.map_or_else(|| "–".to_owned(), |found| format!("{:.2}", found.value)),
            interval,
            summary.answers.to_string(),
            format!("{} ({})", summary.with_base - summary.empty_base, summary.cut_base.unwrap_or_default()),
            summary.skipped.values().sum::<usize>().to_string(),
        ];
        let gain = summary.likelihood.as_ref().and_then(|found| found.gains.values().next());
        table.add_row(cells.into_iter().chain(gain.map(|gain| format!("{gain:+.2}"))).chain(judged));
    }
    table
}

fn values(rows: &[ScoreRow], label: &str) -> Vec<f64> {
    rows.iter().filter_map(|row| row.scores.get(label)?.delta).collect()
}

/// The samples of two data sets in one histogram.
pub(super) fn compare(first: &Screened, last: &Screened, label: &str) -> Result {
    let (high, low) = (values(&first.rows, label), values(&last.rows, label));
    if high.is_empty() || low.is_empty() {
        return Ok(());
    }
    let found = histograms(&high, &low, 16)?;
    let most = found.left.iter().chain(&found.right).copied().max().unwrap_or(1).max(1);
    say!("{:>8}  {:<30}  {}", "ΔP", first.name, last.name);
    for (bin, edge) in found.edges.iter().take(found.left.len()).enumerate() {
        let bar = |count: usize| "█".repeat((count * 30).div_ceil(most));
        say!("{edge:>8.2}  {:<30}  {}", bar(found.left[bin]), bar(found.right[bin]));
    }
    let area = auc(&high, &low, 0.95)?;
    let (value, interval) = (area.value, area.interval);
    say!("\nROC-AUC of their samples: {value:.3} ({:.3} to {:.3})\n", interval.low, interval.high);
    Ok(())
}
