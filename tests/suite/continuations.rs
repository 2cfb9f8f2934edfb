//! Scores of continuations, compared with full passes over prompt and continuation.

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use burn::tensor::{DType, Device, Tensor};
use pv_hooks::{Hook, HookError, Layer, LayerSet, ModelShape, NoHook, Phase, ResidualContext};
use pv_model::batch::{Batch, Sequence};
use pv_model::causal_lm::ForwardOptions;
use pv_model::continuations::{Continuations, ScoreOptions, ScoredContinuations};
use pv_model::decoder::{Logits, to_f32};
use pv_model::{CausalLm, Error};
use pv_steer::{Coefficient, Positions, Steerer};
use pv_tests::root;
use pv_vectors::Direction;

fn load(name: &str, device: &Device) -> CausalLm {
    CausalLm::from_folder(root().join("tests/golden").join(name), device, DType::F32).expect("a model folder")
}

/// The CPU's kernels, and the portable operations of all other backends.
fn every(check: impl Fn(&CausalLm)) {
    for device in [Device::flex(), Device::flex().autodiff().gradient_checkpointing()] {
        ["llama", "qwen3", "mistral-window"].iter().for_each(|name| check(&load(name, &device)));
    }
}

/// Prompts of different lengths; every id is in the smallest vocabulary.
fn prompts() -> Vec<Vec<u32>> {
    let prompt = |seed: u32, len: u32| (0..len).map(|i| (i * 31 + seed * 17 + 3) % 96).collect();
    vec![prompt(0, 9), prompt(1, 1), prompt(2, 14), prompt(3, 5)]
}

/// Continuations with common prefixes, prefixes of each other, and continuations of one token or none.
fn continuations() -> Vec<Vec<u32>> {
    vec![vec![5], vec![5, 6], vec![5, 6, 7, 8], vec![5, 9, 7], vec![], vec![40, 41], vec![6], vec![5, 6, 7, 8]]
}

fn score(
    model: &CausalLm,
    prompts: &[Continuations<'_>],
    options: &ScoreOptions,
    hook: &mut impl Hook,
) -> Vec<Vec<Vec<f64>>> {
    let mut found = vec![None; prompts.len()];
    let scored =
        model.score_continuations(prompts, options, hook, |ScoredContinuations { prompt, log_probs, .. }| {
            assert!(found[prompt].replace(log_probs).is_none(), "prompt {prompt} was reported twice");
            ControlFlow::Continue(())
        });
    scored.expect("scores");
    found.into_iter().map(|scores| scores.expect("every prompt is reported")).collect()
}

fn asked<'a>(prompts: &'a [Vec<u32>], continuations: &'a [Vec<u32>]) -> Vec<Continuations<'a>> {
    prompts.iter().map(|prompt| Continuations { prompt, continuations }).collect()
}

/// ln p of each token of a continuation from one pass over all of it.
fn reference(model: &CausalLm, prompt: &[u32], continuation: &[u32], hook: &mut impl Hook) -> Vec<f64> {
    if continuation.is_empty() {
        return Vec::new();
    }
    let batch = Batch::whole(&[Sequence { prompt, response: continuation, rest: &[] }]).expect("a sequence");
    let options = ForwardOptions { stop_at: None, logits: Logits::All };
    let logits = model.forward(&batch, options, hook).expect("a pass").logits.expect("asked for");
    let logits = to_f32(logits).expect("values");
    let rows: Vec<&[f32]> = logits.chunks(model.config().vocab).collect();
    let log_prob = |(at, &token): (usize, &u32)| {
        let row = rows[prompt.len() - 1 + at];
        let total: f64 = row.iter().map(|&logit| f64::from(logit).exp()).sum();
        f64::from(row[token as usize]) - total.ln()
    };
    continuation.iter().enumerate().map(log_prob).collect()
}

fn assert_close(what: &str, ours: &[f64], reference: &[f64], tolerance: f64) {
    assert_eq!(ours.len(), reference.len(), "{what}");
    for (a, b) in ours.iter().zip(reference) {
        assert!((a - b).abs() <= tolerance, "{what}: {ours:?} is not {reference:?}");
    }
}

#[test]
fn scores_equal_those_of_full_passes() {
    every(|model| {
        let (prompts, continuations) = (prompts(), continuations());
        let found = score(model, &asked(&prompts, &continuations), &ScoreOptions::default(), &mut NoHook);
        for (prompt, scores) in prompts.iter().zip(&found) {
            assert_eq!(scores.len(), continuations.len());
            for (continuation, scores) in continuations.iter().zip(scores) {
                let expected = reference(model, prompt, continuation, &mut NoHook);
                assert_close(&format!("{prompt:?} {continuation:?}"), scores, &expected, 2e-5);
            }
        }
    });
}

#[test]
fn steered_scores_equal_those_of_steered_passes() {
    every(|model| {
        let (prompts, continuations) = (prompts(), continuations());
        for positions in [Positions::Response, Positions::Prompt, Positions::All] {
            let steerer = || {
                let values = (0..model.config().d_model).map(|i| ((i * i) as f32 * 0.7).sin()).collect();
                let direction = Direction { layer: Layer::hidden_state(1), values, mean_residual_norm: None };
                Steerer::new().add(&direction, Coefficient::Raw(1.0), positions).expect("a direction")
            };
            let found = score(model, &asked(&prompts, &continuations), &ScoreOptions::default(), &mut steerer());
            let mut moved = 0.0f64;
            for (prompt, scores) in prompts.iter().zip(&found) {
                for (continuation, scores) in continuations.iter().zip(scores).filter(|(tokens, _)| !tokens.is_empty())
                {
                    let expected = reference(model, prompt, continuation, &mut steerer());
                    assert_close(&format!("{positions:?} {prompt:?} {continuation:?}"), scores, &expected, 5e-5);
                    let plain = reference(model, prompt, continuation, &mut NoHook);
                    plain.iter().zip(scores).for_each(|(a, b)| moved = moved.max((a - b).abs()));
                }
            }
            assert!(moved > 1e-2, "steering at {positions:?} does nothing");
        }
    });
}

#[test]
fn scores_do_not_depend_on_the_batch() {
    every(|model| {
        let (prompts, continuations) = (prompts(), continuations());
        let all = asked(&prompts, &continuations);
        let alone: Vec<_> = all
            .iter()
            .flat_map(|prompt| score(model, std::slice::from_ref(prompt), &ScoreOptions::default(), &mut NoHook))
            .collect();
        for (batch_size, prefill_tokens) in [(1, 4096), (2, 4096), (3, 1), (64, 20), (64, 4096)] {
            let found = score(model, &all, &ScoreOptions { batch_size, prefill_tokens }, &mut NoHook);
            for (found, alone) in found.iter().flatten().zip(alone.iter().flatten()) {
                assert_close(&format!("batches of {batch_size}, {prefill_tokens}"), found, alone, 1e-5);
            }
        }
    });
}

/// A common prefix of all prompts, for [`prompts`] that follow it.
fn beginning() -> Vec<u32> {
    (0..11).map(|i| (i * 7 + 2) % 96).collect()
}

fn score_after(model: &CausalLm, options: &ScoreOptions, hook: &mut impl Hook) -> Vec<Vec<Vec<f64>>> {
    let (prompts, continuations) = (prompts(), continuations());
    let mut found = vec![None; prompts.len()];
    let asked = asked(&prompts, &continuations);
    let scored = model.score_continuations_after(&beginning(), &asked, options, hook, |scored| {
        assert!(found[scored.prompt].replace(scored.log_probs).is_none(), "reported twice");
        ControlFlow::Continue(())
    });
    scored.expect("scores");
    found.into_iter().map(|scores| scores.expect("every prompt is reported")).collect()
}

#[test]
fn prompts_after_a_common_prefix_are_scored_as_whole_prompts() {
    every(|model| {
        let steerer = |positions| {
            let values = (0..model.config().d_model).map(|i| ((i * i) as f32 * 0.7).sin()).collect();
            let direction = Direction { layer: Layer::hidden_state(1), values, mean_residual_norm: None };
            Steerer::new().add(&direction, Coefficient::Raw(1.0), positions).expect("a direction")
        };
        let check = |what: &str, found: Vec<Vec<Vec<f64>>>, hook: &mut dyn FnMut() -> Box<dyn Hook>| {
            for (prompt, scores) in prompts().iter().zip(&found) {
                let whole = [beginning(), prompt.clone()].concat();
                for (continuation, scores) in continuations().iter().zip(scores).filter(|(c, _)| !c.is_empty()) {
                    let expected = reference(model, &whole, continuation, &mut hook());
                    assert_close(&format!("{what} {prompt:?} {continuation:?}"), scores, &expected, 5e-5);
                }
            }
        };
        for batch_size in [1, 16] {
            let options = ScoreOptions { batch_size, ..ScoreOptions::default() };
            check("plain", score_after(model, &options, &mut NoHook), &mut || Box::new(NoHook));
            for positions in [Positions::Response, Positions::Prompt, Positions::All] {
                let found = score_after(model, &options, &mut steerer(positions));
                check(&format!("{positions:?}"), found, &mut || Box::new(steerer(positions)));
            }
        }
    });
}

#[test]
fn a_common_prefix_is_computed_once_and_its_length_is_counted() {
    let model = load("llama", &Device::flex());
    let mut watch = Watch::default();
    score_after(&model, &ScoreOptions::default(), &mut watch);
    let all: Vec<usize> = (0..4 * continuations().len()).collect();
    assert_eq!(watch.rows[0], (Phase::Prefill, 0, all));
    assert!(watch.rows[1..].iter().all(|(phase, at, _)| (*phase == Phase::Prefill) == (*at == 11) && *at >= 11));
    assert_eq!(watch.rows.iter().filter(|(phase, ..)| *phase == Phase::Prefill).count(), 1 + 4);
    let asked = [Continuations { prompt: &[1], continuations: &[vec![1]] }];
    let refused =
        model.score_continuations_after(&[999], &asked, &ScoreOptions::default(), &mut NoHook, |_| panic!("it ran"));
    assert!(matches!(refused, Err(Error::TokenOutOfRange { id: 999, .. })));
}

/// Records which sequences are computed in which phase.
#[derive(Default)]
struct Watch {
    /// Phase, position in the sequence, sequences.
    rows: Vec<(Phase, usize, Vec<usize>)>,
}

impl Hook for Watch {
    fn name(&self) -> String {
        "watch".into()
    }

    fn layers(&self) -> LayerSet {
        Layer::EMBEDDINGS.into()
    }

    fn validate(&self, _shape: &ModelShape) -> Result<(), HookError> {
        Ok(())
    }

    fn on_residual(&mut self, context: &ResidualContext<'_>, residual: Tensor<3>) -> Tensor<3> {
        let rows = context.spans.rows().iter();
        self.rows.extend(rows.map(|row| (context.phase, row.offset, row.sequences.clone())));
        residual
    }
}

#[test]
fn common_prefixes_of_continuations_are_computed_once() {
    let model = load("llama", &Device::flex());
    let (prompts, continuations) = (prompts(), continuations());
    let mut watch = Watch::default();
    score(&model, &asked(&prompts[..2], &continuations), &ScoreOptions::default(), &mut watch);
    let rows: BTreeSet<_> =
        watch.rows.iter().map(|(phase, at, all)| (*phase == Phase::Decode, *at, all.clone())).collect();
    assert_eq!(rows.len(), watch.rows.len(), "nothing is read twice");
    let mut expected = BTreeSet::new();
    for (first, len) in [(0, 9), (8, 1)] {
        let sequences = |of: &[usize]| of.iter().map(|sequence| first + sequence).collect::<Vec<_>>();
        expected.insert((false, 0, sequences(&[0, 1, 2, 3, 4, 5, 6, 7])));
        expected.insert((true, len, sequences(&[1, 2, 3, 7])));
        expected.insert((true, len, sequences(&[5])));
        expected.insert((true, len + 1, sequences(&[2, 7])));
        expected.insert((true, len + 1, sequences(&[3])));
        expected.insert((true, len + 2, sequences(&[2, 7])));
    }
    assert_eq!(rows, expected);
}

#[test]
fn scoring_can_be_interrupted() {
    let model = load("llama", &Device::flex());
    let (prompts, continuations) = (prompts(), continuations());
    let options = ScoreOptions { batch_size: 1, ..ScoreOptions::default() };
    let mut reported = Vec::new();
    let run = model.score_continuations(&asked(&prompts, &continuations), &options, &mut NoHook, |scored| {
        reported.push(scored.prompt);
        if reported.len() == 2 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    run.expect("an interruption is not an error");
    assert_eq!(reported, [1, 3], "shorter prompts come first");
}

#[test]
fn invalid_input_is_refused_before_anything_runs() {
    let model = load("llama", &Device::flex());
    let refuse = |prompt: &[u32], continuations: &[Vec<u32>], options: ScoreOptions| {
        let asked =
            [Continuations { prompt: &[1], continuations: &[vec![1]] }, Continuations { prompt, continuations }];
        model.score_continuations(&asked, &options, &mut NoHook, |_| panic!("it ran")).expect_err("refused")
    };
    let fine = ScoreOptions::default();
    assert!(matches!(refuse(&[], &[vec![1]], fine), Error::EmptyPrompt { index: 1 }));
    assert!(matches!(refuse(&[1, 320], &[vec![1]], fine), Error::TokenOutOfRange { id: 320, vocab: 320 }));
    // Also an invalid last token, which is never an input.
    assert!(matches!(refuse(&[1], &[vec![1], vec![2, 999]], fine), Error::TokenOutOfRange { id: 999, .. }));
    assert!(matches!(refuse(&[1], &[], fine), Error::NoContinuations { index: 1 }));
    assert!(matches!(
        refuse(&[1], &[vec![1]], ScoreOptions { batch_size: 0, ..fine }),
        Error::BadOption { name: "batch_size", .. }
    ));
    assert!(matches!(
        refuse(&[1], &[vec![1]], ScoreOptions { prefill_tokens: 0, ..fine }),
        Error::BadOption { name: "prefill_tokens", .. }
    ));
    let none = model.score_continuations(&[], &fine, &mut NoHook, |_| panic!("there is nothing to report"));
    none.expect("nothing to do");

    let asked = [Continuations { prompt: &[1, 2], continuations: &[vec![1]] }];
    let run = model.score_continuations(&asked, &fine, &mut Spoil, |_| panic!("there is no score"));
    assert!(matches!(run, Err(Error::BadLogits { sequence: 0 })), "{run:?}");
}

/// Makes every residual a NaN.
struct Spoil;

impl Hook for Spoil {
    fn name(&self) -> String {
        "spoil".into()
    }

    fn layers(&self) -> LayerSet {
        Layer::hidden_state(1).into()
    }

    fn validate(&self, _shape: &ModelShape) -> Result<(), HookError> {
        Ok(())
    }

    fn on_residual(&mut self, _context: &ResidualContext<'_>, residual: Tensor<3>) -> Tensor<3> {
        residual * f32::NAN
    }
}
