//! Refused input and its error messages.

use pv_judge::rubric::COHERENCE;
use pv_judge::score::Evidence;
use pv_judge::{Abstention, Score};

use super::*;
use pv_steer::error::SweepError;

fn refusal(change: impl FnOnce(&mut SweepOptions, &mut TraitSpec)) -> String {
    let (mut options, mut spec) = (small(), small_spec());
    change(&mut options, &mut spec);
    let sweep = Sweep::new(model(), vector(Trait::Optimism), &spec, &ExactJudge, &options);
    sweep.expect_err("nothing to run").to_string()
}

#[test]
fn invalid_sweeps_are_refused_before_they_begin() {
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
fn a_unit_that_the_vector_does_not_support_is_refused() {
    let whole = vector(Trait::Optimism);
    let tables = [(
        pv_vectors::vector::Pooling::ResponseMean,
        whole.table(pv_vectors::vector::Pooling::ResponseMean).unwrap().clone(),
    )];
    let bare = PersonaVector::new(whole.provenance().clone(), tables.into_iter().collect(), None).expect("a vector");
    let error = Sweep::new(model(), &bare, &small_spec(), &ExactJudge, &small()).expect_err("no norms").to_string();
    assert!(error.contains("the mean residual norm at layer"), "{error}");
    let raw = SweepOptions { unit: StrengthUnit::Raw, ..small() };
    Sweep::new(model(), &bare, &small_spec(), &ExactJudge, &raw).expect("a sweep");
}

#[test]
fn a_folder_of_another_sweep_is_refused_with_the_difference() {
    let place = folder();
    small_sweep(&ExactJudge, &small()).run(place.path(), go_on).expect("results");
    let before = files(place.path());
    let refused = |sweep: &Sweep<'_>, what: &str| {
        let error = sweep.run(place.path(), go_on).expect_err("another run").to_string();
        assert!(error.contains(what), "{error}");
        assert_eq!(files(place.path()), before);
    };
    for (what, options) in [
        ("plan.seed is 5, but 6", SweepOptions { seed: 6, ..small() }),
        ("plan.unit is \"residual_norms\", but \"raw\"", SweepOptions { unit: StrengthUnit::Raw, ..small() }),
        ("plan.clean_cache is false, but true", SweepOptions { clean_cache: true, ..small() }),
        ("plan.positions is \"response\", but \"all\"", SweepOptions { positions: Positions::All, ..small() }),
        ("plan.max_new_tokens is 80, but 79", SweepOptions { max_new_tokens: 79, ..small() }),
        ("plan.sampling.temperature is 0.7, but 0.8", SweepOptions { sampling: Sampling::temperature(0.8), ..small() }),
        ("plan.system is null, but \"Be brief.\"", SweepOptions { system: Some("Be brief.".into()), ..small() }),
    ] {
        refused(&small_sweep(&ExactJudge, &options), what);
    }
    let mut other = small_spec();
    other.evaluation[2] = "Another one?".into();
    let asked = Sweep::new(model(), vector(Trait::Optimism), &other, &ExactJudge, &small()).expect("a sweep");
    refused(&asked, "plan.questions[2]");
    let evil = Sweep::new(model(), vector(Trait::Evil), &small_spec(), &ExactJudge, &small()).expect("a sweep");
    refused(&evil, "vector.provenance.trait_name is \"optimism\", but \"evil\"");
    // How it is executed may change.
    let other = SweepOptions { batch_size: 5, ..small() };
    small_sweep(&ExactJudge, &other).run(place.path(), go_on).expect("the same sweep");
    assert_eq!(files(place.path()), before);
}

#[test]
fn a_judge_without_any_score_is_an_error() {
    let silent = |of: &'static str| {
        move |rubric: &str, _: &Answered<'_>| match rubric == of {
            true => Verdict::Abstained(Abstention::NotANumber { text: "no".into() }),
            false => Verdict::Scored(Score { value: 50.0, evidence: Evidence::Exact }),
        }
    };
    for rubric in ["optimism", COHERENCE] {
        let judge = by_rule(silent(rubric));
        let error = small_sweep(&judge, &small()).run(folder().path(), go_on).expect_err("no score");
        assert_eq!(error.to_string(), format!("a rule gave no score for {rubric:?} to any of 32 answers"));
        // With halving, it is detected after the first round.
        let halving = SweepOptions { search: Search::Halving { first: 1 }, ..small() };
        let error = small_sweep(&judge, &halving).run(folder().path(), go_on).expect_err("no score");
        assert!(matches!(error, pv_steer::Error::Sweep(SweepError::NothingScored { answers: 8, .. })), "{error}");
    }
}
