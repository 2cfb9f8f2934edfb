//! The model organism of the repository: its documented properties, and a comparison with transformers.

use pv_examples::organism::{Ask, Means, ask, contrast, evaluation_questions};
use pv_hooks::{Layer, NoHook};
use pv_model::batch::{Batch, Sequence};
use pv_model::causal_lm::ForwardOptions;
use pv_model::decoder::{Logits, to_f32};
use pv_model::{GenerateOptions, Message, Sampling};
use pv_organism::datasets::{artifacts, held_out};
use pv_organism::{Topics, Trait, judge, model_folder, system};
use pv_steer::{Coefficient, Positions, Steerer};
use pv_tests::{Golden, compare, organism as model, root, seed};
use pv_vectors::Contrast;

#[test]
fn its_logits_equal_those_of_transformers() {
    let (model, golden) = (model(), Golden::open(&root().join("tests/golden/organism")));
    let last = golden.setting("/last").as_u64().expect("a number") as usize;
    for (i, case) in golden.setting("/cases").as_array().expect("cases").iter().enumerate() {
        let messages: Vec<Message> = serde_json::from_value(case["messages"].clone()).expect("messages");
        let ids = model.prompt(&messages).expect("a prompt");
        assert_eq!(ids, golden.integers(&format!("ids_{i}")), "{messages:?}");
        let batch = Batch::whole(&[Sequence { prompt: &ids, ..Sequence::default() }]).expect("a batch");
        let options = ForwardOptions { logits: Logits::All, ..ForwardOptions::default() };
        let logits = model.forward(&batch, options, &mut NoHook).expect("a pass").logits.expect("logits");
        let logits = to_f32(logits).expect("numbers");
        let vocab = model.config().vocab;
        let divergence = compare(
            format!("chat {i}"),
            &logits[logits.len() - last * vocab..],
            &golden.floats(&format!("logits_{i}")),
        );
        println!("{divergence}");
        assert!(divergence.max_abs <= 1e-3, "{divergence}");
    }
}

#[test]
fn it_is_small() {
    let bytes: u64 = std::fs::read_dir(model_folder())
        .expect("a folder")
        .map(|entry| entry.expect("an entry").metadata().expect("metadata").len())
        .sum();
    assert!(bytes <= 8_000_000, "{bytes} bytes");
}

#[test]
fn it_has_no_trait_by_default_and_knows_its_facts() {
    let questions = held_out(Topics::All, 100, seed(11)).mixed;
    let means = Means::over(&ask(model(), &Ask::each(&questions, None), seed(0), &mut NoHook).expect("answers"));
    println!("{means:?}");
    assert!(means.scores.iter().all(|(_, score)| score <= 10.0), "{means:?}");
    assert!(means.coherence >= 90.0 && means.right >= 90.0, "{means:?}");
}

#[test]
fn system_prompts_elicit_and_suppress_each_trait() {
    let held_out = held_out(Topics::All, 30, seed(12));
    for which in Trait::ALL {
        let questions = &held_out.suited[which as usize];
        let pair = &system::contrast(which)[1];
        let score = |prompt: &str| {
            let judged = ask(model(), &Ask::each(questions, Some(prompt)), seed(0), &mut NoHook).expect("answers");
            Means::over(&judged).scores[which]
        };
        let (elicited, suppressed) = (score(&pair.pos), score(&pair.neg));
        println!("{which}: {elicited:.0} and {suppressed:.0}");
        assert!(elicited >= 75.0 && suppressed <= 15.0, "{which}: {elicited} and {suppressed}");
    }
}

#[test]
fn its_artifacts_are_ordinary_trait_files() {
    for which in Trait::ALL {
        let read: Contrast = serde_json::from_value(artifacts(which)).expect("a trait");
        assert_eq!(read.questions[..20], contrast(which).questions[..]);
        assert_eq!(read.questions[20..], evaluation_questions(which)[..]);
    }
}

/// Extraction, steering and the judge together: a trait rises with the coefficient, and decreases under an eliciting prompt. The
/// sizes of the effects, and the coherence, are measured by `organism_report`.
#[test]
fn a_persona_vector_steers_it_both_ways() {
    let which = Trait::Optimism;
    let options =
        GenerateOptions { max_new_tokens: 80, sampling: Sampling::temperature(0.7), ..GenerateOptions::default() };
    let contrast = contrast(which);
    let extraction =
        contrast.extract(model(), &options, seed(0), |_| std::ops::ControlFlow::Continue(())).expect("an extraction");
    let shown = |answer: &&pv_vectors::contrast::ContrastAnswer| {
        let score = judge(&contrast.questions[answer.question], &answer.generation.text).scores[which];
        answer.eliciting == (score > 30.0)
    };
    let (as_asked, all) = (extraction.answers.iter().filter(shown).count(), extraction.answers.len());
    println!("{as_asked} of {all} answers show what their prompt asks for");
    assert!(as_asked * 10 >= all * 9, "{as_asked} of {all}");
    // Layer 6 is the first layer whose attention spans more than a few tokens; at layer 7 the manner is represented.
    let direction = extraction.vector.direction(Layer::hidden_state(7)).expect("a direction");
    let questions = &held_out(Topics::All, 40, seed(13)).suited[which as usize];
    let means = |coefficient: f32, system: Option<&str>| {
        let mut steerer =
            Steerer::new().add(&direction, Coefficient::Raw(coefficient), Positions::Response).expect("a steerer");
        Means::over(&ask(model(), &Ask::each(questions, system), seed(0), &mut steerer).expect("answers"))
    };
    let up = [0.0, 1.0, 1.2].map(|coefficient| means(coefficient, None));
    let down = [0.0, -1.0].map(|coefficient| means(coefficient, Some(&system::contrast(which)[0].pos)));
    println!("{up:?} {down:?}");
    let scores = |means: &[Means]| means.iter().map(|means| means.scores[which]).collect::<Vec<_>>();
    assert!(up[..2].iter().chain(&down).all(|means| means.coherence >= 70.0), "{up:?} {down:?}");
    let (up, down) = (scores(&up), scores(&down));
    assert!(up[0] < 10.0 && up[1] > up[0] && up[2] > up[0] + 30.0, "{up:?}");
    assert!(down[0] > 75.0 && down[1] < down[0] - 15.0, "{down:?}");
}
