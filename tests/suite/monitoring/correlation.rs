//! The paper's monitoring figure on the organism: the prompt's last token predicts the traits of the answers.

use std::ops::ControlFlow;

use pv_examples::organism::{ExactJudge, contrast, evaluation_questions, spec};
use pv_examples::prompts::{organism_graded, organism_shots};
use pv_hooks::Layer;
use pv_model::{GenerateOptions, RenderOptions, Sampling};
use pv_organism::Trait;
use pv_steer::monitor::{
    MeasureOptions, Measurement, MonitoredPrompt, MonitoringStudy, Watch, read_points, write_points,
};
use pv_tests::{organism as model, seed};
use pv_vectors::PersonaVector;

fn options() -> GenerateOptions {
    GenerateOptions {
        max_new_tokens: 80,
        sampling: Sampling::temperature(0.7),
        batch_size: 32,
        ..GenerateOptions::default()
    }
}

/// The traits' vectors, from half of their extraction questions, which is enough here and faster.
fn extract(which: Trait) -> PersonaVector {
    let mut contrast = contrast(which);
    contrast.questions.truncate(10);
    contrast.extract(model(), &options(), seed(0), |_| ControlFlow::Continue(())).expect("an extraction").vector
}

fn study(which: Trait, watches: &[Watch], prompts: &[MonitoredPrompt], rollouts: usize) -> MonitoringStudy {
    let rubrics = [spec(which).expect("a trait").rubric().expect("a rubric")];
    let options = MeasureOptions { rollouts, seed: seed(77), generate: options(), render: RenderOptions::default() };
    let measurement =
        Measurement::new(model(), watches, prompts, &rubrics, &ExactJudge, &options).expect("a measurement");
    let folder = tempfile::tempdir().expect("a folder");
    measurement.run(folder.path(), |_| ControlFlow::Continue(())).expect("a study")
}

/// The prompt-last projection on the response vector correlates with the mean score of the answers, for both families of prompts.
/// `organism_studies` measures the correlation for every trait and layer: r is above 0.85 for all.
#[test]
fn the_prompt_projection_predicts_the_trait() {
    let which = Trait::Evil;
    let watches = [Watch::of(&extract(which), Layer::hidden_state(7)).expect("a direction")];
    let questions = evaluation_questions(which);
    for (family, prompts) in [
        ("graded prompts", organism_graded(which, &questions[..4])),
        ("many shots", organism_shots(which, &questions[6..12], seed(1000))),
    ] {
        let study = study(which, &watches, &prompts, 3);
        let found = study.correlations[0].overall.expect("both vary");
        println!("{which}, {family}: r {:.3} [{:.3}, {:.3}] (n {})", found.r, found.low, found.high, found.n);
        assert_eq!(found.n, prompts.len());
        assert!(found.r > 0.5, "{which}, {family}: {found:?}");
    }
}

#[test]
fn a_study_contains_everything_to_repeat_it() {
    let which = Trait::Optimism;
    let mut contrast = contrast(which);
    contrast.questions.truncate(2);
    contrast.instruction.truncate(2);
    let extraction =
        contrast.extract(model(), &options(), seed(0), |_| ControlFlow::Continue(())).expect("an extraction");
    let watches = [6, 7].map(|layer| Watch::of(&extraction.vector, Layer::hidden_state(layer)).expect("a direction"));
    let prompts = organism_graded(which, &contrast.questions);
    let first = study(which, &watches, &prompts, 2);
    assert_eq!((first.points.len(), first.directions.len(), first.correlations.len()), (32, 2, 2));
    assert!(first.points.iter().all(|point| point.n == 2 && point.trait_name == "optimism"));
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("study.json");
    first.save(&path).expect("a file");
    let again = MonitoringStudy::load(&path).expect("a study");
    assert_eq!((again.seed, &again.judge, &again.directions), (seed(77), &first.judge, &first.directions));
    // Decimals may lose their last bit.
    for (ours, theirs) in again.points.iter().zip(&first.points) {
        assert!((ours.projection - theirs.projection).abs() < 1e-12 && ours.prompt == theirs.prompt);
    }
    assert_eq!(study(which, &watches, &prompts, 2), first, "the same seed gives the same study");
    write_points(folder.path().join("points.csv"), &first.points).expect("a file");
    assert_eq!(read_points(folder.path().join("points.csv")).expect("points"), first.points);

    let options = MeasureOptions { rollouts: 1, seed: 0, generate: options(), render: RenderOptions::default() };
    let rubric = spec(Trait::Evil).expect("a trait").rubric().expect("a rubric");
    let refused = |prompts: &[MonitoredPrompt], options: &MeasureOptions| {
        let rubrics = std::slice::from_ref(&rubric);
        let refused = Measurement::new(model(), &watches, prompts, rubrics, &ExactJudge, options);
        refused.expect_err("refused").to_string()
    };
    assert_eq!(refused(&prompts, &options), "there is no rubric for optimism");
    assert_eq!(refused(&[], &options), "there is no prompt");
    let none = MeasureOptions { rollouts: 0, ..options };
    assert_eq!(refused(&prompts, &none), "the number of answers to each prompt is 0");
}
