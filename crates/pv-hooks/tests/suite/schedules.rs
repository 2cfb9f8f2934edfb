//! In whatever order a run computes its tokens, a recorder agrees with the reference.

use std::collections::BTreeSet;

use burn::tensor::Device;
use proptest::prelude::*;
use pv_hooks::hook::check;
use pv_hooks::{Capture, Hook, HookError, Layer, LayerSet, Recorder};

use crate::reference::{Group, Pass, World};
use crate::support::{Random, SHAPE, layers, pass, values};

const SUMMED: [Capture; 6] = [
    Capture::ResponseMean,
    Capture::PromptMean,
    Capture::PromptLast,
    Capture::ResponseNorm,
    Capture::Position(1),
    Capture::Position(6),
];

/// The content of padding in these runs: finite, and so large that its square is not.
const FILLER: f32 = 1e30;

fn groups(prompt: std::ops::Range<usize>) -> impl Strategy<Value = Vec<Group>> {
    let answer = prop_oneof![12 => 1..7usize, 1 => Just(0)];
    let group = (prompt, prop::collection::vec(answer, 1..4)).prop_map(|(prompt, answers)| Group { prompt, answers });
    prop::collection::vec(group, 1..5)
}

fn wanted() -> impl Strategy<Value = LayerSet> {
    let some = prop::collection::btree_set((0..=SHAPE.blocks).prop_map(Layer::hidden_state), 1..3);
    prop_oneof![Just(LayerSet::All), some.prop_map(LayerSet::These)]
}

/// Some captures, in any order, some of them twice.
fn captures() -> impl Strategy<Value = Vec<Capture>> {
    let one = prop_oneof![6 => prop::sample::select(SUMMED.to_vec()), 1 => Just(Capture::Everything)];
    prop::collection::vec(one, 1..9)
}

/// Records the passes and compares everything that can be read from the recorder.
fn compare(world: &World, passes: &[Pass], wanted: LayerSet, captures: Vec<Capture>) -> Result<(), TestCaseError> {
    let mut recorder = Recorder::new(wanted.clone(), captures.clone());
    prop_assert_eq!(check(&recorder, &SHAPE, None), Ok(()));
    prop_assert_eq!(recorder.layers(), wanted.clone());
    for one in passes {
        pass(&mut recorder, one.phase, &one.spans, |layer| world.residuals(one, layer, FILLER, &Device::flex()));
    }
    let sequences = 0..world.sequences.len();
    let asked: BTreeSet<Capture> = captures.into_iter().collect();
    let mut fired = false;
    for layer in layers() {
        for capture in &SUMMED {
            let found = recorder.get(capture, layer);
            if !(asked.contains(capture) && wanted.contains(layer)) {
                prop_assert_eq!(found.err(), Some(HookError::NotRecorded { capture: capture.clone(), layer }));
                prop_assert!(recorder.counts(capture, layer).is_empty());
                continue;
            }
            let counts: Vec<usize> = sequences.clone().map(|s| world.captured(capture, layer, s).len()).collect();
            let known = recorder.counts(capture, layer);
            let known: Vec<usize> = sequences.clone().map(|s| known.get(&s).copied().unwrap_or(0)).collect();
            prop_assert_eq!(&known, &counts, "{:?}", capture);
            fired |= counts.iter().any(|&n| n > 0);
            let expected: Vec<_> = sequences.clone().map(|s| world.mean(capture, layer, s)).collect();
            if let Some(sequence) = expected.iter().position(Option::is_none) {
                prop_assert_eq!(found.err(), Some(HookError::NoTokens { capture: capture.clone(), sequence }));
                continue;
            }
            let found = found.map_err(|error| TestCaseError::fail(error.to_string()))?;
            let width = if *capture == Capture::ResponseNorm { 1 } else { SHAPE.d_model };
            prop_assert_eq!(found.dims(), [expected.len(), width]);
            for (found, expected) in values(found).into_iter().zip(expected.into_iter().flatten().flatten()) {
                prop_assert!((f64::from(found) - expected).abs() < 1e-5, "{capture:?}: {found}, not {expected}");
            }
        }
        for sequence in sequences.clone() {
            let found = recorder.tokens(sequence, layer);
            let expected = world.captured(&Capture::Everything, layer, sequence);
            if !(asked.contains(&Capture::Everything) && wanted.contains(layer)) {
                let capture = Capture::Everything;
                prop_assert_eq!(found.err(), Some(HookError::NotRecorded { capture, layer }));
            } else if expected.is_empty() {
                let capture = Capture::Everything;
                prop_assert_eq!(found.err(), Some(HookError::NoTokens { capture, sequence }));
            } else {
                fired = true;
                let found = found.map_err(|error| TestCaseError::fail(error.to_string()))?;
                prop_assert_eq!(found.dims(), [expected.len(), SHAPE.d_model]);
                prop_assert_eq!(values(found), expected.concat());
            }
        }
    }
    let expected = if fired { Ok(()) } else { Err(HookError::NeverFired { hook: "recorder".into() }) };
    prop_assert_eq!(recorder.finish(), expected);
    Ok(())
}

proptest! {
    #[test]
    fn generations(groups in groups(1..6), seed: u64, wanted in wanted(), captures in captures()) {
        let world = World::new(seed, groups, 0);
        let passes = world.generation(&mut Random(seed));
        compare(&world, &passes, wanted, captures)?;
    }

    #[test]
    fn whole_sequences(groups in groups(0..6), seed: u64, wanted in wanted(), captures in captures()) {
        let world = World::new(seed, groups, 2);
        let passes = world.whole_passes(&mut Random(seed));
        compare(&world, &passes, wanted, captures)?;
    }

    /// Computing answers again as whole sequences gives the values of their generation.
    #[test]
    fn generating_and_reading_again_agree(groups in groups(1..6), seed: u64) {
        let world = World::new(seed, groups, 0);
        let record = |passes: Vec<Pass>| {
            let mut recorder = Recorder::new(LayerSet::All, SUMMED);
            for one in &passes {
                pass(&mut recorder, one.phase, &one.spans, |layer| {
                    world.residuals(one, layer, FILLER, &Device::flex())
                });
            }
            recorder
        };
        let generated = record(world.generation(&mut Random(seed)));
        let read = record(world.whole_passes(&mut Random(seed)));
        for (capture, layer) in SUMMED.iter().flat_map(|capture| layers().map(move |layer| (capture, layer))) {
            prop_assert_eq!(generated.counts(capture, layer), read.counts(capture, layer));
            match (generated.get(capture, layer), read.get(capture, layer)) {
                (Ok(a), Ok(b)) => {
                    let close = values(a).into_iter().zip(values(b)).all(|(a, b)| (a - b).abs() < 1e-5);
                    prop_assert!(close, "{:?} at {}", capture, layer);
                }
                (a, b) => prop_assert_eq!(a.err(), b.err()),
            }
        }
    }
}
