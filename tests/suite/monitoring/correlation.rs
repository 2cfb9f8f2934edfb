//! The paper's monitoring figure on the organism: the prompt's last token foretells the traits of the answers.

use std::ops::ControlFlow;

use pv_examples::organism::{ExactJudge, contrast, evaluation_questions, spec};
use pv_hooks::Layer;
use pv_model::{CausalLm, GenerateOptions, Message, RenderOptions, Sampling, Sequence};
use pv_organism::datasets::many_shot;
use pv_organism::{Trait, system};
use pv_steer::monitor::{
    MeasureOptions, MonitoredPrompt, MonitoringPoint, MonitoringStudy, Watch, correlations, measure, read_points,
    write_points,
};
use pv_vectors::{PersonaVector, Pooling, ScanOptions, UnitDirection, scan};

use super::organism::model;

fn options() -> GenerateOptions {
    GenerateOptions {
        max_new_tokens: 80,
        sampling: Sampling::temperature(0.7),
        batch_size: 32,
        ..GenerateOptions::default()
    }
}

/// The trait's vectors, from half of its questions for extraction: enough here, and quick.
fn extract(model: &CausalLm, which: Trait) -> PersonaVector {
    let mut contrast = contrast(which);
    contrast.questions.truncate(10);
    contrast.extract(model, &options(), 0, |_| ControlFlow::Continue(())).expect("an extraction").vector
}

/// Each question under each of the eight graded system prompts.
fn graded(which: Trait, questions: &[String]) -> Vec<MonitoredPrompt> {
    let mut prompts = Vec::new();
    for (level, (_, system)) in system::graded(which).into_iter().enumerate() {
        for (number, question) in questions.iter().enumerate() {
            prompts.push(MonitoredPrompt {
                id: format!("level {level}, question {number}"),
                condition: format!("level {level}"),
                messages: vec![Message::system(system.as_str()), Message::user(question)],
                question: question.clone(),
            });
        }
    }
    prompts
}

/// Each question after 0, 5, 10, 15 and 20 exchanges that show the trait, other ones for every question.
fn shots(which: Trait, questions: &[String]) -> Vec<MonitoredPrompt> {
    let mut prompts = Vec::new();
    for count in [0, 5, 10, 15, 20] {
        for (number, question) in questions.iter().enumerate() {
            let before = many_shot(which, count, 1000 + number as u64);
            let before = before.iter().flat_map(|e| [Message::user(&e.question), Message::assistant(&e.answer)]);
            prompts.push(MonitoredPrompt {
                id: format!("{count} shots, question {number}"),
                condition: format!("{count} shots"),
                messages: before.chain([Message::user(question)]).collect(),
                question: question.clone(),
            });
        }
    }
    prompts
}

fn study(
    model: &CausalLm,
    which: Trait,
    watches: &[Watch],
    prompts: &[MonitoredPrompt],
    rollouts: usize,
) -> MonitoringStudy {
    let rubrics = [spec(which).expect("a trait").rubric().expect("a rubric")];
    let options = MeasureOptions { rollouts, seed: 77, generate: options(), render: RenderOptions::default() };
    measure(model, watches, prompts, &rubrics, &ExactJudge, &options).expect("a study")
}

/// The layer with the greatest r, and that r.
fn best(points: &[MonitoringPoint]) -> (Layer, f64) {
    let found = correlations(points).into_iter().filter_map(|c| Some((c.layer, c.overall?.r)));
    found.max_by(|a, b| a.1.total_cmp(&b.1)).expect("a layer")
}

/// The same points with the projections on another vector of the trait at the same layers.
fn projected(
    model: &CausalLm,
    prompts: &[MonitoredPrompt],
    points: &[MonitoringPoint],
    of: &dyn Fn(Layer) -> UnitDirection,
) -> Vec<MonitoringPoint> {
    let layers: Vec<Layer> = points.iter().map(|point| point.layer).take(points.len() / prompts.len()).collect();
    let directions: Vec<UnitDirection> = layers.iter().map(|layer| of(*layer)).collect();
    let ids: Vec<Vec<u32>> = prompts.iter().map(|p| model.prompt(&p.messages).expect("a prompt")).collect();
    let items: Vec<Sequence<'_>> = ids.iter().map(|prompt| Sequence { prompt, ..Sequence::default() }).collect();
    let options = ScanOptions { poolings: vec![Pooling::PromptLast], ..ScanOptions::default() };
    let found = scan(model, &items, &directions, &options, |_, _| ControlFlow::Continue(())).expect("a scan");
    let mut points = points.to_vec();
    for (i, point) in points.iter_mut().enumerate() {
        let projection = found.items[i / layers.len()].projection(Pooling::PromptLast, i % layers.len());
        point.projection = f64::from(projection.expect("read"));
    }
    points
}

/// r ≥ 0.85 between the prompt-last projection on the response vector and the mean score of the answers, for both families
/// of prompts. The layer is the one with the greatest r on the extraction's questions under the graded prompts; what is
/// reported is of the evaluation questions, with which nothing was chosen.
#[test]
fn the_prompt_foretells_the_trait() {
    let model = model();
    let mut weak = Vec::new();
    for which in Trait::ALL {
        let vector = extract(&model, which);
        let layers: Vec<Layer> = (1..=model.config().layers).map(Layer::hidden_state).collect();
        let watches: Vec<Watch> = layers.iter().map(|layer| Watch::of(&vector, *layer).expect("a direction")).collect();
        let prompt_vector =
            |layer| vector.direction_of(Pooling::PromptLast, layer).expect("a row").unit().expect("a length");

        let chosen_on = graded(which, &contrast(which).questions[..4]);
        let choice = study(&model, which, &watches, &chosen_on, 4);
        let (layer, _) = best(&choice.points);
        let (prompt_layer, _) = best(&projected(&model, &chosen_on, &choice.points, &prompt_vector));
        let questions = evaluation_questions(which);
        for (family, prompts) in
            [("graded prompts", graded(which, &questions[..6])), ("many shots", shots(which, &questions[6..14]))]
        {
            let study = study(&model, which, &watches, &prompts, 6);
            let at = |layer: Layer, all: &[pv_steer::monitor::MonitoringCorrelation]| {
                all.iter().find(|c| c.layer == layer).expect("watched").clone()
            };
            let found = at(layer, &study.correlations);
            let overall = found.overall.expect("both vary");
            let within =
                found.within.map_or("none".to_owned(), |e| format!("{:.2} [{:.2}, {:.2}]", e.r, e.low, e.high));
            let beside = correlations(&projected(&model, &prompts, &study.points, &prompt_vector));
            let beside = at(prompt_layer, &beside).overall.expect("both vary");
            println!(
                "{which}, {family}: layer {}: r {:.3} [{:.3}, {:.3}] (n {}), rho {:.2}, within {within}; prompt-last vector, layer {}: r {:.3}; by layer {}",
                layer.index(),
                overall.r,
                overall.low,
                overall.high,
                overall.n,
                found.spearman.unwrap_or(f64::NAN),
                prompt_layer.index(),
                beside.r,
                study
                    .correlations
                    .iter()
                    .map(|c| format!("{:.2}", c.overall.map_or(f64::NAN, |e| e.r)))
                    .collect::<Vec<_>>()
                    .join(" "),
            );
            let mut conditions: Vec<(String, f64, f64, f64)> = Vec::new();
            for point in study.points.iter().filter(|point| point.layer == layer) {
                let score = point.expression.expect("the exact judge scores everything");
                match conditions.iter_mut().find(|c| c.0 == point.condition) {
                    Some(c) => *c = (c.0.clone(), c.1 + point.projection, c.2 + score, c.3 + 1.0),
                    None => conditions.push((point.condition.clone(), point.projection, score, 1.0)),
                }
            }
            let shown: Vec<_> = conditions.iter().map(|c| format!("{:.2} → {:.0}", c.1 / c.3, c.2 / c.3)).collect();
            println!("    {}", shown.join("; "));
            if overall.r < 0.85 {
                weak.push(format!("{which}, {family}: {:.3}", overall.r));
            }
        }
    }
    assert!(weak.is_empty(), "{weak:?}");
}

#[test]
fn a_study_holds_what_it_takes_to_repeat_it() {
    let (model, which) = (model(), Trait::Optimism);
    let mut contrast = contrast(which);
    contrast.questions.truncate(2);
    contrast.instruction.truncate(2);
    let extraction = contrast.extract(&model, &options(), 0, |_| ControlFlow::Continue(())).expect("an extraction");
    let watches = [6, 7].map(|layer| Watch::of(&extraction.vector, Layer::hidden_state(layer)).expect("a direction"));
    let prompts = graded(which, &contrast.questions);
    let first = study(&model, which, &watches, &prompts, 2);
    assert_eq!((first.points.len(), first.directions.len(), first.correlations.len()), (32, 2, 2));
    assert!(first.points.iter().all(|point| point.n == 2 && point.trait_name == "optimism"));
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("study.json");
    first.save(&path).expect("a file");
    let again = MonitoringStudy::load(&path).expect("a study");
    assert_eq!((again.seed, &again.judge, &again.directions), (77, &first.judge, &first.directions));
    // Decimals may lose their last bit.
    for (ours, theirs) in again.points.iter().zip(&first.points) {
        assert!((ours.projection - theirs.projection).abs() < 1e-12 && ours.prompt == theirs.prompt);
    }
    assert_eq!(study(&model, which, &watches, &prompts, 2), first, "the same seed gives the same study");
    write_points(folder.path().join("points.csv"), &first.points).expect("a file");
    assert_eq!(read_points(folder.path().join("points.csv")).expect("points"), first.points);

    let options = MeasureOptions { rollouts: 1, seed: 0, generate: options(), render: RenderOptions::default() };
    let rubric = spec(Trait::Evil).expect("a trait").rubric().expect("a rubric");
    let refused = |prompts: &[MonitoredPrompt], options: &MeasureOptions| {
        let rubrics = std::slice::from_ref(&rubric);
        measure(&model, &watches, prompts, rubrics, &ExactJudge, options).expect_err("refused").to_string()
    };
    assert_eq!(refused(&prompts, &options), "there is no rubric for optimism");
    assert!(refused(&[], &options).contains("0 prompts"));
    assert!(refused(&prompts, &MeasureOptions { rollouts: 0, ..options }).contains("0 answers"));
}
