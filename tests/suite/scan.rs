//! Projections of many texts: the scan, compared with separate full passes.

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use burn::tensor::{DType, Device};
use ndarray::Array2;
use pv_data::error::with_causes;
use pv_hooks::{Capture, HookError, Layer, LayerSet, Recorder};
use pv_model::CausalLm;
use pv_model::batch::{Batch, Sequence};
use pv_model::causal_lm::ForwardOptions;
use pv_model::decoder::to_f32;
use pv_tests::{Golden, golden_folders, root, smollm2};
use pv_vectors::scan::{Overlong, Projections, ScanOptions, Scanned, Skipped, scan};
use pv_vectors::vector::Pooling;
use pv_vectors::{Direction, Error, UnitDirection};
use serde_json::Value;

fn load(name: &str, device: &Device) -> CausalLm {
    CausalLm::from_folder(root().join("tests/golden").join(name), device, DType::F32).expect("a model folder")
}

fn direction(layer: usize, width: usize, seed: usize) -> UnitDirection {
    let values = (0..width).map(|i| ((i * i + 31 * seed + layer) as f32 * 0.7).sin() * 3.0).collect();
    Direction { layer: Layer::hidden_state(layer), values, mean_residual_norm: None }.unit().expect("a direction")
}

/// Directions at several layers, out of order, two of them at one layer.
fn directions(model: &CausalLm) -> Vec<UnitDirection> {
    let (last, width) = (model.config().layers, model.config().d_model);
    [(2, 0), (0, 1), (last, 2), (2, 3)].into_iter().map(|(layer, seed)| direction(layer, width, seed)).collect()
}

fn ids(vocab: usize, seed: usize, len: usize) -> Vec<u32> {
    (0..len).map(|i| ((i * 31 + seed * 97 + 3) % vocab) as u32).collect()
}

/// Prompts and responses of many lengths; some without a response, one without a prompt.
fn texts(vocab: usize) -> Vec<(Vec<u32>, Vec<u32>)> {
    let lengths = [(5, 3), (11, 0), (3, 20), (8, 1), (1, 1), (0, 6), (17, 9), (9, 0), (4, 4)];
    let lengths = lengths.into_iter().enumerate();
    lengths.map(|(i, (prompt, response))| (ids(vocab, i, prompt), ids(vocab, 50 + i, response))).collect()
}

fn sequences(texts: &[(Vec<u32>, Vec<u32>)]) -> Vec<Sequence<'_>> {
    texts.iter().map(|(prompt, response)| Sequence { prompt, response, rest: &[7, 8] }).collect()
}

fn everything() -> ScanOptions {
    ScanOptions {
        poolings: Pooling::ALL.to_vec(),
        response_tokens: true,
        cosines: true,
        batch_tokens: 40,
        ..ScanOptions::default()
    }
}

fn run(model: &CausalLm, items: &[Sequence<'_>], directions: &[UnitDirection], options: &ScanOptions) -> Projections {
    scan(model, items, directions, options, |_, _| ControlFlow::Continue(())).expect("projections")
}

/// One item by a full pass that records all layers, and products on the host in f64.
fn plain(model: &CausalLm, item: usize, sequence: &Sequence<'_>, directions: &[UnitDirection]) -> Scanned {
    let width = model.config().d_model;
    let captures = [Capture::ResponseMean, Capture::PromptMean, Capture::PromptLast, Capture::Everything];
    let mut recorder = Recorder::new(LayerSet::All, captures);
    let batch = Batch::whole(std::slice::from_ref(sequence)).expect("a sequence");
    model.forward(&batch, ForwardOptions::default(), &mut recorder).expect("a pass");
    let mut expected = Scanned { item, ..Scanned::default() };
    for (pooling, capture, any) in [
        (Pooling::ResponseMean, Capture::ResponseMean, !sequence.response.is_empty()),
        (Pooling::PromptMean, Capture::PromptMean, !sequence.prompt.is_empty()),
        (Pooling::PromptLast, Capture::PromptLast, !sequence.prompt.is_empty()),
    ] {
        for unit in directions.iter().filter(|_| any) {
            let values = to_f32(recorder.get(&capture, unit.layer()).expect("recorded")).expect("values");
            let pooled = expected.pooled.entry(pooling).or_default();
            pooled.projections.push(unit.projection(&values).expect("one width") as f32);
            pooled.cosines.get_or_insert_default().push(unit.cosine(&values).expect("one width") as f32);
        }
    }
    if !sequence.response.is_empty() {
        let tokens = |unit: &UnitDirection| {
            let values = to_f32(recorder.tokens(0, unit.layer()).expect("recorded")).expect("values");
            let rows = values.chunks(width).skip(sequence.prompt.len()).take(sequence.response.len());
            rows.map(|row| unit.projection(row).expect("one width") as f32).collect::<Vec<f32>>()
        };
        let (shape, values) = ((directions.len(), sequence.response.len()), directions.iter().flat_map(tokens));
        expected.response_tokens = Some(Array2::from_shape_vec(shape, values.collect()).expect("a table"));
    }
    expected
}

/// The greatest difference between two items' numbers, which must be of the same kinds.
fn gap(ours: &Scanned, expected: &Scanned) -> f32 {
    assert_eq!(ours.item, expected.item);
    assert!(ours.pooled.keys().eq(expected.pooled.keys()), "item {}: {:?}", ours.item, ours.pooled.keys());
    let flat = |scanned: &Scanned| -> Vec<f32> {
        let pooled = scanned.pooled.values();
        let pooled = pooled.flat_map(|p| p.projections.iter().chain(p.cosines.iter().flatten()).copied());
        let tokens = scanned.response_tokens.iter().flatten().copied();
        pooled.chain(tokens).collect()
    };
    let (ours, expected) = (flat(ours), flat(expected));
    assert_eq!(ours.len(), expected.len());
    let gaps = ours.iter().zip(&expected).map(|(a, b)| if a.is_finite() { (a - b).abs() } else { f32::INFINITY });
    gaps.fold(0.0, f32::max)
}

#[test]
fn a_scan_equals_separate_full_passes() {
    let mut worst: f32 = 0.0;
    for folder in golden_folders() {
        let model = CausalLm::from_folder(&folder, &Device::flex(), DType::F32).expect("a model folder");
        let directions = directions(&model);
        let texts = texts(model.config().vocab);
        let items = sequences(&texts);
        let found = run(&model, &items, &directions, &everything());
        assert_eq!(found.items.len(), items.len());
        for (item, (scanned, sequence)) in found.items.iter().zip(&items).enumerate() {
            let gap = gap(scanned, &plain(&model, item, sequence, &directions));
            assert!(gap <= 1e-5, "{}: item {item} is off by {gap:.1e}", folder.display());
            worst = worst.max(gap);
        }
    }
    println!("worst difference of a projection: {worst:.1e}");
}

#[test]
fn batch_size_and_order_do_not_matter() {
    // The CPU's kernels, and the portable operations of all other backends.
    for device in [Device::flex(), Device::flex().autodiff().gradient_checkpointing()] {
        let model = load("qwen3", &device);
        let directions = directions(&model);
        let texts = texts(model.config().vocab);
        let items = sequences(&texts);
        let reference = run(&model, &items, &directions, &everything());
        for batch_tokens in [0, 1, 25, 100_000] {
            let found = run(&model, &items, &directions, &ScanOptions { batch_tokens, ..everything() });
            for (ours, expected) in found.items.iter().zip(&reference.items) {
                assert!(gap(ours, expected) <= 1e-5, "{batch_tokens}");
            }
        }
        let backwards: Vec<Sequence<'_>> = items.iter().rev().copied().collect();
        let found = run(&model, &backwards, &directions, &everything());
        for (mut ours, expected) in found.items.into_iter().rev().zip(&reference.items) {
            ours.item = items.len() - 1 - ours.item;
            assert!(gap(&ours, expected) <= 1e-5);
        }
    }
}

#[test]
fn only_requested_values_are_returned() {
    let model = load("llama", &Device::flex());
    let directions = directions(&model);
    let texts = texts(model.config().vocab);
    let items = sequences(&texts);
    let all = run(&model, &items, &directions, &everything());
    // If nothing of the response is requested, it is not computed, and its length does not matter.
    let options = ScanOptions { poolings: vec![Pooling::PromptLast], max_tokens: Some(17), ..ScanOptions::default() };
    let error = scan(&model, &items, &directions, &options, |_, _| ControlFlow::Continue(()));
    assert!(matches!(error, Err(Error::BadItem { item: 5, .. })), "an item without a prompt has nothing to read");
    let some: Vec<Sequence<'_>> = items.iter().filter(|item| !item.prompt.is_empty()).copied().collect();
    for scanned in run(&model, &some, &directions, &options).items {
        assert!(scanned.pooled.keys().eq(&[Pooling::PromptLast]));
        assert_eq!((scanned.cosine(Pooling::PromptLast, 0), scanned.tokens(0)), (None, None));
        let item = scanned.item + usize::from(scanned.item >= 5);
        let expected = all.items[item].projection(Pooling::PromptLast, 2).expect("a number");
        assert!((scanned.projection(Pooling::PromptLast, 2).expect("a number") - expected).abs() <= 1e-5);
        assert_eq!(scanned.projection(Pooling::PromptLast, 4), None);
    }
    // A prompt without a response has no response mean.
    let prompts = [Sequence { prompt: &[3, 4], ..Sequence::default() }];
    let options = ScanOptions { poolings: vec![Pooling::ResponseMean], response_tokens: true, ..everything() };
    assert_eq!(run(&model, &prompts, &directions, &options).items, [Scanned::default()]);
}

#[test]
fn a_scan_resumes_after_an_interruption() {
    let model = load("qwen2", &Device::flex());
    let directions = directions(&model);
    let texts = texts(model.config().vocab);
    let items = sequences(&texts);
    let whole = run(&model, &items, &directions, &everything());
    let mut lines = Vec::new();
    let broken = scan(&model, &items, &directions, &everything(), |scanned, progress| {
        lines.push(serde_json::to_string(scanned).expect("JSON"));
        assert_eq!((progress.done, progress.total), (lines.len(), 9));
        if progress.done == 4 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    assert!(matches!(broken, Err(Error::Cancelled)));
    let mut kept: Vec<Scanned> = lines.iter().map(|line| serde_json::from_str(line).expect("an item")).collect();
    assert_eq!(kept.len(), 4);
    let done: BTreeSet<usize> = kept.iter().map(|scanned| scanned.item).collect();
    let rest = run(&model, &items, &directions, &ScanOptions { done, ..everything() });
    assert_eq!(rest.items.len(), 5);
    kept.extend(rest.items);
    kept.sort_by_key(|scanned| scanned.item);
    for (ours, expected) in kept.iter().zip(&whole.items) {
        assert!(gap(ours, expected) <= 1e-5);
    }
}

#[test]
fn invalid_input_is_refused_before_anything_runs() {
    let model = load("llama", &Device::flex());
    let width = model.config().d_model;
    let (vocab, last) = (model.config().vocab as u32, model.config().layers);
    let good = directions(&model);
    let text = |prompt: &'static [u32]| Sequence { prompt, response: &[5], rest: &[] };
    let refused = |items: &[Sequence<'_>], directions: &[UnitDirection], options: &ScanOptions| {
        let result = scan(&model, items, directions, options, |_, _| panic!("something was read"));
        result.expect_err("refused")
    };
    let options = ScanOptions::default();
    let error = refused(&[text(&[1])], &[], &options);
    assert!(matches!(error, Error::Setting(_)), "{error}");
    let nothing = ScanOptions { poolings: vec![], ..ScanOptions::default() };
    assert!(matches!(refused(&[text(&[1])], &good, &nothing), Error::Setting(_)));
    let error = refused(&[text(&[1])], &[direction(last + 1, width, 0)], &options);
    assert!(matches!(error, Error::Hook(HookError::LayerOutOfRange { .. })), "{error}");
    let error = refused(&[text(&[1])], &[direction(1, width + 1, 0)], &options);
    assert!(matches!(error, Error::Hook(HookError::WidthMismatch { .. })), "{error}");
    for bad in [vec![vocab], vec![0, u32::MAX]] {
        let error = refused(&[text(&[1]), Sequence { prompt: &[2], response: &bad, rest: &[] }], &good, &options);
        assert!(matches!(error, Error::BadItem { item: 1, .. }), "{error}");
    }
    let error = refused(&[text(&[1]), text(&[2]), Sequence::default()], &good, &options);
    assert_eq!(with_causes(&error), "cannot read item 2: it has no tokens");

    let long = vec![1; model.config().max_positions];
    let items = [text(&[1]), Sequence { prompt: &long, response: &[1], rest: &[] }, text(&[2, 3])];
    let error = refused(&items, &good, &options);
    let limit = model.config().max_positions;
    assert_eq!(
        with_causes(&error),
        format!("cannot read item 1: it has {} tokens, but the limit is {limit}", limit + 1)
    );
    let skip = ScanOptions { overlong: Overlong::Skip, max_tokens: Some(2), ..options };
    let found = run(&model, &items, &good, &skip);
    let skipped = |item, tokens| Skipped { item, tokens, limit: 2 };
    assert_eq!(found.skipped, [skipped(1, limit + 1), skipped(2, 3)]);
    assert_eq!(found.items.iter().map(|scanned| scanned.item).collect::<Vec<_>>(), [0]);
    // An empty list is not an error.
    assert_eq!(run(&model, &[], &good, &skip), Projections::default());
}

#[test]
fn a_real_models_projections_equal_those_of_transformers() {
    let model = CausalLm::from_folder(smollm2(), &pv_model::device("flex").expect("the CPU"), DType::F32);
    let model = model.expect("the model");
    let golden = Golden::open(&root().join("tests/golden/smollm2"));
    let cases = golden.setting("/cases").as_array().expect("cases");
    let ids = |case: &Value| -> Vec<u32> { serde_json::from_value(case["token_ids"].clone()).expect("token ids") };
    let texts: Vec<(Vec<u32>, Vec<u32>)> = cases
        .iter()
        .map(|case| {
            let mut prompt = ids(case);
            let response = prompt.split_off(case["prompt_len"].as_u64().expect("a length") as usize);
            (prompt, response)
        })
        .collect();
    let width = model.config().d_model;
    let layers = [0, 7, 15, 29];
    let directions: Vec<UnitDirection> = layers.iter().map(|layer| direction(*layer, width, 1)).collect();
    let options = ScanOptions { cosines: true, poolings: Pooling::ALL.to_vec(), ..ScanOptions::default() };
    let found = run(&model, &sequences(&texts), &directions, &options);
    assert!(!found.items.is_empty());
    let mut worst: f64 = 0.0;
    for scanned in &found.items {
        let names = [
            (Pooling::ResponseMean, "response_avg"),
            (Pooling::PromptMean, "prompt_avg"),
            (Pooling::PromptLast, "prompt_last"),
        ];
        for (pooling, name) in names {
            let table = golden.floats(&format!("{}.{name}", scanned.item));
            for (number, unit) in directions.iter().enumerate() {
                let reference = &table[unit.layer().index() * width..][..width];
                let size = reference.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt();
                let projection = f64::from(scanned.projection(pooling, number).expect("a number"));
                let cosine = f64::from(scanned.cosine(pooling, number).expect("a number"));
                let expected = unit.projection(reference).expect("one width");
                // In units of the activation, like the cosine.
                let gap = ((projection - expected) / size).abs().max((cosine - expected / size).abs());
                assert!(gap <= 1e-5, "{name} of case {} at {}: {gap:.1e}", scanned.item, unit.layer());
                worst = worst.max(gap);
            }
        }
    }
    println!("worst difference of a projection, relative to the activation: {worst:.1e}");
}
