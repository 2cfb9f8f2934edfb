//! Sweeps that are extended in their folders, judged again, or seen by other rules.

use pv_data::runs::through_text;
use pv_judge::score::Evidence;
use pv_judge::{Abstention, Score};
use pv_tests::{Random, run_and_kill, tell};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::*;

/// Name the folder and the vector when this test's own process is the one to be killed.
const CHILD: &str = "PV_SWEEP_GROWING_CHILD";
const VECTOR: &str = "PV_SWEEP_GROWING_VECTOR";
const SELF: &str = "sweeps::growing::a_sweep_that_is_killed_while_it_grows_loses_nothing";

/// Three questions at one layer and strength, once each.
fn seed_of_it() -> (TraitSpec, SweepOptions) {
    let mut spec = small_spec();
    spec.evaluation.truncate(3);
    let options = SweepOptions { layers: layers([6]), strengths: vec![0.5], per_question: 1, ..options() };
    (spec, SweepOptions { max_new_tokens: 24, ..options })
}

/// Four questions at two layers and two strengths, twice each.
fn larger() -> SweepOptions {
    SweepOptions { max_new_tokens: 24, ..small() }
}

/// The events of a run: answers and verdicts.
#[derive(Debug, Default, PartialEq)]
struct Paid {
    answers: usize,
    verdicts: usize,
}

fn paid(sweep: &Sweep<'_>, place: &Path) -> (SweepResults, Paid) {
    let mut paid = Paid::default();
    let results = sweep.run(place, |progress| {
        match progress {
            Progress::Answering { .. } => paid.answers += 1,
            Progress::Judging { .. } => paid.verdicts += 1,
            other => panic!("{other:?}"),
        }
        ControlFlow::Continue(())
    });
    (results.expect("results"), paid)
}

fn begin(place: &Path) {
    let (spec, options) = seed_of_it();
    let sweep = Sweep::new(model(), vector(Trait::Optimism), &spec, &ExactJudge, &options).expect("a sweep");
    assert_eq!(paid(&sweep, place).1, Paid { answers: 3, verdicts: 6 });
}

/// A judge with another opinion.
fn another() -> RuleJudge<impl Fn(&Rubric, &Answered<'_>) -> Verdict> {
    let rule = |rubric: &str, answered: &Answered<'_>| match answered.answer.len() % 7 {
        0 => Verdict::Abstained(Abstention::NotANumber { text: "no".into() }),
        rest => Verdict::Scored(Score { value: (10 * rest + rubric.len()) as f64, evidence: Evidence::Exact }),
    };
    by_rule(rule)
}

/// The files of a large run, and its results.
type Whole = (Vec<(String, Vec<u8>)>, SweepResults);

fn whole() -> &'static Whole {
    static WHOLE: OnceLock<Whole> = OnceLock::new();
    WHOLE.get_or_init(|| {
        let place = folder();
        let results = small_sweep(&ExactJudge, &larger()).run(place.path(), go_on).expect("results");
        (files(place.path()), results)
    })
}

#[test]
fn a_sweep_that_has_grown_is_the_larger_sweep() {
    let place = folder();
    begin(place.path());
    // In steps, in any order: layers, strengths, answers, questions.
    let (spec, options) = seed_of_it();
    let steps = [
        (3, SweepOptions { layers: layers([7]), ..options.clone() }, 3),
        (3, SweepOptions { layers: layers([6, 7]), strengths: vec![0.5, 0.3], ..options.clone() }, 6),
        (3, SweepOptions { per_question: 2, ..options.clone() }, 3),
        (4, larger(), 9 + 8),
    ];
    for (questions, options, answers) in steps {
        let mut spec = if questions == 3 { spec.clone() } else { small_spec() };
        spec.evaluation.truncate(questions);
        let sweep = Sweep::new(model(), vector(Trait::Optimism), &spec, &ExactJudge, &options).expect("a sweep");
        assert_eq!(paid(&sweep, place.path()).1, Paid { answers, verdicts: 2 * answers }, "{options:?}");
    }
    let (expected, results) = whole();
    assert_eq!(files(place.path()), *expected, "the files are those of a sweep that was large from the beginning");
    // A part of it costs nothing, gives the results of the small sweep, and loses nothing.
    let part = Sweep::new(model(), vector(Trait::Optimism), &spec, &ExactJudge, &options).expect("a sweep");
    let (part_results, cost) = paid(&part, place.path());
    assert_eq!(cost, Paid::default());
    assert_eq!(part_results, part.run(folder().path(), go_on).expect("results"));
    let (again, cost) = paid(&small_sweep(&ExactJudge, &larger()), place.path());
    assert_eq!((cost, &again), (Paid::default(), results));
    assert_eq!(files(place.path()), *expected);
}

#[test]
fn rules_are_chosen_anew_over_what_is_there() {
    let place = folder();
    small_sweep(&ExactJudge, &larger()).run(place.path(), go_on).expect("results");
    for options in [
        SweepOptions { coherence_min: 10.0, ..larger() },
        SweepOptions { report_share: 0.5, coherence_min: 10.0, ..larger() },
        SweepOptions { report_share: 0.25, ..larger() },
        SweepOptions { search: Search::Halving { first: 1 }, coherence_min: 20.0, ..larger() },
        SweepOptions { search: Search::Halving { first: 2 }, report_share: 0.5, ..larger() },
    ] {
        let sweep = small_sweep(&ExactJudge, &options);
        let (results, cost) = paid(&sweep, place.path());
        assert_eq!(cost, Paid::default(), "{options:?}");
        assert_eq!(results, sweep.run(folder().path(), go_on).expect("results"), "{options:?}");
        let read = std::fs::read_to_string(place.path().join("results.json")).expect("results");
        assert_eq!(serde_json::from_str::<SweepResults>(&read).expect("results").plan, results.plan);
    }
    // From the halving to the full grid, only the rest is paid for.
    let halved = folder();
    let options = SweepOptions { search: Search::Halving { first: 1 }, ..larger() };
    let (results, first) = paid(&small_sweep(&ExactJudge, &options), halved.path());
    assert!(first.answers == results.answers() && first.answers < 32, "{first:?}");
    let (_, rest) = paid(&small_sweep(&ExactJudge, &larger()), halved.path());
    assert_eq!(first.answers + rest.answers, 32);
    assert_eq!(files(halved.path()), whole().0);
}

#[test]
fn a_second_judge_scores_the_same_answers() {
    let place = folder();
    begin(place.path());
    let judge = another();
    let sweep = small_sweep(&judge, &larger());
    let (results, cost) = paid(&sweep, place.path());
    // Three of the answers are there; no verdict is.
    assert_eq!(cost, Paid { answers: 29, verdicts: 64 });
    assert_eq!(results, sweep.run(folder().path(), go_on).expect("results"));
    assert_eq!(results.judge, "a rule");
    // The first judge's verdicts are there too.
    let (results, cost) = paid(&small_sweep(&ExactJudge, &larger()), place.path());
    assert_eq!((cost, &results), (Paid { answers: 0, verdicts: 58 }, &whole().1));
    for (name, bytes) in &whole().0 {
        let same = std::fs::read(place.path().join(name)).expect("a file") == *bytes;
        assert_eq!(same, name != "journal.jsonl", "{name}");
    }
    assert_eq!(paid(&sweep, place.path()).1, Paid::default());
    // A rubric of the same name with another template has verdicts of its own.
    let mut reworded = small_spec();
    reworded.eval_prompt = format!("{} Think twice.", reworded.eval_prompt);
    let reworded = Sweep::new(model(), vector(Trait::Optimism), &reworded, &ExactJudge, &larger()).expect("a sweep");
    assert_eq!(paid(&reworded, place.path()).1, Paid { answers: 0, verdicts: 32 });
    assert_eq!(paid(&small_sweep(&ExactJudge, &larger()), place.path()).1, Paid::default());
}

#[test]
fn a_sweep_that_is_killed_while_it_grows_loses_nothing() {
    if let (Some(place), Some(vector)) = (std::env::var_os(CHILD), std::env::var_os(VECTOR)) {
        let vector = PersonaVector::load(vector).expect("a vector");
        let sweep = Sweep::new(model(), &vector, &small_spec(), &ExactJudge, &larger()).expect("a sweep");
        sweep.run(Path::new(&place), tell).expect("results");
        println!("\n+finished");
        return;
    }
    let shared = folder();
    let path = shared.path().join("vector.safetensors");
    vector(Trait::Optimism).save(&path).expect("a file");
    let place = folder();
    begin(place.path());
    let (mut random, mut kills) = (Random(16), 0);
    while run_and_kill(SELF, &[(CHILD, place.path()), (VECTOR, &path)], 12, &mut random).is_some() {
        kills += 1;
        assert!(kills < 200, "the sweep never ends");
    }
    assert!(kills >= 3, "{kills} kills are too few to mean anything");
    assert_eq!(files(place.path()), whole().0);
}

/// Rewrites a folder as an earlier version would have written it: with one grid, whose cells have indices, one judge,
/// and a hash of the directions at the grid's layers.
fn as_earlier(place: &Path, results: &SweepResults) {
    let plan = &results.plan;
    let run = place.join("run.json");
    let mut description: Value = serde_json::from_slice(&std::fs::read(&run).expect("a file")).expect("JSON");
    let mut hash = Sha256::new();
    for &layer in &plan.layers {
        let direction = vector(Trait::Optimism).direction(layer).expect("a direction");
        hash.update(layer.index().to_le_bytes());
        let norm = direction.mean_residual_norm.unwrap_or(-1.0);
        direction.values.iter().chain([&norm]).for_each(|value| hash.update(value.to_le_bytes()));
    }
    let hash: String = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    description["vector"]["sha256"] = hash.into();
    let description = json!({
        "format": "pv-sweep/1",
        "model": description["model"],
        "judge": results.judge,
        "plan": through_text(plan),
        "vector": description["vector"],
    });
    std::fs::write(&run, description.to_string()).expect("a file");

    let journal = place.join("journal.jsonl");
    let lines = std::fs::read_to_string(&journal).expect("a journal");
    let lines = lines.lines().map(|line| {
        let mut line: Value = serde_json::from_str(line).expect("JSON");
        let place = line["place"].clone();
        let cell = results
            .cells
            .iter()
            .position(|cell| json!(cell.layer) == place["layer"] && through_text(&cell.strength) == place["strength"]);
        let cell = cell.expect("a cell");
        line["place"] = json!({ "cell": cell, "question": place["question"], "rollout": place["rollout"] });
        if line["kind"] == "verdict" {
            let rubric = plan.rubrics.iter().position(|rubric| rubric.name == line["rubric"]["name"]);
            line["rubric"] = rubric.expect("a rubric").into();
        }
        format!("{line}\n")
    });
    std::fs::write(&journal, lines.collect::<String>()).expect("a file");
}

#[test]
fn folders_of_earlier_versions_go_on_and_grow() {
    let place = folder();
    let (spec, options) = seed_of_it();
    let small = Sweep::new(model(), vector(Trait::Optimism), &spec, &ExactJudge, &options).expect("a sweep");
    let results = small.run(place.path(), go_on).expect("results");
    let today = files(place.path());
    as_earlier(place.path(), &results);
    let earlier = files(place.path());
    assert_ne!(earlier, today);

    // Another sweep is refused, and the folder unchanged.
    for (what, options) in [
        ("plan.seed", SweepOptions { seed: 6, ..options.clone() }),
        ("plan.unit", SweepOptions { unit: StrengthUnit::Raw, ..options.clone() }),
    ] {
        let other = Sweep::new(model(), vector(Trait::Optimism), &spec, &ExactJudge, &options).expect("a sweep");
        let error = other.run(place.path(), go_on).expect_err("another run").to_string();
        assert!(error.contains(what), "{error}");
        assert_eq!(files(place.path()), earlier);
    }
    // The sweep itself has nothing to do. Killed before the description was replaced, it goes on too.
    for converted in [false, true] {
        if converted {
            for (name, bytes) in earlier.iter().filter(|(name, _)| name == "run.json") {
                std::fs::write(place.path().join(name), bytes).expect("a file");
            }
        }
        assert_eq!(paid(&small, place.path()), (results.clone(), Paid::default()));
        assert_eq!(files(place.path()), today, "it is a folder of today's version");
    }
    as_earlier(place.path(), &results);
    assert_eq!(paid(&small_sweep(&ExactJudge, &larger()), place.path()).1, Paid { answers: 29, verdicts: 58 });
    assert_eq!(files(place.path()), whole().0);
    // A second judge, of a folder that did not say whose verdicts it has.
    as_earlier(place.path(), &whole().1);
    let judge = another();
    assert_eq!(paid(&small_sweep(&judge, &larger()), place.path()).1, Paid { answers: 0, verdicts: 64 });
    assert_eq!(paid(&small_sweep(&ExactJudge, &larger()), place.path()).1, Paid::default());
}
