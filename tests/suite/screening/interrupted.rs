//! Screenings that are killed or interrupted repeat no work, and end with the same results.

use std::io::Write;

use pv_data::RunError;
use pv_organism::Topics;
use pv_organism::datasets::{Severity, explicit};
use pv_screen::Error;
use pv_screen::estimate::Stop;
use pv_screen::screen::Base;
use pv_tests::{Random, run_and_kill};

use super::*;

const CHILD: &str = "PV_SCREENING_CHILD";
const SELF: &str = "screening::interrupted::a_killed_screening_ends_with_the_same_results";

/// Chats, some of them twice, and some invalid rows.
fn data(folder: &Path) -> PathBuf {
    let mut chats = explicit(Trait::Evil, Severity::I, Topics::All, 40, 8);
    chats.extend_from_within(3..8);
    let path = write(folder, "chats.jsonl", &chats);
    let mut text = std::fs::read(&path).expect("a file");
    text.extend(b"{\"messages\": 3}\nnonsense\n{\"messages\": [{\"role\": \"user\", \"content\": \"?\"}]}\n");
    std::fs::write(&path, text).expect("a file");
    path
}

fn small() -> ScreenOptions {
    // Several chunks, and several batches in each.
    ScreenOptions { chunk: 16, batch_tokens: 300, ..options() }
}

/// The results of a screening.
fn results(out: &Path) -> Vec<Vec<u8>> {
    [pv_screen::screen::SCORES, pv_screen::screen::SKIPPED, pv_screen::screen::SUMMARY]
        .map(|name| std::fs::read(out.join(name)).expect("a result"))
        .to_vec()
}

/// The directions need no extraction, so that a killed process resumes quickly.
fn directions() -> Vec<TraitDirection> {
    let unit = |layer: usize| {
        let values: Vec<f64> = (0..128).map(|i| ((i * i + layer) as f64 * 0.7).sin()).collect();
        pv_vectors::UnitDirection::new(Layer::hidden_state(layer), &values).expect("a direction")
    };
    let named = |layer| TraitDirection { trait_name: "made up".to_owned(), direction: unit(layer) };
    [named(4), named(7)].to_vec()
}

#[test]
fn a_killed_screening_ends_with_the_same_results() {
    if let Some(place) = std::env::var_os(CHILD) {
        let place = Path::new(&place);
        let run = Screen::new(model(), &directions(), &small()).expect("a screening").run(
            &[place.join("chats.jsonl")],
            &place.join("out"),
            |progress| {
                std::thread::sleep(std::time::Duration::from_micros(300));
                let mut out = std::io::stdout().lock();
                writeln!(out, "\n+{:?}", progress.step).and_then(|()| out.flush()).expect("a parent that listens");
                ControlFlow::Continue(())
            },
        );
        run.expect("a summary");
        println!("\n+finished");
        return;
    }
    let place = folder();
    let input = data(place.path());
    let whole = place.path().join("whole");
    let (summary, rows, answered) = screen(&directions(), &small(), &input, &whole);
    assert_eq!((summary.answers, summary.distinct, rows.len()), (45, 40, 45));
    let prompts: std::collections::BTreeSet<String> = std::fs::read_to_string(&input)
        .expect("a file")
        .lines()
        .filter_map(|line| serde_json::from_str::<Conversation>(line).ok())
        .filter(|conversation| conversation.messages.len() == 2)
        .map(|conversation| conversation.messages[0].content.as_str().to_owned())
        .collect();
    assert_eq!(answered, prompts.len(), "every prompt is answered once");
    let mut random = Random(9);
    let mut kills = [0; 2];
    while let Some(event) = run_and_kill(SELF, &[(CHILD, place.path())], 6, &mut random) {
        kills[usize::from(event == "Answering")] += 1;
        assert!(kills[0] + kills[1] < 300, "the screening never ends");
    }
    println!("killed {} times while projecting, {} times while answering", kills[0], kills[1]);
    assert!(kills[0] >= 3 && kills[1] >= 3, "{kills:?} kills are too few to mean anything");
    assert_eq!(results(&place.path().join("out")), results(&whole));
}

#[test]
fn an_interrupted_screening_repeats_no_work() {
    let place = folder();
    let input = data(place.path());
    for (name, base) in [
        ("every", Base::Every),
        ("random", Base::Random { size: 20 }),
        ("until", Base::Until { first: 8, most: 36, stop: Stop { width: Some(0.01), threshold: None } }),
    ] {
        let options = ScreenOptions { base, ..small() };
        let whole = place.path().join(format!("{name}-whole"));
        let (_, rows, all) = screen(&directions(), &options, &input, &whole);
        let out = place.path().join(name);
        let mut random = Random(5);
        let (mut breaks, mut answered) = (0, 0);
        loop {
            // Finished samples are reported again without being computed, so every attempt needs more events.
            let mut left = random.below(12) + 1 + 3 * breaks;
            let run =
                Screen::new(model(), &directions(), &options).expect("a screening").run(&[&input], &out, |progress| {
                    answered += usize::from(progress.step == Step::Answering);
                    left = left.saturating_sub(1);
                    if left == 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
                });
            match run {
                Ok(_) => break,
                Err(Error::Cancelled) => breaks += 1,
                Err(error) => panic!("{error}"),
            }
            assert!(breaks < 200, "the screening never ends");
        }
        assert!(breaks >= 3, "{breaks}");
        assert_eq!(results(&out), results(&whole), "{name}");
        let known = rows.iter().filter(|row| !row.duplicate && row.scores["made up@7"].base.is_some()).count();
        println!("{name}: interrupted {breaks} times; {known} samples with {all} base answers");
        assert!(answered <= all, "{answered} answers instead of {all}");
        let expected = match base {
            Base::Random { size } => size,
            Base::Until { most, .. } => most,
            _ => 40,
        };
        assert_eq!(known, expected);
        // Finished: nothing is computed, and the results are written again unchanged.
        let (_, _, again) = screen(&directions(), &options, &input, &out);
        assert_eq!((again, results(&out)), (0, results(&whole)));
    }
}

#[test]
fn an_incomplete_journal_is_repaired_and_another_screening_refused() {
    let place = folder();
    let input = data(place.path());
    let out = place.path().join("out");
    screen(&directions(), &small(), &input, &out);
    let before = results(&out);
    let journal = out.join("projections.jsonl");
    let text = std::fs::read(&journal).expect("a file");
    for cut in [text.len() - 5, text.len() / 2, 0] {
        std::fs::write(&journal, &text[..cut]).expect("a file");
        screen(&directions(), &small(), &input, &out);
        assert_eq!(results(&out), before, "{cut}");
    }
    let mut garbled = text.clone();
    garbled[text.len() / 2..text.len() / 2 + 40].fill(b'#');
    std::fs::write(&journal, &garbled).expect("a file");
    screen(&directions(), &small(), &input, &out);
    assert_eq!(results(&out), before);
    // The base answers: an incomplete line, and truncated activations.
    let cache = std::fs::read_dir(out.join("base")).expect("a folder").next().expect("one").expect("an entry").path();
    let (lines, means) = (cache.join("answers.jsonl"), cache.join("means-7.f32"));
    let text = std::fs::read(&lines).expect("a file");
    std::fs::write(&lines, &text[..text.len() - 9]).expect("a file");
    let (_, _, answered) = screen(&directions(), &small(), &input, &out);
    assert_eq!((answered, results(&out)), (1, before.clone()));
    let bytes = std::fs::read(&means).expect("a file");
    std::fs::write(&means, &bytes[..bytes.len() / 2 + 3]).expect("a file");
    let (_, rows, answered) = screen(&directions(), &small(), &input, &out);
    assert_eq!(answered, 0, "the answers are read again, not generated");
    assert_eq!(rows.len(), 45);

    let refused = |directions: &[TraitDirection], options: &ScreenOptions, input: &Path| {
        let run = Screen::new(model(), directions, options).expect("a screening");
        match run.run(&[input], &out, |_| ControlFlow::Continue(())) {
            Err(Error::Run(RunError::OtherRun { what, .. })) => what,
            other => panic!("{other:?}"),
        }
    };
    assert!(refused(&directions()[..1], &small(), &input).contains("directions"));
    assert!(refused(&directions(), &ScreenOptions { seed: 1, ..small() }, &input).contains("seed"));
    let mut text = std::fs::read(&input).expect("a file");
    text.push(b'\n');
    std::fs::write(&input, text).expect("a file");
    assert!(refused(&directions(), &small(), &input).contains("sha256"));
}

#[test]
fn a_screening_resumes_in_batches_of_another_size() {
    let place = folder();
    let input = data(place.path());
    let (whole, out) = (place.path().join("whole"), place.path().join("out"));
    let (_, expected, _) = screen(&directions(), &small(), &input, &whole);
    let mut left = 4;
    let broken = Screen::new(model(), &directions(), &small()).expect("a screening").run(&[&input], &out, |progress| {
        left -= usize::from(progress.step == Step::Projecting).min(left);
        if left == 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    assert!(matches!(broken, Err(Error::Cancelled)));
    let (_, found, _) = screen(&directions(), &ScreenOptions { chunk: 7, batch_tokens: 900, ..small() }, &input, &out);
    assert_eq!(found.len(), expected.len());
    for label in ["made up@4", "made up@7"] {
        for (found, expected) in deltas(&found, label).into_iter().zip(deltas(&expected, label)) {
            assert!((found - expected).abs() < 1e-4 * expected.abs().max(1.0), "{found} and {expected}");
        }
    }
}

#[test]
fn a_new_vector_needs_no_new_answers() {
    let place = folder();
    let input = data(place.path());
    let options = ScreenOptions { cache: Some(place.path().join("cache")), ..small() };
    let [low, high] = [0, 1].map(|at| directions()[at..=at].to_vec());
    let (_, _, answered) = screen(&high, &options, &input, &place.path().join("high"));
    assert!(answered > 30, "{answered}");
    let (_, cached, answered) = screen(&low, &options, &input, &place.path().join("low"));
    assert_eq!(answered, 0, "the answers are there, their activations at another layer are read");
    let (_, fresh, _) = screen(&low, &small(), &input, &place.path().join("fresh"));
    for (cached, fresh) in deltas(&cached, "made up@4").into_iter().zip(deltas(&fresh, "made up@4")) {
        assert!((cached - fresh).abs() < 1e-4 * fresh.abs().max(1.0), "{cached} and {fresh}");
    }
    // Other settings or other weights have their own answers.
    let mut longer = options.clone();
    longer.answers.max_new_tokens = 81;
    let (_, _, answered) = screen(&low, &longer, &input, &place.path().join("longer"));
    assert!(answered > 30);
    let mut decoder = model().decoder().clone();
    decoder.embedding = decoder.embedding.map(|embedding| embedding * 1.01);
    let other = model().clone().with_decoder(decoder).expect("the same architecture");
    let mut answered = 0;
    let run = Screen::new(&other, &low, &options).expect("a screening");
    run.run(&[&input], &place.path().join("other"), |progress| {
        answered += usize::from(progress.step == Step::Answering);
        ControlFlow::Continue(())
    })
    .expect("a summary");
    assert!(answered > 30);
}
