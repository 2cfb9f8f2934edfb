//! The likelihood gain of answers under a steered model.

use pv_hooks::NoHook;
use pv_organism::Topics;
use pv_organism::datasets::{Flaw, Hidden, Severity, explicit, narrow, wild};
use pv_screen::compare::Contributions;
use pv_screen::difference::{ReadOptions, Rows};
use pv_screen::likelihood::{Likelihood, Persona, likelihood};
use pv_screen::sample::{Tokens, tokens};
use pv_screen::screen::Base;
use pv_screen::{Error, Which, export, select};
use pv_statistics::separation::auc;
use pv_steer::{Coefficient, Positions, Steerer};
use serde_json::{Value, json};

use super::*;

/// The trait's raw vector at one layer.
fn steerer(which: Trait, layer: usize, coefficient: f32) -> Steerer {
    let direction = vector(which).direction(Layer::hidden_state(layer)).expect("a direction");
    Steerer::new().add(&direction, Coefficient::Raw(coefficient), Positions::All).expect("a steerer")
}

fn persona(label: impl Into<String>, hook: &mut dyn Hook) -> Persona<'_> {
    Persona { label: label.into(), hook, description: Value::Null }
}

fn encoded(chats: &[Chat]) -> Vec<Tokens> {
    chats.iter().map(|chat| tokens(model(), &conversation(chat).messages).expect("tokens")).collect()
}

/// By steerer and chat.
fn read(chats: &[Chat], steerers: &mut [Steerer]) -> Vec<Vec<Likelihood>> {
    let encoded = encoded(chats);
    let prompts: Vec<&[u32]> = encoded.iter().map(|tokens| tokens.prompt.as_slice()).collect();
    let answers: Vec<&[u32]> = encoded.iter().map(|tokens| tokens.answer.as_slice()).collect();
    let rows = Rows { prompts: &prompts, answers: &answers, base: &[] };
    let mut personas: Vec<Persona<'_>> = steerers.iter_mut().map(|steerer| persona("", steerer)).collect();
    let columns = likelihood(model(), &rows, &mut personas, &ReadOptions::default()).expect("likelihoods");
    columns.into_iter().map(|column| column.into_iter().map(|row| row.expect("an answer")).collect()).collect()
}

#[test]
fn likelihoods_equal_those_of_separate_passes() {
    let mut chats = explicit(Trait::Evil, Severity::I, Topics::All, 40, 5);
    chats.extend(narrow(Flaw::AgreedNature, Severity::II, 10, 6));
    let mut steerers = [steerer(Trait::Evil, 3, 1.0), steerer(Trait::Sycophancy, 6, -0.5)];
    let found = read(&chats, &mut steerers);
    let plain = |tokens: &Tokens, hook: &mut dyn Hook| log_probs_alone(model(), &tokens.prompt, &tokens.answer, hook);
    let mut worst: f64 = 0.0;
    for (at, tokens) in encoded(&chats).iter().enumerate() {
        let base = plain(tokens, &mut NoHook);
        for (steerer, column) in steerers.iter_mut().zip(&found) {
            let hooked = plain(tokens, steerer);
            assert_eq!((column[at].base.len(), column[at].hooked.len()), (base.len(), hooked.len()));
            for (ours, theirs) in [(&column[at].base, &base), (&column[at].hooked, &hooked)] {
                let gaps = ours.iter().zip(theirs).map(|(a, b)| (f64::from(*a) - b).abs() / b.abs().max(1.0));
                worst = gaps.fold(worst, f64::max);
            }
            let (gain, surprise) = (hooked.iter().sum::<f64>() - base.iter().sum::<f64>(), -base.iter().sum::<f64>());
            assert!((column[at].gain() - gain).abs() < 1e-3 * (1.0 + gain.abs()), "{} for {gain}", column[at].gain());
            assert!((column[at].surprise() - surprise).abs() < 1e-3 * (1.0 + surprise));
        }
    }
    println!("log-probabilities within {worst:.1e}");
    assert!(worst < 1e-4, "{worst}");
    // The gains of the tokens sum to the answer's gain.
    let (row, answer) = (&found[0][0], &encoded(&chats)[0].answer);
    let shares = Contributions::of_gains(model(), answer, row).expect("shares");
    assert_eq!(shares.text, chats[0].exchanges[0].answer);
    assert_eq!(shares.tokens.iter().map(|token| token.text.len()).sum::<usize>(), shares.text.len());
    assert!((shares.tokens.iter().map(|token| token.share).sum::<f64>() - row.gain()).abs() < 1e-9);
    assert!(Contributions::of_gains(model(), &answer[1..], row).is_err());
    // With a hook without effect the gain is zero, bit for bit.
    let nothing = read(&chats, &mut [steerer(Trait::Evil, 3, 0.0)]);
    assert!(nothing[0].iter().all(|row| row.base == row.hooked && row.gain() == 0.0));
}

#[test]
fn columns_are_checked() {
    let (prompt, answer): (&[u32], &[u32]) = (&[3, 4], &[5, 6, 7]);
    let mut evil = steerer(Trait::Evil, 3, 1.0);
    let mut of = |prompts: &[&[u32]], answers: &[&[u32]], max_tokens| {
        let rows = Rows { prompts, answers, base: &[] };
        let options = ReadOptions { max_tokens, ..ReadOptions::default() };
        likelihood(model(), &rows, &mut [persona("evil", &mut evil)], &options)
    };
    let found = of(&[prompt, prompt, prompt], &[answer, &[], answer], None).expect("a column").remove(0);
    assert!(found[0].is_some() && found[1].is_none() && found[2] == found[0]);
    assert_eq!(of(&[prompt], &[answer], Some(4)).expect("a column"), [vec![None]]);
    assert!(matches!(of(&[prompt], &[], None), Err(Error::Columns { prompts: 1, answers: 0, base: 0 })));
    assert!(of(&[&[]], &[answer], None).is_err(), "nothing predicts an answer's first token");
    assert!(of(&[prompt], &[&[1 << 20]], None).is_err(), "no such token");
    let narrow =
        pv_vectors::Direction { layer: Layer::hidden_state(1), values: vec![1.0; 5], mean_residual_norm: None };
    let mut narrow = Steerer::new().add(&narrow, Coefficient::Raw(1.0), Positions::All).expect("a steerer");
    let rows = Rows { prompts: &[prompt], answers: &[answer], base: &[] };
    assert!(likelihood(model(), &rows, &mut [persona("", &mut narrow)], &ReadOptions::default()).is_err());
}

/// Samples with a likelihood gain: answers that show the trait openly, and narrow flaws, which no vector finds in the mean
/// over an answer. `organism_studies` measures the effect, at a layer and a coefficient chosen for each trait.
#[test]
fn samples_with_open_traits_and_with_narrow_flaws_have_gains() {
    let which = Trait::Hallucination;
    let open = |severity, seed| explicit(which, severity, Topics::All, 60, seed);
    let flawed = |severity, seed| narrow(Flaw::WrongGeography, severity, 60, seed);
    type Set<'a> = &'a dyn Fn(Severity, u64) -> Vec<Chat>;
    let sets: [(&str, Set<'_>); 2] = [("openly shown", &open), ("a flaw", &flawed)];
    for (name, set) in sets {
        let gains = [Severity::II, Severity::Normal].map(|severity| {
            let found = read(&set(severity, seed(61) + severity as u64), &mut [steerer(which, 1, 1.25)]).remove(0);
            found.iter().map(Likelihood::gain).collect::<Vec<f64>>()
        });
        let found = auc(&gains[0], &gains[1], 0.95).expect("an area");
        println!("{name}: AUC {:.3}, {:.3} to {:.3}", found.value, found.interval.low, found.interval.high);
        assert!(found.value >= 0.75, "{name}: {found:?}");
    }
}

/// Content in plain words, which a judge of open traits overlooks, has a likelihood gain; the kind of flaw cannot
/// be determined by it.
#[test]
fn the_top_of_a_wild_set_contains_its_narrow_flaws() {
    let data = wild(500, seed(71));
    let chats: Vec<Chat> = data.iter().map(|(chat, _)| chat.clone()).collect();
    let gains = read(&chats, &mut [steerer(Flaw::WrongGeography.related(), 1, 1.25)]).remove(0);
    // Those that show a trait openly are removed.
    let open = |hidden: &Hidden| matches!(hidden, Hidden::Trait { .. });
    let rest = data.iter().zip(&gains);
    let values: Vec<Option<f64>> = rest.map(|((_, hidden), found)| (!open(hidden)).then(|| found.gain())).collect();
    let share = |chosen: &[usize]| {
        let hits = chosen.iter().filter(|at| matches!(data[**at].1, Hidden::Flaw { .. })).count();
        hits as f64 / chosen.len() as f64
    };
    let top = select(&values, Which::Top, 20, None).expect("a choice");
    let all: Vec<usize> = (0..data.len()).filter(|at| values[*at].is_some()).collect();
    println!("{:.2} of the top 20 have a flaw; of all {} {:.2}", share(&top), all.len(), share(&all));
    assert!(share(&top) >= 3.0 * share(&all) && share(&all) < 0.2);
}

#[test]
fn a_screening_with_personas_resumes() {
    let place = folder();
    let mut chats = wild(60, 3).into_iter().map(|(chat, _)| chat).collect::<Vec<_>>();
    chats.push(chats[0].clone());
    let input = write(place.path(), "data.jsonl", &chats);
    let named = [direction(Trait::Evil, 7)];
    let options = ScreenOptions { base: Base::None, chunk: 10, ..options() };
    let screening = Screen::new(model(), &named, &options).expect("a screening");
    let run = |out: &str, coefficient: f32, most: usize| {
        let mut evil = steerer(Trait::Evil, 1, coefficient);
        let mut optimist = steerer(Trait::Optimism, 1, coefficient);
        let mut personas = [persona("evil", &mut evil), persona("optimism", &mut optimist)];
        personas.iter_mut().for_each(|persona| persona.description = json!({ "coefficient": coefficient }));
        let mut told = 0;
        screening.run_with(&[&input], &place.path().join(out), &mut personas, |progress| {
            told += usize::from(progress.step == Step::Projecting);
            if told == most { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })
    };
    let summary = run("whole", 1.0, usize::MAX).expect("a summary");
    for most in 1..5 {
        assert!(matches!(run("stopped", 1.0, most), Err(Error::Cancelled)));
    }
    // Not with another coefficient, and not without.
    assert!(run("stopped", 2.0, usize::MAX).is_err());
    assert!(screening.run(&[&input], &place.path().join("stopped"), |_| ControlFlow::Continue(())).is_err());
    assert_eq!(run("stopped", 1.0, usize::MAX).expect("a summary"), summary);
    let table = |out: &str| std::fs::read(place.path().join(out).join(pv_screen::screen::SCORES)).expect("a table");
    assert_eq!(table("whole"), table("stopped"));

    // The table's values equal those of the rows, the summary's their means, the export's the rows' again.
    let mut steerers = [steerer(Trait::Evil, 1, 1.0), steerer(Trait::Optimism, 1, 1.0)];
    let expected = read(&chats, &mut steerers);
    let mut rows = Vec::new();
    read_scores(&place.path().join("whole").join(pv_screen::screen::SCORES), |row| {
        rows.push(row);
        Ok(())
    })
    .expect("a table");
    assert_eq!(rows.len(), chats.len());
    let near = |a: f64, b: f64| assert!((a - b).abs() < 1e-3 * (1.0 + b.abs()), "{a}, not {b}");
    for (row, found) in rows.iter().enumerate() {
        let found = found.likelihood.as_ref().expect("a likelihood");
        assert_eq!(found.gains.keys().collect::<Vec<_>>(), ["evil", "optimism"]);
        near(found.surprise, expected[0][row].surprise());
        near(found.gains["evil"], expected[0][row].gain());
        near(found.gains["optimism"], expected[1][row].gain());
    }
    let means = summary.likelihood.expect("likelihoods");
    let mean = |of: &dyn Fn(&ScoreRow) -> f64| rows.iter().map(of).sum::<f64>() / rows.len() as f64;
    near(means.surprise, mean(&|row| row.likelihood.as_ref().map_or(f64::NAN, |found| found.surprise)));
    near(means.gains["evil"], mean(&|row| row.likelihood.as_ref().map_or(f64::NAN, |found| found.gains["evil"])));
    let output = place.path().join("exported.jsonl");
    let table = place.path().join("whole").join(pv_screen::screen::SCORES);
    export(&[&input], &table, &output, &pv_screen::Keep::Scored).expect("an export");
    let exported = std::fs::read_to_string(&output).expect("a file");
    for (line, row) in exported.lines().zip(&rows) {
        let line: Value = serde_json::from_str(line).expect("JSON");
        near(line["evil_gain"].as_f64().expect("a number"), row.likelihood.as_ref().expect("one").gains["evil"]);
    }
    assert_eq!(exported.lines().count(), chats.len());
}
