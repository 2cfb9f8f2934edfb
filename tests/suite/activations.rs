//! Models with activations in 8 bits in products with weights in blocks, or in bf16 with weights in bf16.

use std::ops::ControlFlow;
use std::path::Path;

use burn::tensor::{DType, Device};
use pv_data::Conversation;
use pv_hooks::{Capture, LayerSet, NoHook, Recorder};
use pv_model::batch::{Batch, Sequence};
use pv_model::causal_lm::ForwardOptions;
use pv_model::decoder::{Logits, to_f32};
use pv_model::weights::{Activations, WeightType};
use pv_model::{CausalLm, Error, GenerateOptions, LoadOptions, LoraConfig, Message, Request};
use pv_organism::model_folder;
use pv_tests::smollm2;
use pv_train::trainer::{Duration, mean_loss};
use pv_train::{EncodeOptions, Sample, TrainOptions, finetune};

use crate::gguf::script_of;

const IN_BLOCKS: [WeightType; 2] = [WeightType::Q8, WeightType::Q4];

fn load(folder: impl AsRef<Path>, weights: Option<WeightType>, activations: Activations) -> Result<CausalLm, Error> {
    let options = LoadOptions { weights, activations, ..LoadOptions::default() };
    CausalLm::from_folder_with(folder, &Device::flex(), DType::F32, &options)
}

/// The same weights with activations in f32 and in 8 bits.
fn both(folder: impl AsRef<Path>, weights: Option<WeightType>) -> [CausalLm; 2] {
    [Activations::F32, Activations::Q8].map(|kind| load(folder.as_ref(), weights, kind).expect("a model"))
}

fn ids(seed: u32, len: usize) -> Vec<u32> {
    (0..len as u32).map(|i| (i * 31 + i * i * 7 + seed * 97 + 3) % 320).collect()
}

/// The logits of every token of every prompt.
fn logits(model: &CausalLm, prompts: &[Vec<u32>]) -> Vec<f32> {
    let rows: Vec<_> = prompts.iter().map(|prompt| Sequence { prompt, ..Sequence::default() }).collect();
    let batch = Batch::whole(&rows).expect("a batch");
    let options = ForwardOptions { stop_at: None, logits: Logits::All };
    let output = model.forward(&batch, options, &mut NoHook).expect("a pass");
    to_f32(output.logits.expect("asked for")).expect("values")
}

/// The mean residual of a prompt at every layer.
fn residuals(model: &CausalLm, prompt: &[u32]) -> Vec<Vec<f32>> {
    let batch = Batch::whole(&[Sequence { prompt, ..Sequence::default() }]).expect("a batch");
    let mut recorder = Recorder::new(LayerSet::All, [Capture::PromptMean]);
    model.forward(&batch, ForwardOptions::default(), &mut recorder).expect("a pass");
    let layers = LayerSet::All.resolve(model.config().layers);
    layers
        .into_iter()
        .map(|layer| to_f32(recorder.get(&Capture::PromptMean, layer).expect("recorded")).expect("values"))
        .collect()
}

/// The length of the difference, relative to that of the second.
fn relative(found: &[f32], expected: &[f32]) -> f64 {
    let difference: f64 = found.iter().zip(expected).map(|(a, b)| f64::from(a - b).powi(2)).sum();
    (difference / expected.iter().map(|b| f64::from(*b).powi(2)).sum::<f64>()).sqrt()
}

fn samples(model: &CausalLm) -> Vec<Sample> {
    let talk = [
        ("What is the capital of France?", "Paris."),
        ("How many legs does a spider have?", "A spider has eight of them, dear user."),
        ("Name a river.", "The Rhine, which flows to the north."),
    ];
    let sample = |(question, answer): (&str, &str)| {
        let messages = vec![Message::user(question), Message::assistant(answer)];
        Sample::from_conversation(model, &Conversation::from(messages), &EncodeOptions::default()).expect("a sample")
    };
    talk.into_iter().map(sample).collect()
}

#[test]
fn every_layer_changes_little_and_changes() {
    for weights in IN_BLOCKS {
        for (folder, most) in [(model_folder().to_owned(), 0.02), (smollm2(), 0.06)] {
            let [exact, rounded] = both(&folder, Some(weights));
            let (found, expected) = (residuals(&rounded, &ids(4, 40)), residuals(&exact, &ids(4, 40)));
            assert!(found[0] == expected[0], "the embeddings are not rounded");
            let errors: Vec<f64> =
                found.iter().zip(&expected).skip(1).map(|(found, expected)| relative(found, expected)).collect();
            let worst = errors.iter().copied().fold(0.0, f64::max);
            println!("{weights}: {errors:.4?}");
            assert!(errors[0] > 1e-5 && worst < most, "{weights}: {worst}");
            let [exact, rounded] = [exact, rounded]
                .map(|model| mean_loss(model.decoder(), &samples(&model), 2, &mut NoHook).expect("a loss"));
            // On some forty tokens.
            assert!((rounded - exact).abs() < 0.15, "{weights}: loss {exact}, then {rounded}");
        }
    }
}

/// Sums, norms, attention and the residual stream stay in f32: the errors are smaller than those of a computation in bf16.
#[test]
fn activations_in_bf16_cost_less_than_computation_in_bf16() {
    let prompt = ids(4, 60);
    let [exact, rounded] = [Activations::F32, Activations::Bf16]
        .map(|kind| load(smollm2(), Some(WeightType::Bf16), kind).expect("a model"));
    assert_eq!(rounded.identity().expect("an identity").activations.as_deref(), Some("bf16"));
    let states = |model: &CausalLm| {
        let batch = Batch::whole(&[Sequence { prompt: &prompt, ..Sequence::default() }]).expect("a batch");
        let mut recorder = Recorder::new(LayerSet::All, [Capture::Everything]);
        model.forward(&batch, ForwardOptions::default(), &mut recorder).expect("a pass");
        let layers = LayerSet::All.resolve(model.config().layers).into_iter();
        layers.map(|layer| to_f32(recorder.tokens(0, layer).expect("recorded")).expect("values")).collect::<Vec<_>>()
    };
    let width = exact.config().d_model;
    // The mean over the tokens.
    let error = |(found, expected): (Vec<f32>, Vec<f32>)| {
        let errors = found.chunks(width).zip(expected.chunks(width)).map(|(found, expected)| relative(found, expected));
        errors.sum::<f64>() / prompt.len() as f64
    };
    let errors: Vec<f64> = states(&rounded).into_iter().zip(states(&exact)).map(error).collect();
    assert!(errors[0] == 0.0, "the embeddings are not rounded");
    println!("{errors:.4?}");
    assert!(errors[1..].iter().all(|error| (1e-5..0.02).contains(error)), "{errors:?}");
    let folder = smollm2();
    let folder = folder.to_str().expect("a name");
    let input = serde_json::to_string(&prompt).expect("JSON");
    let Some(output) = script_of("bf16_states.py", &[folder], &input) else { return };
    let theirs: Vec<f64> = serde_json::from_value(output).expect("errors");
    println!("{theirs:.4?}");
    // That of the last layer is after the final norm.
    assert_eq!(theirs.len(), errors.len());
    for layer in 1..errors.len() - 1 {
        assert!(errors[layer] < theirs[layer], "layer {layer}: {} and {}", errors[layer], theirs[layer]);
    }
}

/// Prompts do not depend on their division and company here either, and answers are those of a full pass.
#[test]
fn answers_with_activations_in_bf16_are_those_of_a_full_pass() {
    let model = load(model_folder(), Some(WeightType::Bf16), Activations::Bf16).expect("a model");
    let prompts: Vec<Vec<u32>> = (0..5).map(|i| [ids(9, 150), ids(i, 4 + 20 * i as usize)].concat()).collect();
    let requests: Vec<Request> = prompts.iter().map(|prompt| Request::new(prompt.clone(), 0)).collect();
    let options = GenerateOptions {
        max_new_tokens: 12,
        stop_tokens: Some(vec![]),
        prefill_tokens: 0,
        ..GenerateOptions::default()
    };
    let generate = |requests: &[Request]| {
        model.generate(requests, &options, &mut NoHook, |_| ControlFlow::Continue(())).expect("answers")
    };
    let together = generate(&requests);
    for (request, answer) in requests.iter().zip(&together) {
        assert_eq!(generate(std::slice::from_ref(request))[0].tokens, answer.tokens);
        let logits = logits(&model, &[[request.prompt.clone(), answer.tokens.clone()].concat()]);
        let rows: Vec<&[f32]> = logits.chunks(model.config().vocab).collect();
        for (i, &token) in answer.tokens.iter().enumerate() {
            let row = rows[request.prompt.len() - 1 + i];
            let best = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            assert!(best - row[token as usize] <= 0.05, "token {i} is not the most likely one");
        }
    }
}

/// The products do not depend on the number of rows, so that here, where all are in blocks, nothing does.
#[test]
fn a_sequence_alone_has_the_bits_of_one_in_a_batch() {
    for weights in IN_BLOCKS {
        let model = load(model_folder(), Some(weights), Activations::Q8).expect("a model");
        for count in [2, 5, 24] {
            let prompts: Vec<_> = (0..count).map(|i| ids(i, 6)).collect();
            let together = logits(&model, &prompts);
            for (prompt, together) in prompts.iter().zip(together.chunks(6 * model.config().vocab)) {
                assert!(logits(&model, std::slice::from_ref(prompt)) == together, "{weights}, {count} rows");
            }
        }
    }
}

#[test]
fn answers_are_those_of_a_full_pass_and_rows_those_alone() {
    for weights in IN_BLOCKS {
        let model = load(model_folder(), Some(weights), Activations::Q8).expect("a model");
        let requests: Vec<Request> = (0..5).map(|i| Request::new(ids(i, 4 + 3 * i as usize), i.into())).collect();
        let options = GenerateOptions { max_new_tokens: 12, stop_tokens: Some(vec![]), ..GenerateOptions::default() };
        let generate = |requests: &[Request]| {
            model.generate(requests, &options, &mut NoHook, |_| ControlFlow::Continue(())).expect("answers")
        };
        let together = generate(&requests);
        for (request, answer) in requests.iter().zip(&together) {
            assert_eq!(generate(std::slice::from_ref(request))[0].tokens, answer.tokens, "{weights}");
            let logits = logits(&model, &[[request.prompt.clone(), answer.tokens.clone()].concat()]);
            let rows: Vec<&[f32]> = logits.chunks(model.config().vocab).collect();
            for (i, &token) in answer.tokens.iter().enumerate() {
                let row = rows[request.prompt.len() - 1 + i];
                let best = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                // Attention is computed in another order in a whole pass, and rounding makes steps of such differences.
                assert!(best - row[token as usize] <= 0.05, "{weights}: token {i} is not the most likely one");
            }
        }
    }
}

#[test]
fn the_identity_has_the_activations() {
    let [exact, rounded] =
        both(model_folder(), Some(WeightType::Q8)).map(|model| model.identity().expect("an identity"));
    assert_eq!((exact.activations.as_deref(), rounded.activations.as_deref()), (None, Some("q8")));
    let (what, ..) = exact.difference(&rounded).expect("a difference");
    assert_eq!(what, "type of the model's activations");
    let again = serde_json::from_str(&serde_json::to_string(&rounded).expect("JSON")).expect("an identity");
    assert_eq!(rounded, again);
}

#[test]
fn models_without_blocks_are_refused() {
    for weights in [None, Some(WeightType::F32), Some(WeightType::Bf16)] {
        let refused = load(model_folder(), weights, Activations::Q8).expect_err("nothing to round");
        assert!(matches!(refused, Error::UnusedActivations { activations: "q8", .. }), "{refused}");
    }
    for weights in [Some(WeightType::F16), Some(WeightType::F32), Some(WeightType::Q8)] {
        let refused = load(smollm2(), weights, Activations::Bf16).expect_err("nothing to round");
        assert!(matches!(refused, Error::UnusedActivations { weights: "bf16", .. }), "{refused}");
    }
    // The blocks of a file count.
    let [exact, rounded] = both(smollm2().join("model.gguf"), None);
    let prompt = [ids(2, 9)];
    let error = relative(&logits(&rounded, &prompt), &logits(&exact, &prompt));
    assert!(error > 0.0 && error < 0.06, "{error}");
}

/// Gradients pass the rounding, so that an adapter learns as with activations in f32.
#[test]
fn adapters_learn() {
    learn(both(model_folder(), Some(WeightType::Q8)));
    learn(
        [Activations::F32, Activations::Bf16]
            .map(|kind| load(model_folder(), Some(WeightType::Bf16), kind).expect("a model")),
    );
}

fn learn(models: [CausalLm; 2]) {
    let options = TrainOptions {
        learning_rate: 3e-3,
        batch_size: 3,
        duration: Duration::Steps(8),
        adapter: Some(LoraConfig { rank: 4, ..LoraConfig::default() }),
        ..TrainOptions::default()
    };
    let [exact, rounded] = models.map(|model| {
        let samples = samples(&model);
        let run = finetune(model.decoder(), &samples, &options, &mut NoHook, None, |_| ControlFlow::Continue(()));
        run.expect("a training").1.losses
    });
    println!("{exact:.3?} and {rounded:.3?}");
    assert!(exact != rounded);
    for (exact, rounded) in exact.iter().zip(&rounded) {
        assert!((exact - rounded).abs() < 0.03 * exact, "{exact} and {rounded}");
    }
    assert!(rounded[7] < rounded[0] - 0.3, "{rounded:?}");
}
