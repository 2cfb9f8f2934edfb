//! Shows the flagged samples of a screening, with the words that contribute most.

use pv_model::CausalLm;
use pv_screen::compare::Contributions;
use pv_screen::difference::{ReadOptions, Rows};
use pv_screen::likelihood::likelihood;
use pv_screen::sample::tokens;
use pv_screen::scores::ScoreRow;
use pv_vectors::TraitDirection;
use serde_json::{Value, json};

use super::Screened;
use crate::Result;
use crate::program::say;
use crate::samples::{Steered, described, texts};

/// Shows the samples with the highest ΔP across all data sets, with the words that contribute most marked.
pub(super) fn flagged(
    model: &CausalLm,
    screened: &[Screened],
    direction: &TraitDirection,
    most: usize,
) -> Result<Vec<Value>> {
    let label = direction.label();
    let mut found: Vec<(f64, f64, &ScoreRow, &str)> = screened
        .iter()
        .flat_map(|set| set.rows.iter().map(move |row| (row, set.name.as_str())))
        .filter(|(row, _)| !row.duplicate)
        .filter_map(|(row, name)| {
            let score = row.scores.get(&label)?;
            Some((score.delta?, score.base?, row, name))
        })
        .collect();
    found.sort_by(|a, b| b.0.total_cmp(&a.0));
    found.truncate(most);
    let texts = texts(found.iter().map(|(_, _, row, _)| &row.place))?;
    let mut shown = Vec::new();
    for (delta, base, row, name) in found {
        let Some(messages) = texts.get(&row.place) else { continue };
        let sample = tokens(model, messages).map_err(|skip| skip.to_string())?;
        let shares = Contributions::of(model, &sample.prompt, &sample.answer, &direction.direction, base)?;
        say!("{}", described(&format!("ΔP {delta:.2}"), name, row, messages, &shares));
        shown.push(json!({ "data_set": name, "row": row.place.row, "id": row.id, "difference": delta }));
    }
    Ok(shown)
}

/// Shows the samples with the highest likelihood gain under the steered model, with the words that contribute most
/// marked.
pub(super) fn likelier(
    model: &CausalLm,
    screened: &[Screened],
    steered: &mut Steered,
    most: usize,
) -> Result<Vec<Value>> {
    let gain = |row: &ScoreRow| row.likelihood.as_ref()?.gains.get(&steered.label).copied();
    let rows = screened.iter().flat_map(|set| set.rows.iter().map(move |row| (row, set.name.as_str())));
    let mut found: Vec<(f64, &ScoreRow, &str)> =
        rows.filter(|(row, _)| !row.duplicate).filter_map(|(row, name)| Some((gain(row)?, row, name))).collect();
    found.sort_by(|a, b| b.0.total_cmp(&a.0));
    found.truncate(most);
    let texts = texts(found.iter().map(|(_, row, _)| &row.place))?;
    let mut shown = Vec::new();
    say!("Samples with the highest likelihood gain under {}, in nats:\n", steered.label);
    for (gain, row, name) in found {
        let Some(messages) = texts.get(&row.place) else { continue };
        let sample = tokens(model, messages).map_err(|skip| skip.to_string())?;
        let (prompts, answers) = ([sample.prompt.as_slice()], [sample.answer.as_slice()]);
        let rows = Rows { prompts: &prompts, answers: &answers, base: &[] };
        let columns = likelihood(model, &rows, &mut [steered.persona()], &ReadOptions::default())?;
        let Some(Some(found)) = columns.first().and_then(|column| column.first()) else { continue };
        let shares = Contributions::of_gains(model, &sample.answer, found)?;
        say!("{}", described(&format!("{gain:+.2}"), name, row, messages, &shares));
        shown.push(json!({ "data_set": name, "row": row.place.row, "id": row.id, "gain_in_nats": gain }));
    }
    Ok(shown)
}
