//! Measurements that are extended in their folders, or judged again.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::OnceLock;

use pv_data::runs::through_text;
use pv_examples::organism::ExactJudge;
use pv_judge::judge::{Answered, Judged, Verdicts};
use pv_judge::{Judge, Rubric};
use pv_model::RenderOptions;
use pv_steer::monitor::{MeasureOptions, Measurement, MonitoredPrompt, MonitoringStudy};
use pv_tests::{Random, organism as model, run_and_kill, tell};
use pv_vectors::contrast::Progress;
use serde_json::{Value, json};

use super::interrupted::{calibrated_on, files, generate, go_on, prompts, rubrics, watches};

const CHILD: &str = "PV_MEASURE_GROWING_CHILD";
const SELF: &str = "monitoring::growing::a_measurement_that_is_killed_while_it_grows_loses_nothing";
const ROLLOUTS: usize = 3;

/// The projections, answers and verdicts of a run.
type Paid = (usize, usize, usize);

fn measured(
    judge: &dyn Judge,
    prompts: &[MonitoredPrompt],
    rollouts: usize,
    rubrics: &[Rubric],
    folder: &Path,
    mut on_progress: impl FnMut(Progress) -> ControlFlow<()>,
) -> (MonitoringStudy, Paid) {
    let watches = watches();
    let options = MeasureOptions { rollouts, seed: 5, generate: generate(), render: RenderOptions::default() };
    let run = Measurement::new(model(), &watches, prompts, rubrics, judge, &options).expect("a measurement");
    let mut paid = (0, 0, 0);
    let study = run.run(folder, |progress| {
        match progress {
            Progress::Reading { .. } => paid.0 += 1,
            Progress::Answering { .. } => paid.1 += 1,
            _ => paid.2 += 1,
        }
        on_progress(progress)
    });
    (study.expect("a study"), paid)
}

fn exact(prompts: &[MonitoredPrompt], rollouts: usize, folder: &Path) -> (MonitoringStudy, Paid) {
    measured(&ExactJudge, prompts, rollouts, &rubrics(), folder, go_on)
}

fn place() -> tempfile::TempDir {
    tempfile::tempdir().expect("a folder")
}

/// The files of a large run, and its results.
type Whole = (Vec<(String, Vec<u8>)>, MonitoringStudy);

fn whole() -> &'static Whole {
    static WHOLE: OnceLock<Whole> = OnceLock::new();
    WHOLE.get_or_init(|| {
        let place = place();
        let (study, paid) = exact(&prompts(), ROLLOUTS, place.path());
        assert_eq!(paid, (6, 18, 36));
        (files(place.path()), study)
    })
}

/// Another judge: its scores are those of the exact one, under another name.
struct Another;

impl Judge for Another {
    fn name(&self) -> String {
        "another".to_owned()
    }

    fn judge(
        &self,
        rubrics: &[Rubric],
        answers: &[Answered<'_>],
        on_verdict: &mut dyn FnMut(Judged) -> ControlFlow<()>,
    ) -> pv_judge::Result<Vec<Verdicts>> {
        ExactJudge.judge(rubrics, answers, on_verdict)
    }
}

#[test]
fn a_measurement_that_has_grown_is_the_larger_one() {
    let place = place();
    let all = prompts();
    assert_eq!(exact(&all[..2], 1, place.path()).1, (2, 2, 4));
    assert_eq!(exact(&all[..4], 1, place.path()).1, (2, 2, 4));
    assert_eq!(exact(&all[1..3], 2, place.path()).1, (0, 2, 4));
    let (study, paid) = exact(&all, ROLLOUTS, place.path());
    assert_eq!((paid, &study), ((2, 12, 24), &whole().1));
    assert_eq!(files(place.path()), whole().0, "the files are those of one that was large from the beginning");
    // A part of it costs nothing and loses nothing, in any order of the prompts.
    let part = [all[3].clone(), all[0].clone()];
    let (found, paid) = exact(&part, 2, place.path());
    assert_eq!((paid, found), ((0, 0, 0), exact(&part, 2, self::place().path()).0));
    assert_eq!(exact(&all, ROLLOUTS, place.path()), (study, (0, 0, 0)));
    assert_eq!(files(place.path()), whole().0);
    // The same prompt twice is two prompts; another name for a condition is no other prompt.
    let mut twice = vec![all[0].clone(), all[0].clone()];
    twice.iter_mut().for_each(|prompt| prompt.condition = "renamed".to_owned());
    let (found, paid) = exact(&twice, ROLLOUTS, place.path());
    assert_eq!((paid, found), ((1, 3, 6), exact(&twice, ROLLOUTS, self::place().path()).0));
}

#[test]
fn a_second_judge_scores_the_same_answers() {
    let place = place();
    let all = prompts();
    exact(&all[..2], ROLLOUTS, place.path());
    let (study, paid) = measured(&Another, &all, ROLLOUTS, &rubrics(), place.path(), go_on);
    assert_eq!(paid, (4, 12, 36));
    assert_eq!((study.judge.as_str(), &study.points), ("another", &whole().1.points));
    assert_eq!(exact(&all, ROLLOUTS, place.path()), (whole().1.clone(), (0, 0, 24)));
    assert_eq!(measured(&Another, &all, ROLLOUTS, &rubrics(), place.path(), go_on).1, (0, 0, 0));
    // Rubrics that no direction needs are not asked about.
    let more = [rubrics(), vec![rubrics()[0].clone(), Rubric::coherence()]].concat();
    assert_eq!(measured(&ExactJudge, &all, ROLLOUTS, &more, place.path(), go_on).1, (0, 0, 0));
    // A rubric of the same name with another template has verdicts of its own.
    let mut reworded = rubrics();
    reworded[0].template = format!("{} Think twice.", reworded[0].template);
    assert_eq!(measured(&ExactJudge, &all, ROLLOUTS, &reworded, place.path(), go_on).1, (0, 0, 18));
}

#[test]
fn a_measurement_that_is_killed_while_it_grows_loses_nothing() {
    if let Some(place) = std::env::var_os(CHILD) {
        measured(&ExactJudge, &prompts(), ROLLOUTS, &rubrics(), Path::new(&place), tell);
        println!("\n+finished");
        return;
    }
    let place = place();
    exact(&prompts()[..2], 1, place.path());
    let (mut random, mut kills) = (Random(17), 0);
    while run_and_kill(SELF, &[(CHILD, place.path())], 8, &mut random).is_some() {
        kills += 1;
        assert!(kills < 200, "it never ends");
    }
    assert!(kills >= 3, "{kills} kills are too few to mean anything");
    assert_eq!(files(place.path()), whole().0);
}

/// The seed of an answer in a folder of an earlier version, which had this many answers to each prompt.
fn earlier_seed(prompt: u64, answer: u64, rollouts: u64) -> u64 {
    5 + prompt * rollouts + answer
}

/// Rewrites a folder of two prompts with one answer each as an earlier version would have written it: with the counts,
/// one judge and its rubrics, and seeds that depend on the number of answers.
fn as_earlier(place: &Path) {
    let run = place.join("run.json");
    let description: Value = serde_json::from_slice(&std::fs::read(&run).expect("a file")).expect("JSON");
    let mut known = description["prompts"].clone();
    for (prompt, given) in known.as_array_mut().expect("a list").iter_mut().zip(prompts()) {
        prompt["condition"] = given.condition.into();
    }
    let description = json!({
        "format": "monitor-study/1",
        "model": description["model"],
        "judge": ExactJudge.name(),
        "directions": description["directions"],
        "rubrics": through_text(&rubrics()),
        "rollouts": 1,
        "seed": description["seed"],
        "generate": description["generate"],
        "prompts": known,
    });
    std::fs::write(&run, description.to_string()).expect("a file");
    let journal = place.join("journal.jsonl");
    let lines = std::fs::read_to_string(&journal).expect("a journal");
    let lines = lines.lines().map(|line| {
        let mut line: Value = serde_json::from_str(line).expect("JSON");
        if line["kind"] == "verdict" {
            let rubric = rubrics().iter().position(|rubric| rubric.name == line["rubric"]["name"]);
            line["rubric"] = rubric.expect("a rubric").into();
        } else {
            line["seed"] = earlier_seed(line["place"]["prompt"].as_u64().expect("a number"), 0, 1).into();
        }
        format!("{line}\n")
    });
    std::fs::write(&journal, lines.collect::<String>()).expect("a file");
}

#[test]
fn folders_of_earlier_versions_go_on_and_grow() {
    let place = place();
    let all = prompts();
    let (study, _) = exact(&all[..2], 1, place.path());
    as_earlier(place.path());
    let earlier = files(place.path());
    // Another one is refused, and the folder unchanged.
    let (watches, rubrics) = (watches(), rubrics());
    let options = MeasureOptions { rollouts: 1, seed: 6, generate: generate(), render: RenderOptions::default() };
    let other = Measurement::new(model(), &watches, &all[..2], &rubrics, &ExactJudge, &options).expect("one");
    assert!(other.run(place.path(), go_on).expect_err("another").to_string().contains("seed is 5, but 6"));
    assert_eq!(files(place.path()), earlier);
    // It has nothing to do, also if it was killed before the description was replaced.
    assert_eq!(exact(&all[..2], 1, place.path()), (study.clone(), (0, 0, 0)));
    for (name, bytes) in earlier.iter().filter(|(name, _)| name == "run.json") {
        std::fs::write(place.path().join(name), bytes).expect("a file");
    }
    assert_eq!(exact(&all[..2], 1, place.path()), (study.clone(), (0, 0, 0)));
    // What is there is kept.
    let answers = |place: &Path| -> Vec<(Value, u64)> {
        let lines = std::fs::read_to_string(place.join("journal.jsonl")).expect("a journal");
        let lines = lines.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
        let answers = lines.filter(|line| line["kind"] == "answer");
        answers.map(|line| (line["place"].clone(), line["seed"].as_u64().expect("a seed"))).collect()
    };
    let before = answers(place.path());
    assert_eq!(exact(&all, ROLLOUTS, place.path()).1, (4, 16, 32));
    let after = answers(place.path());
    assert!(after.len() == 18 && before.iter().all(|answer| after.contains(answer)));
    let fresh = self::place();
    exact(&all, ROLLOUTS, fresh.path());
    let new = |all: Vec<(Value, u64)>| all.into_iter().filter(|answer| answer.1 > 100).collect::<Vec<_>>();
    let fresh: Vec<_> = new(answers(fresh.path()));
    assert!(new(after).iter().all(|answer| fresh.contains(answer)), "new answers have today's seeds");
    assert_eq!(exact(&all[..2], 1, place.path()), (study, (0, 0, 0)));

    // One that was interrupted goes on with the seeds of its version.
    let place = self::place();
    exact(&all[..2], 1, place.path());
    as_earlier(place.path());
    let journal = place.path().join("journal.jsonl");
    let lines = std::fs::read_to_string(&journal).expect("a journal");
    let first: String = lines.lines().take(1).map(|line| format!("{line}\n")).collect();
    std::fs::write(&journal, first).expect("a file");
    assert_eq!(exact(&all[..2], 1, place.path()).1, (0, 1, 4));
    let seeds: Vec<u64> = answers(place.path()).into_iter().map(|answer| answer.1).collect();
    assert_eq!(seeds, [earlier_seed(0, 0, 1), earlier_seed(1, 0, 1)]);
}

#[test]
fn a_calibration_that_has_grown_is_the_larger_one() {
    let place = place();
    let calibrated = |prompts, place: &Path| {
        let mut answers = 0;
        let calibration = calibrated_on(prompts, place, |_| {
            answers += 1;
            ControlFlow::Continue(())
        });
        (serde_json::to_value(calibration.expect("a calibration")).expect("JSON"), answers)
    };
    let (few, _) = calibrated(3, place.path());
    assert_eq!(calibrated(8, place.path()).1, 5);
    let whole = self::place();
    let (many, _) = calibrated(8, whole.path());
    assert_eq!(files(place.path()), files(whole.path()));
    assert_eq!(calibrated(3, place.path()), (few, 0));
    assert_eq!(calibrated(8, place.path()), (many, 0));
    assert_eq!(files(place.path()), files(whole.path()));
}
