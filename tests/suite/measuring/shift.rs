//! The finetuning shift, compared with plain loops, and with a known shift.

use std::ops::ControlFlow;

use burn::tensor::{DType, Device, Tensor, TensorData};
use ndarray::s;
use pv_data::FileError;
use pv_hooks::{Capture, LayerSet, Recorder};
use pv_model::batch::{Batch, Sequence};
use pv_model::causal_lm::ForwardOptions;
use pv_model::decoder::to_f32;
use pv_model::{CausalLm, ModelIdentity};
use pv_organism::Trait;
use pv_train::measure::shift::{ProjectionTable, finetuning_shift};
use pv_train::measure::{BootstrapOptions, MeasureError};
use pv_vectors::{TraitDirection, UnitDirection};

use super::*;

fn directions() -> Vec<TraitDirection> {
    let layers: LayerSet = [layer(4), layer(7)].into_iter().collect();
    let of = |which| TraitDirection::of_vector(vector(which), &layers).expect("directions");
    [Trait::Optimism, Trait::Evil].into_iter().flat_map(of).collect()
}

fn table(model: &CausalLm, prompts: &[Vec<u32>], directions: &[TraitDirection]) -> ProjectionTable {
    ProjectionTable::measure(model, prompts, directions, |_| ControlFlow::Continue(())).expect("a table")
}

/// The last token's residual at a layer, one prompt at a time.
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
fn the_shift_of_a_model_from_itself_is_zero() {
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
fn the_shift_of_finetuning_equals_a_plain_loop_and_points_to_the_trait() {
    let (prompts, directions) = (prompts(Trait::Optimism), directions());
    let report =
        finetuning_shift(model(), optimist(), &prompts, &directions, &BootstrapOptions::default()).expect("a shift");
    for (shift, named) in report.shifts.iter().zip(&directions) {
        let at = named.direction.layer();
        assert_eq!((shift.layer, &shift.trait_name), (at, &named.trait_name));
        // (mean under one − mean under the other)·v̂, from residuals of prompts computed one by one.
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
fn a_known_shift_is_measured() {
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
fn a_table_can_be_reused_only_with_the_same_inputs() {
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
    let read: pv_train::measure::shift::ShiftReport = serde_json::from_str(&report.to_json()).expect("JSON");
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
    holes.projections = tuned.projections.slice(s![.., 1..]).to_owned();
    assert_eq!(mismatch(shift(&holes)), "number of projections");
    holes.projections = tuned.projections.slice(s![1.., ..]).to_owned();
    assert_eq!(mismatch(shift(&holes)), "number of rows");
    // A table is a list of rows in its file, as in earlier versions.
    let written: serde_json::Value = serde_json::to_value(&tuned).expect("JSON");
    assert_eq!(written["projections"][2][1], tuned.projections[[2, 1]]);
    let mut ragged = written;
    ragged["projections"][3].as_array_mut().expect("a row").pop();
    std::fs::write(&path, ragged.to_string()).expect("a file");
    assert!(matches!(ProjectionTable::load(&path), Err(MeasureError::Json { .. })));
    let mut half = tuned;
    half.model.dtype = "F16".into();
    assert_eq!(mismatch(shift(&half)), "type");
    std::fs::write(&path, "{}").expect("a file");
    assert!(matches!(ProjectionTable::load(&path), Err(MeasureError::Json { .. })));
    assert!(matches!(ProjectionTable::load(place.path().join("no")), Err(MeasureError::File(FileError::Read { .. }))));
}

/// The type in which weights are stored is not part of the architecture, though it is of the configuration's hash.
#[test]
fn a_copy_that_was_saved_in_another_type_is_compared() {
    let (prompts, directions) = (prompts(Trait::Evil), directions());
    let place = folder();
    model().save(place.path(), DType::BF16).expect("a writable folder");
    let copy = CausalLm::from_folder(place.path(), &Device::flex(), DType::F32).expect("a model");
    let options = BootstrapOptions::default();
    let report = finetuning_shift(model(), &copy, &prompts, &directions, &options).expect("a shift");
    assert_ne!(report.base.config_hash, report.finetuned.config_hash, "the copy is of the same type");
    for shift in &report.shifts {
        let rounding = shift.shift.mean.abs() / shift.base.abs();
        assert!(rounding < 0.05, "{shift:?}");
    }
    // Tables of earlier versions have only the hash of the configuration.
    let mut earlier = table(model(), &prompts, &directions);
    earlier.architecture = None;
    earlier.shift_to(&table(model(), &prompts, &directions), &options).expect("the same configuration");
    let error = earlier.shift_to(&table(&copy, &prompts, &directions), &options).expect_err("another hash");
    assert!(matches!(&error, MeasureError::Mismatch { what, .. } if what == "architecture"), "{error}");
}

#[test]
fn invalid_projections_are_refused() {
    let (prompts, directions) = (prompts(Trait::Evil), directions());
    let measure = |prompts: &[Vec<u32>], directions: &[TraitDirection]| {
        ProjectionTable::measure(model(), prompts, directions, |_| ControlFlow::Continue(())).expect_err("refused")
    };
    assert!(matches!(measure(&[], &directions), MeasureError::Setting(_)));
    assert!(matches!(measure(&[vec![]], &directions), MeasureError::Vectors(_)));
    assert!(matches!(measure(&prompts, &[]), MeasureError::Vectors(_)));
    let broken = ProjectionTable::measure(model(), &prompts, &directions, |_| ControlFlow::Break(()));
    assert!(matches!(broken, Err(MeasureError::Cancelled)));
    // Any training changes the hash of the weights, and nothing else does.
    let mark = |model: &CausalLm| model.identity().expect("weights").weights;
    assert_eq!(mark(model()), mark(&model().clone().named("another")));
    assert_ne!(mark(model()), mark(optimist()));
}
