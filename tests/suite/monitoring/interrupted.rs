//! Measurements and calibrations that are killed, interrupted or failed by their judge end with the same results.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use pv_examples::organism::{ExactJudge, evaluation_questions, spec};
use pv_hooks::Layer;
use pv_judge::judge::{Answered, Judged, Verdicts};
use pv_judge::{Judge, Rubric};
use pv_model::{GenerateOptions, Message, RenderOptions, Sampling};
use pv_organism::{Trait, system};
use pv_steer::monitor::{
    CalibrateOptions, Calibration, Kind, MeasureOptions, Measurement, MonitoredPrompt, MonitoringStudy, Watch,
    calibrate, read_points,
};
use pv_tests::{Random, organism as model, run_and_kill, tell};
use pv_vectors::UnitDirection;
use pv_vectors::contrast::Progress;

const CHILD: &str = "PV_MEASURE_CHILD";
const SELF: &str = "monitoring::interrupted::a_killed_measurement_ends_with_the_same_results";
const CALIBRATE_CHILD: &str = "PV_CALIBRATE_CHILD";
const CALIBRATE_SELF: &str = "monitoring::interrupted::a_killed_calibration_ends_with_the_same_results";
const ROLLOUTS: usize = 3;

/// Two arbitrary directions.
pub(super) fn watches() -> Vec<Watch> {
    let direction = |layer: usize| {
        let values: Vec<f64> = (0..model().config().d_model).map(|i| ((i * i + layer) as f64).sin()).collect();
        UnitDirection::new(Layer::hidden_state(layer), &values).expect("a direction")
    };
    vec![Watch::new("optimism", direction(7)), Watch::new("evil", direction(4))]
}

pub(super) fn generate() -> GenerateOptions {
    let sampling = Sampling::temperature(0.7);
    GenerateOptions { max_new_tokens: 24, sampling, batch_size: 5, ..GenerateOptions::default() }
}

pub(super) fn prompts() -> Vec<MonitoredPrompt> {
    let questions = evaluation_questions(Trait::Optimism);
    let graded = system::graded(Trait::Optimism);
    [0, 3, 7]
        .into_iter()
        .flat_map(|level| questions[..2].iter().map(move |question| (level, question)))
        .map(|(level, question)| MonitoredPrompt {
            id: format!("level {level}: {question}"),
            condition: format!("level {level}"),
            messages: vec![Message::system(graded[level].1.as_str()), Message::user(question)],
            question: question.clone(),
        })
        .collect()
}

pub(super) fn rubrics() -> Vec<Rubric> {
    [Trait::Optimism, Trait::Evil].map(|which| spec(which).expect("a trait").rubric().expect("a rubric")).into()
}

fn measured(
    judge: &dyn Judge,
    folder: &Path,
    on_progress: impl FnMut(Progress) -> ControlFlow<()>,
) -> pv_steer::Result<MonitoringStudy> {
    let (watches, prompts, rubrics) = (watches(), prompts(), rubrics());
    let options =
        MeasureOptions { rollouts: ROLLOUTS, seed: 5, generate: generate(), render: RenderOptions::default() };
    Measurement::new(model(), &watches, &prompts, &rubrics, judge, &options)?.run(folder, on_progress)
}

pub(super) fn go_on(_: Progress) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

/// The content of a folder at the end.
pub(super) fn files(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let entries = std::fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path());
    let name = |path: &Path| path.file_name().expect("a name").to_string_lossy().into_owned();
    let mut files: Vec<_> = entries.map(|path| (name(&path), std::fs::read(&path).expect("a file"))).collect();
    files.sort();
    files
}

fn undisturbed() -> &'static [(String, Vec<u8>)] {
    static FILES: OnceLock<Vec<(String, Vec<u8>)>> = OnceLock::new();
    FILES.get_or_init(|| {
        let place = tempfile::tempdir().expect("a folder");
        measured(&ExactJudge, place.path(), go_on).expect("a study");
        let files = files(place.path());
        let names: Vec<&str> = files.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["journal.jsonl", "points.csv", "projections.jsonl", "run.json", "run.lock", "study.json"]);
        files
    })
}

fn assert_undisturbed(folder: &Path, what: &str) {
    for ((name, bytes), (_, expected)) in files(folder).iter().zip(undisturbed()) {
        assert!(bytes == expected, "{what}: {name} differs");
    }
    assert_eq!(files(folder).len(), undisturbed().len());
}

/// A judge that fails after some verdicts, like one behind a server.
struct Failing {
    left: AtomicUsize,
    asked: AtomicUsize,
}

impl Judge for Failing {
    fn name(&self) -> String {
        ExactJudge.name()
    }

    fn judge(
        &self,
        rubrics: &[Rubric],
        answers: &[Answered<'_>],
        on_verdict: &mut dyn FnMut(Judged) -> ControlFlow<()>,
    ) -> pv_judge::Result<Vec<Verdicts>> {
        ExactJudge.judge(rubrics, answers, &mut |judged| {
            self.asked.fetch_add(1, Ordering::Relaxed);
            let flow = on_verdict(judged);
            let left = self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
            if left.is_err() { ControlFlow::Break(()) } else { flow }
        })
    }
}

#[test]
fn a_judge_that_fails_loses_nothing() {
    let place = tempfile::tempdir().expect("a folder");
    let total = prompts().len() * ROLLOUTS * 2;
    let (mut asked, mut answered, mut failures) = (0, 0, 0);
    loop {
        let judge = Failing { left: AtomicUsize::new(6), asked: AtomicUsize::new(0) };
        let outcome = measured(&judge, place.path(), |progress| {
            answered += usize::from(matches!(progress, Progress::Answering { .. }));
            ControlFlow::Continue(())
        });
        asked += judge.asked.into_inner();
        match outcome {
            Ok(study) => {
                assert_eq!(study.points.len(), prompts().len() * 2);
                break;
            }
            Err(_) => failures += 1,
        }
        assert!(failures < 100, "it never ends");
    }
    assert!(failures >= 3, "{failures}");
    assert_eq!((asked, answered), (total, prompts().len() * ROLLOUTS), "something was paid for twice");
    assert_undisturbed(place.path(), "after failures");
}

#[test]
fn a_folder_belongs_to_one_measurement() {
    let place = tempfile::tempdir().expect("a folder");
    let study = measured(&ExactJudge, place.path(), go_on).expect("a study");
    assert_eq!(
        MonitoringStudy::load(place.path().join("study.json")).expect("a study").points.len(),
        study.points.len()
    );
    assert_eq!(read_points(place.path().join("points.csv")).expect("points"), study.points);
    for point in &study.points {
        assert_eq!(point.n, ROLLOUTS);
        assert!(point.expression.is_some());
    }
    // Finished: nothing is generated or judged again.
    let mut events = 0;
    let again = measured(&ExactJudge, place.path(), |_| {
        events += 1;
        ControlFlow::Continue(())
    });
    assert_eq!((again.expect("a study"), events), (study, 0));
    // Another measurement is refused here.
    let (watches, prompts, rubrics) = (watches(), prompts(), rubrics());
    let other = |options: MeasureOptions, watches: &[Watch], prompts: &[MonitoredPrompt]| {
        let run = Measurement::new(model(), watches, prompts, &rubrics, &ExactJudge, &options).expect("a measurement");
        run.run(place.path(), go_on).expect_err("another one").to_string()
    };
    let options =
        || MeasureOptions { rollouts: ROLLOUTS, seed: 5, generate: generate(), render: RenderOptions::default() };
    assert!(other(MeasureOptions { seed: 6, ..options() }, &watches, &prompts).contains("seed"));
    assert!(other(options(), &watches[..1], &prompts).contains("directions"));
    let longer = MeasureOptions { generate: GenerateOptions { max_new_tokens: 25, ..generate() }, ..options() };
    assert!(other(longer, &watches, &prompts).contains("generate.max_new_tokens is 24, but 25"));
    // Another batch size is accepted.
    let batches = MeasureOptions { generate: GenerateOptions { batch_size: 2, ..generate() }, ..options() };
    let run = Measurement::new(model(), &watches, &prompts, &rubrics, &ExactJudge, &batches).expect("a measurement");
    assert!(run.run(place.path(), go_on).is_ok());
}

#[test]
fn a_killed_measurement_ends_with_the_same_results() {
    if let Some(place) = std::env::var_os(CHILD) {
        measured(&ExactJudge, Path::new(&place), tell).expect("a study");
        println!("\n+finished");
        return;
    }
    let place = tempfile::tempdir().expect("a folder");
    let mut random = Random(8);
    let mut kills = [0; 3];
    while let Some(event) = run_and_kill(SELF, &[(CHILD, place.path())], 5, &mut random) {
        let step = ["Reading", "Answering", "Judging"].iter().position(|step| event.starts_with(step));
        kills[step.expect("a step")] += 1;
        assert!(kills.iter().sum::<usize>() < 200, "it never ends");
    }
    println!("killed while reading, answering and judging: {kills:?}");
    assert!(kills[1] >= 2 && kills[2] >= 2, "{kills:?} kills are too few to mean anything");
    assert_undisturbed(place.path(), "after kills");
}

fn calibrated(folder: &Path, on_progress: impl FnMut(Progress) -> ControlFlow<()>) -> pv_steer::Result<Calibration> {
    calibrated_on(12, folder, on_progress)
}

pub(super) fn calibrated_on(
    prompts: usize,
    folder: &Path,
    on_progress: impl FnMut(Progress) -> ControlFlow<()>,
) -> pv_steer::Result<Calibration> {
    let questions = evaluation_questions(Trait::Evil);
    let asked: Vec<Vec<Message>> = questions[..prompts].iter().map(|question| vec![Message::user(question)]).collect();
    let options = CalibrateOptions {
        seed: 3,
        generate: generate(),
        prompt_tokens: true,
        render: RenderOptions::default(),
        rates: Vec::new(),
    };
    calibrate(model(), &watches(), &asked, &options, folder, on_progress)
}

#[test]
fn a_killed_calibration_ends_with_the_same_results() {
    if let Some(place) = std::env::var_os(CALIBRATE_CHILD) {
        calibrated(Path::new(&place), tell).expect("a calibration");
        println!("\n+finished");
        return;
    }
    let whole = tempfile::tempdir().expect("a folder");
    let calibration = calibrated(whole.path(), go_on).expect("a calibration");
    assert_eq!(calibration.distribution(0, Kind::ResponseMean).expect("watched").n(), 12);
    assert!(calibration.distribution(1, Kind::PromptToken).expect("watched").n() > 12);
    let place = tempfile::tempdir().expect("a folder");
    let (mut random, mut kills) = (Random(9), 0);
    while run_and_kill(CALIBRATE_SELF, &[(CALIBRATE_CHILD, place.path())], 5, &mut random).is_some() {
        kills += 1;
        assert!(kills < 100, "it never ends");
    }
    assert!(kills >= 2, "{kills} kills are too few to mean anything");
    let read = |folder: &Path| std::fs::read(folder.join("calibration.json")).expect("a file");
    assert!(read(place.path()) == read(whole.path()), "the calibration differs");
    let loaded =
        Calibration::load(place.path().join("calibration.json"), &watches(), &model().identity().expect("weights"))
            .expect("it fits");
    assert_eq!(loaded.answers(0, Kind::Token), Some(12));
}
