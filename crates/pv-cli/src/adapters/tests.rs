use pv_hooks::NoHook;
use pv_model::batch::{Batch, Sequence};
use pv_model::causal_lm::ForwardOptions;
use pv_model::decoder::{Logits, to_f32};
use pv_model::{LoraConfig, Message};

use super::*;
use crate::ModelArgs;

fn parsed(text: &str) -> Result<WeightedAdapter, String> {
    text.parse()
}

#[test]
fn a_folder_may_have_a_weight_and_an_equals_sign() {
    let place = tempfile::tempdir().expect("a folder");
    let folder = |name: &str| {
        let path = place.path().join(name);
        std::fs::create_dir(&path).expect("made");
        path.to_str().expect("a name").to_owned()
    };
    let (plain, equals, number) = (folder("plain"), folder("rank=8"), folder("lr=1e-5"));
    let of = |folder: &str, weight| Ok(WeightedAdapter { folder: folder.into(), weight });
    assert_eq!(parsed(&plain), of(&plain, 1.0));
    assert_eq!(parsed(&format!("{plain}=0.5")), of(&plain, 0.5));
    assert_eq!(parsed(&format!("{plain}=-1")), of(&plain, -1.0));
    assert_eq!(parsed(&equals), of(&equals, 1.0), "no weight of 8");
    assert_eq!(parsed(&number), of(&number, 1.0));
    assert_eq!(parsed(&format!("{number}=2e-1")), of(&number, 0.2));
    for bad in ["nan", "inf", "-inf", "1e999", "much", ""] {
        let error = parsed(&format!("{equals}={bad}")).expect_err("no number");
        assert!(error.contains("not a finite number") && error.contains(&equals), "{error}");
    }
    assert!(parsed("=0.5").expect_err("no folder").contains("folder"));
    assert!(parsed("").is_err());
}

/// An adapter of the organism whose update is not zero.
fn adapter(seed: u64, targets: &[pv_model::adapter::LoraTarget]) -> Adapter {
    let model = ModelArgs::cpu("organism").load().expect("the organism");
    let lora = LoraConfig { rank: 4, alpha: 8.0, targets: targets.iter().copied().collect(), ..LoraConfig::default() };
    let new = Adapter::init(lora.clone(), model.config(), seed).expect("an adapter");
    let mut weights = new.weights().clone();
    for (number, update) in weights.values_mut().enumerate() {
        let wave = |(i, value): (usize, &mut f32)| *value = 0.02 * ((i + 7 * number) as f32 + seed as f32).sin();
        update.b.iter_mut().enumerate().for_each(wave);
    }
    Adapter::new(lora, None, weights).expect("an adapter")
}

fn logits(model: &CausalLm) -> Vec<f32> {
    let prompt = model.prompt(&[Message::user("What happens when it rains?")]).expect("a prompt");
    let batch = Batch::whole(&[Sequence { prompt: &prompt, ..Sequence::default() }]).expect("a batch");
    let options = ForwardOptions { stop_at: None, logits: Logits::All };
    let found = model.forward(&batch, options, &mut NoHook).expect("a pass").logits;
    to_f32(found.expect("logits")).expect("values")
}

#[test]
fn several_adapters_are_merged_and_a_single_one_stays_separate() {
    use pv_model::adapter::LoraTarget::{Down, Query, Value};
    let place = tempfile::tempdir().expect("a folder");
    let adapters = [adapter(1, &[Query, Value]), adapter(2, &[Value, Down])];
    let folders = ["first=1", "second"].map(|name| place.path().join(name));
    adapters.iter().zip(&folders).for_each(|(adapter, folder)| adapter.save(folder).expect("saved"));
    let [first, second] = folders.map(|folder| folder.to_str().expect("a name").to_owned());
    let load = |texts: &[String]| {
        let mut args = ModelArgs::cpu("organism");
        args.adapters.adapters = texts.iter().map(|text| parsed(text).expect("an adapter")).collect();
        args.load().expect("a model")
    };
    let plain = load(&[]);
    let one = load(std::slice::from_ref(&first));
    assert_eq!(
        logits(&one),
        logits(&plain.with_adapter(&adapters[0]).expect("an adapted model")),
        "a single adapter is not merged"
    );
    assert!(one.name().starts_with("organism+") && one.name().contains("first=1@"), "{}", one.name());
    let both = load(&[format!("{first}=0.5"), format!("{second}=-2")]);
    let decoder = plain.decoder().with_adapter(&adapters[0], 0.5).expect("an adapted model");
    let decoder = decoder.with_adapter(&adapters[1], -2.0).expect("an adapted model").merged();
    let merged = plain.clone().with_decoder(decoder).expect("a model");
    assert_eq!(both.decoder().adapters(), 0);
    assert_eq!(logits(&both), logits(&merged));
    let difference = |a: &CausalLm, b: &CausalLm| {
        let pairs = logits(a).into_iter().zip(logits(b));
        pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
    };
    assert!(difference(&one, &plain) > 0.01 && difference(&both, &one) > 0.01, "the adapters change the logits");
    let names = [&plain, &one, &both, &load(&[first.clone(), second]), &load(&[format!("{first}=2")])];
    let names: std::collections::BTreeSet<&str> = names.iter().map(|model| model.name()).collect();
    assert_eq!(names.len(), 5, "the names differ: {names:?}");
}
