//! The layer is chosen on some questions and reported on others, and the vector stores it.

use std::collections::BTreeSet;

use super::*;
use pv_steer::error::SweepError;

fn half() -> SweepOptions {
    SweepOptions { report_share: 0.5, ..small() }
}

fn questions(cell: &pv_steer::sweep::CellResult) -> BTreeSet<usize> {
    cell.scores.iter().map(|scores| scores.question).collect()
}

#[test]
fn reported_questions_take_no_part_in_the_choice() {
    for search in [Search::Full, Search::Halving { first: 1 }] {
        let options = SweepOptions { search, coherence_min: 10.0, ..half() };
        let place = folder();
        let sweep = small_sweep(&ExactJudge, &options);
        let results = sweep.run(place.path(), go_on).expect("results");
        let report = results.report.as_ref().expect("a report");
        let best = results.best().expect("a best cell");
        assert_eq!((report.layer, report.strength, report.raw), (best.layer, best.strength, best.raw));
        let reported = questions(report);
        assert_eq!(reported, results.plan.reported.iter().copied().collect());
        assert!(reported.len() == 2 && report.answers == 4, "{report:?}");
        for cell in &results.cells {
            assert!(questions(cell).is_disjoint(&reported), "{cell:?}");
        }
        // The choice equals that of a sweep of the other questions alone, and the report that of a sweep of all.
        let all =
            small_sweep(&ExactJudge, &SweepOptions { report_share: 0.0, search: Search::Full, ..options.clone() });
        let all = all.run(folder().path(), go_on).expect("results");
        let whole = all.cells.iter().find(|cell| cell.layer == best.layer && cell.strength == best.strength);
        let scores = &whole.expect("the cell").scores;
        assert!(report.scores.iter().chain(&best.scores).all(|score| scores.contains(score)));
        // Files contain both, and distinguish them.
        let read = std::fs::read_to_string(place.path().join("results.json")).expect("results");
        let again = serde_json::from_str::<SweepResults>(&read).expect("results");
        assert_eq!(again.report.map(|report| report.scores.len()), Some(4));
        let table = std::fs::read_to_string(place.path().join("results.csv")).expect("a table");
        let parts: Vec<&str> = table.lines().skip(1).filter_map(|line| line.rsplit(',').next()).collect();
        assert_eq!(parts, ["choice", "choice", "choice", "choice", "report"]);
        // A second run asks nothing and has the same results.
        let before = files(place.path());
        sweep.run(place.path(), |progress| panic!("{progress:?}")).expect("the same results");
        assert_eq!(files(place.path()), before);
    }
}

/// A run of an earlier version, whose plan has no held-out questions, resumes with its answers.
#[test]
fn a_folder_of_an_earlier_version_resumes() {
    let place = folder();
    small_sweep(&ExactJudge, &small()).run(place.path(), go_on).expect("results");
    let results = small_sweep(&ExactJudge, &SweepOptions { coherence_min: 75.0, ..half() })
        .run(place.path(), |progress| panic!("nothing is missing: {progress:?}"))
        .expect("results");
    assert_eq!(results.cells[0].answers, 4);
    let fresh = small_sweep(&ExactJudge, &half()).run(folder().path(), go_on).expect("results");
    assert_eq!(results, fresh);
}

#[test]
fn a_vector_with_its_best_layer_is_unchanged_bit_for_bit() {
    let place = folder();
    let swept = vector(Trait::Optimism);
    assert_eq!(swept.best_layer(), None);
    let unknown = swept.best_direction().expect_err("not known").to_string();
    assert!(unknown.contains("best layer of the vector \"optimism\" is not known"), "{unknown}");
    let options = SweepOptions { coherence_min: 10.0, ..half() };
    let results = small_sweep(&ExactJudge, &options).run(place.path().join("sweep"), go_on).expect("results");
    let marked = results.with_best_layer(swept).expect("a best layer");
    assert_eq!(marked.best_layer(), results.best_layer());
    assert_eq!(marked.best_direction().expect("a direction"), swept.direction(results.best().unwrap().layer).unwrap());

    let path = place.path().join("optimism.safetensors");
    marked.save(&path).expect("a file");
    let read = PersonaVector::load(&path).expect("a vector");
    assert_eq!(read, marked);
    let again = place.path().join("again.safetensors");
    read.save(&again).expect("a file");
    assert_eq!(std::fs::read(&path).expect("a file"), std::fs::read(&again).expect("a file"));

    // The marked vector counts as the same vector, so that the sweep's folder resumes.
    let sweep = Sweep::new(model(), &read, &small_spec(), &ExactJudge, &options).expect("a sweep");
    let same = sweep.run(place.path().join("sweep"), |progress| panic!("{progress:?}")).expect("results");
    assert_eq!(same, results);
}

#[test]
fn without_a_best_layer_there_is_an_error() {
    let swept = vector(Trait::Optimism);
    let mut results = small_sweep(&ExactJudge, &half()).run(folder().path(), go_on).expect("results");
    let error = results.with_best_layer(vector(Trait::Evil)).expect_err("another vector");
    assert!(matches!(error, pv_steer::Error::Sweep(SweepError::OtherVector { .. })), "{error}");
    results.plan.coherence_min = 100.0;
    results.cells.iter_mut().for_each(|cell| cell.coherence.mean = Some(50.0));
    let error = results.with_best_layer(swept).expect_err("nothing coherent");
    assert!(matches!(error, pv_steer::Error::Sweep(SweepError::NothingCoherent { .. })), "{error}");
    results.plan.unit = StrengthUnit::Raw;
    let error = results.with_best_layer(swept).expect_err("other strengths").to_string();
    assert!(error.contains("the same relative strength") && error.contains("raw"), "{error}");
    assert!(swept.clone().with_best_layer(Layer::hidden_state(99)).is_err());
}

/// The layer rule at each coefficient: the greatest expression among the coherent cells of that coefficient.
#[test]
fn layers_are_compared_at_one_coefficient() {
    let results = small_sweep(&ExactJudge, &SweepOptions { coherence_min: 10.0, ..small() });
    let results = results.run(folder().path(), go_on).expect("results");
    for strength in [0.3, 0.5] {
        let at: Vec<_> = results.cells.iter().filter(|cell| cell.strength == strength).collect();
        let most = at.iter().filter_map(|cell| cell.expression.mean).fold(f64::NEG_INFINITY, f64::max);
        assert_eq!(results.best_at(strength).and_then(|cell| cell.expression.mean), Some(most));
    }
    assert_eq!(results.best_at(0.7), None);
}
