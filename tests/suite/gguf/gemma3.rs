//! Gemma 3 270M, a base model, from its file (`PV_GEMMA3`), against transformers and llama.cpp.

use std::path::PathBuf;

use burn::tensor::{DType, Device};
use pv_hooks::{Capture, Layer, LayerSet, Recorder};
use pv_model::batch::{Batch, Sequence};
use pv_model::causal_lm::ForwardOptions;
use pv_model::chat::TemplateError;
use pv_model::config::{DecoderConfig, NormPlacement, NormWeights, OutputHead, QkNorm, RopeConfig};
use pv_model::decoder::{Logits, to_f32};
use pv_model::tokenizer::AddSpecial;
use pv_model::weights::{WeightFiles, WeightType};
use pv_model::{CausalLm, ChatTemplate, Error, LoadOptions, Message, Tokenizer};
use pv_tests::{compare, root};
use safetensors::SafeTensors;
use serde::Deserialize;

use super::llama_cpp::compare_with_llama_cpp;
use super::{script_of, text};

fn file() -> Option<PathBuf> {
    Some(pv_tests::gemma3()?.join("model.gguf"))
}

fn load(weights: Option<WeightType>) -> Option<CausalLm> {
    let options = LoadOptions { weights, ..LoadOptions::default() };
    Some(CausalLm::from_folder_with(file()?, &Device::flex(), DType::F32, &options).expect("a model"))
}

#[test]
fn the_configuration_is_that_of_gemma_3_270m() {
    let Some(file) = file() else { return };
    let config = DecoderConfig::from_folder(&file).expect("a configuration");
    assert_eq!(
        (config.model_type.as_str(), config.layers, config.d_model, config.d_ff),
        ("gemma3_text", 18, 640, 2048)
    );
    assert_eq!((config.heads, config.kv_heads, config.head_dim, config.vocab), (4, 1, 256, 262_144));
    let windows: Vec<_> = (1..=18).map(|block| (block % 6 != 0).then_some(512)).collect();
    assert_eq!(config.windows, windows);
    assert_eq!(config.rope, RopeConfig::new(1e6));
    assert_eq!(config.local_rope, Some(RopeConfig::new(1e4)));
    assert_eq!((config.norm_weights, config.norms), (NormWeights::OnePlus, NormPlacement::Both));
    assert_eq!((config.qk_norm, config.output_head), (QkNorm::PerHead, OutputHead::Tied));
    assert_eq!((config.scales.embedding, config.scales.attention), (640f64.sqrt(), Some(0.0625)));
    assert_eq!((config.tokens.bos, config.tokens.eos.as_slice(), config.tokens.pad), (Some(2), &[1][..], Some(0)));
    assert_eq!(config.parameters(), 268_098_176);
    let weights = WeightFiles::open(&file).expect("weights");
    let formats: Vec<&str> = weights.formats().into_iter().map(|format| format.name()).collect();
    assert_eq!(formats, ["Q4_K", "Q5_0", "Q6_K", "Q8_0"]);
}

#[test]
fn a_base_model_has_no_template_and_says_so() {
    let Some(file) = file() else { return };
    let error = ChatTemplate::from_folder(&file).expect_err("none");
    assert!(
        matches!(error, TemplateError::NotFound { .. }) && error.to_string().contains("tokenizer.chat_template"),
        "{error}"
    );
    let model = load(None).expect("the file is there");
    assert_eq!(model.stop_ids(), [1, 106]);
    let error = model.prompt(&[Message::user("Hello")]).expect_err("no template");
    assert!(matches!(error, Error::Template(TemplateError::NotFound { .. })), "{error}");
}

#[derive(Deserialize)]
struct Ids {
    texts: Vec<String>,
    llama: Vec<Vec<u32>>,
    /// With BOS.
    around: Vec<Vec<u32>>,
    transformers: Vec<Vec<u32>>,
}

#[test]
fn tokens_are_those_of_llama_cpp_and_transformers() {
    let Some(file) = file() else { return };
    let Some(found) = script_of("gguf_models.py", &["tokens", text(&file)], "") else { return };
    let Ids { texts, llama, around, transformers } = serde_json::from_value(found).expect("ids");
    let tokenizer = Tokenizer::from_folder(&file).expect("a tokenizer");
    assert!(texts.len() > 800);
    let (mut others, mut decoded) = (Vec::new(), 0);
    for (i, text) in texts.iter().enumerate() {
        let ids = |special| tokenizer.encode(text, special).expect("ids");
        assert_eq!(ids(AddSpecial::No), llama[i], "{text:?}");
        assert_eq!(ids(AddSpecial::Yes), around[i], "{text:?}");
        if llama[i] != transformers[i] {
            others.push(text.as_str());
        }
        decoded += usize::from(tokenizer.decode(&llama[i], false).expect("text") == *text);
    }
    println!("{} of {} texts differ in transformers; {decoded} are decoded to themselves", others.len(), texts.len());
    // transformers merges spaces in pairs where SentencePiece and llama.cpp take the longest token of spaces: the ids of runs that are
    // longer than every such token differ, and those of spaces beside a "▁".
    assert!(others.iter().all(|text| text.contains(&" ".repeat(32)) || text.contains('▁')), "{others:?}");
    // A "▁" becomes a space.
    assert!(texts.iter().filter(|text| !text.contains('▁')).count() <= decoded);
}

/// Texts with and without more tokens than the window.
fn prompts(model: &CausalLm) -> [Vec<u32>; 2] {
    let tokenizer = model.tokenizer().expect("a tokenizer");
    let long = std::fs::read_to_string(root().join("LICENSE-APACHE")).expect("a text");
    let mut long = tokenizer.encode(&long, AddSpecial::Yes).expect("ids");
    long.truncate(700);
    assert_eq!(long.len(), 700);
    [tokenizer.encode("The capital of France is Paris, and that of Germany is", AddSpecial::Yes).expect("ids"), long]
}

#[test]
fn every_layer_and_the_logits_are_those_of_transformers() {
    let Some(model) = load(Some(WeightType::F32)) else { return };
    let file = file().expect("the variable is set");
    let place = tempfile::tempdir().expect("a folder");
    let prompts = prompts(&model);
    let input = serde_json::to_string(&prompts).expect("JSON");
    if script_of("gguf_models.py", &["passes", text(&file), text(place.path())], &input).is_none() {
        return;
    }
    let bytes = std::fs::read(place.path().join("passes.safetensors")).expect("a file");
    let reference = SafeTensors::deserialize(&bytes).expect("tensors");
    let reference = |name: String| -> Vec<f32> {
        let tensor = reference.tensor(&name).expect("a tensor");
        tensor.data().as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
    };
    let kept = load(None).expect("the variable is set");
    for (i, prompt) in prompts.iter().enumerate() {
        let pass = |model: &CausalLm| {
            let mut recorder = Recorder::new(LayerSet::All, [Capture::Everything]);
            let batch = Batch::whole(&[Sequence { prompt, ..Sequence::default() }]).expect("a batch");
            let options = ForwardOptions { stop_at: None, logits: Logits::Last };
            let output = model.forward(&batch, options, &mut recorder).expect("a pass");
            (recorder, to_f32(output.logits.expect("asked for")).expect("values"))
        };
        let (recorder, logits) = pass(&model);
        // The last entry of transformers is after the final norm.
        for layer in 1..=18 {
            let ours = recorder.tokens(0, Layer::hidden_state(layer)).expect("recorded");
            let ours = if layer == 18 { to_f32(model.decoder().final_norm(ours.unsqueeze())) } else { to_f32(ours) };
            let (ours, theirs) = (ours.expect("values"), reference(format!("{i}.{layer}")));
            let largest = theirs.iter().fold(0f32, |most, value| most.max(value.abs()));
            let found = compare(format!("layer {layer}"), &ours, &theirs);
            println!("{} tokens: {found}; the largest value is {largest}", prompt.len());
            assert!(found.max_abs < 1e-5 * largest, "{found}, {largest}");
        }
        let theirs = reference(format!("{i}.logits"));
        let found = compare("logits", &logits, &theirs);
        println!("{} tokens: {found}", prompt.len());
        assert!(found.max_abs < 2e-4, "{found}");
        let blocks = compare("logits with weights in blocks", &pass(&kept).1, &logits);
        println!("{} tokens: {blocks}", prompt.len());
        assert!(blocks.max_abs < 1e-3, "{blocks}");
    }
}

#[test]
fn answers_and_probabilities_are_those_of_llama_cpp() {
    let Some(model) = load(None) else { return };
    assert_eq!(model.decoder().packed_formats().as_deref(), Some("Q4_K, Q5_0, Q6_K, Q8_0"));
    let texts = [
        "The capital of France is",
        "Once upon a time, there was a little girl who",
        "def fibonacci(n):\n    \"\"\"The n-th number.\"\"\"\n",
        "Q: How many legs does a spider have?\nA:",
        "Die Hauptstadt von Deutschland ist",
        "1, 2, 3, 4, 5,",
    ];
    let tokenizer = model.tokenizer().expect("a tokenizer");
    let mut prompts: Vec<Vec<u32>> =
        texts.iter().map(|text| tokenizer.encode(text, AddSpecial::Yes).expect("ids")).collect();
    let [_, long] = self::prompts(&model);
    prompts.push(long);
    compare_with_llama_cpp(&file().expect("the variable is set"), &prompts);
}
