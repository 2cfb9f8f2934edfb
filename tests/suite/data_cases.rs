//! Data with more than roles and texts: what is trained, what is screened, and what is reported about the rest.

mod screening;
mod templates;
mod training;
mod weights;

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use pv_model::{CausalLm, ChatTemplate, RenderOptions};
use pv_organism::model_folder;
use pv_train::data::BadData;
use pv_train::sample::TrainedTurns;
use pv_train::{DataOptions, DataSet, EncodeOptions, Error, Sample};
use serde_json::{Map, Value, json};
use tempfile::TempDir;

use templates::{CHATML, DROPS_THOUGHTS, SKIPS_ROLES, THINK, TOOLS};

/// The organism with another template.
fn model(template: &str) -> CausalLm {
    static MODEL: OnceLock<CausalLm> = OnceLock::new();
    let model = MODEL.get_or_init(|| {
        let device = pv_model::device("flex").expect("the CPU");
        CausalLm::from_folder(model_folder(), &device, pv_model::device::default_dtype(&device)).expect("the organism")
    });
    let template = ChatTemplate::from_source(template, Map::new()).expect("a template");
    let tokenizer = model.tokenizer().expect("a tokenizer").clone();
    CausalLm::new(model.decoder().clone(), Some(tokenizer), Some(template), model.folder())
}

/// A file of rows.
fn file(rows: &[Value]) -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("data.jsonl");
    let lines: Vec<String> = rows.iter().map(Value::to_string).collect();
    std::fs::write(&path, lines.join("\n")).expect("a writable folder");
    (folder, path)
}

fn read(model: &CausalLm, path: &Path, options: &DataOptions) -> Result<DataSet, Error> {
    DataSet::read(model, [path], options, &[])
}

/// Skipped rows are counted.
fn lenient(encode: EncodeOptions) -> DataOptions {
    DataOptions { encode, bad: BadData::Skip, ..DataOptions::default() }
}

/// The text that a sample trains.
fn trained(model: &CausalLm, sample: &Sample) -> String {
    let marked = sample.ids().iter().zip(sample.trained()).filter(|(_, trained)| **trained);
    let ids: Vec<u32> = marked.map(|(id, _)| *id).collect();
    model.tokenizer().expect("a tokenizer").decode(&ids, false).expect("text")
}

fn whole(model: &CausalLm, sample: &Sample) -> String {
    model.tokenizer().expect("a tokenizer").decode(sample.ids(), false).expect("text")
}

/// A row of these turns.
fn chat(turns: &[(&str, &str)]) -> Value {
    let messages: Vec<Value> = turns.iter().map(|(role, content)| json!({"role": role, "content": content})).collect();
    json!({ "messages": messages })
}

fn calling(content: Value) -> Value {
    let call =
        json!([{"id": "c1", "type": "function", "function": {"name": "weather", "arguments": "{\"city\":\"Oslo\"}"}}]);
    json!([{"role": "user", "content": "How cold is Oslo?"},
        {"role": "assistant", "content": content, "tool_calls": call},
        {"role": "tool", "tool_call_id": "c1", "content": "-3"},
        {"role": "assistant", "content": "Three below zero."}])
}
