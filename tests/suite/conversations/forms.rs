//! The formats of conversations in data sets, in every kind of file.

use std::fs;
use std::path::Path;

use pv_data::conversations::{ConversationError, Format};
use pv_model::Message;
use serde_json::{Value, json};

use super::{good, read, shred};

fn user(text: &str) -> Message {
    Message::user(text)
}

fn assistant(text: &str) -> Message {
    Message::assistant(text)
}

/// A row, its text columns, and the expected conversation.
fn forms() -> Vec<(Value, Format, Vec<Message>)> {
    use Format::{Alpaca, PromptCompletion, QuestionAnswer};
    vec![
        (
            json!({"instruction": "Add.", "input": "2 2", "output": "4"}),
            Alpaca,
            vec![user("Add.\n2 2"), assistant("4")],
        ),
        (json!({"instruction": "Add.", "input": "", "output": "4"}), Alpaca, vec![user("Add."), assistant("4")]),
        (json!({"instruction": "Add.", "output": "4"}), Alpaca, vec![user("Add."), assistant("4")]),
        (
            json!({"instruction": "Add.", "output": "4", "system": "Be brief."}),
            Alpaca,
            vec![Message::system("Be brief."), user("Add."), assistant("4")],
        ),
        (
            json!({"instruction": "Add.", "context": "2 2", "response": "4", "category": "sums"}),
            Alpaca,
            vec![user("Add.\n2 2"), assistant("4")],
        ),
        (json!({"prompt": "Add.", "completion": "4"}), PromptCompletion, vec![user("Add."), assistant("4")]),
        (json!({"prompt": "Add.", "response": "4"}), QuestionAnswer, vec![user("Add."), assistant("4")]),
        (json!({"question": "Add.", "answer": "4"}), QuestionAnswer, vec![user("Add."), assistant("4")]),
        (
            json!({"question": "Add.", "prompt": "<s>Add.", "answer": "4"}),
            QuestionAnswer,
            vec![user("Add."), assistant("4")],
        ),
        (
            json!({"system_prompt": "Be brief.", "question": "Add.", "response": "4"}),
            QuestionAnswer,
            vec![Message::system("Be brief."), user("Add."), assistant("4")],
        ),
        (json!({"query": "Add.", "response": "4"}), QuestionAnswer, vec![user("Add."), assistant("4")]),
        (json!({"input": "Add.", "output": "4"}), QuestionAnswer, vec![user("Add."), assistant("4")]),
    ]
}

fn only(path: &Path) -> (Format, Vec<Message>) {
    let (rows, bad, errors, _) = read(path);
    assert!(bad.is_empty() && errors.is_empty() && rows.len() == 1, "{}: {bad:?} {errors:?}", path.display());
    (rows[0].format, rows[0].conversation.messages.clone())
}

#[test]
fn texts_become_messages_in_every_kind_of_file() {
    let folder = tempfile::tempdir().expect("a folder");
    let at = |name: &str| folder.path().join(name);
    for (row, format, messages) in forms() {
        fs::write(at("a.jsonl"), row.to_string()).expect("a writable folder");
        let columns = row.as_object().expect("an object");
        let names: Vec<&str> = columns.keys().map(String::as_str).collect();
        let cells: Vec<String> = columns.values().map(|text| format!("\"{}\"", text.as_str().expect("text"))).collect();
        fs::write(at("a.csv"), format!("{}\n{}\n", names.join(","), cells.join(","))).expect("a writable folder");
        let fields: String = names.iter().map(|name| format!("optional binary {name} (STRING); ")).collect();
        shred::write(&at("a.parquet"), &format!("message m {{ {fields} }}"), std::slice::from_ref(&row));
        for name in ["a.jsonl", "a.csv", "a.parquet"] {
            assert_eq!(only(&at(name)), (format, messages.clone()), "{name}: {row}");
        }
    }
}

#[test]
fn a_completion_may_be_a_list_and_the_prompt_is_not_trained() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("a.jsonl");
    let row = json!({
        "prompt": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"}],
        "completion": [{"role": "assistant", "content": "d"}],
    });
    fs::write(&path, row.to_string()).expect("a writable folder");
    let (format, messages) = only(&path);
    assert_eq!(format, Format::PromptCompletion);
    let weights: Vec<f64> = messages.iter().map(|message| message.weight().expect("a weight")).collect();
    assert_eq!(weights, [1.0, 0.0, 1.0, 1.0]);
    assert_eq!(messages[3], assistant("d"));
    let history = json!({"instruction": "c", "output": "d", "history": [["a", "b"]]});
    fs::write(&path, history.to_string()).expect("a writable folder");
    assert_eq!(only(&path).1, [user("a"), assistant("b"), user("c"), assistant("d")]);
}

#[test]
fn rows_that_are_not_one_conversation_are_errors_with_a_reason() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("a.jsonl");
    let cases = [
        (json!({"prompt": "a", "chosen": "b", "rejected": "c"}), "found preference data (`chosen`, `rejected`)"),
        (
            json!({"chosen": [{"role": "user", "content": "a"}], "rejected": [{"role": "user", "content": "a"}]}),
            "found preference data",
        ),
        (json!({"prompt": "a", "completion": "b", "label": false}), "`label` marks undesired completions"),
        (json!({"prompt": "a"}), "neither `messages` nor `conversation`"),
        (json!({"text": "a"}), "neither `messages` nor `conversation`"),
        (json!({"prompt": "a", "completion": "b", "response": "c"}), "the keys fit several formats"),
        (json!({"instruction": 3, "output": "b"}), "`instruction` is a number, not text"),
        (json!({"instruction": "a", "output": "b", "history": "c"}), "`history` is not a list of pairs of texts"),
        (json!({"prompt": [{"role": "user"}], "completion": "b"}), "`prompt`: message 1: `content` is missing"),
    ];
    for (row, reason) in cases {
        fs::write(&path, row.to_string()).expect("a writable folder");
        let (rows, bad, errors, _) = read(&path);
        assert!(rows.is_empty() && errors.is_empty(), "{row}: {errors:?}");
        assert!(bad[0].problem.to_string().contains(reason), "{row}: {}, not {reason}", bad[0]);
    }
    let csv = folder.path().join("a.csv");
    fs::write(&csv, "prompt,chosen,rejected\na,b,c\n").expect("a writable folder");
    assert!(read(&csv).1[0].problem.to_string().contains("found preference data"));
    fs::write(&csv, "text\na\n").expect("a writable folder");
    assert!(matches!(&read(&csv).2[..], [ConversationError::Columns { found, .. }] if *found == ["text"]));
}

#[test]
fn a_table_of_text_has_weights_tools_and_lists_as_text() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("a.csv");
    let text = "prompt,completion,weight,train,tools,system\n\
        a,b,0.5,,,\n\
        a,b,,False,,\n\
        a,b,-1,,,\n\
        a,b,nan,,,\n\
        a,b,,,\"[{\"\"name\"\": \"\"f\"\"}]\",Be brief.\n";
    fs::write(&path, text).expect("a writable folder");
    let (rows, bad, errors, _) = read(&path);
    assert!(errors.is_empty(), "{errors:?}");
    let weights: Vec<f64> = rows.iter().map(|row| row.conversation.weight().expect("a weight")).collect();
    assert_eq!(weights, [0.5, 0.0, 1.0]);
    assert_eq!(rows[2].conversation.fields["tools"], json!([{"name": "f"}]));
    assert_eq!(rows[2].conversation.messages[0], Message::system("Be brief."));
    assert_eq!(bad.iter().map(|bad| bad.place.row).collect::<Vec<_>>(), [4, 5]);
    fs::write(&path, "messages\n\"[{\"\"role\"\": \"\"user\"\", \"\"content\"\": \"\"a\"\"}]\"\n").expect("a file");
    assert_eq!(good(&path)[0].messages, [user("a")]);
}
