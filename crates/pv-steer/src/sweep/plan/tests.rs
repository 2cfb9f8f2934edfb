use std::collections::BTreeSet;

use super::*;

fn spec(questions: usize) -> TraitSpec {
    TraitSpec {
        name: "evil".into(),
        description: None,
        assistant_pos: None,
        assistant_neg: None,
        instruction: Vec::new(),
        extraction: Vec::new(),
        evaluation: (0..questions).map(|i| format!("Question {i}?")).collect(),
        eval_prompt: "{question} {answer}".into(),
    }
}

fn layers(range: std::ops::Range<usize>) -> Vec<Layer> {
    range.map(Layer::hidden_state).collect()
}

/// No question is held out.
fn all_questions() -> SweepOptions {
    SweepOptions { report_share: 0.0, ..SweepOptions::default() }
}

fn plan(questions: usize, options: &SweepOptions) -> SweepPlan {
    SweepPlan::new(&spec(questions), layers(1..4), options).unwrap()
}

#[test]
fn every_answer_has_a_seed_of_its_own_that_other_cells_do_not_change() {
    let options = SweepOptions { strengths: vec![0.5, -0.25, 0.0], per_question: 3, seed: 9, ..all_questions() };
    let whole = plan(4, &options);
    assert_eq!(whole.strengths, [-0.25, 0.0, 0.5]);
    let all: Vec<usize> = (0..whole.cells()).collect();
    let places = whole.places(&all, 4);
    assert!(places.len() == whole.full_grid() && places.is_sorted());
    let seeds: BTreeSet<u64> = places.iter().map(|&place| whole.seed(place)).collect();
    assert_eq!(seeds.len(), 9 * 4 * 3);
    // One cell of it, alone in a plan.
    let alone = SweepOptions { strengths: vec![0.5], per_question: 1, ..options };
    let alone = SweepPlan::new(&spec(2), layers(2..3), &alone).unwrap();
    let here = alone.place(0, 1, 0);
    assert_eq!(here, whole.place(5, 1, 0));
    assert_eq!(alone.seed(here), whole.seed(here));
}

#[test]
fn halving_asks_more_and_more_of_the_same_questions() {
    let options = |first| SweepOptions { search: Search::Halving { first }, ..all_questions() };
    assert_eq!(plan(20, &options(4)).rounds(), [4, 8, 16, 20]);
    assert_eq!(plan(20, &options(5)).rounds(), [5, 10, 20]);
    assert_eq!(plan(3, &options(8)).rounds(), [3]);
    assert_eq!(plan(20, &all_questions()).rounds(), [20]);
    assert_eq!(plan(20, &SweepOptions::default()).rounds(), [10]);
    let plan = plan(20, &options(5));
    let asked = |n| plan.places(&[2], n).into_iter().map(|place| place.question).collect::<BTreeSet<_>>();
    assert!(asked(5).len() == 5 && asked(5).is_subset(&asked(10)) && asked(10).is_subset(&asked(20)));
    assert_ne!(asked(10), (0..10).collect(), "they are drawn");
}

#[test]
fn questions_choose_or_are_reported_on() {
    for (share, questions, reported) in
        [(0.5, 20, 10), (0.5, 5, 2), (0.9, 3, 2), (0.5, 1, 0), (0.0, 20, 0), (0.25, 3, 0)]
    {
        for search in [Search::Full, Search::Halving { first: 1 }] {
            let plan = plan(questions, &SweepOptions { report_share: share, search, ..SweepOptions::default() });
            assert_eq!(plan.reported.len(), reported, "{share} of {questions}");
            let choosing: BTreeSet<usize> = plan.choosing().into_iter().collect();
            assert!(choosing.is_disjoint(&plan.reported.iter().copied().collect()) && !choosing.is_empty());
            assert_eq!(choosing.len() + reported, questions);
            // The last round contains all questions for the choice, and no others.
            assert_eq!(plan.rounds().last(), Some(&choosing.len()));
            let asked: BTreeSet<usize> =
                plan.places(&[0, 2], choosing.len()).iter().map(|place| place.question).collect();
            assert_eq!(asked, choosing);
            let report: Vec<usize> = plan.reported_places(1).iter().map(|place| place.question).collect();
            assert_eq!(report, plan.reported);
        }
    }
    // They are drawn by the seed; the seeds of the answers do not depend on the division.
    let of_seed = |seed| plan(20, &SweepOptions { seed, ..SweepOptions::default() });
    assert_ne!(of_seed(1).reported, of_seed(2).reported);
    let place = of_seed(1).place(1, 7, 0);
    assert_eq!(of_seed(1).seed(place), plan(20, &SweepOptions { seed: 1, ..all_questions() }).seed(place));
}

#[test]
fn plans_of_earlier_versions_are_read() {
    let plan = plan(4, &all_questions());
    let text = serde_json::to_string(&plan).unwrap();
    assert!(!text.contains("reported"), "{text}");
    assert_eq!(serde_json::from_str::<SweepPlan>(&text).unwrap(), plan);
}

#[test]
fn plans_go_through_files() {
    for positions in
        [Positions::Response, Positions::ResponseFrom(0), Positions::ResponseFrom(9), Positions::Prompt, Positions::All]
    {
        let options = SweepOptions { positions, strengths: vec![0.1, 1.0 / 3.0], ..SweepOptions::default() };
        let plan = plan(2, &options);
        let text = serde_json::to_string(&plan).unwrap();
        assert_eq!(serde_json::from_str::<SweepPlan>(&text).unwrap(), plan);
    }
}

#[test]
fn what_makes_no_sense_is_refused() {
    let refusal = |layers: Vec<Layer>, questions, change: fn(&mut SweepOptions)| {
        let mut options = SweepOptions::default();
        change(&mut options);
        SweepPlan::new(&spec(questions), layers, &options).unwrap_err().to_string()
    };
    let some = || layers(1..3);
    assert_eq!(refusal(some(), 2, |options| options.strengths.clear()), "there is no strength to steer with");
    assert_eq!(refusal(Vec::new(), 2, |_| {}), "there is no layer to steer at");
    assert!(refusal(some(), 0, |_| {}).contains("\"evil\" has no evaluation question"));
    assert!(refusal(some(), 2, |options| options.strengths.push(f32::NAN)).contains("NaN is not a finite number"));
    assert!(refusal(some(), 2, |options| options.strengths = vec![0.0, 1.0, -0.0]).contains("0 is given twice"));
    assert!(refusal(some(), 2, |options| options.per_question = 0).contains("per_question is 0"));
    assert!(refusal(some(), 2, |options| options.max_new_tokens = 0).contains("max_new_tokens is 0"));
    assert!(refusal(some(), 2, |options| options.search = Search::Halving { first: 0 }).contains("questions is 0"));
    assert!(refusal(some(), 2, |options| options.coherence_min = 101.0).contains("101"));
    assert!(refusal(some(), 2, |options| options.coherence_min = f64::NAN).contains("NaN"));
    assert!(
        refusal(some(), 2, |options| options.report_share = 1.0)
            .contains("report_share 1 is not at least 0 and below 1")
    );
    assert!(refusal(some(), 2, |options| options.report_share = f64::NAN).contains("NaN"));
    assert!(refusal(some(), 2, |options| options.coherence.name = "evil".into()).contains("both called \"evil\""));
}
