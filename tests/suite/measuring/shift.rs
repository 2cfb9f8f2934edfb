//! The finetuning shift against plain loops, and where the truth is known.

use std::ops::ControlFlow;

use burn::tensor::{Tensor, TensorData};
use pv_data::FileError;
use pv_hooks::{Capture, LayerSet, Recorder};
use pv_model::{Batch, CausalLm, ForwardOptions, Sequence, to_f32};
use pv_organism::Trait;
use pv_train::{BootstrapOptions, MeasureError, ModelIdentity, ProjectionTable, TraitDirection, finetuning_shift};
use pv_vectors::UnitDirection;

use super::*;

fn directions() -> Vec<TraitDirection> {
    let layers: LayerSet = [layer(4), layer(7)].into_iter().collect();
    let of = |which| TraitDirection::of_vector(vector(which), &layers).expect("directions");
    [Trait::Optimism, Trait::Evil].into_iter().flat_map(of).collect()
}

fn table(model: &CausalLm, prompts: &[Vec<u32>], directions: &[TraitDirection]) -> ProjectionTable {
    ProjectionTable::measure(model, prompts, directions, |_| ControlFlow::Continue(())).expect("a table")
}

/// The last token's residual at a layer, prompt by prompt.
fn residuals(model: &CausalLm, prompts: &[Vec<u32>], at: Layer) -> Vec<Vec<f32>> {
    let one = |prompt: &Vec<u32>| {
        let mut recorder = Recorder::new(at, [Capture::Everything]);
        let batch = Batch::whole(&[Sequence { prompt, ..Sequence::default() }]).expect("a batch");
        model.forward(&batch, ForwardOptions::default(), &mut recorder).expect("a pass");
        let all = to_f32(recorder.tokens(0, at).expect("recorded")).expect("values");
        all[(prompt.len() - 1) * model.config().d_model..].to_vec()
    };
    prompts.iter().map(one).collect()
}

/// The organism with a vector added to every token's embedding.
fn planted(added: &[f32]) -> CausalLm {
    let mut decoder = model().decoder().clone();
    let row = Tensor::<2>::from_data(TensorData::new(added.to_vec(), [1, added.len()]), &decoder.device());
    decoder.embedding = decoder.embedding.map(|embedding| embedding + row);
    model().clone().with_decoder(decoder).expect("the same architecture")
}

#[test]
fn a_model_has_not_moved_from_itself() {
    let (prompts, directions) = (prompts(Trait::Optimism), directions());
    let report =
        finetuning_shift(model(), model(), &prompts, &directions, &BootstrapOptions::default()).expect("a shift");
    assert_eq!(report.shifts.len(), 4);
    for shift in &report.shifts {
        let interval = shift.shift.interval.expect("many prompts");
        assert_eq!((shift.shift.mean, interval.low, interval.high, shift.shift.pairs), (0.0, 0.0, 0.0, prompts.len()));
        assert!(shift.base == shift.finetuned && shift.base != 0.0);
    }
}

#[test]
fn finetuning_moves_the_model_as_a_plain_loop_says_and_towards_the_trait() {
    let (prompts, directions) = (prompts(Trait::Optimism), directions());
    let report =
        finetuning_shift(model(), optimist(), &prompts, &directions, &BootstrapOptions::default()).expect("a shift");
    for (shift, named) in report.shifts.iter().zip(&directions) {
        let at = named.direction.layer();
        assert_eq!((shift.layer, &shift.trait_name), (at, &named.trait_name));
        // (mean under one − mean under the other)·v̂, from residuals of prompts read one by one.
        let mean = |model| {
            let residuals = residuals(model, &prompts, at);
            let n = residuals.len() as f64;
            let sum = |i: usize| residuals.iter().map(|residual| f64::from(residual[i])).sum::<f64>();
            (0..named.direction.values().len()).map(|i| sum(i) / n).collect::<Vec<f64>>()
        };
        let (before, after) = (mean(model()), mean(optimist()));
        let unit = named.direction.values().iter().map(|value| f64::from(*value));
        let expected: f64 = unit.enumerate().map(|(i, value)| (after[i] - before[i]) * value).sum();
        let found = shift.shift.mean;
        println!("{} at {at}: {:.4} -> {:.4}, {:?}", shift.trait_name, shift.base, shift.finetuned, shift.shift);
        assert!((found - expected).abs() < 1e-4 * expected.abs().max(1.0), "{found}, not {expected}");
        assert!((shift.finetuned - shift.base - found).abs() < 1e-9 * shift.base.abs().max(1.0));
        let interval = shift.shift.interval.expect("many prompts");
        assert!(interval.contains(found) && interval.low < interval.high);
    }
    let optimism = report.get("optimism", layer(7)).expect("measured").shift;
    let evil = report.get("evil", layer(7)).expect("measured").shift;
    assert!(optimism.interval.expect("many prompts").low > 0.0, "{optimism:?}");
    assert!(optimism.mean > evil.mean, "{optimism:?} and {evil:?}");
}

#[test]
fn a_planted_vector_is_found_at_its_length() {
    let width = model().config().d_model;
    let added: Vec<f32> = (0..width).map(|i| ((i * i) as f32 * 0.7).sin() * 0.3).collect();
    let wide: Vec<f64> = added.iter().map(|value| f64::from(*value)).collect();
    let length = wide.iter().map(|value| value * value).sum::<f64>().sqrt();
    // Orthogonal to the vector: neighbours swapped, one of them with its sign changed.
    let across: Vec<f64> = wide.chunks(2).flat_map(|pair| [-pair[1], pair[0]]).collect();
    let named = |name: &str, values: &[f64]| TraitDirection {
        trait_name: name.to_owned(),
        direction: UnitDirection::new(Layer::EMBEDDINGS, values).expect("a direction"),
    };
    let directions = [named("along", &wide), named("across", &across)];
    let report =
        finetuning_shift(model(), &planted(&added), &prompts(Trait::Evil), &directions, &BootstrapOptions::default());
    let report = report.expect("a shift");
    let [along, across] = [0, 1].map(|index| report.shifts[index].shift.mean);
    assert!((along - length).abs() < 1e-4 * length && across.abs() < 1e-4, "{along} of {length}, {across}");
    let interval = report.shifts[0].shift.interval.expect("many prompts");
    assert!(interval.high - interval.low < 1e-4, "every prompt moves alike: {interval:?}");
    assert_ne!(report.base.weights, report.finetuned.weights);
    let unweighed = |model: &ModelIdentity| ModelIdentity { weights: None, ..model.clone() };
    assert_eq!(unweighed(&report.base), unweighed(&report.finetuned), "nothing but the weights says which is which");
}

#[test]
fn a_table_serves_again_and_refuses_others() {
    let (prompts, directions) = (prompts(Trait::Evil), directions());
    let options = BootstrapOptions { resamples: 200, ..BootstrapOptions::default() };
    let (base, tuned) = (table(model(), &prompts, &directions), table(optimist(), &prompts, &directions));
    let report = base.shift_to(&tuned, &options).expect("a shift");
    let place = folder();
    let path = place.path().join("base.json");
    base.save(&path).expect("a writable folder");
    let loaded = ProjectionTable::load(&path).expect("a table");
    assert_eq!(loaded, base);
    loaded.check(model(), &prompts, &directions).expect("the same");
    assert_eq!(loaded.shift_to(&tuned, &options).expect("a shift"), report);
    let csv = report.to_csv().expect("a table");
    assert_eq!(csv.lines().count(), 1 + directions.len());
    assert!(csv.starts_with("base_model,finetuned_model,trait,layer,base,finetuned,shift,shift_low"), "{csv}");
    let read: pv_train::ShiftReport = serde_json::from_str(&report.to_json()).expect("JSON");
    assert_eq!(read.shifts.len(), report.shifts.len());

    let mismatch = |outcome: Result<(), MeasureError>| match outcome {
        Err(MeasureError::Mismatch { what, .. }) => what,
        other => panic!("{other:?}"),
    };
    assert_eq!(mismatch(loaded.check(optimist(), &prompts, &directions)), "weights' hash");
    assert_eq!(mismatch(loaded.check(&model().clone().named("x"), &prompts, &directions)), "model");
    assert_eq!(mismatch(loaded.check(model(), &prompts[1..], &directions)), "number of prompts");
    assert_eq!(mismatch(loaded.check(model(), &prompts, &directions[..3])), "number of directions");
    let shift = |other: &ProjectionTable| base.shift_to(other, &options).map(drop);
    let mut swapped = prompts.clone();
    swapped.swap(1, 2);
    assert_eq!(mismatch(shift(&table(optimist(), &swapped, &directions))), "hash of prompt 1");
    let mut others = directions.clone();
    others[2].direction = directions[0].direction.clone();
    assert_eq!(mismatch(shift(&table(optimist(), &prompts, &others))), "hash of direction 2");
    let mut holes = tuned.clone();
    holes.projections[3].pop();
    assert_eq!(mismatch(shift(&holes)), "number of projections");
    holes.projections.pop();
    assert_eq!(mismatch(shift(&holes)), "number of rows");
    let mut half = tuned;
    half.model.dtype = "F16".into();
    assert_eq!(mismatch(shift(&half)), "type");
    std::fs::write(&path, "{}").expect("a file");
    assert!(matches!(ProjectionTable::load(&path), Err(MeasureError::Json { .. })));
    assert!(matches!(ProjectionTable::load(place.path().join("no")), Err(MeasureError::File(FileError::Read { .. }))));
}

#[test]
fn what_cannot_be_projected_is_refused() {
    let (prompts, directions) = (prompts(Trait::Evil), directions());
    let measure = |prompts: &[Vec<u32>], directions: &[TraitDirection]| {
        ProjectionTable::measure(model(), prompts, directions, |_| ControlFlow::Continue(())).expect_err("refused")
    };
    assert!(matches!(measure(&[], &directions), MeasureError::BadSetting { .. }));
    assert!(matches!(measure(&[vec![]], &directions), MeasureError::Vectors(_)));
    assert!(matches!(measure(&prompts, &[]), MeasureError::Vectors(_)));
    let broken = ProjectionTable::measure(model(), &prompts, &directions, |_| ControlFlow::Break(()));
    assert!(matches!(broken, Err(MeasureError::Cancelled)));
    // Any training changes the mark of the weights, and nothing else does.
    let mark = |model: &CausalLm| model.identity().expect("weights").weights;
    assert_eq!(mark(model()), mark(&model().clone().named("another")));
    assert_ne!(mark(model()), mark(optimist()));
}
