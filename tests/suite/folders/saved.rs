//! The content of a saved folder.

use std::collections::BTreeMap;
use std::ffi::OsStr;

use pv_model::decoder::Decoder;
use pv_tests::{measured_apart, peak_memory, tell_bytes};

use super::*;

/// A model folder with all files that transformers reads.
fn full() -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    copy(&organism(), folder.path());
    let templates = folder.path().join("additional_chat_templates");
    std::fs::create_dir(&templates).expect("a writable folder");
    for name in ["tool_use", "rag"] {
        let template = format!("{{# {name} #}}{{{{ messages[0].content }}}}");
        std::fs::write(templates.join(format!("{name}.jinja")), template).expect("a writable folder");
    }
    let mut config: Value = read(folder.path(), "tokenizer_config.json");
    config["eos_token"] = "<|done|>".into();
    write(folder.path(), "tokenizer_config.json", &config);
    write(folder.path(), "added_tokens.json", &json!({ "<|turn|>": 3363, "<|done|>": 3364 }));
    write(folder.path(), "special_tokens_map.json", &json!({ "eos_token": "<|done|>" }));
    write(folder.path(), "vocab.json", &json!({ "a": 0 }));
    write(folder.path(), "generation_config.json", &json!({ "eos_token_id": [0, 2], "temperature": 0.7 }));
    for file in ["merges.txt", "tokenizer.model"] {
        std::fs::write(folder.path().join(file), "as it is").expect("a writable folder");
    }
    folder
}

fn read(folder: &Path, file: &str) -> Value {
    serde_json::from_slice(&std::fs::read(folder.join(file)).expect("a file")).expect("JSON")
}

/// The files other than the decoder's, with their content.
fn beside(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in std::fs::read_dir(next).expect("a folder") {
            let path = entry.expect("an entry").path();
            match path.is_dir() {
                true => folders.push(path),
                false => {
                    let name = path.strip_prefix(folder).expect("within").to_owned();
                    files.insert(name, std::fs::read(&path).expect("a file"));
                }
            }
        }
    }
    files.retain(|name, _| name != Path::new("config.json") && name != Path::new("model.safetensors"));
    files
}

fn templates(model: &CausalLm) -> BTreeMap<String, String> {
    let template = model.chat_template().expect("a template");
    template.names().map(|name| (name.to_owned(), template.source(name).expect("it is there").to_owned())).collect()
}

const TEXT: &str = "<|turn|>Hello there<|done|>";

#[test]
fn everything_that_was_read_is_saved() {
    let folder = full();
    let model = load(folder.path()).expect("the model");
    assert_eq!(model.stop_ids(), [0, 2, 3364]);
    assert_eq!(templates(&model).keys().collect::<Vec<_>>(), ["default", "rag", "tool_use"]);
    let place = tempfile::tempdir().expect("a folder");
    let saved = place.path().join("saved");
    model.save(&saved, DType::F32).expect("it is written");
    assert_eq!(beside(&saved), beside(folder.path()));
    let again = load(&saved).expect("the saved model");
    assert_eq!(templates(&again), templates(&model));
    assert_eq!(again.stop_ids(), model.stop_ids());
    assert_eq!(again.identity().expect("weights").template_hash, model.identity().expect("weights").template_hash);
    // Also over itself.
    again.save(&saved, DType::F32).expect("it is written");
    assert_eq!(beside(&saved), beside(folder.path()));

    // A model whose folder was deleted is saved from memory.
    let ids = |model: &CausalLm| model.tokenizer().expect("a tokenizer").encode_rendered(TEXT).expect("ids");
    let expected = ids(&model);
    assert_eq!((expected.first(), expected.last()), (Some(&3363), Some(&3364)));
    drop(folder);
    let rescued = place.path().join("rescued");
    model.save(&rescued, DType::F32).expect("it is written");
    let again = load(&rescued).expect("the rescued model");
    assert_eq!((ids(&again), templates(&again)), (expected, templates(&model)));
    let ends = |model: &CausalLm| model.stop_ids().iter().copied().collect::<std::collections::BTreeSet<_>>();
    assert_eq!(ends(&again), ends(&model));
    let tokenizer = |model: &CausalLm| model.tokenizer().map(|t| (t.bos(), t.eos(), t.pad())).expect("a tokenizer");
    assert_eq!(tokenizer(&again), tokenizer(&model));
}

const CHILD: &str = "PV_SAVING_MEMORY";

/// In a process of its own: the memory that saving takes in addition to the model.
fn child(folder: &Path) {
    let wide = config(&json!({ "hidden_size": 512, "vocab_size": 120_000, "intermediate_size": 1024 }));
    let f32s = Decoder::init(wide, 3, &Device::flex()).expect("a decoder");
    let taken = |decoder: &Decoder, dtype: DType| {
        // From here on, the peak is that of saving.
        std::fs::write("/proc/self/clear_refs", "5").expect("proc");
        let before = peak_memory();
        decoder.save(folder, dtype).expect("it is written");
        // More memory may have been freed than was allocated.
        peak_memory().saturating_sub(before)
    };
    let first = taken(&f32s, DType::F32).max(taken(&f32s, DType::BF16));
    drop(f32s);
    let halves = Decoder::from_folder(folder, &Device::flex(), DType::BF16).expect("the model");
    tell_bytes(first.max(taken(&halves, DType::BF16)));
}

#[test]
fn saving_takes_little_memory_beyond_the_model() {
    if let Some(folder) = std::env::var_os(CHILD) {
        return child(Path::new(&folder));
    }
    let folder = tempfile::tempdir().expect("a folder");
    let test = "folders::saved::saving_takes_little_memory_beyond_the_model";
    let taken = measured_apart(test, &[(CHILD, OsStr::new(folder.path()))]);
    // A model of 250 MB, whose embedding alone is 246 MB.
    println!("saving took {} MB", taken >> 20);
    assert!(taken < 80 << 20, "{taken} bytes");
}
