//! The tables of an evaluation.

use comfy_table::Table;
use pv_judge::TraitSpec;
use pv_train::measure::Change;
use pv_train::measure::evaluate::Comparison;
use pv_train::measure::shift::ShiftReport;

use super::Further;
use crate::sweeping::shown;

/// A change with its interval.
fn changed(change: &Change, digits: usize) -> String {
    match change.interval {
        Some(i) => format!("{:+.digits$} ({:+.digits$} to {:+.digits$})", change.mean, i.low, i.high),
        None => format!("{:+.digits$}", change.mean),
    }
}

pub(super) fn expression(comparison: &Comparison, specs: &[TraitSpec]) -> Table {
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

pub(super) fn shifts(shifts: &[(String, Vec<ShiftReport>)]) -> Table {
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

pub(super) fn further(titles: &[String], further: &[Further]) -> Table {
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
