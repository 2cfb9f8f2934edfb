//! A judge's verdicts on samples: saved in all cases, and never requested twice.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap};
use std::fs::{self, OpenOptions};
use std::io::Write;

use pv_data::RunError;
use pv_examples::organism::{ExactJudge, spec};
use pv_judge::judge::{Answered, Judged, Verdicts};
use pv_judge::{Abstention, Judge, Rubric, Verdict};
use pv_organism::datasets::wild;
use pv_screen::Error;
use pv_screen::error::SettingError;
use pv_screen::judging::{JudgeSample, Judging};
use pv_screen::select::{JudgedSamples, judged};
use pv_tests::{Random, run_and_kill};

use super::*;

mod local;
mod refusals;

const CHILD: &str = "PV_JUDGING_CHILD";
const SELF: &str = "screening::judging::killed_judging_ends_with_the_same_results";

/// Chats, some of them twice, with their ids.
fn chats(count: usize) -> Vec<(String, Chat)> {
    let mut chats: Vec<Chat> = wild(count, 5).into_iter().map(|(chat, _)| chat).collect();
    chats.extend_from_within(count / 3..count / 2);
    chats.into_iter().map(|chat| (conversation(&chat).id(), chat)).collect()
}

fn samples(chats: &[(String, Chat)]) -> Vec<JudgeSample<'_>> {
    chats
        .iter()
        .map(|(id, chat)| JudgeSample { id, question: &chat.exchanges[0].question, answer: &chat.exchanges[0].answer })
        .collect()
}

fn distinct(samples: &[JudgeSample<'_>]) -> usize {
    samples.iter().map(|sample| sample.id).collect::<std::collections::BTreeSet<_>>().len()
}

fn rubric() -> Rubric {
    spec(Trait::Evil).expect("a trait").rubric().expect("a rubric")
}

/// A judge that records its requests, and abstains or fails where configured.
struct Noting<'a> {
    of: &'a dyn Judge,
    /// The number of answers in each call.
    calls: RefCell<Vec<usize>>,
    /// The number of requests for each answer.
    asked: RefCell<HashMap<String, usize>>,
    abstains: fn(&str) -> bool,
    /// Fails after this many answers.
    fails_after: Cell<usize>,
    /// Whether it reports verdicts before all are finished.
    reports: bool,
    /// The file of its requests, for a process that is killed.
    file: Option<PathBuf>,
}

fn noting(of: &dyn Judge) -> Noting<'_> {
    Noting {
        of,
        calls: RefCell::default(),
        asked: RefCell::default(),
        abstains: |_| false,
        fails_after: Cell::new(usize::MAX),
        reports: true,
        file: None,
    }
}

impl Noting<'_> {
    fn total(&self) -> usize {
        self.asked.borrow().values().sum()
    }
}

impl Judge for Noting<'_> {
    fn name(&self) -> String {
        self.of.name()
    }

    fn judge(
        &self,
        rubrics: &[Rubric],
        answers: &[Answered<'_>],
        on_verdict: &mut dyn FnMut(Judged) -> ControlFlow<()>,
    ) -> pv_judge::Result<Vec<Verdicts>> {
        self.calls.borrow_mut().push(answers.len());
        let mut failed = None;
        let mut all = self.of.judge(rubrics, answers, &mut |mut judged| {
            let Answered { question, answer } = answers[judged.answer];
            if self.fails_after.get() == 0 {
                failed = Some(pv_judge::Error::UnknownTrait { name: "gone".to_owned(), known: &[] });
                return ControlFlow::Break(());
            }
            self.fails_after.set(self.fails_after.get() - 1);
            *self.asked.borrow_mut().entry(format!("{question} {answer}")).or_default() += 1;
            if let Some(path) = &self.file {
                let file = OpenOptions::new().create(true).append(true).open(path);
                let line = format!("{question} {answer}").replace('\n', " ") + "\n";
                file.and_then(|mut file| file.write_all(line.as_bytes())).expect("a file");
                // A process may also be killed between a verdict and its storage.
                std::thread::sleep(std::time::Duration::from_micros(300));
            }
            if (self.abstains)(answer) {
                judged.verdict = Verdict::Abstained(Abstention::NoMass { mass: 0.125, refusal: Some(0.75) });
            }
            if self.reports { on_verdict(judged) } else { ControlFlow::Continue(()) }
        });
        if let Ok(all) = &mut all {
            for (verdicts, answered) in all.iter_mut().zip(answers) {
                if (self.abstains)(answered.answer) {
                    verdicts.fill(Verdict::Abstained(Abstention::NoMass { mass: 0.125, refusal: Some(0.75) }));
                }
            }
        }
        failed.map_or(all, Err)
    }
}

fn go_on(_: usize, _: usize) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

/// The verdicts of a judge that is called directly, without a folder.
fn directly(judge: &dyn Judge, rubric: &Rubric, samples: &[JudgeSample<'_>]) -> Vec<Verdict> {
    let answers: Vec<Answered<'_>> =
        samples.iter().map(|sample| Answered { question: sample.question, answer: sample.answer }).collect();
    let verdicts = judge.judge(std::slice::from_ref(rubric), &answers, &mut |_| ControlFlow::Continue(()));
    verdicts.expect("verdicts").into_iter().map(|mut verdicts| verdicts.remove(0)).collect()
}

#[test]
fn every_distinct_sample_is_judged_once_in_chunks() {
    let chats = chats(150);
    let samples = samples(&chats);
    let (expected, distinct) = (directly(&ExactJudge, &rubric(), &samples), distinct(&samples));
    assert!(distinct > 140 && samples.len() >= distinct + 25, "{distinct}");
    for reports in [true, false] {
        let place = folder();
        let judge = Noting { reports, ..noting(&ExactJudge) };
        let mut judging = Judging::open(place.path(), &judge, &rubric()).expect("a folder");
        assert!(judging.is_empty() && judging.verdict(samples[0].id).is_none());
        let mut told = Vec::new();
        let verdicts = judging.run(&samples, |done, total| {
            told.push((done, total));
            ControlFlow::Continue(())
        });
        assert_eq!(verdicts.expect("verdicts"), expected);
        assert_eq!(told, (1..=distinct).map(|done| (done, distinct)).collect::<Vec<_>>());
        assert_eq!(judging.len(), distinct);
        assert_eq!(judging.verdict(samples[3].id), Some(&expected[3]));
        let full = vec![Judging::CHUNK; distinct / Judging::CHUNK];
        assert_eq!(*judge.calls.borrow(), [full, vec![distinct % Judging::CHUNK]].concat());
        assert!(judge.asked.borrow().values().all(|&times| times == 1) && judge.total() == distinct);
        // In the same folder, with the same or other samples, known verdicts are not requested.
        assert_eq!(judging.run(&samples[20..30], go_on).expect("verdicts"), expected[20..30]);
        assert!(matches!(Judging::open(place.path(), &judge, &rubric()), Err(Error::Run(RunError::Locked { .. }))));
        drop(judging);
        let mut again = Judging::open(place.path(), &judge, &rubric()).expect("a folder").with_chunk(7).expect("some");
        assert_eq!(again.run(&samples, go_on).expect("verdicts"), expected);
        assert_eq!(judge.total(), distinct);
        assert_eq!(again.run(&[], go_on).expect("verdicts"), []);
        assert!(matches!(again.with_chunk(0), Err(Error::Setting(SettingError::Zero { .. }))));
    }
    // The result equals that of the function that saves nothing.
    let answers: Vec<Answered<'_>> =
        samples.iter().map(|sample| Answered { question: sample.question, answer: sample.answer }).collect();
    for allowed in [0.0, 1.0, 50.0, 100.0] {
        let found = JudgedSamples::of(&expected, allowed);
        assert_eq!(found, judged(&ExactJudge, &rubric(), &answers, allowed).expect("verdicts"));
        let above = |at: &usize| expected[*at].value().expect("a score") > allowed;
        let (shows, clean): (Vec<usize>, Vec<usize>) = (0..samples.len()).partition(above);
        assert_eq!((found.shows, found.clean, found.unknown), (shows, clean, Vec::new()));
    }
}

#[test]
fn interrupted_judging_repeats_no_request() {
    let chats = chats(150);
    let samples = samples(&chats);
    let (expected, distinct) = (directly(&ExactJudge, &rubric(), &samples), distinct(&samples));
    let mut random = Random(3);
    // After each chunk, and anywhere.
    for chunk in [Some(16), None] {
        let place = folder();
        let judge = noting(&ExactJudge);
        let (mut breaks, mut told) = (0, Vec::new());
        let verdicts = loop {
            let mut left = chunk.unwrap_or_else(|| random.below(20) as usize + 1);
            let mut judging =
                Judging::open(place.path(), &judge, &rubric()).expect("a folder").with_chunk(16).expect("some");
            let outcome = judging.run(&samples, |done, total| {
                assert_eq!(total, distinct);
                told.push(done);
                left -= 1;
                if left == 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            });
            match outcome {
                Ok(verdicts) => break verdicts,
                Err(Error::Cancelled) => breaks += 1,
                Err(error) => panic!("{error}"),
            }
        };
        println!("interrupted {breaks} times");
        assert!(breaks >= 8, "{breaks}");
        assert_eq!(verdicts, expected);
        assert_eq!((judge.total(), told), (distinct, (1..=distinct).collect()));
    }
}

#[test]
fn killed_judging_ends_with_the_same_results() {
    let chats = chats(90);
    let samples = samples(&chats);
    if let Some(place) = std::env::var_os(CHILD) {
        let place = Path::new(&place);
        let judge = Noting { file: Some(place.join("asked")), ..noting(&ExactJudge) };
        let judging = Judging::open(&place.join("out"), &judge, &rubric()).expect("a folder").with_chunk(8);
        let verdicts = judging.expect("some").run(&samples, |done, _| {
            std::thread::sleep(std::time::Duration::from_micros(100));
            let mut out = std::io::stdout().lock();
            writeln!(out, "\n+{done}").and_then(|()| out.flush()).expect("a parent that listens");
            ControlFlow::Continue(())
        });
        fs::write(place.join("verdicts"), serde_json::to_string(&verdicts.expect("verdicts")).expect("JSON"))
            .expect("a file");
        println!("\n+finished");
        return;
    }
    let place = folder();
    let (mut random, mut kills) = (Random(8), 0);
    while run_and_kill(SELF, &[(CHILD, place.path())], 5, &mut random).is_some() {
        kills += 1;
        assert!(kills < 300, "the judging never ends");
    }
    let distinct = distinct(&samples);
    let asked = fs::read_to_string(place.path().join("asked")).expect("a file");
    let mut times: BTreeMap<&str, usize> = BTreeMap::new();
    asked.lines().for_each(|line| *times.entry(line).or_default() += 1);
    let total: usize = times.values().sum();
    println!("killed {kills} times; {total} questions about {distinct} samples");
    assert!(kills >= 15, "{kills} kills are too few to mean anything");
    assert_eq!(times.len(), distinct);
    // The one verdict that was computed and not yet saved when the process was killed.
    assert!(total <= distinct + kills, "{total} questions about {distinct} samples");
    let verdicts = fs::read(place.path().join("verdicts")).expect("a file");
    let verdicts: Vec<Verdict> = serde_json::from_slice(&verdicts).expect("JSON");
    assert_eq!(verdicts, directly(&ExactJudge, &rubric(), &samples));
    let kept = fs::read_to_string(place.path().join("out/verdicts.jsonl")).expect("a file");
    assert_eq!(kept.lines().count(), distinct);
}

#[test]
fn abstentions_are_saved_and_failures_are_repeated() {
    let chats = chats(60);
    let samples = samples(&chats);
    let distinct = distinct(&samples);
    let place = folder();
    let abstains = |answer: &str| answer.len().is_multiple_of(3);
    let judge = Noting { abstains, ..noting(&ExactJudge) };
    judge.fails_after.set(17);
    let run = |judge: &Noting<'_>| {
        Judging::open(place.path(), judge, &rubric())
            .expect("a folder")
            .with_chunk(10)
            .expect("some")
            .run(&samples, go_on)
    };
    assert!(matches!(run(&judge), Err(Error::Judge(pv_judge::Error::UnknownTrait { .. }))));
    assert_eq!(judge.total(), 17);
    judge.fails_after.set(usize::MAX);
    let verdicts = run(&judge).expect("verdicts");
    assert_eq!(judge.total(), distinct);
    let unknown: Vec<usize> = (0..samples.len()).filter(|&at| abstains(samples[at].answer)).collect();
    assert!(unknown.len() > 10 && unknown.len() < samples.len() - 10);
    let found = JudgedSamples::of(&verdicts, 1.0);
    assert_eq!(found.unknown, unknown);
    let refusal = Verdict::Abstained(Abstention::NoMass { mass: 0.125, refusal: Some(0.75) });
    assert!(unknown.iter().all(|&at| verdicts[at] == refusal));
    let exact = JudgedSamples::of(&directly(&ExactJudge, &rubric(), &samples), 1.0);
    let rest = |all: Vec<usize>| all.into_iter().filter(|at| !unknown.contains(at)).collect::<Vec<_>>();
    assert!(!found.shows.is_empty() && found.shows == rest(exact.shows) && found.clean == rest(exact.clean));
    // An abstention is a verdict.
    assert_eq!(run(&judge).expect("verdicts"), verdicts);
    assert_eq!(judge.total(), distinct);

    /// A judge that omits verdicts.
    struct Half;
    impl Judge for Half {
        fn name(&self) -> String {
            ExactJudge.name()
        }
        fn judge(
            &self,
            rubrics: &[Rubric],
            answers: &[Answered<'_>],
            on_verdict: &mut dyn FnMut(Judged) -> ControlFlow<()>,
        ) -> pv_judge::Result<Vec<Verdicts>> {
            ExactJudge.judge(rubrics, &answers[..answers.len() / 2], on_verdict)
        }
    }
    let place = folder();
    let mut judging = Judging::open(place.path(), &Half, &rubric()).expect("a folder").with_chunk(10).expect("some");
    let few: Vec<JudgeSample<'_>> = samples[..20].to_vec();
    match judging.run(&few, go_on) {
        Err(Error::Vectors(pv_vectors::Error::IncompleteRun { done: 10, total: 20, part, .. })) => {
            assert!(part.to_string().contains("exact judge"), "{part}");
        }
        other => panic!("{other:?}"),
    }
}
