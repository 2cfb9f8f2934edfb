//! Damaged rows and files: the error, and the rows after it.

use std::fs;

use parquet::basic::Compression;
use pv_data::ConversationReader;
use pv_data::conversations::{ConversationError, read_conversations};
use pv_tests::Random;

use super::making::{Layout, gzip, lines, lmsys, talks, zstandard};
use super::{conversations, read};

#[test]
fn bad_lines_are_reported_and_skipped() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("data.jsonl");
    let good = r#"{"messages": [{"role": "user", "content": "x"}]}"#;
    let message = |text: &str| format!(r#"{{"messages": [{{"role": "user", "content": "x"}}, {text}]}}"#).into_bytes();
    let cases: Vec<(Vec<u8>, &str)> = vec![
        (b"{".to_vec(), "invalid JSON: EOF while parsing an object at column 1"),
        (b"[]".to_vec(), "expected a JSON object"),
        (b"[[{\"role\":\"user\",\"content\":\"x\"}],null,null]".to_vec(), "expected a JSON object"),
        (b"null".to_vec(), "expected a JSON object"),
        (format!("{good} x").into_bytes(), "trailing characters"),
        (b"{}".to_vec(), "neither `messages` nor `conversation`"),
        (br#"{"messages": null}"#.to_vec(), "neither `messages` nor `conversation`"),
        (br#"{"messages": 3}"#.to_vec(), "the messages are a number, not a list"),
        (br#"{"messages": "[]"}"#.to_vec(), "the messages are text, not a list"),
        (br#"{"messages": []}"#.to_vec(), "no messages"),
        (br#"{"messages": [], "messages": []}"#.to_vec(), "duplicate field"),
        (message("3"), "message 2: it is a number, not an object"),
        (message(r#"{"role": "user"}"#), "message 2: `content` is missing"),
        (message(r#"{"content": "x"}"#), "message 2: `role` is missing"),
        (message(r#"{"from": "human"}"#), "message 2: `value` is missing"),
        (message(r#"{"role": 1, "content": "x"}"#), "message 2: `role` is a number, not text"),
        (message(r#"{"role": "user", "content": null}"#), "message 2: `content` is null, not text"),
        (message(r#"{"role": "user", "content": 3}"#), "message 2: `content` is a number, not text"),
        (
            message(r#"{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}"#),
            "message 2: part 1 of `content` has the type `image_url`, but only text is supported",
        ),
        (
            message(r#"{"role": "User", "content": "x"}"#),
            "message 2: unknown role \"User\", expected one of system, developer, user",
        ),
        (message(r#"{"role": "human", "content": "x"}"#), "message 2: unknown role \"human\""),
        (message(r#"{"role": "user", "content": "\ud800"}"#), "hex escape"),
        (b"{\"messages\": [{\"role\": \"user\", \"content\": \"\xff\"}]}".to_vec(), "not UTF-8"),
        (b"\xff\xfe{\x00}\x00".to_vec(), "not UTF-8"),
        (good.replace(r#""x""#, &format!("{}1{}", "[".repeat(5000), "]".repeat(5000))).into_bytes(), "recursion limit"),
    ];
    let mut text = Vec::new();
    for (bad, _) in &cases {
        text.extend([good.as_bytes(), bad].join(&b'\n'));
        text.push(b'\n');
    }
    text.extend(good.as_bytes());
    fs::write(&path, text).expect("a writable folder");
    let (rows, bad, errors, summary) = read(&path);
    assert!(errors.is_empty(), "{errors:?}");
    assert_eq!((summary.rows, summary.bad), (cases.len() as u64 + 1, cases.len() as u64));
    for (index, row) in rows.iter().enumerate() {
        assert_eq!(row.place.row, 2 * index as u64 + 1);
    }
    for (index, (bad, (line, reason))) in bad.iter().zip(&cases).enumerate() {
        assert_eq!(bad.place.row, 2 * index as u64 + 2);
        assert!(bad.problem.to_string().contains(reason), "{bad:?} for {}", String::from_utf8_lossy(line));
        assert!(bad.to_string().starts_with(&format!("{}:{}: ", path.display(), bad.place.row)));
    }
    let first = read_conversations(&path).expect_err("refused");
    assert!(matches!(&first, ConversationError::Bad(bad) if bad.place.row == 2), "{first}");
}

#[test]
fn further_roles_can_be_allowed() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("data.jsonl");
    fs::write(&path, lines(&[vec![("narrator", "x".into())], vec![("user", "x".into())]])).expect("a writable folder");
    let good = |reader: ConversationReader| -> Vec<bool> { reader.map(|row| row.expect("a file").is_ok()).collect() };
    let reader = || ConversationReader::new([&path]).expect("a file");
    assert_eq!(good(reader()), [false, true]);
    assert_eq!(good(reader().with_roles(["narrator"])), [true, false]);
}

#[test]
fn a_truncated_file_states_the_number_of_rows_before() {
    let folder = tempfile::tempdir().expect("a folder");
    let talks = talks(400, 7, 60);
    let (expected, text) = (conversations(&talks), lines(&talks));
    let mut random = Random(8);
    let mut most = 0;
    for (name, whole) in [("a.jsonl.gz", gzip(&text)), ("a.jsonl.zst", zstandard(&text))] {
        for _ in 0..40 {
            let path = folder.path().join(name);
            let length = 1 + random.below(whole.len() as u64 - 1) as usize;
            fs::write(&path, &whole[..length]).expect("a writable folder");
            let mut reader = ConversationReader::new([&path]).expect("a file");
            let mut before = Vec::new();
            let error = loop {
                match reader.next().unwrap_or_else(|| panic!("{name} cut to {length} has no error")) {
                    Ok(row) => before.push(row.expect("a row").conversation),
                    Err(error) => break error,
                }
            };
            assert!(reader.next().is_none());
            assert_eq!(before, expected[..before.len()]);
            let ConversationError::Damaged { path: named, rows, .. } = &error else { panic!("{error}") };
            assert_eq!((named, *rows), (&path, before.len() as u64));
            most = most.max(*rows);
        }
    }
    assert!(most > 100, "no cut came late enough to have rows before it");
}

#[test]
fn a_truncated_parquet_file_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("a.parquet");
    lmsys(&path, &talks(300, 9, 30), &Layout::default());
    let whole = fs::read(&path).expect("a file");
    let mut random = Random(10);
    for length in (0..40).map(|_| random.below(whole.len() as u64) as usize).chain([0, 4, 12, whole.len() - 1]) {
        fs::write(&path, &whole[..length]).expect("a writable folder");
        let (rows, bad, errors, _) = read(&path);
        assert!(rows.is_empty() && bad.is_empty());
        assert!(matches!(&errors[..], [ConversationError::Damaged { rows: 0, path: named, .. }] if *named == path));
    }
}

/// With any damage to its bytes, reading ends without a panic, with an error or rows.
#[test]
fn damage_anywhere_in_a_parquet_file_is_an_error() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("a.parquet");
    let out = folder.path().join("out.parquet");
    let mut random = Random(11);
    let (mut damaged, mut before) = (0, 0);
    for compression in [Compression::UNCOMPRESSED, Compression::SNAPPY] {
        lmsys(&path, &talks(60, 12, 8), &Layout { group: 16, compression, ..Layout::default() });
        let whole = fs::read(&path).expect("a file");
        let footer = u32::from_le_bytes(whole[whole.len() - 8..whole.len() - 4].try_into().expect("4 bytes")) as usize;
        for round in 0..3000 {
            let mut bytes = whole.clone();
            // Every second time in the column metadata at the end, where damage has most effect.
            let from = if round % 2 == 0 { 4 } else { whole.len() - 8 - footer };
            for _ in 0..=random.below(3) {
                let at = from + random.below((whole.len() - 8 - from) as u64) as usize;
                bytes[at] = random.below(256) as u8;
            }
            fs::write(&path, &bytes).expect("a writable folder");
            let (rows, _, errors, _) = read(&path);
            assert!(rows.len() <= 100_000, "{} rows", rows.len());
            if !errors.is_empty() {
                damaged += 1;
                before += usize::from(!rows.is_empty());
            }
            let _ = pv_data::conversations::add_columns(&[&path], &out, &[], |_| Ok(Some(vec![])));
        }
    }
    assert!(damaged > 1000 && before > 100, "{damaged} errors, {before} of them after rows");
}

#[test]
fn reading_continues_with_the_next_file() {
    let folder = tempfile::tempdir().expect("a folder");
    let at = |name: &str| folder.path().join(name);
    let text = lines(&talks(30, 13, 20));
    fs::write(at("1.jsonl.gz"), &gzip(&text)[..200]).expect("a writable folder");
    fs::write(at("2.parquet"), b"no").expect("a writable folder");
    fs::write(at("3.csv"), "prompt,answer\na,b\n").expect("a writable folder");
    fs::write(at("4.jsonl.zst"), b"no").expect("a writable folder");
    fs::write(at("5.jsonl"), &text).expect("a writable folder");
    fs::write(at("6.jsonl"), "").expect("a writable folder");
    let (rows, bad, errors, summary) = read(folder.path());
    assert!(bad.is_empty(), "{bad:?}");
    assert_eq!(rows.iter().filter(|row| row.place.file.ends_with("5.jsonl")).count(), 30);
    assert_eq!(summary.rows, rows.len() as u64);
    let said: Vec<String> = errors.iter().map(ToString::to_string).collect();
    assert_eq!(said.len(), 4, "{said:?}");
    for (said, name) in said.iter().zip(["1.jsonl.gz", "2.parquet", "3.csv", "4.jsonl.zst"]) {
        assert!(said.contains(name), "{said}");
    }
    assert!(said[2].contains("question") && said[2].contains("prompt, answer"), "{}", said[2]);
}
