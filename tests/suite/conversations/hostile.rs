//! Files that differ from what their names say, and rows with contradictory JSON: nothing is misread.

use std::fs;
use std::path::Path;

use pv_data::ConversationReader;
use pv_data::conversations::{ConversationError, NewColumn, add_fields};
use pv_model::{ChatTemplate, Message, RenderOptions};
use serde_json::{Map, Value, json};

use super::making::{gzip, zstandard};
use super::{good, read};

const ROW: &str = r#"{"messages": [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "So."}]}"#;

fn written(folder: &Path, name: &str, bytes: &[u8]) -> std::path::PathBuf {
    let path = folder.join(name);
    fs::write(&path, bytes).expect("a writable folder");
    path
}

#[test]
fn bytes_that_are_not_text_are_reported() {
    let folder = tempfile::tempdir().expect("a folder");
    let wide: Vec<u8> = "\u{feff}".encode_utf16().chain(ROW.encode_utf16()).flat_map(u16::to_le_bytes).collect();
    let big: Vec<u8> = "\u{feff}".encode_utf16().chain(ROW.encode_utf16()).flat_map(u16::to_be_bytes).collect();
    for (name, bytes, what) in [
        ("wide.jsonl", wide.clone(), "UTF-16"),
        ("big.csv", big, "UTF-16"),
        ("wide.jsonl.gz", gzip(&wide), "UTF-16"),
        ("packed.jsonl", gzip(ROW.as_bytes()), ".gz"),
        ("packed.csv", zstandard(ROW.as_bytes()), ".zst"),
        ("twice.jsonl.gz", gzip(&gzip(ROW.as_bytes())), ".gz"),
        ("table.jsonl", b"PAR1 and so on".to_vec(), ".parquet"),
        ("archive.csv", b"PK\x03\x04 and so on".to_vec(), "zip"),
    ] {
        let path = written(folder.path(), name, &bytes);
        let mut rows = ConversationReader::new([&path]).expect("a known file");
        let error = rows.next().expect("an error").expect_err("no text");
        assert!(matches!(error, ConversationError::Unsupported { .. }), "{name}: {error}");
        assert!(error.to_string().contains(what), "{name}: {error}");
        assert!(rows.next().is_none());
    }
}

#[test]
fn marks_and_line_ends_of_other_systems_are_read() {
    let folder = tempfile::tempdir().expect("a folder");
    let text = format!("\u{feff}{ROW}\r\n\r\n{}\r\n", ROW.replace("Why", "Whence"));
    for (name, bytes) in [
        ("a.jsonl", text.clone().into_bytes()),
        ("a.jsonl.gz", gzip(text.as_bytes())),
        ("a.ndjson.zst", zstandard(text.as_bytes())),
    ] {
        assert_eq!(good(&written(folder.path(), name, &bytes)).len(), 2, "{name}");
    }
    let table = "\u{feff}question,answer\r\n\"a\nb\",c\r\nd,\"e\r\nf\"\r\n";
    let read = good(&written(folder.path(), "a.csv", table.as_bytes()));
    assert_eq!((&*read[0].messages[0].content, &*read[1].messages[1].content), ("a\nb", "e\r\nf"));
}

#[test]
fn contradictory_rows_are_errors() {
    let folder = tempfile::tempdir().expect("a folder");
    for (line, what) in [
        (ROW.replace("\"So.\"", "\"So.\", \"content\": \"No.\""), "`content`"),
        (ROW.replace("{\"messages\"", "{\"messages\": [], \"messages\""), "`messages`"),
        (ROW.replace("\"So.\"", "\"\\ud83d\""), "invalid JSON"),
        (ROW.replace("\"So.\"", "\"So.\", \"weight\": NaN"), "weight"),
        (ROW.replace("\"So.\"", "\"So.\", \"weight\": Infinity"), "weight"),
        (ROW.replace("\"So.\"", "\"So.\", \"weight\": 1e999"), "invalid JSON"),
        (ROW.replace("\"So.\"", "\"So.\", \"id\": 123456789012345678901234567890"), "123456789012345678901234567890"),
        (format!("[{ROW}]"), "line of its own"),
        (format!("{ROW} {ROW}"), "invalid JSON"),
    ] {
        let (rows, bad, errors, _) =
            read(&written(folder.path(), "a.jsonl", format!("{ROW}\n{line}\n{ROW}\n").as_bytes()));
        assert!(rows.len() == 2 && errors.is_empty(), "{line}: {errors:?}");
        assert!(bad[0].place.row == 2 && bad[0].problem.to_string().contains(what), "{line}: {}", bad[0].problem);
    }
    let twice = written(folder.path(), "twice.csv", b"question,answer,answer\na,b,c\n");
    let error = ConversationReader::new([twice]).expect("files").next().expect("an error").expect_err("two columns");
    assert!(error.to_string().contains("duplicate column \"answer\""), "{error}");
}

/// Python writes NaN into columns that are often ignored.
#[test]
fn a_row_with_nan_in_another_column_is_read_and_copied_unchanged() {
    let folder = tempfile::tempdir().expect("a folder");
    let line = ROW.replace("{\"messages\"", "{\"score\": NaN, \"range\": [-Infinity, Infinity], \"messages\"");
    let path = written(folder.path(), "a.jsonl", line.as_bytes());
    assert_eq!(good(&path).len(), 1);
    let out = folder.path().join("out.jsonl");
    let columns = [NewColumn::number("delta")];
    add_fields(&[&path], &out, &columns, |_| Ok(Some(vec![pv_data::conversations::Cell::Number(1.5)]))).expect("rows");
    let expected = format!("{}, \"delta\": 1.5}}\n", line.strip_suffix('}').expect("an object"));
    assert_eq!(fs::read_to_string(&out).expect("a file"), expected);
}

/// The values that transformers 5.24 passes to templates (`{{ m | tojson }}`).
#[test]
fn a_thought_is_passed_to_templates_under_each_name() {
    let template = ChatTemplate::from_source("{% for m in messages %}{{ m | tojson }}{% endfor %}", Map::new());
    let template = template.expect("a template");
    let render = |message: Value| {
        let message: Message = serde_json::from_value(message).expect("a message");
        template.render(&[message], &RenderOptions::default()).expect("a text").text
    };
    for (message, expected) in THOUGHTS {
        let message: Value = serde_json::from_str(message).expect("JSON");
        assert_eq!(render(message.clone()), *expected, "{message}");
    }
    let message = Message::assistant("c").with("reasoning", "r");
    assert_eq!(
        serde_json::to_value(&message).expect("JSON"),
        json!({"role": "assistant", "content": "c", "reasoning": "r"})
    );
}

const THOUGHTS: &[(&str, &str)] = &[
    (
        r#"{"role": "assistant", "content": "c", "reasoning": "r"}"#,
        r#"{"thinking": "r", "role": "assistant", "content": "c", "reasoning": "r", "reasoning_content": "r"}"#,
    ),
    (
        r#"{"role": "assistant", "content": "c", "thinking": "t"}"#,
        r#"{"thinking": "t", "role": "assistant", "content": "c", "reasoning_content": "t"}"#,
    ),
    (
        r#"{"role": "assistant", "content": "c", "reasoning_content": "rc"}"#,
        r#"{"thinking": "rc", "role": "assistant", "content": "c", "reasoning_content": "rc"}"#,
    ),
    (
        r#"{"role": "assistant", "thinking": "t", "reasoning": "r", "content": "c"}"#,
        r#"{"thinking": "t", "role": "assistant", "reasoning": "r", "content": "c", "reasoning_content": "t"}"#,
    ),
    (
        r#"{"role": "assistant", "content": "c", "reasoning_content": null, "thinking": null, "reasoning": "r"}"#,
        r#"{"thinking": null, "role": "assistant", "content": "c", "reasoning_content": "r", "reasoning": "r"}"#,
    ),
    (
        r#"{"role": "assistant", "content": "c", "reasoning_content": "rc", "thinking": "t", "reasoning": "r"}"#,
        r#"{"thinking": "t", "role": "assistant", "content": "c", "reasoning_content": "rc", "reasoning": "r"}"#,
    ),
    (
        r#"{"role": "assistant", "content": "c", "reasoning": ""}"#,
        r#"{"thinking": "", "role": "assistant", "content": "c", "reasoning": "", "reasoning_content": ""}"#,
    ),
    (
        r#"{"role": "assistant", "content": "c", "reasoning": null}"#,
        r#"{"role": "assistant", "content": "c", "reasoning": null}"#,
    ),
    (
        r#"{"role": "user", "content": "c", "thinking": ["a", 1]}"#,
        r#"{"thinking": ["a", 1], "role": "user", "content": "c", "reasoning_content": ["a", 1]}"#,
    ),
];
