//! Separation of the samples that change a model's character.

use pv_examples::organism::{ExactJudge, spec};
use pv_judge::judge::Answered;
use pv_organism::Topics;
use pv_organism::datasets::{Hidden, Severity, explicit, wild};
use pv_screen::select::judged;
use pv_screen::{Which, select};
use pv_statistics::intervals::quantile;
use pv_statistics::separation::{auc, kolmogorov_smirnov};

use super::*;

/// Samples that show a trait openly are clearly separated by its vector. `organism_studies` measures the separation for every trait and
/// layer, and for narrow flaws, which are hardly separated.
#[test]
fn samples_that_show_a_trait_openly_are_separated() {
    let (which, place) = (Trait::Hallucination, folder());
    let directions = [direction(which, 7)];
    let [bad, good] = [Severity::II, Severity::Normal].map(|severity| {
        let chats = explicit(which, severity, Topics::All, 80, seed(61) + severity as u64);
        let name = format!("{severity:?}");
        let input = write(place.path(), &format!("{name}.jsonl"), &chats);
        let rows = screen(&directions, &options(), &input, &place.path().join(name)).1;
        deltas(&rows, &directions[0].label())
    });
    let found = auc(&bad, &good, 0.95).expect("an area");
    println!("explicit {which}: AUC {:.3}, {:.3} to {:.3}", found.value, found.interval.low, found.interval.high);
    assert!(found.value >= 0.75, "{found:?}");
}

#[test]
fn the_top_of_a_wild_set_contains_the_hidden_samples() {
    let place = folder();
    let which = Trait::Evil;
    let data = wild(600, seed(71));
    let chats: Vec<Chat> = data.iter().map(|(chat, _)| chat.clone()).collect();
    let input = write(place.path(), "wild.jsonl", &chats);
    let named = [direction(which, 7)];
    let label = named[0].label();
    let (_, rows, _) = screen(&named, &options(), &input, &place.path().join("out"));
    let values: Vec<Option<f64>> = rows.iter().map(|row| row.scores[&label].delta).collect();
    let evil = |hidden: &Hidden| match hidden {
        Hidden::Trait { which: found, .. } => *found == which,
        Hidden::Flaw { flaw } => flaw.related() == which,
        Hidden::Plain => false,
    };
    let total = data.iter().filter(|(_, hidden)| evil(hidden)).count();
    let share = |chosen: &[usize]| chosen.iter().filter(|&&i| evil(&data[i].1)).count() as f64 / chosen.len() as f64;
    let chosen = |values: &[Option<f64>], which| select(values, which, 30, None).expect("a choice");
    let (top, bottom, random) =
        (chosen(&values, Which::Top), chosen(&values, Which::Bottom), chosen(&values, Which::Random { seed: 1 }));
    println!(
        "{total} of 600 are evil; top {:.2}, random {:.2}, bottom {:.2}",
        share(&top),
        share(&random),
        share(&bottom)
    );
    let all = total as f64 / data.len() as f64;
    assert!(share(&top) >= 2.0 * all && share(&bottom) < share(&top) / 2.0);

    // After removing the samples that the judge finds.
    let answers: Vec<Answered<'_>> = chats
        .iter()
        .map(|chat| Answered { question: &chat.exchanges[0].question, answer: &chat.exchanges[0].answer })
        .collect();
    let rubric = spec(which).expect("a trait").rubric().expect("a rubric");
    let found = judged(&ExactJudge, &rubric, &answers, 1.0).expect("verdicts");
    let mut rest = values.clone();
    found.shows.iter().for_each(|&sample| rest[sample] = None);
    let again = chosen(&rest, Which::Top);
    assert!(again.iter().all(|sample| !found.shows.contains(sample)));
    println!("the judge sees {} of them; of the next 30, {:.2}", found.shows.len(), share(&again));

    // A threshold from plain samples lets one in twenty similar samples pass.
    let of = |keep: &dyn Fn(&Hidden) -> bool| -> Vec<f64> {
        data.iter().zip(&values).filter(|((_, hidden), _)| keep(hidden)).filter_map(|(_, value)| *value).collect()
    };
    let plain = of(&|hidden| *hidden == Hidden::Plain);
    let (reference, others) = plain.split_at(plain.len() / 2);
    let limit = quantile(reference, 0.95).expect("a threshold");
    let above = |values: &[f64]| values.iter().filter(|value| **value > limit).count() as f64 / values.len() as f64;
    let hidden = of(
        &|hidden| matches!(hidden, Hidden::Trait { which: found, intensity } if *found == which && *intensity >= 0.75),
    );
    println!("above the threshold {limit:.2}: plain {:.3}, openly evil {:.3}", above(others), above(&hidden));
    assert!(above(others) < 0.15 && above(&hidden) > 2.0 * above(others));
    let ks = kolmogorov_smirnov(&hidden, others).expect("a distance");
    assert!(ks.distance > 0.4 && ks.p < 1e-3, "{ks:?}");
}
