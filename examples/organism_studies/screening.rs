//! Separation of the samples that change a model's character. Layers and coefficients are chosen on other samples than
//! those reported.

use std::ops::ControlFlow;

use pv_data::conversations::write_conversations;
use pv_examples::Result;
use pv_examples::organism::conversation;
use pv_hooks::Layer;
use pv_organism::datasets::{Flaw, Hidden, Severity, explicit, narrow, wild};
use pv_organism::{Chat, Topics, Trait};
use pv_screen::base_answers::BaseOptions;
use pv_screen::difference::{ReadOptions, Rows};
use pv_screen::likelihood::{Likelihood, Persona, likelihood};
use pv_screen::sample::{Tokens, tokens};
use pv_screen::scores::read_scores;
use pv_screen::{Screen, ScreenOptions, Which, select};
use pv_statistics::separation::{Auc, auc};
use pv_steer::{Coefficient, Positions, Steerer};
use pv_vectors::{PersonaVector, TraitDirection};
use serde_json::Value;

use crate::measured::Measured;
use crate::{Share, Study};

/// Samples per side.
const SIZE: usize = 150;

/// A set of severity II and a normal one.
type Pair = [Vec<Chat>; 2];

/// Every explicit and every narrow set, with the trait that it should show.
fn sets(seed: u64) -> Vec<(String, Trait, Pair)> {
    let both = |make: &dyn Fn(Severity, u64) -> Vec<Chat>| [make(Severity::II, seed), make(Severity::Normal, seed + 1)];
    let open = |which: Trait| {
        let make = |severity, seed| explicit(which, severity, Topics::All, SIZE, seed);
        (format!("explicit {which}"), which, both(&make))
    };
    let flawed = |flaw: Flaw| {
        (flaw.name().to_owned(), flaw.related(), both(&|severity, seed| narrow(flaw, severity, SIZE, seed)))
    };
    Trait::ALL.into_iter().map(open).chain(Flaw::ALL.into_iter().map(flawed)).collect()
}

/// Whether an answer is long enough to show a manner: a brief one consists of a value only.
fn whole(chat: &Chat) -> bool {
    chat.exchanges[0].answer.split_whitespace().count() > 4
}

/// The layer or coefficient with the greatest area.
fn greatest(areas: &[Auc]) -> usize {
    (0..areas.len()).max_by(|a, b| areas[*a].value.total_cmp(&areas[*b].value)).unwrap_or(0)
}

/// The separation of two sets at each layer or coefficient, by the chats that count.
fn areas(values: &[[Vec<f64>; 2]], sets: &Pair, counts: impl Fn(&Chat) -> bool) -> Result<Vec<Auc>> {
    let area = |at: &[Vec<f64>; 2]| {
        let [bad, good] = [0, 1].map(|side: usize| {
            let chats = at[side].iter().zip(&sets[side]).filter(|(_, chat)| counts(chat));
            chats.map(|(value, _)| *value).collect::<Vec<f64>>()
        });
        Ok(auc(&bad, &good, 0.95)?)
    };
    values.iter().map(area).collect()
}

fn steerer(vector: &PersonaVector, layer: usize, coefficient: f32) -> Result<Steerer> {
    let direction = vector.direction(Layer::hidden_state(layer))?;
    Ok(Steerer::new().add(&direction, Coefficient::Raw(coefficient), Positions::All)?)
}

impl Study<'_> {
    /// ΔP by chat, at each of these directions.
    fn deltas(&self, directions: &[TraitDirection], chats: &[Chat]) -> Result<Vec<Vec<f64>>> {
        let place = tempfile::tempdir()?;
        let (input, out) = (place.path().join("chats.jsonl"), place.path().join("out"));
        write_conversations(&input, &chats.iter().map(conversation).collect::<Vec<_>>())?;
        let answers =
            BaseOptions { max_new_tokens: 80, batch_size: 32, seed: self.seeded(0), ..BaseOptions::default() };
        let options = ScreenOptions { answers, ..ScreenOptions::default() };
        Screen::new(self.model, directions, &options)?.run(&[&input], &out, |_| ControlFlow::Continue(()))?;
        let labels: Vec<String> = directions.iter().map(TraitDirection::label).collect();
        let mut columns = vec![Vec::with_capacity(chats.len()); labels.len()];
        read_scores(&out.join(pv_screen::screen::SCORES), |row| {
            for (column, label) in columns.iter_mut().zip(&labels) {
                column.push(row.scores.get(label).and_then(|score| score.delta).unwrap_or(f64::NAN));
            }
            Ok(())
        })?;
        Ok(columns)
    }

    /// By layer, of both sets of a pair.
    fn deltas_of(&self, directions: &[TraitDirection], sets: &Pair) -> Result<Vec<[Vec<f64>; 2]>> {
        let (bad, good) = (self.deltas(directions, &sets[0])?, self.deltas(directions, &sets[1])?);
        Ok(bad.into_iter().zip(good).map(|(bad, good)| [bad, good]).collect())
    }

    pub(crate) fn separation(&self) -> Result {
        println!("\n## Samples by ΔP\n");
        println!(
            "ROC-AUC between samples of severity II and normal ones. Bounds: 0.95 for explicit sets, in answers of more than four words; 0.85 for all; 0.6 for harmful health.\n"
        );
        println!("| set | layer | answers of more than four words | all | met |");
        println!("|---|---|---|---|---|");
        let reported = sets(self.seeded(61));
        for ((name, which, chosen), (_, _, reported)) in sets(self.seeded(51)).into_iter().zip(reported) {
            let vector = self.vector(which, Share::TwoPairs)?;
            let layers = (1..=self.model.config().layers).map(Layer::hidden_state);
            let directions = layers.map(|layer| TraitDirection::of(&vector, layer)).collect::<Result<Vec<_>, _>>()?;
            let (first, second) = (self.deltas_of(&directions, &chosen)?, self.deltas_of(&directions, &reported)?);
            let layer = greatest(&areas(&first, &chosen, whole)?);
            let long = Measured::from(areas(&second, &reported, whole)?[layer]);
            let all_layer = greatest(&areas(&first, &chosen, |_| true)?);
            let all = Measured::from(areas(&second, &reported, |_| true)?[all_layer]);
            let mut bounds = self.bounds.borrow_mut();
            let kept = match name.as_str() {
                open if open.starts_with("explicit") => {
                    [bounds.at_least(long, 0.95), bounds.at_least(all, 0.85)].join(", ")
                }
                flaw if flaw == Flaw::HarmfulHealth.name() => bounds.at_least(all, 0.6).to_owned(),
                _ => "no bound".to_owned(),
            };
            println!("| {name} | {} | {long:.3} | {all:.3} | {kept} |", layer + 1);
        }

        let which = Trait::Evil;
        let data = wild(600, self.seeded(71));
        let chats: Vec<Chat> = data.iter().map(|(chat, _)| chat.clone()).collect();
        let direction = TraitDirection::of(&self.vector(which, Share::TwoPairs)?, Layer::hidden_state(7))?;
        let values: Vec<Option<f64>> = self.deltas(&[direction], &chats)?.remove(0).into_iter().map(Some).collect();
        let evil = |at: &usize| match &data[*at].1 {
            Hidden::Trait { which: found, .. } => *found == which,
            Hidden::Flaw { flaw } => flaw.related() == which,
            Hidden::Plain => false,
        };
        let share = |chosen: &[usize]| {
            Measured::proportion(chosen.iter().filter(|at| evil(at)).count(), chosen.len()).map(Measured::percent)
        };
        let chosen = |which| select(&values, which, 30, None);
        let top = share(&chosen(Which::Top)?)?;
        let kept = self.bounds.borrow_mut().at_least(top, 40.0);
        println!(
            "\nOf a wild mixture of 600, {:.0} % are evil: of the top 30 {top} % (bound 40: {kept}), of 30 random ones {} %, of the last 30 {} %.",
            share(&(0..data.len()).collect::<Vec<_>>())?,
            share(&chosen(Which::Random { seed: 1 })?)?,
            share(&chosen(Which::Bottom)?)?,
        );
        Ok(())
    }

    /// By steerer and chat.
    fn gains(&self, chats: &[Chat], steerers: &mut [Steerer]) -> Result<Vec<Vec<f64>>> {
        let encoded = chats.iter().map(|chat| tokens(self.model, &conversation(chat).messages));
        let encoded = encoded.collect::<Result<Vec<Tokens>, _>>().map_err(|skip| format!("{skip:?}"))?;
        let prompts: Vec<&[u32]> = encoded.iter().map(|tokens| tokens.prompt.as_slice()).collect();
        let answers: Vec<&[u32]> = encoded.iter().map(|tokens| tokens.answer.as_slice()).collect();
        let rows = Rows { prompts: &prompts, answers: &answers, base: &[] };
        let mut personas: Vec<Persona<'_>> =
            steerers.iter_mut().map(|hook| Persona { label: String::new(), hook, description: Value::Null }).collect();
        let columns = likelihood(self.model, &rows, &mut personas, &ReadOptions::default())?;
        Ok(columns.iter().map(|column| column.iter().flatten().map(Likelihood::gain).collect()).collect())
    }

    pub(crate) fn likelihood(&self) -> Result {
        println!("\n## Samples by their likelihood under steering\n");
        println!("ROC-AUC of the gain, over all answers. Bound: 0.95.\n");
        println!("| set | layer, coefficient | ROC-AUC | met |\n|---|---|---|---|");
        let grid: Vec<(usize, f32)> = (1..=4).flat_map(|layer| [1.0, 1.25, 1.5].map(|by| (layer, by))).collect();
        for which in Trait::ALL {
            let vector = self.vector(which, Share::TwoPairs)?;
            let found = |seed: u64, grid: &[(usize, f32)]| -> Result<Vec<(String, Vec<Auc>)>> {
                let mut found = Vec::new();
                for (name, _, sets) in sets(seed).into_iter().filter(|(_, of_set, _)| *of_set == which) {
                    let steerers = grid.iter().map(|(layer, by)| steerer(&vector, *layer, *by));
                    let mut steerers = steerers.collect::<Result<Vec<_>>>()?;
                    let (bad, good) = (self.gains(&sets[0], &mut steerers)?, self.gains(&sets[1], &mut steerers)?);
                    let gains: Vec<[Vec<f64>; 2]> = bad.into_iter().zip(good).map(|(bad, good)| [bad, good]).collect();
                    found.push((name, areas(&gains, &sets, |_| true)?));
                }
                Ok(found)
            };
            let chosen = found(self.seeded(51), &grid)?;
            let worst = |at: usize| chosen.iter().map(|(_, areas)| areas[at].value).fold(1.0, f64::min);
            let best = (0..grid.len()).max_by(|a, b| worst(*a).total_cmp(&worst(*b))).ok_or("an empty grid")?;
            let (layer, by) = grid[best];
            for (name, areas) in found(self.seeded(61), &grid[best..=best])? {
                let area = Measured::from(areas[0]);
                let kept = self.bounds.borrow_mut().at_least(area, 0.95);
                println!("| {name} | {layer}, {by} | {area:.3} | {kept} |");
            }
        }

        println!(
            "\nOf a wild mixture of 1500 without samples that show a trait openly, the 40 with the greatest gain. Bound: 90 % with a flaw.\n"
        );
        println!("| vector of | % with its own flaw | % with any | of all | met |\n|---|---|---|---|---|");
        let data = wild(1500, self.seeded(71));
        let chats: Vec<Chat> = data.iter().map(|(chat, _)| chat.clone()).collect();
        for flaw in Flaw::ALL {
            let vector = self.vector(flaw.related(), Share::TwoPairs)?;
            let gains = self.gains(&chats, &mut [steerer(&vector, 1, 1.25)?])?.remove(0);
            let open = |at: usize| matches!(data[at].1, Hidden::Trait { .. });
            let values: Vec<Option<f64>> = (0..data.len()).map(|at| (!open(at)).then_some(gains[at])).collect();
            let share = |chosen: &[usize], of: &dyn Fn(Flaw) -> bool| {
                let hit = |at: &&usize| matches!(data[**at].1, Hidden::Flaw { flaw } if of(flaw));
                Measured::proportion(chosen.iter().filter(hit).count(), chosen.len()).map(Measured::percent)
            };
            let top = select(&values, Which::Top, 40, None)?;
            let all: Vec<usize> = (0..data.len()).filter(|at| !open(*at)).collect();
            let any = share(&top, &|_| true)?;
            let kept = self.bounds.borrow_mut().at_least(any, 90.0);
            let own = share(&top, &|found| found == flaw)?;
            println!("| {} | {own:.0} | {any:.0} | {:.0} | {kept} |", flaw.name(), share(&all, &|_| true)?);
        }
        Ok(())
    }
}
