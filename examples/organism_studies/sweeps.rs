//! Dose-response, and the best layer by the whole grid, by successive halving and without a judge.

use std::ops::ControlFlow;

use pv_examples::organism::{ExactJudge, spec};
use pv_examples::vectors::answer_pairs;
use pv_examples::{Result, SAMPLING};
use pv_hooks::{Layer, LayerSet};
use pv_organism::Trait;
use pv_steer::sweep::{ProxyOptions, Search, Sweep, SweepOptions, SweepResults, layer_proxy};
use pv_vectors::{Contrast, PersonaVector};

use crate::Study;
use crate::measured::Measured;

fn layers(indices: impl IntoIterator<Item = usize>) -> LayerSet {
    indices.into_iter().map(Layer::hidden_state).collect()
}

/// The scores of a cell, in the order of its answers.
fn scores(results: &SweepResults, layer: Layer, strength: f32) -> Result<Vec<f64>> {
    let cell = results.cells_at(layer).iter().find(|cell| cell.strength == strength).ok_or("no such cell")?;
    Ok(cell.scores.iter().filter_map(|score| score.expression).collect())
}

impl Study<'_> {
    fn sweep(&self, which: Trait, vector: &PersonaVector, options: &SweepOptions) -> Result<SweepResults> {
        let folder = tempfile::tempdir()?;
        let sweep = Sweep::new(self.model, vector, &spec(which)?, &ExactJudge, options)?;
        Ok(sweep.run(folder.path(), |_| ControlFlow::Continue(()))?)
    }

    pub(crate) fn sweeps(&self) -> Result {
        println!("\n## Sweeps\n");
        println!(
            "Bounds: ρ of 0.4 over single answers; halving's choice, at half of the grid's cost, at most 10 points below the best.\n"
        );
        println!(
            "| trait | mean scores by coefficient | ρ of the means | ρ over answers | greatest decrease | best of the grid | halving: cost, shortfall | proxy: layer, rank, shortfall | met |"
        );
        println!("|---|---|---|---|---|---|---|---|---|");
        for which in Trait::ALL {
            let mut contrast = Contrast::of(&spec(which)?)?;
            contrast.instruction.truncate(2);
            let extraction = self.extraction(&contrast).run()?;
            let vector = &extraction.vector;
            let options = SweepOptions {
                max_new_tokens: 80,
                sampling: SAMPLING,
                seed: self.seeded(5),
                report_share: 0.0,
                ..SweepOptions::default()
            };
            // From no visible effect to the first incoherent answers.
            let strengths = vec![0.1, 0.32, 0.39, 0.45, 0.5, 0.55, 0.6];
            let doses = SweepOptions { layers: layers([7]), strengths, per_question: 3, ..options.clone() };
            let response = self.sweep(which, vector, &doses)?.dose_response(Layer::hidden_state(7))?;
            let means: Vec<String> =
                response.doses.iter().map(|dose| format!("{:.0}", dose.expression.mean.unwrap_or(f64::NAN))).collect();
            let rho = match response.rho_answers.zip(response.rho_answers_interval) {
                Some((rho, interval)) => Measured::correlation(rho, interval),
                None => return Err("scores that do not vary".into()),
            };

            let grid =
                SweepOptions { layers: layers([2, 4, 5, 6, 7, 8]), strengths: vec![0.36, 0.46, 0.56], ..options };
            let whole = self.sweep(which, vector, &grid)?;
            let halving = SweepOptions { search: Search::Halving { first: 4 }, ..grid };
            let halving = self.sweep(which, vector, &halving)?;
            let best = whole.best().ok_or("no cell is coherent")?;
            let found = halving.best().ok_or("no cell is coherent")?;
            let shortfall = Measured::lost(
                &scores(&whole, best.layer, best.strength)?,
                &scores(&whole, found.layer, found.strength)?,
            )?;
            let pairs = answer_pairs(&contrast, &extraction);
            let proxy = ProxyOptions { layers: layers(1..=8), strength: 0.36, ..ProxyOptions::default() };
            let proxy = layer_proxy(self.model, vector, &pairs, &proxy, |_, _| ControlFlow::Continue(()))?;
            let agreement = proxy.agreement(&whole);
            let shown = |value: Option<f64>| value.map_or("none".to_owned(), |value| format!("{value:.0}"));
            let mut bounds = self.bounds.borrow_mut();
            let kept = [bounds.at_least(rho, 0.4), bounds.at_most(shortfall, 10.0)].join(", ");
            println!(
                "| {which} | {} | {:.2} | {rho:.2} | {:.0} | layer {}, {} | {:.2}, {shortfall} | {}, {}, {} | {kept} |",
                means.join(" "),
                response.rho.unwrap_or(f64::NAN),
                response.greatest_fall,
                best.layer.index(),
                best.strength,
                halving.cost(),
                agreement.proxy_best.map_or("none".to_owned(), |layer| layer.index().to_string()),
                agreement.rank.map_or("none".to_owned(), |rank| rank.to_string()),
                shown(agreement.shortfall),
            );
        }
        Ok(())
    }
}
