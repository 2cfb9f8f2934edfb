//! The paper's monitoring figure: the prompt's last token predicts the traits of the answers.

use std::ops::ControlFlow;

use pv_examples::organism::{ExactJudge, contrast, evaluation_questions, spec};
use pv_examples::prompts::{organism_graded, organism_shots};
use pv_examples::{Result, SAMPLING};
use pv_hooks::Layer;
use pv_model::batch::Sequence;
use pv_model::{GenerateOptions, RenderOptions};
use pv_organism::Trait;
use pv_steer::monitor::{
    MeasureOptions, Measurement, MonitoredPrompt, MonitoringCorrelation, MonitoringPoint, MonitoringStudy, Watch,
    correlations,
};
use pv_vectors::PersonaVector;
use pv_vectors::scan::{ScanOptions, scan};
use pv_vectors::vector::Pooling;

use crate::measured::Measured;
use crate::{Share, Study};

/// The layer with the greatest r.
fn best(points: &[MonitoringPoint]) -> Result<Layer> {
    let found = correlations(points).into_iter().filter_map(|c| Some((c.layer, c.overall?.r)));
    Ok(found.max_by(|a, b| a.1.total_cmp(&b.1)).ok_or("no layer has a correlation")?.0)
}

fn at(layer: Layer, all: &[MonitoringCorrelation]) -> Result<&MonitoringCorrelation> {
    Ok(all.iter().find(|c| c.layer == layer).ok_or("a layer that was not watched")?)
}

impl Study<'_> {
    fn study(
        &self,
        which: Trait,
        watches: &[Watch],
        prompts: &[MonitoredPrompt],
        rollouts: usize,
    ) -> Result<MonitoringStudy> {
        let generate =
            GenerateOptions { max_new_tokens: 80, sampling: SAMPLING, batch_size: 32, ..GenerateOptions::default() };
        let options = MeasureOptions { rollouts, seed: self.seeded(77), generate, render: RenderOptions::default() };
        let rubrics = [spec(which)?.rubric()?];
        let folder = tempfile::tempdir()?;
        Ok(Measurement::new(self.model, watches, prompts, &rubrics, &ExactJudge, &options)?
            .run(folder.path(), |_| ControlFlow::Continue(()))?)
    }

    /// The same points with the projections on the vector of the prompt's last token.
    fn on_prompt_vector(
        &self,
        vector: &PersonaVector,
        prompts: &[MonitoredPrompt],
        points: &[MonitoringPoint],
    ) -> Result<Vec<MonitoringPoint>> {
        let layers = points.iter().map(|point| point.layer).take(points.len() / prompts.len());
        let directions = layers.map(|layer| Ok(vector.direction_of(Pooling::PromptLast, layer)?.unit()?));
        let directions = directions.collect::<Result<Vec<_>>>()?;
        let ids = prompts.iter().map(|p| self.model.prompt(&p.messages)).collect::<Result<Vec<_>, _>>()?;
        let items: Vec<Sequence<'_>> = ids.iter().map(|prompt| Sequence { prompt, ..Sequence::default() }).collect();
        let options = ScanOptions { poolings: vec![Pooling::PromptLast], ..ScanOptions::default() };
        let found = scan(self.model, &items, &directions, &options, |_, _| ControlFlow::Continue(()))?;
        let mut points = points.to_vec();
        for (i, point) in points.iter_mut().enumerate() {
            let projection = found.items[i / directions.len()].projection(Pooling::PromptLast, i % directions.len());
            point.projection = projection.ok_or("a prompt that was not read")?.into();
        }
        Ok(points)
    }

    /// The layer is the one with the greatest r on the extraction questions under the graded prompts; results are those of
    /// the evaluation questions, which took no part in the choice.
    pub(crate) fn monitoring(&self) -> Result {
        println!("\n## The prompt's last token predicts the trait of the answers\n");
        println!("Bound: r of 0.85 between its projection on the response vector and the answers' mean score.\n");
        println!("| trait | prompts | layer | r | ρ | r within a condition | r on the prompt-last vector | met |");
        println!("|---|---|---|---|---|---|---|---|");
        for which in Trait::ALL {
            let vector = self.vector(which, Share::HalfOfTheQuestions)?;
            let layers = (1..=self.model.config().layers).map(Layer::hidden_state);
            let watches = layers.map(|layer| Watch::of(&vector, layer)).collect::<Result<Vec<_>, _>>()?;
            let chosen_on = organism_graded(which, &contrast(which).questions[..4]);
            let choice = self.study(which, &watches, &chosen_on, 4)?;
            let layer = best(&choice.points)?;
            let prompt_layer = best(&self.on_prompt_vector(&vector, &chosen_on, &choice.points)?)?;
            let questions = evaluation_questions(which);
            let families = [
                ("graded", organism_graded(which, &questions[..6])),
                ("many shots", organism_shots(which, &questions[6..14], self.seeded(1000))),
            ];
            for (family, prompts) in families {
                let study = self.study(which, &watches, &prompts, 6)?;
                let found = at(layer, &study.correlations)?;
                let overall = found.overall.ok_or("the scores do not vary")?;
                let r = Measured::correlation(overall.r, overall.interval());
                let within = found.within.map_or("none".to_owned(), |e| format!("{:.2}", e.r));
                let beside = correlations(&self.on_prompt_vector(&vector, &prompts, &study.points)?);
                let beside = at(prompt_layer, &beside)?.overall.ok_or("the scores do not vary")?;
                let rho = found.spearman.unwrap_or(f64::NAN);
                let kept = self.bounds.borrow_mut().at_least(r, 0.85);
                println!(
                    "| {which} | {family} | {} | {r:.3} | {rho:.2} | {within} | {:.3} | {kept} |",
                    layer.index(),
                    beside.r
                );
            }
        }
        Ok(())
    }
}
