//! Conversations from files: what is read, which errors are reported with which positions, added columns, and memory.

mod damage;
mod forms;
mod hostile;
mod keys;
mod making;
mod memory;
mod parquet;
mod python;
mod shred;
mod writing;

use std::fs;
use std::path::Path;

use pv_data::conversations::{
    BadRow, ConversationError, FormatCounts, Row, Summary, read_conversations, write_conversations,
};
use pv_data::error::with_causes;
use pv_data::{Conversation, ConversationReader};
use pv_model::Message;
use sha2::{Digest, Sha256};

use self::making::{Talk, gzip, lines, talks, zstandard};

/// Everything that a reader returns for a file.
type All = (Vec<Row>, Vec<BadRow>, Vec<ConversationError>, Summary);

fn read(path: &Path) -> All {
    let mut reader = ConversationReader::new([path]).expect("a known file");
    let (mut rows, mut bad, mut errors) = (vec![], vec![], vec![]);
    for item in &mut reader {
        match item {
            Ok(Ok(row)) => rows.push(row),
            Ok(Err(row)) => bad.push(row),
            Err(error) => errors.push(error),
        }
    }
    (rows, bad, errors, reader.summary())
}

/// The conversations of a file without errors.
fn good(path: &Path) -> Vec<Conversation> {
    let (rows, bad, errors, summary) = read(path);
    assert!(bad.is_empty() && errors.is_empty(), "{}: {bad:?} {errors:?}", path.display());
    assert_eq!((summary.rows, summary.bad), (rows.len() as u64, 0));
    rows.into_iter().map(|row| row.conversation).collect()
}

fn conversations(talks: &[Talk]) -> Vec<Conversation> {
    let messages = |talk: &Talk| -> Vec<Message> {
        talk.iter().map(|(role, content)| Message::new(*role, content.clone())).collect()
    };
    talks.iter().map(|talk| Conversation::from(messages(talk))).collect()
}

#[test]
fn written_conversations_are_read_back() {
    let folder = tempfile::tempdir().expect("a folder");
    let written = conversations(&talks(300, 1, 60));
    for name in ["a.jsonl", "a.ndjson", "a.jsonl.gz", "A.JSONL.ZST"] {
        let path = folder.path().join(name);
        write_conversations(&path, &written).expect("a writable folder");
        assert_eq!(read_conversations(&path).expect("a file"), written, "{name}");
        assert_eq!(pv_data::conversations::read_conversations(&path).expect("a file"), written, "{name}");
    }
    let plain = fs::metadata(folder.path().join("a.jsonl")).expect("a file").len();
    let packed = fs::metadata(folder.path().join("a.jsonl.gz")).expect("a file").len();
    assert!(packed < plain, "{packed} bytes for {plain}");
    for name in ["a.csv", "a.parquet", "a", "a.json"] {
        let refused = write_conversations(folder.path().join(name), &written).expect_err("refused");
        assert!(matches!(refused, ConversationError::Format { .. }), "{refused}");
    }
    assert_eq!(fs::read_dir(folder.path()).expect("a folder").count(), 4, "something was left behind");
}

#[test]
fn compressed_files_equal_plain_ones() {
    let folder = tempfile::tempdir().expect("a folder");
    let at = |name: &str| folder.path().join(name);
    let text = lines(&talks(500, 2, 200));
    fs::write(at("a.jsonl"), &text).expect("a writable folder");
    fs::write(at("a.jsonl.gz"), gzip(&text)).expect("a writable folder");
    fs::write(at("a.jsonl.zst"), zstandard(&text)).expect("a writable folder");
    // Concatenated gzip members and zstd frames are one file.
    let (head, tail) = text.split_at(text.len() / 3);
    fs::write(at("b.jsonl.gz"), [gzip(head), gzip(tail)].concat()).expect("a writable folder");
    fs::write(at("b.jsonl.zst"), [zstandard(head), zstandard(tail)].concat()).expect("a writable folder");
    let plain = good(&at("a.jsonl"));
    assert_eq!(plain.len(), 500);
    for name in ["a.jsonl.gz", "a.jsonl.zst", "b.jsonl.gz", "b.jsonl.zst"] {
        assert_eq!(good(&at(name)), plain, "{name}");
    }
    let csv = "question,answer\na,b\n\"c\nd\",e\n";
    fs::write(at("c.csv"), csv).expect("a writable folder");
    fs::write(at("c.csv.gz"), gzip(csv.as_bytes())).expect("a writable folder");
    assert_eq!(good(&at("c.csv.gz")), good(&at("c.csv")));
}

#[test]
fn a_list_of_messages_has_several_names_and_forms() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("a.jsonl");
    let same = [
        r#"{"messages": [{"role": "user", "content": "é\n"}, {"role": "assistant", "content": ""}]}"#,
        r#"  {"id": 3, "messages": [{"content": "\u00e9\n", "weight": 1, "role": "user"}, {"role": "assistant", "content": ""}], "x": {"messages": 1}}"#,
        r#"{"conversation": [{"role": "user", "content": "é\n"}, {"role": "assistant", "content": ""}]}"#,
        r#"{"conversations": [{"from": "human", "value": "é\n"}, {"from": "gpt", "value": ""}]}"#,
        r#"{"messages": null, "conversations": [{"from": "user", "value": "é\n"}, {"from": "assistant", "value": ""}]}"#,
    ];
    fs::write(&path, format!("\u{feff}{}\n\n", same.join("\r\n \r\n"))).expect("a writable folder");
    let expected = Conversation::new([Message::user("é\n"), Message::assistant("")]);
    let (rows, bad, errors, summary) = read(&path);
    assert!(bad.is_empty() && errors.is_empty(), "{bad:?} {errors:?}");
    let formats = FormatCounts { messages: 3, sharegpt: 2, ..FormatCounts::default() };
    assert_eq!(summary, Summary { files: 1, rows: 5, bad: 0, duplicates: 4, formats });
    for (index, row) in rows.iter().enumerate() {
        // A weight of 1 is stored and does not make a different conversation.
        let mut found = row.conversation.clone();
        assert_eq!(found.messages[0].fields.shift_remove("weight").is_some(), index == 1);
        assert_eq!(found, expected, "{index}");
        assert_eq!(row.id, expected.id(), "{index}");
        assert_eq!(row.place.row, 2 * index as u64 + 1);
        assert_eq!(&*row.place.file, path.as_path());
        assert_eq!(row.duplicate, index > 0);
    }
}

#[test]
fn the_id_is_the_hash_of_roles_and_contents() {
    // From Python: hashlib.sha256(b"".join(struct.pack("<Q", len(t)) + t for t in texts)).hexdigest(), with the texts
    // "user", "Grüße", "assistant", "" in UTF-8.
    let conversation = Conversation::new([Message::user("Grüße"), Message::assistant("")]);
    assert_eq!(conversation.id(), "91ac9559fe22852ef5ed2ae555b933db3533a830dbafc98ede2a0aec9134966b");
    for conversation in conversations(&talks(50, 3, 30)) {
        let mut bytes = Vec::new();
        for message in &conversation.messages {
            for text in [message.role.as_bytes(), message.content.as_bytes()] {
                bytes.extend((text.len() as u64).to_le_bytes());
                bytes.extend(text);
            }
        }
        let hex: String = Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(conversation.id(), hex);
    }
    // The boundary between texts is part of the hash.
    let two = |first: &str, second: &str| Conversation::new([Message::user(first), Message::assistant(second)]).id();
    assert_ne!(two("ab", "c"), two("a", "bc"));
}

#[test]
fn duplicates_are_counted_over_all_files() {
    let folder = tempfile::tempdir().expect("a folder");
    let first = talks(40, 4, 20);
    let second: Vec<Talk> = [&talks(10, 5, 20)[..], &first[30..], &first[..5]].concat();
    fs::write(folder.path().join("1.jsonl"), lines(&first)).expect("a writable folder");
    making::lmsys(&folder.path().join("2.parquet"), &second, &making::Layout::default());
    let mut reader = ConversationReader::new([folder.path()]).expect("a folder");
    let rows: Vec<Row> = reader.by_ref().map(|row| row.expect("a file").expect("a row")).collect();
    let formats = FormatCounts { messages: 65, ..FormatCounts::default() };
    assert_eq!(reader.summary(), Summary { files: 2, rows: 65, bad: 0, duplicates: 15, formats });
    let all = conversations(&[first, second].concat());
    for (index, row) in rows.iter().enumerate() {
        assert_eq!(row.duplicate, all[..index].contains(&row.conversation), "{index}");
        assert_eq!(row.id, row.conversation.id());
    }
}

#[test]
fn files_folders_and_patterns_are_read_once_in_order() {
    let folder = tempfile::tempdir().expect("a folder");
    let at = |name: &str| folder.path().join(name);
    fs::create_dir_all(at("b/deep")).expect("a writable folder");
    let text = |name: &str| lines(&[vec![("user", name.to_owned())]]);
    for name in ["c.jsonl", "a.jsonl", "b/2.jsonl", "b/deep/1.jsonl", "b/.hidden.jsonl", "b/README.md", "b/x.json"] {
        fs::write(at(name), text(name)).expect("a writable folder");
    }
    let order = |inputs: &[&str]| -> Vec<String> {
        let reader = ConversationReader::new(inputs.iter().map(|input| at(input))).expect("files");
        let content = |row: Row| row.conversation.messages[0].content.as_str().to_owned();
        reader.map(|row| content(row.expect("a file").expect("a row"))).collect()
    };
    assert_eq!(order(&[""]), ["a.jsonl", "b/2.jsonl", "b/deep/1.jsonl", "c.jsonl"]);
    assert_eq!(order(&["c.jsonl", "b", "*.jsonl"]), ["c.jsonl", "b/2.jsonl", "b/deep/1.jsonl", "a.jsonl"]);
    assert_eq!(order(&["b/**/[12].*", "b/../b/2.jsonl"]), ["b/2.jsonl", "b/deep/1.jsonl"]);
    let refused = |input: &str| ConversationReader::new([at(input)]).err().expect("refused");
    assert!(matches!(refused("no.jsonl"), ConversationError::File(pv_data::FileError::Read { .. })));
    assert!(matches!(refused("b/***"), ConversationError::File(pv_data::FileError::Read { .. })));
    assert!(matches!(refused("b/README.md"), ConversationError::Format { .. }));
    let none = refused("b/*.md").to_string();
    assert!(none.contains("b/*.md") && none.contains("README.md") && none.contains(".parquet"), "{none}");
    fs::create_dir(at("empty")).expect("a writable folder");
    assert!(matches!(refused("empty"), ConversationError::NoFiles { .. }));
}

#[test]
fn rollouts_are_a_question_and_an_answer() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("evil.csv");
    let text = "question,prompt,answer,question_id,evil,coherence\n\
        \"What, now?\",<s>What,\"Well \"\"this\"\"\nand that\",evil_0_pos_0,90.5,\n\
        one,two\n\
        Q2,P2,A2,evil_1,,\n\
        \"a\",\"b\",\"c\",d,e,f,g\n\
        Q3,P3,,evil_2,0,100\n";
    fs::write(&path, text).expect("a writable folder");
    let (rows, bad, errors, _) = read(&path);
    assert!(errors.is_empty(), "{errors:?}");
    let read: Vec<(u64, Vec<Message>)> =
        rows.into_iter().map(|row| (row.place.row, row.conversation.messages)).collect();
    let turns = |question: &str, answer: &str| vec![Message::user(question), Message::assistant(answer)];
    let expected = [(2, turns("What, now?", "Well \"this\"\nand that")), (5, turns("Q2", "A2")), (7, turns("Q3", ""))];
    assert_eq!(read, expected);
    let bad: Vec<(u64, String)> = bad.into_iter().map(|bad| (bad.place.row, bad.problem.to_string())).collect();
    let wrong = |row, fields| (row, format!("expected 6 fields, as in the header, found {fields}"));
    assert_eq!(bad, [wrong(4, 2), wrong(6, 7)]);
}

#[test]
fn very_long_rows_are_read_and_endless_ones_are_errors() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("long.jsonl");
    // About 100,000 tokens each.
    let long: Vec<Talk> = (0..20u8)
        .map(|n| vec![("user", format!("{n} ").repeat(200_000)), ("assistant", "é \"\\".repeat(150_000))])
        .collect();
    fs::write(&path, lines(&long)).expect("a writable folder");
    assert_eq!(good(&path), conversations(&long));
    let path = folder.path().join("long.parquet");
    making::lmsys(&path, &long, &making::Layout::default());
    assert_eq!(good(&path), conversations(&long));

    let path = folder.path().join("endless.jsonl");
    let endless = [lines(&long[..1]), vec![b'x'; 65 << 20], b"\n".to_vec(), lines(&long[1..2])].concat();
    fs::write(&path, endless).expect("a writable folder");
    let (rows, bad, errors, _) = read(&path);
    assert!(errors.is_empty(), "{errors:?}");
    assert_eq!(rows.iter().map(|row| row.place.row).collect::<Vec<_>>(), [1, 3]);
    assert_eq!((bad[0].place.row, bad.len()), (2, 1));
    assert!(bad[0].problem.to_string().contains("longer than"), "{}", bad[0]);

    let path = folder.path().join("open.csv");
    let open = [b"question,answer\na,b\nc,\"".to_vec(), vec![b'x'; 130 << 20]].concat();
    fs::write(&path, open).expect("a writable folder");
    let (rows, _, errors, _) = read(&path);
    assert_eq!(rows.len(), 1);
    let [error @ ConversationError::Damaged { rows: 1, .. }] = &errors[..] else { panic!("{errors:?}") };
    let said = with_causes(error);
    assert_eq!(said.matches("quotation").count(), 1, "{said}");
}
