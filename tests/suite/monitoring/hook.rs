//! The hook: its readings equal those of a scan, and it does not change the model.

use std::ops::ControlFlow;

use burn::tensor::Device;
use pv_hooks::{Capture, HookError, Layer, NoHook, Recorder};
use pv_model::batch::{Batch, Sequence};
use pv_model::causal_lm::ForwardOptions;
use pv_model::decoder::{Logits, to_f32};
use pv_model::generate::{Event, Generation};
use pv_model::{CausalLm, GenerateOptions, Request, Sampling};
use pv_steer::error::MonitorError;
use pv_steer::monitor::{Answer, At, Monitor, Reading, Watch};
use pv_steer::{Coefficient, Positions, Steerer};
use pv_tests::chat_model;
use pv_vectors::scan::{ScanOptions, scan};
use pv_vectors::vector::Pooling;
use pv_vectors::{Direction, UnitDirection};

fn devices() -> [Device; 3] {
    // The CPU's own kernels, the portable operations of all other backends, and a pass as in training.
    [Device::flex(), Device::flex().autodiff(), Device::flex().autodiff().gradient_checkpointing()]
}

fn raw(layer: usize, width: usize, seed: usize) -> Direction {
    let values = (0..width).map(|i| ((i * i + 31 * seed + layer) as f32 * 0.7).sin() * 3.0).collect();
    Direction { layer: Layer::hidden_state(layer), values, mean_residual_norm: None }
}

/// Several traits at several layers, out of order.
fn watches(model: &CausalLm) -> Vec<Watch> {
    let (last, width) = (model.config().layers, model.config().d_model);
    [("evil", 2), ("optimism", 0), ("evil", last), ("optimism", 2), ("humor", 2)]
        .into_iter()
        .enumerate()
        .map(|(seed, (name, layer))| Watch::new(name, raw(layer, width, seed).unit().expect("a direction")))
        .collect()
}

fn ids(seed: usize, len: usize) -> Vec<u32> {
    (0..len).map(|i| ((i * 31 + seed * 97 + 3) % 256) as u32).collect()
}

/// Prompts of many lengths, the second with answers that share its prefill.
fn requests() -> Vec<Request> {
    let lengths = [(5, 1), (11, 6), (3, 1), (17, 2), (1, 1), (8, 1)];
    lengths.iter().enumerate().map(|(i, (len, n))| Request::rollouts(ids(i, *len), *n, 100 * i as u64)).collect()
}

/// Small batches, so that rows leave and join all the time.
fn options() -> GenerateOptions {
    GenerateOptions {
        max_new_tokens: 24,
        sampling: Sampling::temperature(1.0),
        batch_size: 4,
        prefill_tokens: 40,
        feed_last_token: true,
        ..GenerateOptions::default()
    }
}

fn generate(model: &CausalLm, hook: &mut impl pv_hooks::Hook) -> Vec<Generation> {
    model.generate(&requests(), &options(), hook, |_| ControlFlow::Continue(())).expect("answers")
}

fn close(what: &str, ours: &[f32], expected: &[f32]) {
    assert_eq!(ours.len(), expected.len(), "{what}");
    for (ours, expected) in ours.iter().zip(expected) {
        let gap = (ours - expected).abs();
        assert!(gap <= 1e-5 * expected.abs().max(1.0), "{what}: {ours}, not {expected}");
    }
}

/// The readings of a scan of the same prompts and answers.
fn check_against_scan(model: &CausalLm, watches: &[Watch], texts: &[(Vec<u32>, Vec<u32>)], found: &[Answer]) {
    let items: Vec<Sequence<'_>> =
        texts.iter().map(|(prompt, response)| Sequence { prompt, response, rest: &[] }).collect();
    let directions: Vec<UnitDirection> = watches.iter().map(|watch| watch.direction.clone()).collect();
    let options = ScanOptions { response_tokens: true, ..ScanOptions::default() };
    let scanned = scan(model, &items, &directions, &options, |_, _| ControlFlow::Continue(())).expect("a scan");
    assert_eq!(scanned.items.len(), found.len());
    for (expected, ours) in scanned.items.iter().zip(found) {
        let pooled = |pooling| expected.pooled.get(&pooling).map(|pooled| pooled.projections.as_slice());
        let item = expected.item;
        close(&format!("prompt {item}"), ours.prompt_last().expect("read"), pooled(Pooling::PromptLast).expect("read"));
        assert_eq!(ours.tokens().nrows(), texts[item].1.len(), "answer {item}");
        match pooled(Pooling::ResponseMean) {
            None => assert!(ours.mean().is_none()),
            Some(mean) => close(&format!("mean of {item}"), &ours.mean().expect("tokens"), mean),
        }
        for number in 0..watches.len() {
            let tokens: Vec<f32> = ours.tokens().outer_iter().map(|row| row[number]).collect();
            close(&format!("tokens of {item}"), &tokens, expected.tokens(number).unwrap_or_default());
        }
    }
}

#[test]
fn readings_in_a_generation_equal_those_of_a_scan() {
    for device in devices() {
        for name in ["qwen2", "llama"] {
            let folder = tempfile::tempdir().expect("a folder");
            let model = chat_model(name, folder.path(), &device);
            let watches = watches(&model);
            let mut monitor = Monitor::new(watches.clone()).expect("a monitor");
            let answers = generate(&model, &mut monitor);
            assert!(answers.iter().any(|answer| answer.tokens.len() > 5));
            let prompts = requests().into_iter().flat_map(|r| vec![r.prompt; r.seeds.len()]);
            let texts: Vec<_> = prompts.zip(&answers).map(|(prompt, answer)| (prompt, answer.tokens.clone())).collect();
            let found = monitor.readings().take_all().expect("readings");
            assert!(found.keys().copied().eq(0..texts.len()));
            check_against_scan(&model, &watches, &texts, &found.into_values().collect::<Vec<_>>());
            assert!(monitor.readings().take_all().expect("readings").is_empty(), "they were taken");
        }
    }
}

#[test]
fn readings_in_a_padded_pass_equal_plain_loops() {
    for device in devices() {
        let folder = tempfile::tempdir().expect("a folder");
        let model = chat_model("qwen3", folder.path(), &device);
        let watches = watches(&model);
        let texts: Vec<(Vec<u32>, Vec<u32>)> = [(5, 3), (11, 0), (3, 20), (1, 1)]
            .iter()
            .enumerate()
            .map(|(i, (p, r))| (ids(i, *p), ids(50 + i, *r)))
            .collect();
        let sequences: Vec<Sequence<'_>> =
            texts.iter().map(|(prompt, response)| Sequence { prompt, response, rest: &[7, 8] }).collect();
        let batch = Batch::whole(&sequences).expect("a batch");
        let layers = [0, 2, model.config().layers].map(Layer::hidden_state);
        let recorder = Recorder::new(layers.into_iter().collect::<pv_hooks::LayerSet>(), [Capture::Everything]);
        let mut hooks = (recorder, Monitor::new(watches.clone()).expect("a monitor").with_prompt_tokens());
        model.forward(&batch, ForwardOptions::default(), &mut hooks).expect("a pass");
        let found = hooks.1.readings().take_all().expect("readings");
        for (sequence, (prompt, response)) in texts.iter().enumerate() {
            for (number, watch) in watches.iter().enumerate() {
                let residual = to_f32(hooks.0.tokens(sequence, watch.layer()).expect("recorded")).expect("numbers");
                let project = |row: &[f32]| {
                    let products = row.iter().zip(watch.direction.values()).map(|(a, b)| f64::from(*a) * f64::from(*b));
                    products.sum::<f64>() as f32
                };
                let expected: Vec<f32> = residual.chunks(model.config().d_model).map(project).collect();
                let answer = &found[&sequence];
                assert_eq!(answer.prompt_last().expect("read"), answer.prompt_tokens().row(prompt.len() - 1).to_vec());
                let (of_prompt, of_answer) = (answer.prompt_tokens(), answer.tokens());
                let tokens = of_prompt.outer_iter().chain(of_answer.outer_iter());
                let ours: Vec<f32> = tokens.map(|row| row[number]).collect();
                let expected = &expected[..prompt.len() + response.len()];
                close(&format!("sequence {sequence}, direction {number}"), &ours, expected);
            }
        }
    }
}

#[test]
fn the_prompt_is_read_on_request() {
    for device in devices() {
        let folder = tempfile::tempdir().expect("a folder");
        let model = chat_model("qwen2", folder.path(), &device);
        let watches = watches(&model);
        let monitor = || Monitor::new(watches.clone()).expect("a monitor");
        let mut hooks = (monitor(), monitor().with_prompt_tokens());
        generate(&model, &mut hooks);
        // Every reading is delivered: the prompt's tokens in order, its last token, the answer's tokens.
        let news = hooks.1.readings().news().expect("readings");
        let [plain, whole] = [&hooks.0, &hooks.1].map(|monitor| monitor.readings().take_all().expect("readings"));
        assert!(plain.keys().eq(whole.keys()));
        let prompts = requests().into_iter().flat_map(|r| vec![r.prompt; r.seeds.len()]);
        for (prompt, (sequence, answer)) in prompts.zip(&whole) {
            let without = &plain[sequence];
            assert!(without.prompt_tokens().is_empty());
            assert_eq!((answer.prompt_last(), answer.tokens()), (without.prompt_last(), without.tokens()));
            assert_eq!(answer.prompt_tokens().nrows(), prompt.len());
            // As in a pass over the prompt alone.
            let batch = Batch::whole(&[Sequence { prompt: &prompt, ..Sequence::default() }]).expect("a batch");
            let mut alone = monitor().with_prompt_tokens();
            model.forward(&batch, ForwardOptions::default(), &mut alone).expect("a pass");
            let alone = alone.readings().take(0).expect("readings").expect("one");
            for (ours, expected) in answer.prompt_tokens().outer_iter().zip(alone.prompt_tokens().outer_iter()) {
                close(&format!("the prompt of {sequence}"), &ours.to_vec(), &expected.to_vec());
            }
            let told: Vec<&Reading> = news.iter().filter(|reading| reading.sequence == *sequence).collect();
            let expected: Vec<Reading> = answer.readings(*sequence).collect();
            assert!(told.into_iter().eq(&expected), "news of {sequence}");
            let places = (0..prompt.len()).map(At::PromptToken).chain([At::PromptLast]);
            assert!(expected.iter().map(|reading| reading.at).zip(places).all(|(at, place)| at == place));
        }
    }
}

#[test]
fn monitoring_does_not_change_the_output() {
    for device in devices() {
        let folder = tempfile::tempdir().expect("a folder");
        let model = chat_model("qwen2", folder.path(), &device);
        let monitor = || Monitor::new(watches(&model)).expect("a monitor");
        assert_eq!(generate(&model, &mut NoHook), generate(&model, &mut monitor()));
        let (a, b) = (ids(1, 9), ids(2, 4));
        let batch = Batch::whole(
            &[Sequence { prompt: &a, response: &b, rest: &[] }, Sequence::default()]
                .map(|s| if s.prompt.is_empty() { Sequence { prompt: &b, response: &a, rest: &[] } } else { s }),
        );
        let batch = batch.expect("a batch");
        let logits = |hook: &mut dyn pv_hooks::Hook| {
            let options = ForwardOptions { logits: Logits::All, ..ForwardOptions::default() };
            let output = model.forward(&batch, options, hook).expect("a pass");
            let logits = to_f32(output.logits.expect("logits")).expect("numbers");
            logits.into_iter().map(f32::to_bits).collect::<Vec<_>>()
        };
        assert_eq!(logits(&mut NoHook), logits(&mut monitor()));
    }
}

#[test]
fn readings_stream() {
    let folder = tempfile::tempdir().expect("a folder");
    let model = chat_model("llama", folder.path(), &Device::flex());
    let mut monitor = Monitor::new(watches(&model)).expect("a monitor");
    let readings = monitor.readings();
    let (mut heard, mut tokens) = (Vec::<Reading>::new(), [0; 12]);
    let answers = model.generate(&requests(), &options(), &mut monitor, |event| {
        heard.extend(readings.news().expect("readings"));
        match event {
            Event::Prefill { .. } => assert!(heard.iter().any(|reading| reading.at == At::PromptLast)),
            Event::Token { sequence, .. } => {
                // The prompt's readings arrive before the first token, and each token's with the next one.
                let answer = readings.answer(sequence).expect("readings").expect("a sequence that has begun");
                assert!(answer.prompt_last().is_some() && answer.tokens().nrows() == tokens[sequence]);
                tokens[sequence] += 1;
            }
            Event::Finished { sequence, generation } => {
                let answer = readings.answer(sequence).expect("readings").expect("a sequence that has begun");
                assert_eq!(answer.tokens().nrows(), generation.tokens.len());
            }
            _ => {}
        }
        ControlFlow::Continue(())
    });
    assert_eq!(answers.expect("answers").len(), 12);
    // Most answers end during the run; the last ones end with it.
    let ended = heard.iter().filter(|reading| reading.at == At::ResponseMean).count();
    assert!((1..12).contains(&ended), "{ended}");
    heard.extend(readings.news().expect("readings"));
    assert!(readings.news().expect("readings").is_empty());
    // The delivered readings equal the stored ones.
    let whole = readings.take_all().expect("readings");
    for (sequence, answer) in &whole {
        let told: Vec<&Reading> = heard.iter().filter(|reading| reading.sequence == *sequence).collect();
        let expected: Vec<Reading> = answer.readings(*sequence).collect();
        assert!(told.into_iter().eq(expected.iter()), "sequence {sequence}");
    }
    // A run whose readings are not consumed ends with the same readings.
    let mut silent = Monitor::new(watches(&model)).expect("a monitor");
    generate(&model, &mut silent);
    assert_eq!(silent.readings().take_all().expect("readings"), whole);
}

#[test]
fn runs_do_not_share_readings() {
    let folder = tempfile::tempdir().expect("a folder");
    let model = chat_model("llama", folder.path(), &Device::flex());
    let mut monitor = Monitor::new(watches(&model)).expect("a monitor");
    let readings = monitor.readings();
    generate(&model, &mut monitor);
    assert!(readings.answer(11).expect("readings").is_some(), "readable after the run");
    let request = [Request::new(ids(9, 6), 0)];
    model.generate(&request, &options(), &mut monitor, |_| ControlFlow::Continue(())).expect("an answer");
    assert!(readings.answer(11).expect("readings").is_none());
    let first = readings.take(0).expect("readings").expect("a sequence");
    assert!(readings.answer(0).expect("readings").is_none() && readings.news().expect("readings").is_empty());
    let mut fresh = Monitor::new(watches(&model)).expect("a monitor");
    model.generate(&request, &options(), &mut fresh, |_| ControlFlow::Continue(())).expect("an answer");
    assert_eq!(fresh.readings().take(0).expect("readings"), Some(first));
}

/// The monitor records the residual after the hooks before it, and before the hooks after it.
#[test]
fn earlier_steering_is_visible() {
    let folder = tempfile::tempdir().expect("a folder");
    let model = chat_model("qwen2", folder.path(), &Device::flex());
    let direction = raw(2, model.config().d_model, 0);
    let watch = Watch::new("evil", direction.unit().expect("a direction"));
    let steer = || Steerer::new().add(&direction, Coefficient::Raw(0.5), Positions::All).expect("a steerer");
    let monitor = || Monitor::new([watch.clone()]).expect("a monitor");
    let prompt = ids(3, 7);
    let batch = Batch::prompts(&[&prompt], vec![vec![0]]).expect("a batch");
    let read = |hook: &mut dyn pv_hooks::Hook, readings: pv_steer::monitor::Readings| {
        model.forward(&batch, ForwardOptions::default(), hook).expect("a pass");
        readings.answer(0).expect("readings").expect("a sequence").prompt_last().expect("read")[0]
    };
    let mut plain = monitor();
    let readings = plain.readings();
    let plain = read(&mut plain, readings);
    let mut before = (steer(), monitor());
    let readings = before.1.readings();
    let shifted = read(&mut before, readings);
    let mut after = (monitor(), steer());
    let readings = after.0.readings();
    assert_eq!(read(&mut after, readings).to_bits(), plain.to_bits());
    let expected = f64::from(plain) + 0.5 * direction.norm();
    assert!((f64::from(shifted) - expected).abs() <= 1e-4 * expected.abs(), "{shifted}, not {expected}");
}

#[test]
fn invalid_watches_are_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let model = chat_model("llama", folder.path(), &Device::flex());
    let (last, width) = (model.config().layers, model.config().d_model);
    let watch = |layer, width| Watch::new("evil", raw(layer, width, 0).unit().expect("a direction"));
    assert!(matches!(Monitor::new([]), Err(pv_steer::Error::Monitor(MonitorError::NoWatches))));
    assert!(matches!(
        Monitor::new([watch(1, width), watch(1, width)]),
        Err(pv_steer::Error::Monitor(MonitorError::WatchedTwice { .. }))
    ));
    let refused = |watches: Vec<Watch>| {
        let mut monitor = Monitor::new(watches).expect("a monitor");
        match model.generate(&requests(), &options(), &mut monitor, |_| panic!("something was generated")) {
            Err(pv_model::Error::Hook(error)) => error,
            other => panic!("{other:?}"),
        }
    };
    assert!(matches!(refused(vec![watch(last + 1, width)]), HookError::LayerOutOfRange { .. }));
    let narrow = Watch::new("optimism", raw(1, width - 1, 0).unit().expect("a direction"));
    match refused(vec![watch(1, width), narrow]) {
        HookError::WidthMismatch { expected, found, .. } => assert_eq!((expected, found), (width, width - 1)),
        other => panic!("{other}"),
    }
}
