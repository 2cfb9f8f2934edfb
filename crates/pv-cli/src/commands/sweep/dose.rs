//! Measures trait expression by coefficient at one layer, with intervals over questions.

use comfy_table::{ContentArrangement, Table};
use pv_hooks::Layer;
use pv_steer::sweep::{SweepOptions, SweepResults};
use serde_json::{Value, json};

use super::Args;
use crate::invocation::Invocation;
use crate::program::say;
use crate::sweeping::shown;
use crate::{Result, default_layer};

/// In residual norms; finer where answers start to become incoherent.
const COEFS: [f32; 10] = [0.0, 0.1, 0.2, 0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6];

pub(super) fn run(args: &Args, here: &Invocation) -> Result<Value> {
    let spec = args.sweep.subject.spec()?;
    let one = match args.layers.as_slice() {
        [] => None,
        [layer] => Some(Layer::hidden_state(*layer)),
        several => return Err(format!("--dose measures one layer, not {}; set it with --layer", several.len()).into()),
    };
    let model = args.sweep.subject.model.load()?;
    let folder = args.sweep.subject.folder(here, &["dose"], &spec)?;
    let subject = args.sweep.subject.subject(&model, spec, &folder)?;
    let layer = one.unwrap_or_else(|| default_layer(&args.sweep.subject.model, &model));
    let options = SweepOptions {
        layers: layer.into(),
        strengths: if args.coefs.is_empty() { COEFS.to_vec() } else { args.coefs.clone() },
        per_question: args.rollouts.unwrap_or(3),
        system: args.system.clone(),
        // No choice is made, so every question is asked at every coefficient.
        report_share: 0.0,
        ..args.sweep.options()?
    };
    let results = args.sweep.run(&model, &subject, &folder, &options)?;
    let found = results.dose_response(layer)?;
    say!("{} on {} at {layer}, judged by {}", found.plan.trait_name, found.model.name, found.judge);
    let mut table = Table::new();
    let unit = format!("coefficient ({})", found.plan.unit.name());
    table.set_header([&unit, "on the raw vector", "expression (95 %)", "coherence (95 %)", "answers", "no score"]);
    for dose in &found.doses {
        table.add_row([
            dose.strength.to_string(),
            format!("{:.2}", dose.raw),
            shown(&dose.expression),
            shown(&dose.coherence),
            dose.expression.scored.to_string(),
            dose.expression.abstained.to_string(),
        ]);
    }
    say!("{table}");
    let number = |rho: Option<f64>| rho.map_or_else(|| "unknown".to_owned(), |rho| format!("{rho:.3}"));
    say!(
        "Spearman's ρ of coefficient and expression: {} over the coefficients, {} over the answers",
        number(found.rho),
        number(found.rho_answers)
    );
    match found.monotone {
        true => say!("the expression does not decrease at any step"),
        false => say!("the largest decrease of the expression is {:.0} points", found.greatest_fall),
    }
    show_texts(&results, layer, args.texts.unwrap_or(1));
    let paths = ["dose_response.json", "dose_response.csv"].map(|name| folder.join(name));
    found.save_json(&paths[0])?;
    found.save_csv(&paths[1])?;
    say!("saved {} and {}", paths[0].display(), paths[1].display());
    let mut document = serde_json::to_value(&found)?;
    document["folder"] = json!(folder);
    Ok(document)
}

/// Shows the first answer to each of some questions at every coefficient.
fn show_texts(results: &SweepResults, layer: Layer, questions: usize) {
    let number = |score: Option<f64>| score.map_or_else(|| "no score".to_owned(), |score| format!("{score:.0}"));
    for (question, text) in results.plan.questions.iter().enumerate().take(questions) {
        let mut table = Table::new();
        table.set_content_arrangement(ContentArrangement::Dynamic);
        if !table.is_tty() {
            table.set_width(150);
        }
        table.set_header(["coefficient", "answer", "expression", "coherence"]);
        for cell in results.cells_at(layer) {
            let Some(answer) = cell.scores.iter().find(|s| s.question == question && s.rollout == 0) else { continue };
            let scores = [answer.expression, answer.coherence].map(number);
            table.add_row([&cell.strength.to_string(), answer.text.trim(), &scores[0], &scores[1]]);
        }
        say!("\n{text}\n{table}");
    }
}
