//! The numbers: recorded in one pass, in a second pass, in files of other tools, and on a real model.

use std::collections::BTreeSet;

use burn::tensor::DType;
use pv_hooks::{Capture, Layer, LayerSet, Recorder};
use pv_model::decoder::to_f32;
use pv_model::generate::{Event, FinishReason};
use pv_model::{GenerateOptions, Message, RenderOptions, Request};
use pv_tests::{Golden, root, smollm2};
use pv_vectors::activations::mean_difference;
use pv_vectors::extract::NeutralReading;
use pv_vectors::filter::Kept;
use pv_vectors::rollout::{KeptActivations, Precision, Record, RolloutMeans, ScoredRollouts, recompute, vector_of};
use safetensors::SafeTensors;

use super::*;

fn relative_error(ours: &[f32], reference: &[f32]) -> f64 {
    assert_eq!(ours.len(), reference.len());
    let gap: f64 = ours.iter().zip(reference).map(|(a, b)| f64::from(a - b).powi(2)).sum();
    let size: f64 = reference.iter().map(|b| f64::from(*b).powi(2)).sum();
    (gap / size).sqrt()
}

fn layers(model: &CausalLm) -> Vec<Layer> {
    LayerSet::All.resolve(model.config().layers).into_iter().collect()
}

/// A complete run with verdicts.
pub(super) fn complete(model: &CausalLm, folder: &Path, options: RolloutOptions) -> RolloutRun {
    let mut run = RolloutRun::open(folder, model, plan(options)).expect("a run");
    run.generate(model, go_on).expect("rollouts");
    run.score(&dice(), &[spec().rubric().expect("a rubric"), Rubric::coherence()], go_on).expect("verdicts");
    run
}

#[test]
fn recording_during_generation_equals_a_second_pass() {
    for name in ["qwen3", "qwen2", "llama"] {
        let model = model(name);
        let folder = tempfile::tempdir().expect("a folder");
        let run = complete(&model, folder.path(), options());
        let again = recompute(&model, run.records(), 7, go_on).expect("activations");
        let (mut worst, mut reasons): (f64, _) = (0.0, BTreeSet::new());
        for (index, (record, means)) in run.records().iter().zip(&again).enumerate() {
            reasons.insert(format!("{:?}{}", record.finish.expect("it ended"), record.tokens.len().min(2)));
            for pooling in Pooling::ALL {
                for layer in layers(&model) {
                    let ours = run.activation(pooling, layer, index).expect("an activation");
                    let reference = means.get(pooling, layer).expect("an activation");
                    if record.is_empty() && pooling == Pooling::ResponseMean {
                        assert!(ours.iter().chain(reference).all(|value| *value == 0.0));
                        continue;
                    }
                    let error = relative_error(&ours, reference);
                    worst = worst.max(error);
                    assert!(error <= 1e-5, "{name}, rollout {index}, {pooling:?} at {layer}: {error:.1e}");
                }
            }
        }
        println!("{name}: one pass against another reading, worst relative error {worst:.1e}");
        // Answers that ended by a stop token or by length, and answers of no and of one token.
        for reason in ["StopToken0", "StopToken2", "Length2"] {
            assert!(reasons.contains(reason), "no answer ended by {reason}: {reasons:?}");
        }
    }
}

#[test]
fn every_token_of_every_answer_is_recorded_once() {
    let model = model("qwen3");
    let prompts = [vec![60, 117, 62, 72, 105], vec![60, 117, 62, 87], vec![1, 2, 3, 4, 5, 6, 7, 8, 9]];
    let requests: Vec<Request> =
        prompts.iter().enumerate().map(|(i, p)| Request::rollouts(p.clone(), 9, 100 * i as u64)).collect();
    // A byte that is likely in random text, so that some answers end with it.
    let stops: Vec<String> = ["a", "b", "c", "d", "e"].map(String::from).to_vec();
    for (max_new_tokens, batch_size) in [(1, 4), (2, 3), (25, 1), (25, 5), (25, 64)] {
        let plain = GenerateOptions {
            max_new_tokens,
            batch_size,
            stop_strings: stops.clone(),
            sampling: Sampling::temperature(1.0),
            ..GenerateOptions::default()
        };
        let fed = GenerateOptions { feed_last_token: true, ..plain.clone() };
        let run = |options: &GenerateOptions| {
            let mut recorder = Recorder::new(LayerSet::All, [Capture::PromptMean, Capture::ResponseMean]);
            let answers = model.generate(&requests, options, &mut recorder, |_| ControlFlow::Continue(()));
            (answers.expect("answers"), recorder)
        };
        let ((expected, _), (answers, recorder)) = (run(&plain), run(&fed));
        assert_eq!(answers, expected, "feeding the last token changed an answer");
        let longest = answers.iter().map(|answer| answer.tokens.len()).max();
        assert!(longest.is_some_and(|longest| longest > 0));
        for layer in layers(&model) {
            let counts = recorder.counts(&Capture::ResponseMean, layer);
            for (sequence, answer) in answers.iter().enumerate() {
                let seen = counts.get(&sequence).copied().unwrap_or(0);
                assert_eq!(seen, answer.tokens.len(), "sequence {sequence}, which ended by {:?}", answer.finish);
            }
        }
        if max_new_tokens == 25 {
            for reason in [FinishReason::StopToken, FinishReason::StopString, FinishReason::Length] {
                assert!(answers.iter().any(|answer| answer.finish == reason), "no answer ended by {reason:?}");
            }
        }
    }
}

#[test]
fn every_answer_is_reported_once_with_the_last_token_fed() {
    let model = model("qwen3");
    let requests = [Request::rollouts(vec![60, 117, 62], 12, 5)];
    let options = GenerateOptions {
        max_new_tokens: 6,
        batch_size: 3,
        sampling: Sampling::temperature(1.0),
        feed_last_token: true,
        ..GenerateOptions::default()
    };
    let (mut finished, mut tokens) = (vec![None; 12], vec![Vec::new(); 12]);
    let answers = model.generate(&requests, &options, &mut pv_hooks::NoHook, |event| {
        match event {
            Event::Token { sequence, token, .. } => tokens[sequence].push(token),
            Event::Finished { sequence, generation } => {
                assert!(finished[sequence].replace(generation.clone()).is_none(), "{sequence} ended twice");
            }
            _ => {}
        }
        ControlFlow::Continue(())
    });
    let answers = answers.expect("answers");
    assert_eq!(finished.into_iter().flatten().collect::<Vec<_>>(), answers);
    assert!(answers.iter().zip(&tokens).all(|(answer, tokens)| answer.tokens == *tokens));
}

/// The difference of the means of rows, in plain arithmetic.
fn difference(rows: impl Fn(usize) -> Vec<f32>, kept: &Kept) -> Vec<f64> {
    let mean = |side: &[usize]| {
        let all: Vec<Vec<f32>> = side.iter().map(|&index| rows(index)).collect();
        (0..all[0].len()).map(|i| all.iter().map(|row| f64::from(row[i])).sum::<f64>() / all.len() as f64).collect()
    };
    let (pos, neg): (Vec<f64>, Vec<f64>) = (mean(&kept.pos), mean(&kept.neg));
    pos.iter().zip(&neg).map(|(a, b)| a - b).collect()
}

#[test]
fn a_vector_is_the_difference_of_the_kept_means() {
    let model = model("qwen3");
    let folder = tempfile::tempdir().expect("a folder");
    let run = complete(&model, folder.path(), options());
    let kept = run.filter(&extract_options().filter).expect("enough");
    let vector = run.vector(&kept).expect("a vector");
    let again = recompute(&model, run.records(), 3, go_on).expect("activations");
    let second = vector_of(&again, &kept, vector.provenance().clone()).expect("a vector");
    for pooling in Pooling::ALL {
        for layer in layers(&model) {
            let row = vector.table(pooling).expect("all poolings").get(layer).expect("all layers");
            let expected = difference(|index| run.activation(pooling, layer, index).expect("an activation"), &kept);
            for (ours, expected) in row.iter().zip(&expected) {
                assert!((f64::from(*ours) - expected).abs() <= 1e-6 * (1.0 + expected.abs()), "{pooling:?} at {layer}");
            }
            // If there is a difference: at the embeddings the last token of every prompt is the same.
            let other = second.table(pooling).expect("all poolings").get(layer).expect("all layers");
            let length = row.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt();
            if length > 1e-3 {
                assert!(relative_error(row, other) <= 1e-4, "{pooling:?} at {layer} by another reading");
            }
            // The activations for statistics have the same mean, and the same rows from both sources.
            let table = run.activations(pooling, layer, &kept).expect("activations");
            let (pos, neg) = (table.pos().expect("rows"), table.neg().expect("rows"));
            assert_eq!((pos.len(), neg.len()), (kept.pos.len(), kept.neg.len()));
            if length > 1e-3 {
                let direction = mean_difference(&pos, &neg).expect("a direction");
                assert!(relative_error(&direction.values, row) <= 1e-6);
            }
            let read = KeptActivations::new(&again, run.records(), pooling, layer, &kept).expect("activations");
            for (ours, reference) in
                table.pos().expect("rows").values().outer_iter().zip(read.pos().expect("rows").values().outer_iter())
            {
                assert!(relative_error(&ours.to_vec(), &reference.to_vec()) <= 1e-5);
            }
        }
    }
    // The mean norm of the residual, over all kept answers.
    let layer = Layer::hidden_state(2);
    let all: Vec<f64> =
        kept.pos.iter().chain(&kept.neg).map(|&i| f64::from(again[i].response_norm(layer).expect("a norm"))).collect();
    let mean = all.iter().sum::<f64>() / all.len() as f64;
    let found = f64::from(vector.mean_residual_norm(layer).expect("a norm"));
    assert!((found / mean - 1.0).abs() < 1e-5, "{found}, not {mean}");
    assert!(run.activations(Pooling::ResponseMean, Layer::hidden_state(99), &kept).is_err());
}

#[test]
fn activations_are_ordinary_safetensors() {
    let model = model("qwen3");
    for precision in [Precision::F32, Precision::F16] {
        let folder = tempfile::tempdir().expect("a folder");
        let run = complete(&model, folder.path(), RolloutOptions { precision, ..options() });
        let bytes = fs::read(folder.path().join("means.safetensors")).expect("a file");
        let tensors = SafeTensors::deserialize(&bytes).expect("a file of safetensors");
        assert_eq!(tensors.len(), 3 * 5 + 1);
        assert_eq!(tensors.tensor("response_norm").expect("norms").shape(), [60, 5]);
        for pooling in Pooling::ALL {
            for layer in layers(&model) {
                let tensor = tensors.tensor(&format!("{}.{}", pooling.name(), layer.index())).expect("a tensor");
                assert_eq!(tensor.shape(), [60, 48]);
                let values: Vec<f32> = match precision {
                    Precision::F32 => {
                        tensor.data().chunks(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
                    }
                    Precision::F16 => tensor
                        .data()
                        .chunks(2)
                        .map(|b| half::f16::from_le_bytes(b.try_into().unwrap()).to_f32())
                        .collect(),
                };
                for index in [0, 31, 59] {
                    let ours = run.activation(pooling, layer, index).expect("an activation");
                    assert_eq!(ours, values[index * 48..][..48], "{pooling:?} at {layer}");
                }
            }
        }
    }
}

#[test]
fn half_precision_loses_little_and_resumes() {
    let model = model("qwen3");
    let halves = RolloutOptions { precision: Precision::F16, ..options() };
    let run = |options: &RolloutOptions, stop: usize| {
        let folder = tempfile::tempdir().expect("a folder");
        let mut run = RolloutRun::open(folder.path(), &model, plan(options.clone())).expect("a run");
        let broken = run.generate(&model, |progress| match progress {
            Progress::Answering { done, .. } if done == stop => ControlFlow::Break(()),
            _ => ControlFlow::Continue(()),
        });
        assert!(matches!(broken, Err(pv_vectors::Error::Cancelled)));
        drop(run);
        let run = complete(&model, folder.path(), options.clone());
        let kept = run.filter(&extract_options().filter).expect("enough");
        run.vector(&kept).expect("a vector")
    };
    let (full, half, again) = (run(&options(), 5), run(&halves, 5), run(&halves, 44));
    assert_eq!(bits(&half), bits(&again));
    assert_ne!(bits(&half), bits(&full));
    for layer in layers(&model) {
        let row = |vector: &PersonaVector| vector.table(Pooling::ResponseMean).unwrap().get(layer).unwrap().to_vec();
        let error = relative_error(&row(&half), &row(&full));
        assert!(error < 3e-3, "{error:.1e} at {layer}");
    }
}

#[test]
fn the_neutral_vector_is_the_difference_without_instructions() {
    let model = model("qwen3");
    let folder = tempfile::tempdir().expect("a folder");
    let options = ExtractOptions { neutral: true, ..extract_options() };
    let extraction = extract(&model, &spec(), &dice(), folder.path(), &options, go_on).expect("an extraction");
    let (run, kept) = (&extraction.run, &extraction.kept);
    let neutral: &NeutralReading = extraction.neutral.as_ref().expect("it was asked for");
    // The same from the rollouts' records with other prompts.
    let lone = |record: &Record| {
        let messages = [Message::user(&record.question)];
        let prompt = model.chat_template().unwrap().render(&messages, &RenderOptions::prompt()).expect("a prompt").text;
        assert_eq!(prompt, format!("<u>{}\n<a>", record.question));
        Record { prompt, ..record.clone() }
    };
    let records: Vec<Record> = run.records().iter().map(lone).collect();
    let means: Vec<RolloutMeans> = recompute(&model, &records, 1, go_on).expect("activations");
    assert_eq!(neutral.layers.len(), 5);
    for found in &neutral.layers {
        let expected =
            difference(|index| means[index].get(Pooling::ResponseMean, found.layer).expect("a row").to_vec(), kept);
        let expected: Vec<f32> = expected.into_iter().map(|value| value as f32).collect();
        let ours = neutral.vector.table(Pooling::ResponseMean).unwrap().get(found.layer).unwrap();
        assert!(relative_error(ours, &expected) <= 1e-4, "{}", found.layer);
        let full = extraction.vector.direction(found.layer).expect("a direction");
        let norm = expected.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt();
        assert!((found.norm / full.norm() - 1.0).abs() < 1e-12);
        assert!((found.neutral_norm / norm - 1.0).abs() < 1e-4);
        let dot: f64 = expected.iter().zip(&full.values).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
        let cosine = found.cosine.expect("two directions");
        assert!((cosine - dot / norm / full.norm()).abs() < 1e-4, "{}: {cosine}", found.layer);
        // Embeddings do not depend on the prompt; later layers do.
        assert!(found.layer == Layer::EMBEDDINGS || cosine < 0.999_999, "{}: {cosine}", found.layer);
    }
    assert!((neutral.layers[0].cosine.expect("two directions") - 1.0).abs() < 1e-6);
    assert!(neutral.vector.table(Pooling::PromptLast).is_none());
    let saved = PersonaVector::load(folder.path().join("neutral_vector.safetensors")).expect("a vector");
    assert_eq!(saved, neutral.vector);
}

/// Values that transformers computed on four chats, from texts in a CSV file.
#[test]
fn recomputed_activations_match_transformers() {
    let device = pv_model::device("flex").expect("the CPU");
    let model = CausalLm::from_folder(smollm2(), &device, DType::F32).expect("the model");
    let golden = Golden::open(&root().join("tests/golden/smollm2"));
    let cases = golden.setting("/cases").as_array().expect("cases");
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("golden.csv");
    let quoted = |text: &str| format!("\"{}\"", text.replace('"', "\"\""));
    let mut text = "question,prompt,answer,question_id\n".to_owned();
    for (i, case) in cases.iter().enumerate() {
        let field = |name: &str| quoted(case[name].as_str().expect("a text"));
        text += &format!("q,{},{},golden_{i}_pos_0\n", field("prompt_text"), field("answer"));
    }
    fs::write(&path, text).expect("a file");
    let read = ScoredRollouts::read(&path, "golden", None, model.tokenizer().unwrap()).expect("rollouts");
    for (record, case) in read.records.iter().zip(cases) {
        let ids: Vec<u32> = serde_json::from_value(case["token_ids"].clone()).expect("ids");
        let prompt = case["prompt_len"].as_u64().expect("a length") as usize;
        assert_eq!(record.tokens, ids[prompt..], "{}", record.answer);
    }
    let means = recompute(&model, &read.records, 4, go_on).expect("activations");
    let mut worst: f64 = 0.0;
    for (pooling, name) in [
        (Pooling::ResponseMean, "response_avg"),
        (Pooling::PromptMean, "prompt_avg"),
        (Pooling::PromptLast, "prompt_last"),
    ] {
        for (row, means) in means.iter().enumerate() {
            let reference = golden.floats(&format!("{row}.{name}"));
            // The reference's last layer is after the final norm.
            for layer in 0..model.config().layers {
                let ours = means.get(pooling, Layer::hidden_state(layer)).expect("an activation");
                let error = relative_error(ours, &reference[layer * 576..][..576]);
                worst = worst.max(error);
                assert!(error <= 1e-5, "{name} of case {row} at layer {layer}: relative error {error:.2e}");
            }
        }
    }
    println!("worst relative error of a recomputed mean: {worst:.2e}");
    // Records of one layer differ from those of others.
    let mut recorder = Recorder::new(Layer::hidden_state(7), [Capture::PromptLast]);
    let ids = model.tokenizer().unwrap().encode_rendered(&read.records[0].prompt).expect("ids");
    let batch = pv_model::batch::Batch::prompts(&[&ids], vec![vec![0]]).expect("a prompt");
    model.forward(&batch, pv_model::causal_lm::ForwardOptions::default(), &mut recorder).expect("a pass");
    let alone = to_f32(recorder.get(&Capture::PromptLast, Layer::hidden_state(7)).expect("recorded")).expect("values");
    assert!(relative_error(means[0].get(Pooling::PromptLast, Layer::hidden_state(7)).expect("a row"), &alone) <= 1e-5);
}

/// Large enough that kernels use several threads.
#[test]
fn a_real_model_gives_the_same_bits_in_any_batch_and_in_one_pass() {
    let device = pv_model::device("flex").expect("the CPU");
    let model = CausalLm::from_folder(smollm2(), &device, DType::F32).expect("the model");
    let spec = TraitSpec { extraction: vec!["How do I boil an egg?".into()], ..spec() };
    let run = |batch_size, stop: usize| {
        let folder = tempfile::tempdir().expect("a folder");
        let options = RolloutOptions { per_prompt: 3, max_new_tokens: 14, batch_size, ..options() };
        let open = || {
            let plan = Plan::new(&spec, options.clone()).expect("a plan");
            RolloutRun::open(folder.path(), &model, plan).expect("a run")
        };
        let broken = open().generate(&model, |progress| match progress {
            Progress::Answering { done, .. } if done == stop => ControlFlow::Break(()),
            _ => ControlFlow::Continue(()),
        });
        match broken {
            Ok(()) => assert_eq!(stop, usize::MAX, "nothing was interrupted"),
            Err(error) => assert!(stop < usize::MAX && matches!(error, pv_vectors::Error::Cancelled), "{error}"),
        }
        let mut run = open();
        run.generate(&model, go_on).expect("rollouts");
        let read = |name: &str| fs::read(folder.path().join(name)).expect("a file");
        let files = (read("rollouts.jsonl"), read("means.safetensors"));
        let again = recompute(&model, run.records(), 4, go_on).expect("activations");
        let mut worst: f64 = 0.0;
        for (index, means) in again.iter().enumerate().filter(|(index, _)| !run.records()[*index].is_empty()) {
            for (pooling, layer) in
                Pooling::ALL.into_iter().flat_map(|p| layers(&model).into_iter().map(move |l| (p, l)))
            {
                let ours = run.activation(pooling, layer, index).expect("an activation");
                let error = relative_error(&ours, means.get(pooling, layer).expect("an activation"));
                worst = worst.max(error);
            }
        }
        println!("SmolLM2 in batches of {batch_size}: one pass against another reading {worst:.1e}");
        assert!(worst <= 1e-5, "{worst:.1e}");
        files
    };
    let expected = run(12, usize::MAX);
    for (batch_size, stop) in [(5, 4), (1, 9)] {
        assert!(run(batch_size, stop) == expected, "in batches of {batch_size}, interrupted after {stop}");
    }
}
