//! All keys of a row are kept, in every file format.

use std::fs;
use std::path::Path;

use pv_data::conversations::{
    Cell, Format, NewColumn, add_columns, add_fields, read_conversations, write_conversations,
};
use pv_data::{Conversation, ConversationReader};
use pv_model::{ChatTemplate, Message, RenderOptions};
use serde_json::{Map, Value, json};

use super::{good, read, shred};

fn rows(path: &Path, rows: &[Value]) {
    let lines: Vec<String> = rows.iter().map(Value::to_string).collect();
    fs::write(path, lines.join("\n")).expect("a writable folder");
}

/// One row as JSONL: its conversation, or the error.
fn one(row: &Value) -> Result<Conversation, String> {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("a.jsonl");
    rows(&path, std::slice::from_ref(row));
    let (mut rows, bad, errors, _) = read(&path);
    assert!(errors.is_empty(), "{errors:?}");
    rows.pop().map(|row| row.conversation).ok_or_else(|| bad[0].problem.to_string())
}

fn turns(first: Value, second: Value) -> Value {
    json!({ "messages": [first, second] })
}

fn call() -> Value {
    json!([{"id": "c1", "type": "function", "function": {"name": "weather", "arguments": "{\"city\":\"Oslo\"}"}}])
}

/// All keys that a message and a row may have; each row tests one kind.
pub(super) fn everything() -> Vec<Value> {
    let user = || json!({"role": "user", "content": "How cold is Oslo?"});
    vec![
        json!({"messages": [user(), {"role": "assistant", "content": "", "tool_calls": call()},
            {"role": "tool", "content": "-3", "name": "weather", "tool_call_id": "c1"},
            {"role": "assistant", "content": "Three below zero."}],
            "tools": "[{\"type\": \"function\", \"function\": {\"name\": \"weather\"}}]"}),
        turns(user(), json!({"role": "assistant", "content": null, "tool_calls": call()})),
        turns(user(), json!({"role": "assistant", "content": "Four.", "reasoning_content": "Two and two."})),
        turns(user(), json!({"role": "assistant", "content": "Bad.", "weight": 0.0})),
        turns(user(), json!({"role": "assistant", "content": "Good.", "weight": 2.5, "train": true})),
        json!({"messages": [user(), {"role": "assistant", "content": "So?"}], "weight": 0.25, "system": "Speak in verse."}),
    ]
}

const SCHEMA: &str = "message m {
    optional binary source (STRING);
    optional group messages (LIST) { repeated group list { optional group element {
        optional binary role (STRING); optional binary content (STRING); optional binary name (STRING);
        optional binary tool_call_id (STRING); optional binary reasoning_content (STRING);
        optional double weight; optional boolean train;
        optional group tool_calls (LIST) { repeated group list { optional group element {
            optional binary id (STRING); optional binary type (STRING);
            optional group function { optional binary name (STRING); optional binary arguments (STRING);
                optional int64 unused; } } } } } } }
    optional binary tools (STRING);
    optional double weight;
    optional binary system (STRING);
}";

#[test]
fn parquet_and_json_lines_are_equivalent() {
    let folder = tempfile::tempdir().expect("a folder");
    let at = |name: &str| folder.path().join(name);
    let all = everything();
    rows(&at("a.jsonl"), &all);
    shred::write(&at("a.parquet"), SCHEMA, &all);
    let (from_lines, from_columns) = (good(&at("a.jsonl")), good(&at("a.parquet")));
    assert_eq!(from_columns, from_lines);
    let ids = |all: &[Conversation]| all.iter().map(Conversation::id).collect::<Vec<_>>();
    assert_eq!(ids(&from_columns), ids(&from_lines));
    assert_eq!(from_lines[0].messages[1].fields["tool_calls"], call());
    assert_eq!(from_lines[0].fields["tools"], json!([{"type": "function", "function": {"name": "weather"}}]));
    assert_eq!(from_lines[1].messages[1].content.json(), Some(Value::Null));
    assert_eq!(from_lines[5].messages[0], Message::system("Speak in verse."));

    // Everything is written, and reads back.
    write_conversations(at("b.jsonl.gz"), &from_lines).expect("a writable folder");
    assert_eq!(read_conversations(at("b.jsonl.gz")).expect("a file"), from_lines);
    let columns = [NewColumn::number("x")];
    let value = |place: &pv_data::conversations::RowPlace| Ok(Some(vec![Cell::Number(place.row as f64)]));
    add_fields(&[at("a.jsonl")], at("c.jsonl"), &columns, value).expect("a file");
    assert_eq!(good(&at("c.jsonl")), from_lines);
    add_columns(&[at("a.parquet")], at("c.parquet"), &columns, value).expect("a file");
    assert_eq!(good(&at("c.parquet")), from_lines);
}

#[test]
fn a_template_is_given_every_key_in_its_order() {
    let row = turns(
        json!({"content": "a", "role": "user", "mood": {"z": 1, "a": [null, true]}}),
        json!({"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": {"z": null, "a": 1.5}}}],
            "content": null, "refusal": null}),
    );
    let conversation = one(&row).expect("a conversation");
    let text = |source: &str| {
        let template = ChatTemplate::from_source(source, Map::new()).expect("a template");
        template.render(&conversation.messages, &RenderOptions::default()).expect("a text").text
    };
    // Nulls of a message itself are dropped, nested ones stay.
    assert_eq!(
        text("{{ messages | tojson }}"),
        r#"[{"content": "a", "role": "user", "mood": {"z": 1, "a": [null, true]}}, {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": {"z": null, "a": 1.5}}}], "content": null}]"#
    );
    assert_eq!(text("{{ messages[1].content is none }} {{ messages[1].refusal is defined }}"), "True False");
    let absent = one(&turns(
        json!({"role": "user", "content": "a"}),
        json!({"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{}"}}]}),
    ));
    let template = ChatTemplate::from_source("{{ messages[1].content is defined }}", Map::new()).expect("a template");
    let rendered = template.render(&absent.expect("a conversation").messages, &RenderOptions::default());
    assert_eq!(rendered.expect("a text").text, "False");
}

#[test]
fn a_list_of_parts_is_kept_and_has_its_text() {
    let parts = json!([{"type": "text", "text": "Two "}, {"type": "text", "text": "parts."}]);
    let row = turns(json!({"role": "user", "content": parts}), json!({"role": "assistant", "content": ["x", "y"]}));
    let conversation = one(&row).expect("a conversation");
    assert_eq!(conversation.messages[0].content, "Two parts.");
    assert_eq!(conversation.messages[0].content.json(), Some(parts));
    assert_eq!(conversation.messages[1].content, "xy");
    let flat = Conversation::new([Message::user("Two parts."), Message::assistant("xy")]);
    assert_ne!(conversation.id(), flat.id(), "another rendering");
}

#[test]
fn the_id_covers_template_variables_and_weights() {
    let base = json!({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]});
    let plain = one(&base).expect("a conversation");
    assert_eq!(plain, Conversation::new([Message::user("a"), Message::assistant("b")]));
    let change = |place: &str, key: &str, value: Value| {
        let mut row = base.clone();
        row.pointer_mut(place).and_then(Value::as_object_mut).expect("an object").insert(key.to_owned(), value);
        one(&row).expect("a conversation").id()
    };
    for (place, key, value) in [
        ("/messages/0", "name", json!("Ann")),
        ("/messages/0", "mood", json!(1)),
        ("/messages/1", "reasoning_content", json!("Hm.")),
        ("/messages/1", "tool_calls", call()),
        ("/messages/1", "weight", json!(0)),
        ("/messages/1", "weight", json!(0.5)),
        ("/messages/1", "train", json!(false)),
        ("", "tools", json!([{"type": "function", "function": {"name": "f"}}])),
        ("", "chat_template_kwargs", json!({"enable_thinking": false})),
        ("", "weight", json!(2)),
        ("", "system", json!("Be brief.")),
    ] {
        assert_ne!(change(place, key, value.clone()), plain.id(), "{place} {key} {value}");
    }
    for (place, key, value) in [
        ("/messages/1", "weight", json!(1)),
        ("/messages/1", "weight", json!(1.0)),
        ("/messages/1", "train", json!(true)),
        ("/messages/1", "tool_calls", Value::Null),
        ("", "weight", json!(1)),
        ("", "tools", Value::Null),
        ("", "system", json!("")),
        ("", "source", json!("somewhere")),
    ] {
        assert_eq!(change(place, key, value.clone()), plain.id(), "{place} {key} {value}");
    }
}

#[test]
fn a_system_message_may_be_in_its_own_key() {
    let list = json!([{"from": "human", "value": "Hello"}, {"from": "gpt", "value": "A greeting, fleeting."}]);
    for key in ["system", "system_prompt", "system_message"] {
        let found = one(&json!({key: "Speak only in verse.", "conversations": list})).expect("a conversation");
        assert_eq!(found.messages[0], Message::system("Speak only in verse."), "{key}");
        assert_eq!(found.messages.len(), 3);
    }
    let both = |own: &str| {
        one(
            &json!({"system": "A.", "messages": [{"role": "system", "content": own}, {"role": "user", "content": "b"}]}),
        )
    };
    assert_eq!(both("A.").expect("the same").messages.len(), 2);
    assert!(both("B.").expect_err("two").contains("contradict each other"));
    let two = one(&json!({"system": "A.", "system_prompt": "B.", "conversations": list}));
    assert!(two.expect_err("two").contains("`system` and `system_prompt` contradict each other"));
    assert!(one(&json!({"system": 3, "conversations": list})).expect_err("a number").contains("`system` is a number"));
}

#[test]
fn sharegpt_calls_tools() {
    let row = json!({
        "tools": "[{\"name\": \"weather\", \"parameters\": {}}]",
        "conversations": [
            {"from": "system", "value": "Be brief."},
            {"from": "human", "value": "How cold is Oslo?"},
            {"from": "function_call", "value": "{\"name\": \"weather\", \"arguments\": {\"city\": \"Oslo\"}}"},
            {"from": "observation", "value": "-3"},
            {"from": "gpt", "value": "Three below zero.", "weight": 0},
        ],
    });
    let found = one(&row).expect("a conversation");
    let roles: Vec<&str> = found.messages.iter().map(|message| message.role.as_str()).collect();
    assert_eq!(roles, ["system", "user", "assistant", "tool", "assistant"]);
    let calls = json!([{"type": "function", "function": {"name": "weather", "arguments": {"city": "Oslo"}}}]);
    assert_eq!((&found.messages[2].fields["tool_calls"], found.messages[2].content.as_str()), (&calls, ""));
    assert_eq!(found.messages[4].weight(), Ok(0.0));
    assert_eq!(found.fields["tools"], json!([{"name": "weather", "parameters": {}}]));
    let broken =
        json!({"conversations": [{"from": "human", "value": "a"}, {"from": "function_call", "value": "weather()"}]});
    assert!(one(&broken).expect_err("no call").contains("message 2: `value` of a `function_call` is not JSON"));
}

#[test]
fn unsupported_keys_that_change_the_meaning_are_errors() {
    let with = |key: &str, value: Value| {
        let mut row = turns(json!({"role": "user", "content": "a"}), json!({"role": "assistant", "content": "b"}));
        row[key] = value;
        row
    };
    let of_answer = |key: &str, value: Value| {
        turns(json!({"role": "user", "content": "a"}), json!({"role": "assistant", "content": "b", key: value}))
    };
    let cases = [
        (of_answer("weight", json!(-1)), "message 2: `weight` is -1, expected a number of at least 0"),
        (of_answer("weight", json!("heavy")), "`weight` is \"heavy\", expected a number"),
        (of_answer("weight", json!([1])), "`weight` is a list"),
        (of_answer("train", json!("no")), "`train` is \"no\", expected true or false"),
        (of_answer("train_detail", json!([{"begin_offset": 0}])), "`train_detail` marks parts"),
        (of_answer("loss_mask", json!([0, 1])), "`loss_mask` marks parts"),
        (with("weight", json!(-0.5)), "`weight` is -0.5"),
        (with("train", json!("never")), "`train` is \"never\""),
        (with("images", json!(["a.png"])), "found `images`, but only text is supported"),
        (with("chosen", json!("x")), "found preference data"),
        (with("tools", json!("none")), "`tools` is text, not a list"),
        (with("tools", json!({"name": "f"})), "`tools` is an object, not a list"),
        (with("chat_template_kwargs", json!(3)), "`chat_template_kwargs` is a number, not an object"),
        (with("chat_template", json!("{{ x }}")), "found a `chat_template`"),
        (
            turns(json!({"role": "user", "content": "a", "train": true}), json!({"role": "assistant", "content": "b"})),
            "`train` is true for the role \"user\"",
        ),
        (
            turns(
                json!({"role": "user", "content": null, "name": "Ann"}),
                json!({"role": "assistant", "content": "b"}),
            ),
            "message 1: `content` is null, not text",
        ),
        (
            turns(
                json!({"role": "user", "content": [{"type": "input_audio"}]}),
                json!({"role": "assistant", "content": "b"}),
            ),
            "has the type `input_audio`",
        ),
    ];
    for (row, reason) in cases {
        let found = one(&row).expect_err("a bad row");
        assert!(found.contains(reason), "{row}: {found}, not {reason}");
    }
    // A NaN, which JSON does not have.
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("a.parquet");
    let schema = "message m { optional group messages (LIST) { repeated group list { optional group element {
        optional binary role (STRING); optional binary content (STRING); } } } optional double weight; }";
    let mut row = turns(json!({"role": "user", "content": "a"}), json!({"role": "assistant", "content": "b"}));
    row["weight"] = json!("NaN");
    shred::write(&path, schema, &[row]);
    let (rows, bad, errors, _) = read(&path);
    assert!(rows.is_empty() && errors.is_empty(), "{errors:?}");
    assert!(bad[0].problem.to_string().contains("`weight` is \"NaN\", expected a number"), "{}", bad[0]);
}

#[test]
fn a_format_can_be_chosen_and_is_reported() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("a.jsonl");
    rows(
        &path,
        &[
            json!({"chosen": [{"role": "user", "content": "x"}], "rejected": [], "messages": [{"role": "user", "content": "a"}]}),
            json!({"prompt": "a", "completion": "b", "question": "c", "answer": "d"}),
        ],
    );
    let of = |format| {
        let mut reader = ConversationReader::new([&path]).expect("a file").with_format(format);
        let found: Vec<bool> = (&mut reader).map(|row| row.expect("a file").is_ok()).collect();
        (found, reader.summary().formats.to_string())
    };
    assert_eq!(of(None), (vec![false, false], String::new()));
    assert_eq!(of(Some(Format::Messages)), (vec![true, false], "1 messages".to_owned()));
    assert_eq!(of(Some(Format::QuestionAnswer)), (vec![false, true], "1 question_answer".to_owned()));
    assert_eq!("prompt-completion".parse(), Ok(Format::PromptCompletion));
    assert!("xml".parse::<Format>().expect_err("unknown").contains("alpaca"));
    for format in Format::ALL {
        assert_eq!(serde_json::to_value(format).expect("JSON"), json!(format.name()));
    }
}
