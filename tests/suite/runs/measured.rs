//! The metrics of a run, compared with other ways to compute them.

use pv_hooks::NoHook;
use pv_model::batch::{Batch, Sequence};
use pv_model::causal_lm::ForwardOptions;
use pv_model::decoder::{Logits, to_f32};
use pv_model::{Adapter, CausalLm};
use pv_organism::model_folder;
use pv_train::Sample;
use pv_train::data::mask_spans;
use pv_train::measure::BootstrapOptions;
use pv_train::measure::shift::finetuning_shift;
use pv_train::run::metrics_csv;

use super::*;

/// The mean cross-entropy over trained tokens in f64, from all logits.
fn loss(model: &CausalLm, samples: &[Sample]) -> f64 {
    let (mut sum, mut count) = (0.0, 0);
    for sample in samples {
        let batch = Batch::whole(&[Sequence { prompt: sample.ids(), ..Sequence::default() }]).expect("a batch");
        let options = ForwardOptions { stop_at: None, logits: Logits::All };
        let logits = model.forward(&batch, options, &mut NoHook).expect("a pass").logits.expect("asked for");
        let logits = to_f32(logits).expect("values");
        let vocab = logits.len() / sample.ids().len();
        for (position, _) in sample.trained().iter().enumerate().filter(|(_, trained)| **trained) {
            let row = &logits[(position - 1) * vocab..position * vocab];
            let sum_of_all: f64 = row.iter().map(|x| f64::from(*x).exp()).sum();
            sum += sum_of_all.ln() - f64::from(row[sample.ids()[position] as usize]);
            count += 1;
        }
    }
    sum / f64::from(count)
}

#[test]
fn held_out_loss_and_shift_equal_those_of_the_saved_adapter() {
    // With regimes and dropout, which must not affect measurements.
    let mut case = Case::named("closed_loop");
    case.options.train.adapter.as_mut().expect("an adapter").dropout = 0.2;
    case.options.keep = Some(pv_train::run::Keep::Last);
    let place = folder();
    let outcome = case.run().run(place.path(), go_on).expect("a run");
    let adapter = Adapter::load_for(outcome.saved.expect("a folder"), model().config()).expect("an adapter");
    assert_eq!(adapter.base(), Some(model_folder().canonicalize().expect("a folder").to_str().expect("a name")));
    let tuned = model().with_adapter(&adapter).expect("it fits");
    let metrics = read_metrics(place.path()).expect("metrics");
    let (first, last) = (&metrics[0], &metrics[14]);
    let held_out = case.held_out.as_ref().expect("held-out samples").samples();
    for (line, model) in [(first, model()), (last, &tuned)] {
        let (found, expected) = (line.held_out_loss.expect("measured"), loss(model, held_out));
        assert!((found - expected).abs() < 1e-5 * expected, "step {}: {found}, not {expected}", line.step);
    }
    assert!(last.held_out_loss < first.held_out_loss, "nothing was learnt");
    let probes = case.probes.as_ref().expect("probes");
    let bootstrap = BootstrapOptions::default();
    let report = finetuning_shift(model(), &tuned, probes.prompts(), probes.directions(), &bootstrap).expect("shifts");
    assert_eq!(last.shifts.len(), 2);
    for shift in &report.shifts {
        let found = last.shifts[&format!("made_up@{}", shift.layer.index())];
        assert!((found - shift.shift.mean).abs() < 1e-4, "layer {}: {found}, not {:?}", shift.layer, shift.shift);
        assert!(shift.shift.mean.abs() > 1e-2, "a shift of {:?} shows nothing", shift.shift);
        assert_eq!(first.shifts[&format!("made_up@{}", shift.layer.index())], 0.0);
    }
    // Measurements exist at the requested steps, and the regimes' values in every step.
    let measured: Vec<usize> = metrics.iter().filter(|m| m.held_out_loss.is_some()).map(|m| m.step).collect();
    assert_eq!(measured, [0, 4, 8, 12, 14]);
    assert!(metrics[1..].iter().all(|m| m.regimes.contains_key("regime_0_factor") && m.loss.is_some()));
    let factors: Vec<f64> = metrics[1..].iter().map(|m| m.regimes["regime_0_factor"]).collect();
    assert!(factors[0] == 1.0 && factors.iter().any(|factor| *factor != 1.0), "{factors:?}");
    assert_eq!((last.epoch, last.steps), (2.0, 14));
}

#[test]
fn metrics_are_a_table() {
    let place = folder();
    Case::plain().run().run(place.path(), go_on).expect("a run");
    let metrics = read_metrics(place.path()).expect("metrics");
    let csv = metrics_csv(&metrics).expect("a table");
    let mut lines = csv.lines();
    let names: Vec<&str> = lines.next().expect("a header").split(',').collect();
    let column = |name: &str| names.iter().position(|found| *found == name).unwrap_or_else(|| panic!("{names:?}"));
    let rows: Vec<Vec<&str>> = lines.map(|line| line.split(',').collect()).collect();
    assert_eq!(rows.len(), metrics.len());
    for (row, line) in rows.iter().zip(&metrics) {
        assert_eq!(row.len(), names.len());
        let number = |name: &str| row[column(name)].parse::<f64>().ok();
        assert_eq!(number("step"), Some(line.step as f64));
        assert_eq!(number("loss"), line.loss);
        assert_eq!(number("held_out_loss"), line.held_out_loss);
        assert_eq!(number("shift_made_up@7"), line.shifts.get("made_up@7").copied());
        assert_eq!(number("projection_made_up@3"), line.projections.get("made_up@3").copied());
    }
}

#[test]
fn the_mask_shows_what_is_trained() {
    let case = Case::plain();
    let shown = case.run().show_mask().expect("text");
    assert_eq!(shown.len(), case.options.train.samples_per_step());
    let tokenizer = model().tokenizer().expect("a tokenizer");
    let whole: Vec<String> =
        case.train.samples().iter().map(|s| tokenizer.decode(s.ids(), false).expect("text")).collect();
    for spans in shown {
        let text: String = spans.iter().map(|span| span.text.as_str()).collect();
        assert!(whole.contains(&text), "{text:?} is not a sample");
        assert!(spans.windows(2).all(|pair| pair[0].trained != pair[1].trained));
    }
    // Characters of several tokens are not split.
    let smollm2 = pv_tests::smollm2();
    let (tokenizer, template) = (
        pv_model::Tokenizer::from_folder(&smollm2).expect("a tokenizer"),
        pv_model::ChatTemplate::from_folder(&smollm2).expect("a template"),
    );
    let conversation = Conversation::new([Message::user("Ω?"), Message::assistant("Yes 🦀 ñ")]);
    let options = pv_train::EncodeOptions::default();
    let sample = Sample::encode(&tokenizer, &template, tokenizer.stop_ids(), &conversation, &options);
    let spans = mask_spans(&tokenizer, &sample.expect("a sample")).expect("text");
    let trained: Vec<&str> = spans.iter().filter(|span| span.trained).map(|span| span.text.as_str()).collect();
    assert_eq!(trained, ["Yes 🦀 ñ<|im_end|>"]);
    let text: String = spans.iter().map(|span| span.text.as_str()).collect();
    assert!(text.contains("user\nΩ?<|im_end|>\n<|im_start|>assistant\nYes 🦀 ñ<|im_end|>"), "{text:?}");
}
