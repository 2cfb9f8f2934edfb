//! Every intervention, compared with its equation, computed here in f64 from the residuals before and after it.

use pv_hooks::{Layer, NoHook};
use pv_model::CausalLm;
use pv_steer::{Coefficient, Condition, Positions, Ramp, Steerer};
use pv_vectors::Direction;

use super::{BLOCKS, Ran, Run, WIDTH, around, bits, direction, dot, every, f64s, middle, unit};

/// One intervention, defined independently of the crate.
#[derive(Clone, Debug)]
struct Spec {
    v: Direction,
    positions: Positions,
    does: Does,
}

#[derive(Clone, Debug)]
enum Does {
    Add(f64, f64, usize),
    AddKeepingNorm(f64, f64, usize),
    Ablate,
    Cap(f64),
    Floor(f64),
    Inhibit { at: f64, monitor: Direction, above: bool, threshold: f64 },
}

impl Spec {
    fn put(&self, steerer: Steerer) -> Steerer {
        let (v, positions) = (&self.v, self.positions);
        let raw = |value: &f64| Coefficient::Raw(*value as f32);
        let put = match &self.does {
            Does::Add(from, _, 0) => steerer.add(v, raw(from), positions),
            Does::Add(from, to, over) => steerer.add(v, Ramp { from: raw(from), to: raw(to), over: *over }, positions),
            Does::AddKeepingNorm(from, _, 0) => steerer.add_keeping_norm(v, raw(from), positions),
            Does::AddKeepingNorm(from, to, over) => {
                steerer.add_keeping_norm(v, Ramp { from: raw(from), to: raw(to), over: *over }, positions)
            }
            Does::Ablate => steerer.ablate(v, positions),
            Does::Cap(at) => steerer.cap(v, *at as f32, positions),
            Does::Floor(at) => steerer.floor(v, *at as f32, positions),
            Does::Inhibit { at, monitor, above, threshold } => {
                let condition = if *above { Condition::above } else { Condition::below };
                let condition = condition(monitor, *threshold as f32).expect("a condition");
                steerer.inhibit_when(v, *at as f32, condition, positions)
            }
        };
        put.expect("an intervention")
    }

    /// Whether it acts on a token, and the step of a ramp there.
    fn acts(&self, token: usize, ran: &Ran) -> Option<usize> {
        let response = token.checked_sub(ran.prompt);
        let within = response.filter(|n| *n < ran.response);
        match self.positions {
            Positions::All => Some(response.map_or(0, |n| n + 1)),
            Positions::Prompt => response.is_none().then_some(0),
            Positions::Response if token + 1 == ran.prompt => Some(0),
            Positions::Response => within.map(|n| n + 1),
            Positions::ResponseFrom(first) => within.filter(|n| *n >= first).map(|n| n - first),
        }
    }

    /// A token's residual afterwards; `None` if it is unchanged, bit for bit.
    fn apply(&self, h: &[f64], token: usize, ran: &Ran) -> Option<Vec<f64>> {
        let step = self.acts(token, ran)?;
        let (v, u) = (f64s(&self.v.values), unit(&self.v));
        let at = |from: &f64, to: &f64, over: usize| match over {
            0 => *from,
            _ => from + (to - from) * (step as f64 / over as f64).min(1.0),
        };
        let plus = |x: f64, direction: &[f64]| h.iter().zip(direction).map(|(h, d)| h + x * d).collect::<Vec<f64>>();
        let along = dot(h, &u);
        match &self.does {
            Does::Add(from, to, over) => Some(at(from, to, *over)).filter(|c| *c != 0.0).map(|c| plus(c, &v)),
            Does::AddKeepingNorm(from, to, over) => {
                let c = Some(at(from, to, *over)).filter(|c| *c != 0.0)?;
                let moved = plus(c, &v);
                let scale = (dot(h, h) / dot(&moved, &moved)).sqrt();
                Some(moved.into_iter().map(|value| value * scale).collect())
            }
            Does::Ablate => Some(plus(-along, &u)),
            Does::Cap(limit) => (along > *limit).then(|| plus(limit - along, &u)),
            Does::Floor(limit) => (along < *limit).then(|| plus(limit - along, &u)),
            Does::Inhibit { at, monitor, above, threshold } => {
                // At a lower layer, the condition reads the next block's input; at the same layer, the residual before the intervention.
                let seen = match monitor.layer == self.v.layer {
                    true => h.to_vec(),
                    false => f64s(&ran.residuals[monitor.layer.index()][token * WIDTH..][..WIDTH]),
                };
                let seen = dot(&seen, &unit(monitor));
                let holds = if *above { seen > *threshold } else { seen < *threshold };
                (holds && along > *at).then(|| plus(at - along, &u))
            }
        }
    }
}

/// Runs the specifications together, compares all tokens of all layers, and returns the share of changed tokens at the
/// layers of the interventions.
fn check(model: &CausalLm, run: Run, specs: &[Spec]) -> f64 {
    let mut steerer = specs.iter().fold(Steerer::new(), |steerer, spec| spec.put(steerer));
    let (before, after) = around(model, run, &mut steerer);
    let (mut changed, mut seen) = (0, 0);
    for (sequence, (before, after)) in before.iter().zip(&after).enumerate() {
        for layer in 0..=BLOCKS {
            let here = || specs.iter().filter(|spec| spec.v.layer == Layer::hidden_state(layer));
            let tokens = before.residuals[layer].chunks(WIDTH).zip(after.residuals[layer].chunks(WIDTH));
            assert!(before.residuals[layer].len() >= (before.prompt + before.response) * WIDTH);
            for (token, (h, found)) in tokens.enumerate() {
                let what = || format!("{run:?} {specs:?}: sequence {sequence}, layer {layer}, token {token}");
                let mut expected = f64s(h);
                let mut touched = false;
                for spec in here() {
                    // Conditions at lower layers are recorded after the steerer.
                    if let Some(moved) = spec.apply(&expected, token, after) {
                        expected = moved;
                        touched = true;
                    }
                }
                if here().next().is_some() {
                    seen += 1;
                    changed += usize::from(touched);
                }
                if !touched {
                    assert_eq!(bits(found), bits(h), "{}", what());
                }
                let size = dot(&expected, &expected).sqrt() + dot(&f64s(h), &f64s(h)).sqrt();
                for (found, expected) in found.iter().zip(&expected) {
                    assert!((f64::from(*found) - expected).abs() <= 1e-6 * (1.0 + size), "{}", what());
                }
            }
        }
    }
    changed as f64 / seen as f64
}

const POSITIONS: [Positions; 5] =
    [Positions::Response, Positions::Prompt, Positions::All, Positions::ResponseFrom(0), Positions::ResponseFrom(3)];

#[test]
fn each_intervention_follows_its_equation() {
    every(|model| {
        for run in [Run::Full, Run::Generation] {
            let (plain, _) = around(model, run, &mut NoHook);
            let (v, w) = (direction(2, 1, 0.5), direction(1, 2, 1.0));
            let (tau, low) = (f64::from(middle(&plain, &v)), f64::from(middle(&plain, &w)));
            let same = direction(2, 3, 1.0);
            let between = f64::from(middle(&plain, &same));
            let inhibit = |monitor: &Direction, above, threshold| Does::Inhibit {
                at: tau,
                monitor: monitor.clone(),
                above,
                threshold,
            };
            let all = [
                (Does::Add(1.5, 0.0, 0), 0.2..=1.0),
                (Does::AddKeepingNorm(-2.0, 0.0, 0), 0.2..=1.0),
                (Does::Ablate, 0.2..=1.0),
                (Does::Cap(tau), 0.3..=0.7),
                (Does::Floor(tau), 0.3..=0.7),
                (inhibit(&w, true, low), 0.01..=0.7),
                (inhibit(&w, false, low), 0.01..=0.7),
                (inhibit(&same, true, between), 0.01..=0.7),
            ];
            for (does, share) in all {
                for positions in POSITIONS {
                    let changed = check(model, run, &[Spec { v: v.clone(), positions, does: does.clone() }]);
                    if positions == Positions::All {
                        assert!(share.contains(&changed), "{run:?} {does:?} changed {changed} of the tokens");
                    }
                }
            }
            for does in [Does::Add(0.0, 2.0, 4), Does::Add(1.0, -1.0, 2), Does::AddKeepingNorm(3.0, 0.0, 3)] {
                for positions in POSITIONS.into_iter().filter(|positions| *positions != Positions::Prompt) {
                    check(model, run, &[Spec { v: v.clone(), positions, does: does.clone() }]);
                }
            }
        }
    });
}

#[test]
fn several_interventions_act_in_the_order_of_addition() {
    every(|model| {
        let (v, w) = (direction(2, 1, 0.5), direction(2, 2, 0.7));
        let (below, last) = (direction(0, 3, 0.4), direction(BLOCKS, 4, 0.6));
        let spec = |v: &Direction, positions, does| Spec { v: v.clone(), positions, does };
        let specs = [
            spec(&last, Positions::All, Does::Floor(0.3)),
            spec(&v, Positions::All, Does::Add(2.0, 0.0, 0)),
            spec(&below, Positions::Prompt, Does::AddKeepingNorm(1.0, 0.0, 0)),
            spec(&w, Positions::Response, Does::Ablate),
            spec(&v, Positions::ResponseFrom(1), Does::Cap(0.5)),
            spec(&w, Positions::All, Does::Add(0.0, 1.0, 3)),
            spec(&last, Positions::All, Does::Inhibit { at: 0.4, monitor: v.clone(), above: true, threshold: 1.0 }),
        ];
        for run in [Run::Full, Run::Generation] {
            check(model, run, &specs);
        }
    });
    // Adding and then removing differs from removing and then adding.
    let v = direction(1, 1, 1.0);
    let model = super::load("llama", &burn::tensor::Device::flex());
    let add = |s: Steerer| s.add(&v, Coefficient::Raw(1.0), Positions::All).expect("a direction");
    let ablate = |s: Steerer| s.ablate(&v, Positions::All).expect("a direction");
    let left = |mut steerer: Steerer| super::projections(&around(&model, Run::Full, &mut steerer).1, &v);
    assert!(left(ablate(add(Steerer::new()))).iter().all(|p| p.abs() < 1e-5));
    assert!(left(add(ablate(Steerer::new()))).iter().all(|p| (p - dot(&unit(&v), &f64s(&v.values))).abs() < 1e-5));
}
