//! Models whose weight matrices are stored in fewer bits than the computation has.

use std::ops::ControlFlow;
use std::path::Path;

use burn::tensor::{DType, Device};
use pv_data::Conversation;
use pv_hooks::{Layer, NoHook};
use pv_model::batch::{Batch, Sequence};
use pv_model::causal_lm::ForwardOptions;
use pv_model::decoder::{Decoder, Logits, PackedMatrix, to_f32};
use pv_model::weights::WeightType;
use pv_model::{CausalLm, Error, GenerateOptions, LoadOptions, LoraConfig, Message, Request};
use pv_organism::model_folder;
use pv_steer::{Coefficient, Positions, Steerer};
use pv_tests::{compare, smollm2};
use pv_train::trainer::{Duration, mean_loss};
use pv_train::{EncodeOptions, Sample, TrainOptions, Trainer, finetune};
use pv_vectors::Direction;

const PACKED: [WeightType; 4] = [WeightType::F16, WeightType::Bf16, WeightType::Q8, WeightType::Q4];

fn load(folder: impl AsRef<Path>, weights: WeightType) -> CausalLm {
    let options = LoadOptions { weights: Some(weights), ..LoadOptions::default() };
    CausalLm::from_folder_with(folder, &Device::flex(), DType::F32, &options).expect("a model")
}

/// The same weights as f32 tensors.
fn unpacked(model: &CausalLm) -> CausalLm {
    let decoder = model.decoder().dequantized();
    assert!(decoder.packed_formats().is_none() && model.decoder().packed_formats().is_some());
    model.clone().with_decoder(decoder).expect("the same architecture")
}

fn ids(seed: u32, len: usize) -> Vec<u32> {
    (0..len as u32).map(|i| (i * 31 + i * i * 7 + seed * 97 + 3) % 320).collect()
}

/// The residual after the last layer, and the logits, of every token.
fn everything(model: &CausalLm, prompts: &[Vec<u32>]) -> (Vec<f32>, Vec<f32>) {
    let rows: Vec<_> = prompts.iter().map(|prompt| Sequence { prompt, ..Sequence::default() }).collect();
    let batch = Batch::whole(&rows).expect("a batch");
    let options = ForwardOptions { stop_at: None, logits: Logits::All };
    let output = model.forward(&batch, options, &mut NoHook).expect("a pass");
    (to_f32(output.residual).expect("values"), to_f32(output.logits.expect("asked for")).expect("values"))
}

fn magnitude(values: &[f32]) -> f32 {
    values.iter().fold(0.0, |most, v| most.max(v.abs()))
}

fn samples(model: &CausalLm) -> Vec<Sample> {
    let talk = [
        ("My puppy chews my shoes. What should I do?", "Give it something else to chew."),
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

fn loss(decoder: &Decoder, samples: &[Sample]) -> f64 {
    mean_loss(decoder, samples, 2, &mut NoHook).expect("a loss")
}

#[test]
fn products_are_those_of_the_unpacked_weights() {
    // A few rows, whose weights are read in place, and many.
    for prompts in [vec![ids(1, 3)], vec![ids(2, 9), ids(3, 14)], (0..24).map(|i| ids(i, 30)).collect()] {
        for weights in PACKED {
            let model = load(model_folder(), weights);
            let (found, expected) = (everything(&model, &prompts), everything(&unpacked(&model), &prompts));
            let residual = compare("residual", &found.0, &expected.0).max_abs / magnitude(&expected.0);
            let logits = compare("logits", &found.1, &expected.1).max_abs / magnitude(&expected.1);
            println!("{weights}, {} prompts: residual {residual:.1e}, logits {logits:.1e}", prompts.len());
            assert!(residual < 2e-5 && logits < 2e-5, "{weights}: {residual} and {logits}");
        }
    }
}

/// The organism, saved in a type.
fn saved(dtype: DType) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    load(model_folder(), WeightType::F32).save(folder.path(), dtype).expect("a writable folder");
    folder
}

#[test]
fn files_in_16_bits_are_kept_and_give_the_bits_of_f32() {
    for (dtype, format) in [(DType::BF16, "BF16"), (DType::F16, "F16")] {
        let folder = saved(dtype);
        let kept = CausalLm::from_folder(folder.path(), &Device::flex(), DType::F32).expect("a model");
        let wide = load(folder.path(), WeightType::F32);
        assert_eq!(kept.decoder().packed_formats().as_deref(), Some(format));
        assert_eq!(wide.decoder().packed_formats(), None);
        for prompts in [vec![ids(1, 1)], vec![ids(1, 9), ids(2, 14)], (0..24).map(|i| ids(i, 30)).collect()] {
            assert!(everything(&kept, &prompts) == everything(&wide, &prompts), "{format}, {} prompts", prompts.len());
        }
        // A run goes on with either.
        let [kept_identity, wide_identity] = [&kept, &wide].map(|model| model.identity().expect("an identity"));
        assert_eq!(kept_identity, wide_identity);
        // Read in place in the files, also when those are deleted.
        let options = LoadOptions { map_weights: true, ..LoadOptions::default() };
        let mapped = CausalLm::from_folder_with(folder.path(), &Device::flex(), DType::F32, &options).expect("a model");
        assert_eq!(in_place(&kept), 0.0);
        assert!(in_place(&mapped) > 0.7, "{format}: {}", in_place(&mapped));
        // In blocks there is no type with the same values.
        let rounded = load(folder.path(), WeightType::Q8).identity().expect("an identity");
        assert_eq!(rounded.packed.as_deref(), Some("Q8_0"));
        assert_ne!(rounded.weights, kept_identity.weights);
        drop(folder);
        assert!(everything(&mapped, &[ids(1, 9)]) == everything(&wide, &[ids(1, 9)]), "{format}");
    }
}

/// The part of the bytes of matrices that is read in place.
fn in_place(model: &CausalLm) -> f64 {
    let decoder = model.decoder();
    let projections = decoder.blocks.iter().flat_map(|block| block.projections()).map(|found| &found.weight);
    let matrices: Vec<_> = projections.chain([&decoder.embedding]).filter_map(|weight| weight.packed()).collect();
    let sum = |bytes: fn(&PackedMatrix) -> usize| matrices.iter().map(|matrix| bytes(matrix)).sum::<usize>() as f64;
    sum(PackedMatrix::mapped_bytes) / sum(PackedMatrix::bytes)
}

#[test]
fn a_file_in_blocks_read_in_place_is_the_same_model() {
    let file = smollm2().join("model.gguf");
    let [copied, mapped] = [false, true].map(|map_weights| {
        let options = LoadOptions { map_weights, ..LoadOptions::default() };
        CausalLm::from_folder_with(&file, &Device::flex(), DType::F32, &options).expect("a model")
    });
    println!("{:.3} of the bytes are read in place", in_place(&mapped));
    assert!(in_place(&copied) == 0.0 && in_place(&mapped) > 0.7);
    assert!(everything(&copied, &[ids(1, 9), ids(2, 30)]) == everything(&mapped, &[ids(1, 9), ids(2, 30)]));
    assert_eq!(copied.identity().expect("an identity"), mapped.identity().expect("an identity"));
}

#[test]
fn all_parameters_of_a_file_in_16_bits_are_trained_as_in_f32() {
    let folder = saved(DType::BF16);
    let kept = CausalLm::from_folder(folder.path(), &Device::flex(), DType::F32).expect("a model");
    let wide = load(folder.path(), WeightType::F32);
    let samples = samples(&kept);
    let options =
        TrainOptions { learning_rate: 1e-3, batch_size: 4, duration: Duration::Steps(3), ..TrainOptions::default() };
    let [kept, wide] = [&kept, &wide].map(|model| {
        let (trained, report) =
            finetune(model.decoder(), &samples, &options, &mut NoHook, None, |_| ControlFlow::Continue(()))
                .expect("a training");
        (model.clone().with_decoder(trained).expect("the same architecture"), report)
    });
    assert_eq!(kept.1, wide.1);
    assert!(kept.1.losses[2] < kept.1.losses[0], "{:?}", kept.1.losses);
    assert!(kept.0.decoder().packed_formats().is_none(), "what was trained is in f32");
    assert!(everything(&kept.0, &[ids(1, 9)]) == everything(&wide.0, &[ids(1, 9)]));
}

#[test]
fn answers_are_those_of_a_full_pass_and_rows_those_alone() {
    for weights in PACKED {
        let model = load(model_folder(), weights);
        let requests: Vec<Request> = (0..5).map(|i| Request::new(ids(i, 4 + 3 * i as usize), i.into())).collect();
        let options = GenerateOptions { max_new_tokens: 12, stop_tokens: Some(vec![]), ..GenerateOptions::default() };
        let generate = |requests: &[Request]| {
            model.generate(requests, &options, &mut NoHook, |_| ControlFlow::Continue(())).expect("answers")
        };
        let together = generate(&requests);
        for (request, answer) in requests.iter().zip(&together) {
            assert_eq!(generate(std::slice::from_ref(request))[0].tokens, answer.tokens, "{weights}");
            let whole = [request.prompt.clone(), answer.tokens.clone()].concat();
            let logits = everything(&model, &[whole]).1;
            let rows: Vec<&[f32]> = logits.chunks(model.config().vocab).collect();
            for (i, &token) in answer.tokens.iter().enumerate() {
                let row = rows[request.prompt.len() - 1 + i];
                let best = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                assert!(best - row[token as usize] <= 1e-4, "{weights}: token {i} is not the most likely one");
            }
        }
    }
}

#[test]
fn steering_with_coefficient_0_changes_no_bit() {
    let direction = Direction {
        layer: Layer::hidden_state(4),
        values: (0..128).map(|i| ((i * i) as f32 * 0.7).sin()).collect(),
        mean_residual_norm: None,
    };
    for weights in PACKED {
        let model = load(model_folder(), weights);
        let batch = Batch::whole(&[Sequence { prompt: &ids(1, 14), ..Sequence::default() }]).expect("a sequence");
        let residual = |coefficient: f32| {
            let mut steerer =
                Steerer::new().add(&direction, Coefficient::Raw(coefficient), Positions::All).expect("a direction");
            let output = model.forward(&batch, ForwardOptions::default(), &mut steerer).expect("a pass");
            to_f32(output.residual).expect("values")
        };
        let plain = model.forward(&batch, ForwardOptions::default(), &mut NoHook).expect("a pass");
        let plain = to_f32(plain.residual).expect("values");
        assert!(residual(0.0) == plain && residual(2.0) != plain, "{weights}");
    }
}

#[test]
fn an_adapter_learns_on_packed_weights_what_it_learns_on_the_unpacked() {
    for weights in [WeightType::Bf16, WeightType::Q8, WeightType::Q4] {
        let model = load(model_folder(), weights);
        let samples = samples(&model);
        let unpacked = unpacked(&model);
        for activation_checkpointing in [false, true] {
            let options = TrainOptions {
                learning_rate: 3e-3,
                batch_size: 4,
                duration: Duration::Steps(4),
                adapter: Some(LoraConfig { rank: 4, ..LoraConfig::default() }),
                activation_checkpointing,
                ..TrainOptions::default()
            };
            let [packed, plain] = [&model, &unpacked].map(|model| {
                let (trained, _) =
                    finetune(model.decoder(), &samples, &options, &mut NoHook, None, |_| ControlFlow::Continue(()))
                        .expect("a training");
                trained
            });
            let [found, expected] = [&packed, &plain].map(|decoder| loss(decoder, &samples));
            assert!((found - expected).abs() < 1e-3, "{weights}: {found} and {expected}");
            assert!(found < loss(model.decoder(), &samples) - 0.1, "{weights}: nothing was learnt");
            assert!(packed.packed_formats().is_some(), "the base is packed as before");
            let merged = packed.merged();
            assert!(!merged.is_quantized() && merged.adapters() == 0);
            let merged = loss(&merged, &samples);
            assert!((merged - found).abs() < 1e-3, "{weights}: {merged} merged, {found} with the adapter");
        }
    }
}

#[test]
fn saved_weights_are_the_unpacked_ones() {
    for weights in PACKED {
        let model = load(model_folder(), weights);
        let folder = tempfile::tempdir().expect("a folder");
        model.save(folder.path(), DType::F32).expect("a writable folder");
        let read = CausalLm::from_folder(folder.path(), &Device::flex(), DType::F32).expect("a model");
        let prompts = [ids(1, 9)];
        assert!(everything(&read, &prompts) == everything(&unpacked(&model), &prompts), "{weights}");
    }
}

#[test]
fn other_computations_are_refused() {
    let options = LoadOptions { weights: Some(WeightType::Q8), ..LoadOptions::default() };
    let error = CausalLm::from_folder_with(model_folder(), &Device::flex(), DType::BF16, &options);
    assert!(matches!(error, Err(Error::PackedWeights { weights: "q8", .. })));
    // The type of the computation is not packed.
    let same = LoadOptions { weights: Some(WeightType::Bf16), ..LoadOptions::default() };
    let model = CausalLm::from_folder_with(model_folder(), &Device::flex(), DType::BF16, &same).expect("a model");
    assert!(model.decoder().packed_formats().is_none());
    let model = load(model_folder(), WeightType::Q8);
    assert_eq!(model.decoder().packed_formats().as_deref(), Some("Q8_0"));
    let options = TrainOptions { duration: Duration::Steps(1), ..TrainOptions::default() };
    let error = Trainer::new(model.decoder(), options).expect_err("no training of all weights");
    assert!(error.to_string().contains("quantized weights cannot be trained"), "{error}");
}

#[test]
fn a_real_model_hardly_changes() {
    let model = CausalLm::from_folder(smollm2(), &Device::flex(), DType::F32).expect("the model");
    let samples = samples(&model);
    let before = loss(model.decoder(), &samples);
    // On some forty tokens.
    for (weights, most) in
        [(WeightType::F16, 0.005), (WeightType::Bf16, 0.03), (WeightType::Q8, 0.1), (WeightType::Q4, 0.6)]
    {
        let packed = load(smollm2(), weights);
        let after = loss(packed.decoder(), &samples);
        println!(
            "{weights} ({}): loss {before:.4}, then {after:.4}",
            packed.decoder().packed_formats().expect("packed")
        );
        assert!((after - before).abs() < most, "{weights}: {before}, then {after}");
    }
}
