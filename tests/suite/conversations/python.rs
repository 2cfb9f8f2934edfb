//! Files written and read by pyarrow, if `PV_PYTHON` names a Python with it.

use std::path::{Path, PathBuf};
use std::process::Command;

use pv_data::conversations::{Cell, NewColumn, add_columns};
use pv_model::chat::assistant_spans;
use pv_model::{ChatTemplate, RenderOptions};
use pv_tests::root;
use serde_json::{Map, Value, json};

use super::making::{lines, talks};
use super::{conversations, good};

/// Python with pyarrow, if `PV_PYTHON` names one.
fn python() -> Option<PathBuf> {
    let python = PathBuf::from(std::env::var_os("PV_PYTHON")?);
    let found = Command::new(&python).args(["-c", "import pyarrow.parquet"]).output();
    let found = found.unwrap_or_else(|error| panic!("PV_PYTHON={}: {error}", python.display()));
    found.status.success().then_some(python)
}

fn script(python: &Path, task: &str, paths: [&Path; 2]) {
    let mut command = Command::new(python);
    command.arg(root().join("tests/python/conversations.py")).arg(task).args(paths);
    let output = command.output().unwrap_or_else(|error| panic!("PV_PYTHON={}: {error}", python.display()));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Tool calls, thoughts, parts and tools are rendered as by transformers, and an answer is the text of a generation block.
#[test]
fn conversations_are_rendered_like_in_transformers() {
    let Some(python) = python() else {
        println!("PV_PYTHON names no Python with pyarrow: NOT CHECKED");
        return;
    };
    let template = "{%- if tools %}{{- tools | tojson }}{%- endif %}{%- for m in messages %}{{- '<' + m.role + '>' }}\
        {%- if m.role == 'assistant' %}{%- generation %}\
        {%- if m.reasoning_content %}{{- '(' + m.reasoning_content + ')' }}{%- endif %}{{- m.content or '' }}\
        {%- if m.tool_calls %}{{- m.tool_calls | tojson }}{%- endif %}{%- endgeneration %}\
        {%- elif m.content is string %}{{- m.content }}\
        {%- else %}{%- for part in m.content %}{{- part.text }}{%- endfor %}{%- endif %}{{- '</s>\n' }}{%- endfor %}";
    let everything = "{% for m in messages %}{{ m | tojson }}{% endfor %}{{ mood }}";
    let mut rows = super::keys::everything();
    rows.push(json!({"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}, {"text": "b", "type": "text"}]},
        {"content": "c", "role": "assistant", "mood": {"z": [null, 1.5, true], "a": "\u{e9}"}}], "chat_template_kwargs": {"mood": "calm"}}));
    for names in [vec!["thinking"], vec!["reasoning"], vec!["reasoning_content"], vec!["reasoning", "thinking"]] {
        let mut answer = json!({"content": "c", "role": "assistant"});
        names.iter().for_each(|name| answer[*name] = json!(format!("by {name}")));
        rows.push(json!({ "messages": [{"role": "user", "content": "b"}, answer] }));
    }
    let folder = tempfile::tempdir().expect("a folder");
    let at = |name: &str| folder.path().join(name);
    let lines: Vec<String> = rows.iter().map(Value::to_string).collect();
    std::fs::write(at("rows.jsonl"), lines.join("\n")).expect("a writable folder");
    let conversations = good(&at("rows.jsonl"));
    let cases: Vec<_> =
        [template, everything].into_iter().flat_map(|t| conversations.iter().map(move |c| (t, c))).collect();
    let written = cases.iter().map(|(template, conversation)| {
        let mut case = serde_json::to_value(conversation).expect("JSON");
        case["template"] = json!(template);
        case.to_string()
    });
    std::fs::write(at("cases.jsonl"), written.collect::<Vec<_>>().join("\n")).expect("a writable folder");
    script(&python, "render", [&at("cases.jsonl"), &at("texts.jsonl")]);
    let texts = std::fs::read_to_string(at("texts.jsonl")).expect("a file");
    let mut spans_found = 0;
    for ((source, conversation), line) in cases.iter().zip(texts.lines()) {
        let theirs: Value = serde_json::from_str(line).expect("JSON");
        let template = ChatTemplate::from_source(*source, Map::new()).expect("a template");
        let options = RenderOptions::default().of(conversation);
        let ours = template.render(&conversation.messages, &options).expect("a text").text;
        let text = theirs["text"].as_str().expect("a text");
        assert_eq!(text, ours, "{conversation:?}");
        if *source == everything {
            continue;
        }
        let spans = assistant_spans(&template, &conversation.messages, &options).expect("spans");
        let in_characters = |at: usize| ours[..at].chars().count();
        let spans: Vec<[usize; 2]> =
            spans.iter().map(|span| [in_characters(span.start), in_characters(span.end)]).collect();
        assert_eq!(theirs["spans"], json!(spans), "{ours}");
        spans_found += spans.len();
    }
    assert_eq!((texts.lines().count(), spans_found), (22, 12));
}

/// A table whose structs pyarrow builds from rows with different keys: missing keys are null.
#[test]
fn nested_columns_of_pyarrow_are_read() {
    let Some(python) = python() else {
        println!("PV_PYTHON names no Python with pyarrow: NOT CHECKED");
        return;
    };
    let folder = tempfile::tempdir().expect("a folder");
    let at = |name: &str| folder.path().join(name);
    let call = |arguments: Value| json!([{"type": "function", "function": {"name": "f", "arguments": arguments}}]);
    let rows = [
        json!({"messages": [{"role": "user", "content": "a"},
            {"role": "assistant", "content": "", "tool_calls": call(json!({"city": "Oslo"}))}], "weight": 0.5}),
        json!({"messages": [{"role": "user", "content": "b", "name": "Ann"},
            {"role": "assistant", "content": "", "tool_calls": call(json!({"days": 3, "deep": [{"x": [true]}]}))}],
            "tools": [{"type": "function", "function": {"name": "f"}}]}),
    ];
    let lines: Vec<String> = rows.iter().map(Value::to_string).collect();
    std::fs::write(at("rows.jsonl"), lines.join("\n")).expect("a writable folder");
    script(&python, "nested", [&at("rows.jsonl"), &at("rows.parquet")]);
    assert_eq!(good(&at("rows.parquet")), good(&at("rows.jsonl")));
}

#[test]
fn pyarrow_reads_our_files_and_we_read_its_files() {
    let Some(python) = python() else {
        println!("PV_PYTHON names no Python with pyarrow: NOT CHECKED");
        return;
    };
    let folder = tempfile::tempdir().expect("a folder");
    let at = |name: &str| folder.path().join(name);
    let talks = talks(2000, 30, 40);
    std::fs::write(at("talks.jsonl"), lines(&talks)).expect("a writable folder");
    let expected = conversations(&talks);
    for task in ["snappy", "zstd", "gzip", "lz4", "large", "dictionary", "v2", "one-group"] {
        let (ours, theirs) = (at("ours.parquet"), at("theirs.parquet"));
        script(&python, task, [&at("talks.jsonl"), &theirs]);
        assert_eq!(good(&theirs), expected, "{task}");
        let columns = [NewColumn::number("proj"), NewColumn::text("why")];
        let values = |row: u64| {
            vec![Cell::Number(row as f64), if row.is_multiple_of(2) { Cell::Null } else { Cell::Text(row.to_string()) }]
        };
        add_columns(&[&theirs], &ours, &columns, |place| Ok((place.row % 3 != 0).then(|| values(place.row))))
            .expect("a file");
        // Compares every column of every row.
        script(&python, "check", [&theirs, &ours]);
    }
}
