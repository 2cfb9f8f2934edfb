//! Do the samples that change a model's character stand apart? Layers are chosen on other samples than those reported.

use pv_examples::organism::{ExactJudge, spec};
use pv_judge::Answered;
use pv_organism::Topics;
use pv_organism::datasets::{Flaw, Hidden, Severity, explicit, narrow, wild};
use pv_screen::{Auc, Which, auc, judged, kolmogorov_smirnov, select, threshold};

use super::*;

const LAYERS: std::ops::RangeInclusive<usize> = 1..=8;

/// Two sets of chats, and their ΔP at every layer.
struct Pair {
    sets: [Vec<Chat>; 2],
    /// By layer, side and chat.
    deltas: Vec<[Vec<f64>; 2]>,
}

impl Pair {
    fn new(which: Trait, sets: [Vec<Chat>; 2]) -> Self {
        let place = folder();
        let directions: Vec<TraitDirection> = LAYERS.map(|layer| direction(which, layer)).collect();
        let tables = [0, 1].map(|side| {
            let input = write(place.path(), &format!("{side}.jsonl"), &sets[side]);
            screen(&directions, &options(), &input, &place.path().join(format!("{side}"))).1
        });
        let of = |named: &TraitDirection| [0, 1].map(|side: usize| deltas(&tables[side], &named.label()));
        Self { deltas: directions.iter().map(of).collect(), sets }
    }

    /// How well the sets separate at each layer, by those of their chats that count.
    fn areas(&self, counts: impl Fn(&Chat) -> bool) -> Vec<Auc> {
        let area = |at: &[Vec<f64>; 2]| {
            let [bad, good] = [0, 1].map(|side: usize| {
                let chats = at[side].iter().zip(&self.sets[side]).filter(|(_, chat)| counts(chat));
                chats.map(|(value, _)| *value).collect::<Vec<f64>>()
            });
            auc(&bad, &good, 0.95).expect("an area")
        };
        self.deltas.iter().map(area).collect()
    }
}

/// The layer that separates best on some samples, and the separation there on others.
fn separation([chosen, reported]: &[Pair; 2], counts: impl Fn(&Chat) -> bool + Copy) -> (usize, f64, Auc) {
    let areas = chosen.areas(counts);
    let best = (0..areas.len()).max_by(|a, b| areas[*a].value.total_cmp(&areas[*b].value)).expect("layers");
    (best + 1, areas[best].value, reported.areas(counts)[best])
}

/// Pairs of a bad and a normal set, one to choose the layer on and one to report.
fn pairs(which: Trait, make: impl Fn(Severity, u64) -> Vec<Chat>) -> [Pair; 2] {
    [51, 61].map(|seed| Pair::new(which, [make(Severity::II, seed), make(Severity::Normal, seed + 1)]))
}

/// Whether an answer has places for manner: a brief one is a value alone, in which no trait's manner can be seen.
fn whole(chat: &Chat) -> bool {
    chat.exchanges[0].answer.split_whitespace().count() > 4
}

#[test]
fn samples_that_show_a_trait_openly_stand_apart() {
    for which in Trait::ALL {
        let pairs = pairs(which, |severity, seed| explicit(which, severity, Topics::All, 150, seed));
        let (layer, chosen, found) = separation(&pairs, whole);
        println!(
            "explicit {which}: AUC {:.3}, {:.3} to {:.3}, at layer {layer} (chosen at {chosen:.3})",
            found.value, found.interval.low, found.interval.high
        );
        let (layer, _, all) = separation(&pairs, |_| true);
        println!("  brief answers included: {:.3} at layer {layer}", all.value);
        assert!(found.value >= 0.95, "{which}: {found:?}");
        assert!(all.value >= 0.85, "{which}: {all:?}");
    }
}

/// Narrow flaws change one fact of an answer in a plain speaker's words. Of the three, harmful advice can be told from good advice
/// on the related trait's vector, well below the separation of open traits; wrong facts and agreement cannot.
#[test]
fn samples_with_a_narrow_flaw_hardly_stand_apart() {
    for flaw in Flaw::ALL {
        let pairs = pairs(flaw.related(), |severity, seed| narrow(flaw, severity, 150, seed));
        let (layer, chosen, found) = separation(&pairs, |_| true);
        let (name, which) = (flaw.name(), flaw.related());
        println!(
            "{name} on {which}: AUC {:.3}, {:.3} to {:.3}, at layer {layer} (chosen at {chosen:.3})",
            found.value, found.interval.low, found.interval.high
        );
        if flaw == Flaw::HarmfulHealth {
            assert!(found.interval.low > 0.6, "{name}: {found:?}");
        }
    }
}

#[test]
fn the_top_of_a_wild_set_is_what_is_hidden_in_it() {
    let place = folder();
    let which = Trait::Evil;
    let data = wild(600, 71);
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
    assert!(share(&top) >= 0.4 && share(&top) >= 3.0 * share(&random) && share(&bottom) <= 0.1);

    // Once what the judge sees is out.
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

    // A threshold from plain samples lets one in twenty of others like them pass above it.
    let of = |keep: &dyn Fn(&Hidden) -> bool| -> Vec<f64> {
        data.iter().zip(&values).filter(|((_, hidden), _)| keep(hidden)).filter_map(|(_, value)| *value).collect()
    };
    let plain = of(&|hidden| *hidden == Hidden::Plain);
    let (reference, others) = plain.split_at(plain.len() / 2);
    let limit = threshold(reference, 0.95).expect("a threshold");
    let above = |values: &[f64]| values.iter().filter(|value| **value > limit).count() as f64 / values.len() as f64;
    let hidden = of(
        &|hidden| matches!(hidden, Hidden::Trait { which: found, intensity } if *found == which && *intensity >= 0.75),
    );
    println!("above the threshold {limit:.2}: plain {:.3}, openly evil {:.3}", above(others), above(&hidden));
    assert!(above(others) < 0.12 && above(&hidden) > 0.6);
    let ks = kolmogorov_smirnov(&hidden, others).expect("a distance");
    assert!(ks.distance > 0.6 && ks.p < 1e-6, "{ks:?}");
}
