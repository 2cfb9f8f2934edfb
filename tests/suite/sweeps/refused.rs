//! What is refused, and how it is said.

use pv_judge::{Abstention, COHERENCE, Evidence, Score};

use super::*;

fn refusal(change: impl FnOnce(&mut SweepOptions, &mut TraitSpec)) -> String {
    let (mut options, mut spec) = (small(), small_spec());
    change(&mut options, &mut spec);
    let sweep = Sweep::new(model(), vector(Trait::Optimism), &spec, &ExactJudge, &options);
    sweep.expect_err("nothing to run").to_string()
}

#[test]
fn what_cannot_be_run_is_refused_before_it_begins() {
    assert_eq!(refusal(|options, _| options.strengths.clear()), "there is no strength to steer with");
    assert_eq!(refusal(|options, _| options.layers = LayerSet::none()), "there is no layer to steer at");
    assert!(
        refusal(|options, _| options.layers = layers([7, 9]))
            .contains("has no layer 9 (after block 8); its last is layer 8")
    );
    assert!(refusal(|options, _| options.strengths.push(f32::INFINITY)).contains("inf is not a finite number"));
    assert!(refusal(|options, _| options.strengths.push(1e38)).contains("overflows"));
    assert!(refusal(|options, _| options.batch_size = 0).contains("batch_size is 0"));
    assert!(refusal(|_, spec| spec.evaluation.clear()).contains("\"optimism\" has no evaluation question"));
    assert!(refusal(|_, spec| spec.name = COHERENCE.into()).contains("both called \"coherence\""));
    assert!(refusal(|_, spec| spec.eval_prompt = "{answer}".into()).contains("{question}"));
    let results = small_sweep(&ExactJudge, &small()).run(folder().path(), go_on).expect("results");
    let error = results.dose_response(Layer::hidden_state(3)).expect_err("not in the sweep");
    assert_eq!(error.to_string(), "the sweep did not steer at layer 3 (after block 2)");
}

#[test]
fn a_unit_that_the_vector_does_not_know_is_refused() {
    let whole = vector(Trait::Optimism);
    let tables = [(pv_vectors::Pooling::ResponseMean, whole.table(pv_vectors::Pooling::ResponseMean).unwrap().clone())];
    let bare = PersonaVector::new(whole.provenance().clone(), tables.into_iter().collect(), None).expect("a vector");
    let error = Sweep::new(model(), &bare, &small_spec(), &ExactJudge, &small()).expect_err("no norms").to_string();
    assert!(error.contains("knows no mean residual norm"), "{error}");
    let raw = SweepOptions { unit: StrengthUnit::Raw, ..small() };
    Sweep::new(model(), &bare, &small_spec(), &ExactJudge, &raw).expect("a sweep");
}

#[test]
fn a_folder_of_another_sweep_is_refused_by_name() {
    let place = folder();
    small_sweep(&ExactJudge, &small()).run(place.path(), go_on).expect("results");
    let before = files(place.path());
    let refused = |sweep: &Sweep<'_>, what: &str| {
        let error = sweep.run(place.path(), go_on).expect_err("another run").to_string();
        assert!(error.contains(what), "{error}");
        assert_eq!(files(place.path()), before);
    };
    for (what, options) in [
        ("plan.strengths[1] is 0.5, but 0.6", SweepOptions { strengths: vec![0.3, 0.6], ..small() }),
        ("number of plan.layers is 2, but 1", SweepOptions { layers: layers([6]), ..small() }),
        ("plan.per_question is 2, but 1", SweepOptions { per_question: 1, ..small() }),
        ("plan.seed is 5, but 6", SweepOptions { seed: 6, ..small() }),
        ("plan.unit is \"residual_norms\", but \"raw\"", SweepOptions { unit: StrengthUnit::Raw, ..small() }),
        ("plan.search is \"full\"", SweepOptions { search: Search::Halving { first: 2 }, ..small() }),
        ("plan.clean_cache is false, but true", SweepOptions { clean_cache: true, ..small() }),
        ("plan.coherence_min is 75.0, but 70.0", SweepOptions { coherence_min: 70.0, ..small() }),
    ] {
        refused(&small_sweep(&ExactJudge, &options), what);
    }
    let rule = |_: &str, _: &Answered<'_>| Verdict::Scored(Score { value: 1.0, evidence: Evidence::Exact });
    let judge = ByRule { reports: true, rule };
    refused(&small_sweep(&judge, &small()), "judge is \"the organism's exact judge\", but \"a rule\"");
    let other = Sweep::new(model(), vector(Trait::Evil), &small_spec(), &ExactJudge, &small()).expect("a sweep");
    refused(&other, "vector.provenance.trait_name is \"optimism\", but \"evil\"");
    let named = model().clone().named("another");
    let other = Sweep::new(&named, vector(Trait::Optimism), &small_spec(), &ExactJudge, &small()).expect("a sweep");
    refused(&other, "but \"another\"");
    // Another batch size changes nothing, and is welcome.
    let other = SweepOptions { batch_size: 5, ..small() };
    small_sweep(&ExactJudge, &other).run(place.path(), go_on).expect("the same sweep");
    assert_eq!(files(place.path()), before);
}

#[test]
fn a_judge_that_scores_nothing_is_named() {
    let silent = |of: &'static str| {
        move |rubric: &str, _: &Answered<'_>| match rubric == of {
            true => Verdict::Abstained(Abstention::NotANumber { text: "no".into() }),
            false => Verdict::Scored(Score { value: 50.0, evidence: Evidence::Exact }),
        }
    };
    for rubric in ["optimism", COHERENCE] {
        let judge = ByRule { reports: true, rule: silent(rubric) };
        let error = small_sweep(&judge, &small()).run(folder().path(), go_on).expect_err("no score");
        assert_eq!(error.to_string(), format!("a rule gave no score for {rubric:?} to any of 32 answers"));
        // By halving, it is noticed after the first round.
        let halving = SweepOptions { search: Search::Halving { first: 1 }, ..small() };
        let error = small_sweep(&judge, &halving).run(folder().path(), go_on).expect_err("no score");
        assert!(matches!(error, pv_steer::Error::NothingScored { answers: 8, .. }), "{error}");
    }
}
