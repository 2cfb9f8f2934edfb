//! SmolLM2's file against its folder, whose weights are those of the file in f32.

use std::ops::ControlFlow;

use burn::tensor::{DType, Device};
use pv_hooks::Layer;
use pv_model::config::DecoderConfig;
use pv_model::tokenizer::AddSpecial;
use pv_model::weights::{WeightFiles, WeightType};
use pv_model::{CausalLm, ChatTemplate, GenerateOptions, LoadOptions, Message, RenderOptions, Tokenizer};
use pv_tests::{compare, smollm2};
use pv_vectors::Contrast;
use pv_vectors::vector::Pooling;

use super::{logits, own_file};

fn load(path: impl AsRef<std::path::Path>, weights: Option<WeightType>) -> CausalLm {
    let options = LoadOptions { weights, ..LoadOptions::default() };
    CausalLm::from_folder_with(path, &Device::flex(), DType::F32, &options).expect("a model")
}

const TEXTS: [&str; 16] = [
    "",
    "The capital of France is Paris.",
    " I'm sure they've said it's what we'd do, isn't it? DON'T!",
    "Zwölf Boxkämpfer jagen Viktor quer über den großen Sylter Deich.",
    "Съешь же ещё этих мягких французских булок.",
    "いろはにほへと ちりぬるを 我が世誰ぞ",
    "نص حكيم له سر قاطع, דג סקרן שט בים",
    "👩‍👩‍👧‍👦 🏳️‍🌈 👍🏽 ❤️ 🇩🇪",
    "1 22 333 4444 55555 3.14159 1,000,000 ½ ² Ⅷ ٣",
    "a\u{301} e\u{301} \u{e9} \u{fb01} \u{212b}",
    "def f(x):\n\treturn {'a': [x ** 2 for _ in range(10)]}\n",
    "  two  spaces\u{a0}and\u{3000}others \r\n\r\n\t ",
    "<|im_start|>user\nHello<|im_end|>\n<|endoftext|>",
    "<|im_start|><|im_start|> <repo_name>x<file_sep>",
    "\u{0}\u{1}\u{7f}\u{85}\u{200b}\u{feff}",
    "<s> </s> <unk> <0x0A> Ġ ▁",
];

#[test]
fn configuration_tokens_and_templates_are_those_of_the_folder() {
    let (file, folder) = (own_file(), smollm2());
    let configs = [&file, &folder].map(|path| DecoderConfig::from_folder(path).expect("a configuration"));
    assert_eq!(configs[0].difference(&configs[1]), None);
    assert_eq!(configs[0], DecoderConfig { stored_dtype: None, ..configs[1].clone() });

    let [ours, theirs] = [&file, &folder].map(|path| Tokenizer::from_folder(path).expect("a tokenizer"));
    assert_eq!(ours.stop_ids(), theirs.stop_ids());
    assert_eq!([ours.bos(), ours.eos(), ours.pad()], [theirs.bos(), theirs.eos(), theirs.pad()]);
    assert_eq!(ours.vocab_size(), theirs.vocab_size());
    for text in TEXTS {
        for special in [AddSpecial::No, AddSpecial::Yes] {
            let [own, reference] =
                [&ours, &theirs].map(|tokenizer| tokenizer.encode_with_offsets(text, special).expect("ids"));
            assert_eq!(own, reference, "{text:?}");
            for skip in [false, true] {
                let [own, reference] =
                    [&ours, &theirs].map(|tokenizer| tokenizer.decode(&own.ids, skip).expect("text"));
                assert_eq!(own, reference, "{text:?}");
            }
        }
    }
    let every: Vec<u32> = (0..theirs.vocab_size() as u32).collect();
    for ids in every.chunks(7) {
        assert_eq!(ours.decode(ids, false).expect("text"), theirs.decode(ids, false).expect("text"));
    }

    let [ours, theirs] = [&file, &folder].map(|path| ChatTemplate::from_folder(path).expect("a template"));
    assert_eq!(ours.source("default"), theirs.source("default"));
    let talk = [Message::user("Hi!"), Message::assistant("Hello."), Message::user("Who are you?")];
    let with_system = [&[Message::system("Be kind.")], &talk[..]].concat();
    for messages in [&talk[..1], &talk[..], &with_system[..]] {
        let [own, reference] =
            [&ours, &theirs].map(|template| template.render(messages, &RenderOptions::prompt()).expect("text"));
        assert_eq!(own, reference);
    }
}

#[test]
fn weights_are_those_of_the_folder_to_the_bit() {
    let [ours, theirs] = [own_file(), smollm2()].map(|path| WeightFiles::open(path).expect("weights"));
    assert!(ours.names().eq(theirs.names()));
    let formats: Vec<&str> = ours.formats().into_iter().map(|format| format.name()).collect();
    assert_eq!(formats, ["Q4_1", "Q8_0"]);
    let mut values = 0;
    for name in theirs.names() {
        let [own, reference] = [&ours, &theirs].map(|files| files.get(name).expect("a tensor"));
        assert_eq!(own.shape, reference.shape, "{name}");
        let (own, reference) = (own.to_f32(), reference.to_f32());
        let bits = |values: &[f32]| values.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
        assert!(bits(&own) == bits(&reference), "{name}");
        values += own.len();
        theirs.release(name);
    }
    assert_eq!(values, 134_515_008);
}

#[test]
fn logits_are_those_of_the_folder_and_blocks_are_kept() {
    let (folder, wide, kept) = (load(smollm2(), None), load(own_file(), Some(WeightType::F32)), load(own_file(), None));
    assert_eq!(wide.decoder().packed_formats(), None);
    assert_eq!(kept.decoder().packed_formats().as_deref(), Some("Q4_1, Q8_0"));
    let messages = [Message::user("Tell me about the moon, and about the tides that it causes in our seas.")];
    let prompt = folder.prompt(&messages).expect("a prompt");
    assert_eq!(kept.prompt(&messages).expect("a prompt"), prompt);
    assert!(prompt.len() > 32);
    let reference = logits(&folder, &prompt);
    assert!(logits(&wide, &prompt) == reference, "the same values in the same kernels");
    // Products with blocks are summed in another order.
    let found = compare("logits", &logits(&kept, &prompt), &reference);
    println!("{found}");
    assert!(found.max_abs < 1e-3, "{found}");
    // The identity counts the formats, and the same values.
    let [folder, wide, kept] = [&folder, &wide, &kept].map(|model| model.identity().expect("an identity"));
    assert_eq!((&folder.weights, &folder.weights), (&wide.weights, &kept.weights));
    assert_eq!((folder.template_hash, kept.name.as_str()), (kept.template_hash, "model.gguf"));
    assert_eq!(kept.packed.as_deref(), Some("Q4_1, Q8_0"));
}

#[test]
fn other_types_of_weights_are_converted() {
    let folder = load(smollm2(), Some(WeightType::Q8));
    let file = load(own_file(), Some(WeightType::Q8));
    assert_eq!(file.decoder().packed_formats().as_deref(), Some("Q8_0"));
    let prompt = folder.prompt(&[Message::user("Hello")]).expect("a prompt");
    assert!(logits(&folder, &prompt) == logits(&file, &prompt));
    // In another compute type blocks are unpacked.
    let halves = CausalLm::from_folder(own_file(), &Device::flex(), DType::BF16).expect("a model");
    assert_eq!((halves.decoder().packed_formats(), halves.decoder().dtype()), (None, DType::BF16));
}

#[test]
fn persona_vectors_are_those_of_the_folder() {
    let contrast = |model: &CausalLm| {
        let contrast: Contrast = serde_json::from_value(serde_json::json!({
            "name": "pirate",
            "instruction": [{ "pos": "You are a pirate. Talk like one.", "neg": "You are a sober clerk." }],
            "questions": ["What do you do in the morning?", "How is the weather?", "What should I eat tonight?"],
        }))
        .expect("a contrast");
        let options = GenerateOptions { max_new_tokens: 16, ..GenerateOptions::default() };
        contrast.extract(model, &options, 3, |_| ControlFlow::Continue(())).expect("a vector")
    };
    let [folder, file] = [contrast(&load(smollm2(), None)), contrast(&load(own_file(), None))];
    let mut least = 1.0;
    for index in 1..30 {
        let layer = Layer::hidden_state(index);
        let [a, b] = [&folder, &file]
            .map(|found| found.vector.direction_of(Pooling::ResponseMean, layer).expect("a row").values);
        let dot = |x: &[f32], y: &[f32]| x.iter().zip(y).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum::<f64>();
        let cosine = dot(&a, &b) / (dot(&a, &a) * dot(&b, &b)).sqrt();
        least = f64::min(least, cosine);
    }
    println!("the least cosine of a layer: {least}");
    assert!(least > 0.999, "{least}");
}
