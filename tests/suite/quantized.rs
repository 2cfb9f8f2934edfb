//! Adapters on frozen weights in few bits.

use std::ops::ControlFlow;

use burn::tensor::{DType, Device};
use pv_data::Conversation;
use pv_hooks::NoHook;
use pv_model::decoder::{Block, Decoder, Quantization, WeightBits, to_f32};
use pv_model::{CausalLm, Error, LoraConfig, Message};
use pv_organism::model_folder;
use pv_tests::smollm2;
use pv_train::trainer::{Duration, mean_loss};
use pv_train::{EncodeOptions, Sample, TrainOptions, Trainer, finetune};

fn organism() -> CausalLm {
    CausalLm::from_folder(model_folder(), &Device::flex(), DType::F32).expect("the organism")
}

fn bits(bits: WeightBits) -> Quantization {
    Quantization { bits, ..Quantization::default() }
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

/// All weights of the blocks' projections, in order.
fn weights(decoder: &Decoder) -> Vec<(Vec<f32>, usize)> {
    let read = |projection: &pv_model::decoder::Projection| {
        let weight = projection.weight.val();
        let [_, inputs] = weight.dims();
        (to_f32(weight).expect("weights"), inputs)
    };
    decoder.blocks.iter().flat_map(Block::projections).map(read).collect()
}

#[test]
fn weights_are_rounded_block_by_block() {
    let model = organism();
    for (kind, most) in [(WeightBits::Eight, 127.0), (WeightBits::Four, 7.0)] {
        let quantized = model.decoder().quantized(bits(kind)).expect("a copy");
        assert!(quantized.is_quantized() && !model.decoder().is_quantized());
        let rounded = quantized.dequantized();
        assert!(!rounded.is_quantized());
        for ((before, inputs), (after, _)) in weights(model.decoder()).iter().zip(&weights(&rounded)) {
            for (before, after) in before.chunks(*inputs).zip(after.chunks(*inputs)) {
                for (before, after) in before.chunks(32).zip(after.chunks(32)) {
                    let scale = before.iter().fold(0f64, |m, v| m.max(f64::from(v.abs()))) / most;
                    for (value, found) in before.iter().zip(after) {
                        let (value, found) = (f64::from(*value), f64::from(*found));
                        // The nearest integer times the scale.
                        let steps = found / scale;
                        assert!((steps - steps.round()).abs() < 1e-3, "{found} is {steps} steps");
                        assert!((found - value).abs() <= 0.5001 * scale, "{value} became {found}, steps of {scale}");
                    }
                }
            }
        }
    }
}

#[test]
fn it_equals_a_model_with_the_rounded_weights() {
    let model = organism();
    let samples = samples(&model);
    for kind in [WeightBits::Eight, WeightBits::Four] {
        let quantized = model.decoder().quantized(bits(kind)).expect("a copy");
        let rounded = quantized.dequantized();
        let losses =
            [&quantized, &rounded].map(|decoder| mean_loss(decoder, &samples, 2, &mut NoHook).expect("a loss"));
        assert_eq!(losses[0].to_bits(), losses[1].to_bits());
        // Training an adapter on it gives the same, whole and layer by layer.
        for activation_checkpointing in [false, true] {
            let options = TrainOptions {
                learning_rate: 3e-3,
                batch_size: 4,
                duration: Duration::Steps(4),
                adapter: Some(LoraConfig { rank: 4, ..LoraConfig::default() }),
                activation_checkpointing,
                ..TrainOptions::default()
            };
            let [on_quantized, on_rounded] = [&quantized, &rounded].map(|decoder| {
                let (trained, losses) =
                    finetune(decoder, &samples, &options, &mut NoHook, None, |_| ControlFlow::Continue(()))
                        .expect("a training");
                (trained.adapter(0).expect("an adapter"), losses, trained)
            });
            assert!(on_quantized.0 == on_rounded.0, "{activation_checkpointing}: other adapters");
            assert!(on_quantized.2.is_quantized());
            // Merged weights are no longer quantized, and equal up to rounding.
            let merged = on_quantized.2.merged();
            assert!(!merged.is_quantized() && merged.adapters() == 0);
            let [merged, put_on] =
                [&merged, &on_quantized.2].map(|d| mean_loss(d, &samples, 2, &mut NoHook).expect("a loss"));
            assert!((merged - put_on).abs() < 1e-4, "{merged} and {put_on}");
            assert!(put_on < losses[0] - 0.1, "nothing was learnt: {put_on} after {}", losses[0]);
        }
    }
}

#[test]
fn invalid_settings_are_refused() {
    let model = organism();
    let decoder = model.decoder();
    for block in [0, 7, 255] {
        let refused = decoder.quantized(Quantization { block, ..Quantization::default() });
        let divides =
            matches!(refused, Err(Error::QuantizationBlock { block: found, .. }) if found == usize::from(block));
        assert!(divides, "{block}");
    }
    let quantized = decoder.quantized(Quantization::default()).expect("a copy");
    assert!(matches!(quantized.quantized(Quantization::default()), Err(Error::AlreadyQuantized)));
    let options = TrainOptions { duration: Duration::Steps(1), ..TrainOptions::default() };
    let error = Trainer::new(&quantized, options).expect_err("no training of all weights");
    assert!(error.to_string().contains("quantized weights cannot be trained"), "{error}");
}

#[test]
fn saved_weights_are_the_dequantized_ones() {
    let quantized = organism().decoder().quantized(Quantization::default()).expect("a copy");
    let folder = tempfile::tempdir().expect("a folder");
    quantized.save(folder.path(), DType::F32).expect("a writable folder");
    let read = Decoder::from_folder(folder.path(), &Device::flex(), DType::F32).expect("a model");
    assert!(weights(&read) == weights(&quantized.dequantized()));
}

#[test]
fn a_real_model_hardly_changes_in_eight_bits() {
    let model = CausalLm::from_folder(smollm2(), &Device::flex(), DType::F32).expect("the model");
    let samples = samples(&model);
    let loss = |decoder: &Decoder| mean_loss(decoder, &samples, 4, &mut NoHook).expect("a loss");
    let before = loss(model.decoder());
    let [eight, four] =
        [WeightBits::Eight, WeightBits::Four].map(|kind| loss(&model.decoder().quantized(bits(kind)).expect("a copy")));
    println!("loss {before:.4}; in eight bits {eight:.4}, in four {four:.4}");
    // On about forty tokens.
    assert!((eight - before).abs() < 0.1 && (four - before).abs() < 0.6);
    assert!((eight - before).abs() < (four - before).abs());
}
