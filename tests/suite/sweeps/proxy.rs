//! The ranking of layers without a judge.

use pv_hooks::NoHook;
use pv_model::continuations::{Continuations, ScoreOptions};
use pv_steer::error::SweepError;
use pv_steer::sweep::{LayerProxy, ProxyLayer, ProxyOptions, layer_proxy};
use pv_steer::{Coefficient, Positions, Steerer};

use super::*;

pub(super) fn ranked(which: Trait, strength: f32) -> LayerProxy {
    let (vector, pairs) = extracted(which);
    let options = ProxyOptions { layers: layers(1..=8), strength, ..ProxyOptions::default() };
    layer_proxy(model(), vector, pairs, &options, |_, _| ControlFlow::Continue(())).expect("a proxy")
}

/// Compared with the log-probabilities of continuations.
#[test]
fn the_change_equals_that_of_the_log_probabilities() {
    let (vector, pairs) = extracted(Trait::Optimism);
    let pairs = &pairs[..3];
    for (positions, pass_tokens) in [(Positions::Response, 2048), (Positions::All, 1)] {
        let options = ProxyOptions {
            layers: layers([0, 5, 8]),
            strength: 0.4,
            positions,
            pass_tokens,
            ..ProxyOptions::default()
        };
        let proxy = layer_proxy(model(), vector, pairs, &options, |_, _| ControlFlow::Continue(())).expect("a proxy");
        let tokenizer = model().tokenizer().expect("a tokenizer");
        let encoded: Vec<(Vec<u32>, Vec<Vec<u32>>)> = pairs
            .iter()
            .map(|pair| {
                let prompt = model().prompt(&[pv_model::Message::user(&pair.question)]).expect("a prompt");
                let encode = |text: &str| tokenizer.encode_rendered(text).expect("tokens");
                (prompt, vec![encode(&pair.pro), encode(&pair.contra)])
            })
            .collect();
        let means = |hook: &mut dyn pv_hooks::Hook| -> Vec<[f64; 2]> {
            let prompts: Vec<Continuations<'_>> =
                encoded.iter().map(|(prompt, answers)| Continuations { prompt, continuations: answers }).collect();
            let mut means = vec![[0.0; 2]; prompts.len()];
            model()
                .score_continuations(&prompts, &ScoreOptions::default(), hook, |scored| {
                    let mean = |tokens: &Vec<f64>| tokens.iter().sum::<f64>() / tokens.len() as f64;
                    means[scored.prompt] = [mean(&scored.log_probs[0]), mean(&scored.log_probs[1])];
                    ControlFlow::Continue(())
                })
                .expect("scores");
            means
        };
        let before = means(&mut NoHook);
        for found in &proxy.layers {
            let direction = vector.direction(found.layer).expect("a direction");
            let mut steerer =
                Steerer::new().add(&direction, Coefficient::ResidualNorms(0.4), positions).expect("a steerer");
            let after = means(&mut steerer);
            let side = |side: usize| (0..3).map(|i| after[i][side] - before[i][side]).sum::<f64>() / 3.0;
            for (found, expected) in [(found.pro, side(0)), (found.contra, side(1)), (found.change, side(0) - side(1))]
            {
                assert!((found - expected).abs() < 2e-4, "{found} and {expected}");
            }
            assert!(found.interval.expect("three pairs").contains(found.change));
            // Its file has the interval as a list, as in earlier versions.
            let written = serde_json::to_value(found).expect("JSON");
            assert!(written["interval"].as_array().is_some_and(|ends| ends.len() == 2), "{written}");
            assert_eq!(&serde_json::from_value::<ProxyLayer>(written).expect("a layer"), found);
        }
        assert!(proxy.layers.iter().any(|layer| layer.change.abs() > 0.02), "{proxy:?}");
    }
}

#[test]
fn layers_are_ranked_and_invalid_options_refused() {
    let (vector, pairs) = extracted(Trait::Optimism);
    let proxy = ranked(Trait::Optimism, 0.3);
    let changes: Vec<f64> = proxy.ranking().iter().map(|layer| layer.change).collect();
    assert!(changes.len() == 8 && changes.is_sorted_by(|a, b| a >= b));
    let refusal = |pairs: &[AnswerPair], change: fn(&mut ProxyOptions)| {
        let mut options = ProxyOptions::default();
        change(&mut options);
        layer_proxy(model(), vector, pairs, &options, |_, _| ControlFlow::Continue(())).unwrap_err()
    };
    assert!(matches!(refusal(&[], |_| {}), pv_steer::Error::Sweep(SweepError::NoPairs)));
    assert!(refusal(pairs, |options| options.strength = 0.0).to_string().contains("changes nothing"));
    assert!(refusal(pairs, |options| options.strength = f32::NAN).to_string().contains("not a finite number"));
    assert!(refusal(pairs, |options| options.layers = layers([9])).to_string().contains("no layer 9"));
    assert!(matches!(
        refusal(pairs, |options| options.layers = LayerSet::none()),
        pv_steer::Error::Sweep(SweepError::NoLayers)
    ));
    let empty = AnswerPair { contra: String::new(), ..pairs[0].clone() };
    let error = refusal(&[pairs[0].clone(), empty], |_| {});
    assert_eq!(error.to_string(), "the contra answer of pair 1 has no tokens");
    let cancelled = layer_proxy(model(), vector, pairs, &ProxyOptions::default(), |done, total| {
        assert_eq!(total, 10);
        if done == 2 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    assert!(matches!(cancelled, Err(pv_steer::Error::Cancelled)));
}
