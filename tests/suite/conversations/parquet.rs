//! Parquet: shapes of lists, nulls, encodings.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use parquet::basic::{Compression, ZstdLevel};
use parquet::data_type::{ByteArray, ByteArrayType};
use parquet::file::properties::{WriterProperties, WriterVersion};
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::file::writer::SerializedFileWriter;
use parquet::record::{Field, Row};
use parquet::schema::parser::parse_message_type;
use pv_data::Conversation;
use pv_data::conversations::ConversationError;
use pv_model::Message;

use super::making::{Layout, List, lmsys, lmsys_lists, talks};
use super::{conversations, good, read};

/// All columns of all rows, read by the library's own record reader.
pub(super) fn records(path: &Path) -> Vec<Row> {
    let reader = SerializedFileReader::new(File::open(path).expect("a file")).expect("a Parquet file");
    reader.get_row_iter(None).expect("rows").map(|row| row.expect("a row")).collect()
}

#[test]
fn written_conversations_are_read_back() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("a.parquet");
    let talks = talks(700, 6, 40);
    let codecs = [
        Compression::UNCOMPRESSED,
        Compression::SNAPPY,
        Compression::GZIP(Default::default()),
        Compression::ZSTD(ZstdLevel::default()),
        Compression::LZ4_RAW,
    ];
    for compression in codecs {
        for (group, version) in [(64, WriterVersion::PARQUET_2_0), (10_000, WriterVersion::PARQUET_1_0)] {
            lmsys(&path, &talks, &Layout { group, compression, version });
            assert_eq!(good(&path), conversations(&talks), "{compression} {group}");
        }
    }
    // And as the library's own record reader assembles them.
    let by_record = records(&path).into_iter().map(|row| {
        let Some((_, Field::ListInternal(list))) = row.get_column_iter().find(|(name, _)| *name == "conversation")
        else {
            panic!("no list")
        };
        let messages = list.elements().iter().map(|element| {
            let Field::Group(fields) = element else { panic!("no struct") };
            let text = |wanted: &str| match fields.get_column_iter().find(|(name, _)| *name == wanted) {
                Some((_, Field::Str(text))) => text.clone(),
                other => panic!("no text: {other:?}"),
            };
            Message::new(text("role"), text("content"))
        });
        Conversation::from(messages.collect::<Vec<_>>())
    });
    assert_eq!(by_record.collect::<Vec<_>>(), good(&path));
}

#[test]
fn rows_with_nulls_are_errors_with_their_reason() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("a.parquet");
    let text = |text: &[u8]| Some(ByteArray::from(text.to_vec()));
    let fine = || Some((text(b"user"), text(b"a")));
    let lists: Vec<List> = vec![
        Some(vec![fine()]),
        None,
        Some(vec![]),
        Some(vec![fine(), None]),
        Some(vec![Some((None, text(b"a")))]),
        Some(vec![fine(), Some((text(b"assistant"), None))]),
        Some(vec![Some((text(b"user"), text(b"\xff\xfe")))]),
        Some(vec![Some((text(b"narrator"), text(b"a")))]),
        Some(vec![fine(), Some((text(b"assistant"), text(b"")))]),
    ];
    for group in [1, 2, 100] {
        lmsys_lists(&path, &lists, &Layout { group, ..Layout::default() });
        let (rows, bad, errors, summary) = read(&path);
        assert!(errors.is_empty(), "{errors:?}");
        assert_eq!(rows.iter().map(|row| row.place.row).collect::<Vec<_>>(), [1, 9]);
        assert_eq!(rows[1].conversation.messages, [Message::user("a"), Message::assistant("")]);
        assert_eq!((summary.rows, summary.bad), (2, 7));
        let expected = [
            (2, "no messages"),
            (3, "no messages"),
            (4, "message 2: `role` is null"),
            (5, "message 1: `role` is null"),
            (6, "message 2: `content` is null"),
            (7, "message 1: `content`: not UTF-8"),
            (8, "message 1: unknown role \"narrator\""),
        ];
        for (bad, (row, reason)) in bad.iter().zip(expected) {
            assert!(
                bad.place.row == row && bad.problem.to_string().contains(reason),
                "{bad} should be {row}: {reason}"
            );
        }
    }
}

/// A file of this schema with text columns of these values and levels.
type Leaf = (&'static [&'static str], Option<&'static [i16]>, Option<&'static [i16]>);

fn small(path: &Path, schema: &str, leaves: &[Leaf]) {
    let schema = Arc::new(parse_message_type(schema).expect("a schema"));
    let properties = Arc::new(WriterProperties::builder().build());
    let file = File::create(path).expect("a writable folder");
    let mut writer = SerializedFileWriter::new(file, schema, properties).expect("a writer");
    let mut group = writer.next_row_group().expect("a row group");
    for (values, defined, repeated) in leaves {
        let mut column = group.next_column().expect("a file").expect("a column");
        let values: Vec<ByteArray> = values.iter().map(|text| ByteArray::from(*text)).collect();
        column.typed::<ByteArrayType>().write_batch(&values, *defined, *repeated).expect("values");
        column.close().expect("a column");
    }
    group.close().expect("a row group");
    writer.close().expect("a file");
}

#[test]
fn lists_of_all_shapes_are_found() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("a.parquet");
    let expected =
        vec![Conversation::new([Message::user("a"), Message::assistant("b")]), Conversation::new([Message::user("c")])];
    let (turns, people): (&[&str], &[&str]) = (&["user", "assistant", "user"], &["human", "gpt", "human"]);
    let texts: &[&str] = &["a", "b", "c"];
    let again: Option<&[i16]> = Some(&[0, 1, 0]);
    let level = |level: &'static [i16; 3]| Some(level.as_slice());
    // Nothing may be null; the form of older writers; a bare repeated struct; a struct of lists; ShareGPT's names.
    let shapes = [
        (
            "required group messages (LIST) { repeated group list { required group element {
            required binary role (STRING); required binary content (STRING); } } }",
            turns,
            level(&[1; 3]),
        ),
        (
            "optional group messages (LIST) { repeated group array {
            optional binary role (STRING); optional binary content (STRING); } }",
            turns,
            level(&[3; 3]),
        ),
        ("repeated group messages { required binary role; required binary content; }", turns, level(&[1; 3])),
        (
            "optional group conversation {
            optional group role (LIST) { repeated group list { optional binary role (STRING); } }
            optional group content (LIST) { repeated group list { optional binary content (STRING); } } }",
            turns,
            level(&[4; 3]),
        ),
        (
            "optional group conversations (LIST) { repeated group list { optional group element {
            optional binary from (STRING); optional binary value (STRING); } } }",
            people,
            level(&[4; 3]),
        ),
    ];
    for (schema, roles, levels) in shapes {
        small(&path, &format!("message m {{ {schema} }}"), &[(roles, levels, again), (texts, levels, again)]);
        assert_eq!(good(&path), expected, "{schema}");
    }
}

#[test]
fn unsupported_columns_are_reported() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("a.parquet");
    // Text instead of a list; a list of text; a list in a list.
    let lists = [
        ("required binary messages (STRING);", None, None),
        ("repeated binary messages (STRING);", Some([1, 1].as_slice()), Some([0, 1].as_slice())),
        (
            "repeated group messages { repeated binary role (STRING); }",
            Some([2, 2].as_slice()),
            Some([0, 1].as_slice()),
        ),
    ];
    for (schema, defined, repeated) in lists {
        small(&path, &format!("message m {{ {schema} }}"), &[(&["a", "b"], defined, repeated)]);
        let (rows, bad, errors, _) = read(&path);
        assert!(rows.is_empty() && bad.is_empty());
        let [ConversationError::Columns { path: named, found, .. }] = &errors[..] else { panic!("{errors:?}") };
        assert!(*named == path && found.len() == 1 && found[0].starts_with("messages"), "{found:?}");
    }
}
