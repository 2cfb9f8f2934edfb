//! Cases of the recorder.

use std::collections::BTreeMap;

use burn::tensor::{DType, Device, Tensor};
use pv_hooks::hook::check;
use pv_hooks::tokens::RowSpans;
use pv_hooks::{Capture, Hook, HookError, Layer, LayerSet, ModelShape, Phase, Recorder, ResidualContext, TokenSpans};

use crate::support::{Random, SHAPE, layers, pass, spans, tensor, values};

const LAYER: Layer = Layer::hidden_state(2);

/// Every capture that `get` returns.
fn summed() -> [Capture; 5] {
    [Capture::ResponseMean, Capture::PromptMean, Capture::PromptLast, Capture::ResponseNorm, Capture::Position(1)]
}

/// One pass over single numbers, one row per line.
fn record(recorder: &mut Recorder, spans: &TokenSpans, residual: &[&[f32]]) {
    let dims = [spans.batch(), spans.seq(), 1];
    pass(recorder, Phase::Full, spans, |_| tensor(residual.concat(), dims, &Device::flex()));
}

/// Two whole sequences, one of them padded: 2 prompt tokens and 3 of a response, 1 and 2.
fn two_sequences() -> TokenSpans {
    spans(vec![RowSpans::whole(0, 0, 2, 3), RowSpans::whole(1, 2, 1, 2)], 5)
}

#[test]
fn the_captures_by_hand() {
    let mut recorder = Recorder::new(LAYER, summed().into_iter().chain([Capture::Everything]));
    record(&mut recorder, &two_sequences(), &[&[1.0, 2.0, -3.0, 4.0, -8.0], &[9.0, 9.0, 5.0, 6.0, 7.0]]);
    let get = |capture| values(recorder.get(&capture, LAYER).expect("a capture"));
    assert_eq!(get(Capture::ResponseMean), [-7.0 / 3.0, 6.5]);
    assert_eq!(get(Capture::PromptMean), [1.5, 5.0]);
    assert_eq!(get(Capture::PromptLast), [2.0, 5.0]);
    assert_eq!(get(Capture::ResponseNorm), [5.0, 6.5]);
    assert_eq!(get(Capture::Position(1)), [2.0, 6.0]);
    assert_eq!(values(recorder.tokens(1, LAYER).expect("tokens")), [5.0, 6.0, 7.0]);
    assert_eq!(recorder.counts(&Capture::ResponseMean, LAYER), BTreeMap::from([(0, 3), (1, 2)]));
}

#[test]
fn chosen_sequences_leave_out_those_without_tokens() {
    let mut recorder = Recorder::new(LAYER, [Capture::ResponseMean]);
    let rows = vec![RowSpans::whole(0, 0, 1, 2), RowSpans::whole(1, 1, 2, 0), RowSpans::whole(2, 0, 2, 1)];
    record(&mut recorder, &spans(rows, 3), &[&[1.0, 2.0, 4.0], &[5.0; 3], &[6.0, 7.0, 8.0]]);
    let capture = Capture::ResponseMean;
    let without = HookError::NoTokens { capture: capture.clone(), sequence: 1 };
    assert_eq!(recorder.get(&capture, LAYER).err(), Some(without.clone()));
    assert_eq!(recorder.get_of(&capture, LAYER, &[0, 1]).err(), Some(without));
    assert_eq!(values(recorder.get_of(&capture, LAYER, &[2, 0]).expect("two answers")), [8.0, 3.0]);
    assert!(matches!(recorder.get_of(&capture, LAYER, &[7]), Err(HookError::NoTokens { sequence: 7, .. })));
    assert_eq!(recorder.get_of(&capture, LAYER, &[]).err(), Some(HookError::NoSequences));
}

/// Sequence numbers are chosen by the caller: memory depends on their count.
#[test]
fn a_sequence_of_any_number_takes_the_place_of_one() {
    let far = [5_000_000, usize::MAX, 7];
    let mut recorder = Recorder::new(LAYER, summed().into_iter().chain([Capture::Everything]));
    let rows = far.iter().map(|&sequence| RowSpans::whole(sequence, 0, 1, 2)).collect();
    record(&mut recorder, &spans(rows, 3), &[&[1.0, 2.0, 4.0], &[5.0, 6.0, 8.0], &[0.0, 1.0, 1.0]]);
    // The second again, before the others of its batch.
    record(&mut recorder, &spans(vec![RowSpans::generated(usize::MAX, 1, 2)], 1), &[&[13.0]]);
    assert_eq!(recorder.finish(), Ok(()));
    let capture = Capture::ResponseMean;
    assert_eq!(recorder.counts(&capture, LAYER), BTreeMap::from([(7, 2), (5_000_000, 2), (usize::MAX, 3)]));
    assert_eq!(
        values(recorder.get_of(&capture, LAYER, &[usize::MAX, 5_000_000, 7]).expect("they are there")),
        [9.0, 3.0, 1.0]
    );
    assert_eq!(values(recorder.get_of(&Capture::PromptLast, LAYER, &[7, usize::MAX]).expect("prompts")), [0.0, 5.0]);
    assert_eq!(values(recorder.tokens(usize::MAX, LAYER).expect("tokens")), [5.0, 6.0, 8.0, 13.0]);
    // A table up to the greatest number has gaps.
    assert_eq!(recorder.get(&capture, LAYER).err(), Some(HookError::NoTokens { capture, sequence: 0 }));
}

/// A sequence may have several rows in a pass.
#[test]
fn rows_of_one_sequence_are_summed() {
    let mut recorder = Recorder::new(LAYER, [Capture::ResponseMean]);
    let rows = vec![RowSpans::whole(0, 0, 1, 2), RowSpans::whole(0, 0, 1, 2), RowSpans::whole(1, 0, 1, 2)];
    record(&mut recorder, &spans(rows, 3), &[&[9.0, 1.0, 2.0], &[9.0, 3.0, 6.0], &[9.0, 5.0, 7.0]]);
    assert_eq!(values(recorder.get(&Capture::ResponseMean, LAYER).expect("means")), [3.0, 6.0]);
}

#[test]
fn what_was_not_recorded_is_an_error() {
    let mut recorder = Recorder::new(LAYER, [Capture::PromptMean]);
    let missing = |recorder: &Recorder, capture: Capture, layer| {
        assert_eq!(recorder.get(&capture, layer).err(), Some(HookError::NotRecorded { capture, layer }));
    };
    // Requested, but no pass yet.
    missing(&recorder, Capture::PromptMean, LAYER);
    record(&mut recorder, &two_sequences(), &[&[1.0; 5], &[1.0; 5]]);
    assert!(recorder.get(&Capture::PromptMean, LAYER).is_ok());
    missing(&recorder, Capture::PromptMean, Layer::hidden_state(1));
    missing(&recorder, Capture::ResponseMean, LAYER);
    missing(&recorder, Capture::Everything, LAYER);
    let missing = HookError::NotRecorded { capture: Capture::Everything, layer: LAYER };
    assert_eq!(recorder.tokens(0, LAYER).err(), Some(missing));
}

#[test]
fn a_recorder_that_saw_no_token_never_fired() {
    let never = Err(HookError::NeverFired { hook: "recorder".into() });
    let unused = spans(vec![RowSpans::unused(2), RowSpans { sequences: vec![0], ..RowSpans::unused(2) }], 2);
    let prompt = spans(vec![RowSpans::prompt(vec![0], 0, 2)], 2);
    for capture in summed().into_iter().chain([Capture::Everything]) {
        let mut recorder = Recorder::new(LAYER, [capture.clone()]);
        assert_eq!(recorder.finish(), never, "{capture:?} without a pass");
        record(&mut recorder, &unused, &[&[1.0; 2], &[1.0; 2]]);
        assert_eq!(recorder.finish(), never, "{capture:?} of padding");
        let sees_prompts = !matches!(capture, Capture::ResponseMean | Capture::ResponseNorm);
        record(&mut recorder, &prompt, &[&[1.0; 2]]);
        assert_eq!(recorder.finish(), if sees_prompts { Ok(()) } else { never.clone() }, "{capture:?} of a prompt");
    }
}

#[test]
fn a_sequence_without_such_tokens_is_named() {
    // The prompts of both sequences in separate passes, and then a response to the first only.
    let captures = [Capture::ResponseMean, Capture::Position(2), Capture::Position(7), Capture::Position(usize::MAX)];
    let mut recorder = Recorder::new(LAYER, captures.clone().into_iter().chain([Capture::Everything]));
    record(&mut recorder, &spans(vec![RowSpans::prompt(vec![0], 0, 2)], 2), &[&[1.0; 2]]);
    let error = |recorder: &Recorder, capture: &Capture| recorder.get(capture, LAYER).err();
    let missing = |capture: &Capture, sequence| Some(HookError::NoTokens { capture: capture.clone(), sequence });
    assert!(captures.iter().all(|capture| error(&recorder, capture) == missing(capture, 0)));
    record(&mut recorder, &spans(vec![RowSpans::generated(0, 2, 0)], 1), &[&[1.0]]);
    assert_eq!(captures.each_ref().map(|c| error(&recorder, c).is_some()), [false, false, true, true]);
    record(&mut recorder, &spans(vec![RowSpans::prompt(vec![1], 0, 2)], 2), &[&[1.0; 2]]);
    assert_eq!(
        captures.each_ref().map(|c| error(&recorder, c)),
        [missing(&captures[0], 1), missing(&captures[1], 1), missing(&captures[2], 0), missing(&captures[3], 0),]
    );
    assert_eq!(recorder.tokens(1, LAYER).expect("a prompt").dims(), [2, 1]);
    assert_eq!(recorder.tokens(2, LAYER).err(), missing(&Capture::Everything, 2));
}

#[test]
fn a_number_that_no_row_has_is_a_sequence_without_tokens() {
    let mut recorder = Recorder::new(LAYER, [Capture::PromptMean, Capture::Everything]);
    record(&mut recorder, &spans(vec![RowSpans::prompt(vec![2], 0, 2)], 2), &[&[1.0; 2]]);
    let missing = |capture, sequence| Some(HookError::NoTokens { capture, sequence });
    assert_eq!(recorder.get(&Capture::PromptMean, LAYER).err(), missing(Capture::PromptMean, 0));
    assert_eq!(recorder.tokens(1, LAYER).err(), missing(Capture::Everything, 1));
}

#[test]
fn a_recorder_of_nothing_is_refused() {
    let refused = Err(HookError::NoLayers { hook: "recorder".into() });
    assert_eq!(check(&Recorder::new(LayerSet::none(), [Capture::PromptMean]), &SHAPE, None), refused);
    assert_eq!(check(&Recorder::new(LayerSet::All, []), &SHAPE, None), refused);
    let too_small = ModelShape { blocks: 1, ..SHAPE };
    let found = check(&Recorder::new(LAYER, [Capture::PromptMean]), &too_small, None);
    assert!(matches!(found, Err(HookError::LayerOutOfRange { .. })), "{found:?}");
}

#[test]
fn a_cleared_recorder_is_a_new_one() {
    let mut recorder = Recorder::new(LAYER, [Capture::PromptMean, Capture::Everything]);
    record(&mut recorder, &two_sequences(), &[&[7.0; 5], &[7.0; 5]]);
    recorder.clear();
    assert!(recorder.get(&Capture::PromptMean, LAYER).is_err() && recorder.tokens(0, LAYER).is_err());
    assert!(recorder.finish().is_err());
    record(&mut recorder, &spans(vec![RowSpans::prompt(vec![0], 0, 2)], 2), &[&[1.0, 3.0]]);
    assert_eq!(values(recorder.get(&Capture::PromptMean, LAYER).expect("a mean")), [2.0]);
    assert_eq!(values(recorder.tokens(0, LAYER).expect("tokens")), [1.0, 3.0]);
}

#[test]
fn what_padding_holds_leaves_no_trace() {
    let noise: Vec<f32> = (0..2 * 5 * SHAPE.d_model).map(|i| Random(i as u64).value()).collect();
    let recorded = |filler: f32| {
        let mut recorder = Recorder::new(LAYER, summed().into_iter().chain([Capture::Everything]));
        let mut residual = noise.clone();
        residual[5 * SHAPE.d_model..7 * SHAPE.d_model].fill(filler);
        pass(&mut recorder, Phase::Full, &two_sequences(), |_| {
            tensor(residual.clone(), [2, 5, SHAPE.d_model], &Device::flex())
        });
        let sums = summed().map(|capture| values(recorder.get(&capture, LAYER).expect("a capture")));
        (sums, [0, 1].map(|sequence| values(recorder.tokens(sequence, LAYER).expect("tokens"))))
    };
    let expected = recorded(0.0);
    assert!(expected.0.iter().flatten().all(|value| value.is_finite()));
    for filler in [1e30, -1e30, f32::MAX, f32::MIN, f32::MIN_POSITIVE, -0.0] {
        assert_eq!(recorded(filler), expected, "padding of {filler}");
    }
}

#[test]
fn rows_that_stand_for_nothing_leave_no_trace() {
    let mut recorder = Recorder::new(LAYER, [Capture::ResponseMean, Capture::ResponseNorm]);
    for (token, filler) in [1e30, f32::INFINITY, f32::NAN].into_iter().enumerate() {
        let rows = vec![RowSpans::unused(1), RowSpans::generated(0, 2, token), RowSpans::unused(1)];
        record(&mut recorder, &spans(rows, 1), &[&[filler], &[-2.0], &[filler]]);
    }
    assert_eq!(values(recorder.get(&Capture::ResponseMean, LAYER).expect("a mean")), [-2.0]);
    assert_eq!(values(recorder.get(&Capture::ResponseNorm, LAYER).expect("a norm")), [2.0]);
}

#[test]
fn half_precision_is_summed_in_f32_and_passed_on_as_it_came() {
    let mut recorder = Recorder::new(LAYER, summed().into_iter().chain([Capture::Everything]));
    let spans = spans(vec![RowSpans::whole(0, 0, 2, 4)], 6);
    let context = ResidualContext { layer: LAYER, phase: Phase::Full, spans: &spans };
    let before = [1.0, 2.0, 60000.0, 60000.0, 60000.0, 60000.0];
    for dtype in [DType::F16, DType::BF16, DType::F32, DType::F64] {
        recorder.clear();
        let residual = tensor(before.to_vec(), [1, 6, 1], &Device::flex()).cast(dtype);
        let expected = values(residual.clone().cast(DType::F32));
        let after = recorder.on_residual(&context, residual);
        assert_eq!(after.dtype(), dtype);
        assert_eq!(values(after.cast(DType::F32)), expected);
        for capture in summed() {
            assert_eq!(recorder.get(&capture, LAYER).expect("a capture").dtype(), DType::F32);
        }
        assert_eq!(recorder.tokens(0, LAYER).expect("tokens").dtype(), DType::F32);
        // The sum exceeds the range of f16.
        assert_eq!(values(recorder.get(&Capture::ResponseMean, LAYER).expect("a mean")), [expected[2]]);
        assert_eq!(values(recorder.get(&Capture::ResponseNorm, LAYER).expect("a norm")), [expected[2]]);
    }
}

#[test]
fn recording_keeps_no_graph_and_leaves_gradients_alone() {
    let spans = two_sequences();
    let values_of_x: Vec<f32> = (0..10 * SHAPE.d_model).map(|i| Random(i as u64).value()).collect();
    let context = ResidualContext { layer: LAYER, phase: Phase::Full, spans: &spans };
    let mut plain = Recorder::new(LAYER, summed());
    plain.on_residual(&context, tensor(values_of_x.clone(), [2, 5, SHAPE.d_model], &Device::flex()) * 2.0);
    for device in [Device::flex().autodiff(), Device::flex().autodiff().gradient_checkpointing()] {
        // The spans have cached masks on the device without autodiff.
        let mut recorder = Recorder::new(LAYER, summed().into_iter().chain([Capture::Everything]));
        let x = tensor(values_of_x.clone(), [2, 5, SHAPE.d_model], &device).require_grad();
        let y = recorder.on_residual(&context, x.clone() * 2.0);
        let y = recorder.on_residual(&context, y);
        let mut recorded: Vec<Tensor<2>> = vec![recorder.tokens(0, LAYER).expect("tokens")];
        for capture in summed() {
            let found = recorder.get(&capture, LAYER).expect("a capture");
            let expected = values(plain.get(&capture, LAYER).expect("a capture"));
            let close = values(found.clone()).into_iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-5);
            assert!(close, "{capture:?}");
            recorded.push(found);
        }
        assert!(recorded.iter().all(|tensor| !tensor.is_autodiff()));
        let grads = y.sum().backward();
        assert_eq!(values(x.grad(&grads).expect("a gradient")), vec![2.0; values_of_x.len()]);
    }
}

#[test]
fn the_same_spans_serve_a_model_with_and_without_gradients() {
    let spans = two_sequences();
    let record = |device: Device| {
        let mut recorder = Recorder::new(LAYER, summed());
        pass(&mut recorder, Phase::Full, &spans, |_| tensor(vec![1.5; 10], [2, 5, 1], &device));
        summed().map(|capture| values(recorder.get(&capture, LAYER).expect("a capture")))
    };
    let expected = record(Device::flex());
    assert_eq!(record(Device::flex().autodiff()), expected);
    assert_eq!(record(Device::flex()), expected);
}

#[test]
fn a_recorder_sees_what_comes_before_it() {
    struct Double;
    impl Hook for Double {
        fn name(&self) -> String {
            "double".into()
        }
        fn layers(&self) -> LayerSet {
            LAYER.into()
        }
        fn validate(&self, _: &ModelShape) -> Result<(), HookError> {
            Ok(())
        }
        fn on_residual(&mut self, _: &ResidualContext<'_>, residual: Tensor<3>) -> Tensor<3> {
            residual * 2.0
        }
    }
    let recorder = || Recorder::new(LayerSet::All, [Capture::PromptMean]);
    let mut hook = (recorder(), Double, recorder());
    let spans = two_sequences();
    pass(&mut hook, Phase::Full, &spans, |_| tensor(vec![1.0; 10], [2, 5, 1], &Device::flex()));
    for layer in layers() {
        let mean = |recorder: &Recorder| values(recorder.get(&Capture::PromptMean, layer).expect("a mean"));
        assert_eq!(mean(&hook.0), [1.0, 1.0]);
        assert_eq!(mean(&hook.2), if layer == LAYER { [2.0, 2.0] } else { [1.0, 1.0] });
    }
}

#[test]
fn means_take_the_room_of_the_sequences_and_not_of_their_tokens() {
    let mut recorder = Recorder::new(LayerSet::All, summed());
    let ones = |dims: [usize; 3]| Tensor::ones(dims, &Device::flex());
    let sizes = |recorder: &Recorder, capture: &Capture| {
        let width = if *capture == Capture::ResponseNorm { 1 } else { SHAPE.d_model };
        for layer in layers() {
            assert_eq!(recorder.get(capture, layer).expect("a capture").dims(), [3, width], "{capture:?} at {layer}");
        }
    };
    let prompts = spans(vec![RowSpans::prompt(vec![0, 1], 3, 40), RowSpans::prompt(vec![2], 0, 40)], 40);
    pass(&mut recorder, Phase::Prefill, &prompts, |_| ones([2, 40, SHAPE.d_model]));
    for token in 0..300 {
        let rows = (0..3).map(|s| RowSpans::generated(s, 40, token)).collect();
        pass(&mut recorder, Phase::Decode, &spans(rows, 1), |_| ones([3, 1, SHAPE.d_model]));
        summed().iter().for_each(|capture| sizes(&recorder, capture));
    }
    assert_eq!(recorder.counts(&Capture::ResponseMean, LAYER), BTreeMap::from([(0, 300), (1, 300), (2, 300)]));
    assert_eq!(recorder.counts(&Capture::PromptMean, LAYER), BTreeMap::from([(0, 37), (1, 37), (2, 40)]));
    // Nothing was requested that grows with the tokens.
    assert!(layers().all(|layer| recorder.tokens(0, layer).is_err()));
}

/// Only means agree to share prefixes, and those of responses and last tokens keep nothing of the prefix's many sequences.
#[test]
fn a_shared_prefix_is_recorded_in_prompt_means_only() {
    let recorder = |captures: &[Capture]| Recorder::new(LayerSet::All, captures.to_vec());
    let shared = [Capture::ResponseMean, Capture::ResponseNorm, Capture::PromptLast, Capture::PromptMean];
    assert!(recorder(&shared).shares_prefix(&[0, 1]));
    for capture in [Capture::Position(0), Capture::Everything] {
        assert!(!recorder(&[Capture::ResponseMean, capture]).shares_prefix(&[0, 1]));
    }
    let prefix = RowSpans { prompt_last: None, ..RowSpans::prompt((0..100).collect(), 0, 2) };
    let rest = RowSpans { offset: 2, ..RowSpans::prompt(vec![0], 0, 2) };
    let mut recorder = recorder(&shared);
    for (row, residual) in [(prefix, [1.0, 2.0]), (rest, [3.0, 4.0])] {
        let context = ResidualContext { layer: Layer::EMBEDDINGS, phase: Phase::Prefill, spans: &spans(vec![row], 2) };
        recorder.on_residual(&context, tensor(residual.to_vec(), [1, 2, 1], &Device::flex()));
    }
    let last = recorder.get(&Capture::PromptLast, Layer::EMBEDDINGS).expect("only the sequence with a last token");
    assert_eq!(values(last), [4.0]);
    let mean =
        |sequence| values(recorder.get_of(&Capture::PromptMean, Layer::EMBEDDINGS, &[sequence]).expect("a mean"));
    assert_eq!((mean(0), mean(1), mean(99)), (vec![2.5], vec![1.5], vec![1.5]));
}

/// Three prompts that share four tokens, read in any of several ways: the same bits. Rows with shorter rests
/// compute some tokens of the prefix again.
#[test]
fn prompt_means_do_not_depend_on_how_prompts_are_read() {
    const WIDTH: usize = 3;
    let lengths = [9, 5, 7];
    // Values whose sum depends on the order.
    let value = |sequence: usize, token: usize, column: usize| {
        let own = if token < 4 { 0 } else { 100 * (sequence + 1) };
        ((own + 7 * token + column) as f32 * 1.37).sin() * 10f32.powi((token % 5) as i32)
    };
    let prompts = |rows: &[(Vec<usize>, usize, usize)], recorder: &mut Recorder| {
        // Each row: its sequences, the first token and the end of its window.
        let seq = rows.iter().map(|(_, first, end)| end - first).max().expect("rows");
        let mut residual = Vec::new();
        let mut all = Vec::new();
        for (sequences, first, end) in rows {
            let padding = seq - (end - first);
            residual.extend(std::iter::repeat_n(1e30, padding * WIDTH));
            residual.extend(
                (*first..*end).flat_map(|t| (0..WIDTH).map(move |c| (t, c))).map(|(t, c)| value(sequences[0], t, c)),
            );
            let last = *end == lengths[sequences[0]];
            let row = RowSpans::prompt(sequences.clone(), padding, seq);
            all.push(RowSpans { offset: *first, prompt_last: row.prompt_last.filter(|_| last), ..row });
        }
        pass(recorder, Phase::Prefill, &spans(all, seq), |_| {
            tensor(residual.clone(), [rows.len(), seq, WIDTH], &Device::flex())
        });
    };
    let found = |passes: &[&[(Vec<usize>, usize, usize)]]| {
        let mut recorder = Recorder::new(LAYER, [Capture::PromptMean]);
        passes.iter().for_each(|rows| prompts(rows, &mut recorder));
        assert_eq!(recorder.counts(&Capture::PromptMean, LAYER), (0..).zip(lengths).collect());
        let means = values(recorder.get(&Capture::PromptMean, LAYER).expect("means"));
        means.iter().map(|value| value.to_bits()).collect::<Vec<_>>()
    };
    let whole = |sequence: usize| (vec![sequence], 0, lengths[sequence]);
    let alone = found(&[&[whole(0)], &[whole(1)], &[whole(2)]]);
    let sum = (0..lengths[1]).fold(0.0, |sum, token| sum + value(1, token, 2));
    assert_eq!(alone[WIDTH + 2], (sum / 5.0).to_bits());
    assert_eq!(found(&[&[whole(2), whole(0), whole(1)]]), alone, "one batch");
    let prefix = &[(vec![0, 1, 2], 0, 4)][..];
    assert_eq!(found(&[prefix, &[(vec![0], 4, 9), (vec![1], 0, 5), (vec![2], 2, 7)]]), alone);
    // A prefix that is read again for later prompts.
    let again = [prefix, &[(vec![2], 4, 7)], prefix, &[(vec![1], 0, 5), (vec![0], 4, 9)]];
    assert_eq!(found(&again), alone);
}
