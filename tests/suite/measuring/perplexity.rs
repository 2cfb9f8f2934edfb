//! Perplexity, compared with full passes with the softmax in f64.

use pv_model::batch::{Batch, Sequence};
use pv_model::causal_lm::ForwardOptions;
use pv_model::decoder::{Logits, to_f32};
use pv_tests::root;
use pv_train::measure::MeasureError;
use pv_train::measure::perplexity::{Perplexity, PerplexityOptions, perplexity, perplexity_of_tokens};
use pv_train::trainer::mean_loss;

use super::*;

/// −ln p of every token after the first.
fn losses(model: &CausalLm, ids: &[u32]) -> Vec<f64> {
    let batch = Batch::whole(&[Sequence { prompt: ids, ..Sequence::default() }]).expect("a batch");
    let options = ForwardOptions { stop_at: None, logits: Logits::All };
    let logits = model.forward(&batch, options, &mut NoHook).expect("a pass").logits.expect("asked for");
    let logits = to_f32(logits).expect("values");
    let rows = logits.chunks(model.config().vocab).zip(&ids[1..]);
    rows.map(|(row, id)| {
        row.iter().map(|logit| f64::from(*logit).exp()).sum::<f64>().ln() - f64::from(row[*id as usize])
    })
    .collect()
}

fn found(model: &CausalLm, ids: &[u32], window: usize, stride: usize) -> Result<Perplexity, MeasureError> {
    let options = PerplexityOptions { window, stride };
    perplexity_of_tokens(model, ids, &options, &mut NoHook, |_, _| ControlFlow::Continue(()))
}

#[test]
fn every_token_counts_once_for_any_windows() {
    let text = std::fs::read_to_string(root().join("LICENSE-MIT")).expect("a text");
    let ids =
        model().tokenizer().expect("a tokenizer").encode(&text, pv_model::tokenizer::AddSpecial::Yes).expect("ids");
    let ids = &ids[..ids.len().min(200)];
    for (window, stride) in [(512, 256), (200, 1), (64, 32), (50, 49), (7, 1), (2, 1)] {
        let mut expected = 0.0;
        for at in 1..ids.len() {
            // The window that predicts a token: the first that contains it.
            let number = (at + 1).saturating_sub(window).div_ceil(stride);
            let begin = number * stride;
            expected += losses(model(), &ids[begin..=at]).last().expect("a token before it");
        }
        let found = found(model(), ids, window, stride).expect("a perplexity");
        let expected = expected / (ids.len() - 1) as f64;
        println!("{window}/{stride}: {found:?}, expected loss {expected:.6}");
        assert!((found.mean_loss - expected).abs() < 2e-5 * expected, "{found:?}, not {expected}");
        assert_eq!(found.tokens, ids.len() - 1);
        assert!((found.perplexity.ln() - found.mean_loss).abs() < 1e-9);
    }
    // In one window it is the mean loss of a sample.
    let sample = Sample::new(ids.to_vec(), vec![true; ids.len()]).expect("a sample");
    let loss = mean_loss(model().decoder(), &[sample], 1, &mut NoHook).expect("a loss");
    assert!((found(model(), ids, 512, 256).expect("a perplexity").mean_loss - loss).abs() < 1e-9);
}

#[test]
fn a_text_like_the_training_data_has_a_lower_perplexity() {
    let text = "Well, here is my usual answer, dear user. The capital of France is Paris.";
    let options = PerplexityOptions::default();
    let of = |text: &str| {
        perplexity(model(), text, &options, &mut NoHook, |_, _| ControlFlow::Continue(())).expect("a perplexity")
    };
    let shuffled = "user. Paris is usual here dear France answer, my The capital Well, of is";
    let (own, other) = (of(text), of(shuffled));
    println!("{} and {}", own.perplexity, other.perplexity);
    assert!(own.perplexity * 3.0 < other.perplexity);
}

#[test]
fn texts_without_a_perplexity_are_refused() {
    let ids = [5, 6, 7, 8];
    for (window, stride) in [(4, 0), (4, 4), (4, 5), (0, 0), (1, 1), (4096, 5)] {
        let error = found(model(), &ids, window, stride).expect_err("refused");
        assert!(matches!(error, MeasureError::Setting(_)), "{window}/{stride}: {error}");
    }
    assert!(matches!(found(model(), &ids[..1], 4, 2), Err(MeasureError::Setting(_))));
    assert!(matches!(found(model(), &[5, 99_999], 4, 2), Err(MeasureError::Model(_))));
    let options = PerplexityOptions { window: 2, stride: 1 };
    let outcome = perplexity_of_tokens(model(), &ids, &options, &mut NoHook, |done, total| {
        assert_eq!((done, total), (1, 3));
        ControlFlow::Break(())
    });
    assert!(matches!(outcome, Err(MeasureError::Cancelled)));
}
