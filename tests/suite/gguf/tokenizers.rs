//! Tokenizers of GGUF files, compared with llama.cpp and with transformers.

use std::path::PathBuf;

use pv_model::Tokenizer;
use pv_model::tokenizer::AddSpecial;
use serde::Deserialize;

use super::{own_file, script, text};

#[derive(Deserialize)]
struct Found {
    texts: Vec<String>,
    models: Vec<Model>,
}

#[derive(Deserialize)]
struct Model {
    path: PathBuf,
    /// llama.cpp's ids, without and with the tokens around a text.
    ids: Vec<Vec<u32>>,
    special: Vec<Vec<u32>>,
    transformers: Option<Vec<Vec<u32>>>,
}

/// Of so many texts, one is read with the tokens around it too.
const SPECIAL: usize = 3;

const PRE: &str = "default,gpt-2,olmo,smollm,starcoder,refact,llama-bpe,llama3,dbrx,glm4,qwen2,tekken,gpt-4o";

#[test]
fn ids_are_those_of_llama_cpp_and_transformers() {
    let place = tempfile::tempdir().expect("a folder");
    let Some(found) = script(&["tokenizers", text(place.path()), text(&own_file()), PRE], "") else { return };
    let Found { texts, models } = serde_json::from_value(found).expect("ids");
    assert!(texts.len() > 700 && models.len() == PRE.split(',').count() + 3);
    assert!(models.iter().all(|model| model.special.len() == texts.len().div_ceil(SPECIAL)));
    let mut wrong = Vec::new();
    for model in &models {
        let tokenizer = Tokenizer::from_folder(&model.path).expect("a tokenizer");
        let name = model.path.file_stem().unwrap_or_default().to_string_lossy();
        // After special tokens of Phi-3, llama.cpp drops spaces of ASCII only; transformers drops all.
        let others = |text: &str| name == "spm-phi3" && text.contains(['\u{a0}', '\u{3000}']);
        let mut differing = [0; 3];
        let mut first = None;
        for (i, text) in texts.iter().enumerate().filter(|(_, text)| !others(text)) {
            let plain = tokenizer.encode(text, AddSpecial::No).expect("ids");
            let around = tokenizer.encode(text, AddSpecial::Yes).expect("ids");
            let theirs = model.transformers.as_ref().map_or(&plain, |ids| &ids[i]);
            let special = if i.is_multiple_of(SPECIAL) { &model.special[i / SPECIAL] } else { &around };
            for (kind, (ours, theirs)) in
                [(&plain, &model.ids[i]), (&around, special), (&plain, theirs)].into_iter().enumerate()
            {
                if ours != theirs {
                    differing[kind] += 1;
                    first = first.or_else(|| Some(format!("{kind}: {text:?}: {ours:?}, there {theirs:?}")));
                }
            }
        }
        let also = if model.transformers.is_some() { " and transformers" } else { "" };
        println!("{name}: {differing:?} of {} texts differ from llama.cpp{also}", texts.len());
        if let Some(first) = first {
            println!("    {first}");
            wrong.push((name.into_owned(), differing));
        }
    }
    assert!(wrong.is_empty(), "{wrong:?}");
}
