//! Files of conversations, written without the code under test.

use std::fs::File;
use std::io::Write;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use parquet::basic::Compression;
use parquet::data_type::{
    BoolType, ByteArray, ByteArrayType, DataType, DoubleType, FixedLenByteArray, FixedLenByteArrayType, FloatType,
    Int32Type, Int64Type, Int96, Int96Type,
};
use parquet::file::metadata::KeyValue;
use parquet::file::properties::{WriterProperties, WriterVersion};
use parquet::file::writer::{SerializedFileWriter, SerializedRowGroupWriter};
use parquet::schema::parser::parse_message_type;
use pv_tests::Random;
use serde_json::json;

/// Roles and contents.
pub(super) type Talk = Vec<(&'static str, String)>;

/// Conversations of one to seven messages with up to `words` words each, all different.
pub(super) fn talks(count: usize, seed: u64, words: u64) -> Vec<Talk> {
    let mut random = Random(seed);
    let text = |random: &mut Random| {
        let mut text = String::new();
        for _ in 0..random.below(words + 1) {
            match random.below(40) {
                0 => text.push_str("\"quoted\\\" "),
                1 => text.push_str("line\r\nbreak\t"),
                2 => text.push_str("é日本🙂\u{2028}\u{0} "),
                n => text.push_str(&format!("{:x} ", random.below(1 << (n / 2 + 1)))),
            }
        }
        text
    };
    let talk = |index| {
        let mut talk: Talk = Vec::new();
        if random.below(3) == 0 {
            talk.push(("system", text(&mut random)));
        }
        talk.push(("user", format!("{seed}/{index} {}", text(&mut random))));
        for turn in 0..random.below(6) {
            talk.push((if turn % 2 == 0 { "assistant" } else { "user" }, text(&mut random)));
        }
        talk
    };
    (0..count).map(talk).collect()
}

/// As JSON lines.
pub(super) fn lines(talks: &[Talk]) -> Vec<u8> {
    let mut text = Vec::new();
    for talk in talks {
        let messages: Vec<_> = talk.iter().map(|(role, content)| json!({"role": role, "content": content})).collect();
        writeln!(text, "{}", json!({ "messages": messages })).expect("memory");
    }
    text
}

pub(super) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    out.write_all(bytes).expect("memory");
    out.finish().expect("memory")
}

pub(super) fn zstandard(bytes: &[u8]) -> Vec<u8> {
    let mut out = zstd::Encoder::new(Vec::new(), 1).expect("an encoder");
    out.include_checksum(true).expect("an encoder");
    out.write_all(bytes).expect("memory");
    out.finish().expect("memory")
}

/// The columns of LMSYS-Chat-1M, and some other types.
const LMSYS: &str = "message schema {
    optional binary conversation_id (STRING);
    optional binary model (STRING);
    optional group conversation (LIST) { repeated group list { optional group element {
        optional binary content (STRING); optional binary role (STRING); } } }
    optional int64 turn;
    optional binary language (STRING);
    optional group openai_moderation (LIST) { repeated group list { optional group element {
        optional group categories { optional boolean harassment; }
        optional group category_scores { optional double harassment; }
        optional boolean flagged; } } }
    optional boolean redacted;
    required int32 number;
    required float single;
    optional int96 time;
    optional fixed_len_byte_array(3) three;
    repeated int32 many;
}";

/// The layout of a file.
pub(super) struct Layout {
    pub(super) group: usize,
    pub(super) compression: Compression,
    pub(super) version: WriterVersion,
}

impl Default for Layout {
    fn default() -> Self {
        Self { group: 64, compression: Compression::SNAPPY, version: WriterVersion::PARQUET_1_0 }
    }
}

/// Writes a file with the columns of LMSYS-Chat-1M.
pub(super) fn lmsys(path: &Path, talks: &[Talk], layout: &Layout) {
    let lists: Vec<List> = talks
        .iter()
        .map(|talk| {
            let text = |text: &str| Some(ByteArray::from(text.as_bytes().to_vec()));
            Some(talk.iter().map(|(role, content)| Some((text(role), text(content)))).collect())
        })
        .collect();
    lmsys_lists(path, &lists, layout);
}

/// A row's list of structs of role and content, each of which may be null.
pub(super) type List = Option<Vec<Option<(Option<ByteArray>, Option<ByteArray>)>>>;

pub(super) fn lmsys_lists(path: &Path, lists: &[List], layout: &Layout) {
    let schema = Arc::new(parse_message_type(LMSYS).expect("a schema"));
    let notes = [("ARROW:schema", "of other columns"), ("note", "kept")]
        .map(|(key, value)| KeyValue { key: key.to_owned(), value: Some(value.to_owned()) });
    let properties = WriterProperties::builder()
        .set_compression(layout.compression)
        .set_writer_version(layout.version)
        .set_key_value_metadata(Some(notes.to_vec()))
        .build();
    let file = File::create(path).expect("a writable folder");
    let mut writer = SerializedFileWriter::new(file, schema, Arc::new(properties)).expect("a writer");
    for (index, lists) in lists.chunks(layout.group).enumerate() {
        let mut group = writer.next_row_group().expect("a row group");
        let rows = index * layout.group..index * layout.group + lists.len();
        let text = |text: String| ByteArray::from(text.into_bytes());
        flat::<ByteArrayType>(&mut group, rows.clone().map(|row| (row % 7 != 0).then(|| text(format!("id{row}")))));
        flat::<ByteArrayType>(&mut group, rows.clone().map(|row| Some(text(format!("model{}", row % 3)))));
        put::<ByteArrayType>(&mut group, lists.chunks(64).map(|lists| texts(lists, |(_, content)| content)));
        put::<ByteArrayType>(&mut group, lists.chunks(64).map(|lists| texts(lists, |(role, _)| role)));
        flat::<Int64Type>(&mut group, rows.clone().map(|row| (row % 5 != 1).then_some(row as i64)));
        flat::<ByteArrayType>(&mut group, rows.clone().map(|_| Some(text("English".to_owned()))));
        // Lists of none, one, two, … structs, the second of which is null; the first may have a null field.
        let elements = |row: usize| (row % 9 != 8).then_some(row % 4);
        nested::<BoolType>(&mut group, rows.clone(), elements, 5, |row, index| row % 2 == index);
        nested::<DoubleType>(&mut group, rows.clone(), elements, 5, |row, index| row as f64 / (index + 1) as f64);
        nested::<BoolType>(&mut group, rows.clone(), elements, 4, |row, _| row % 3 == 0);
        flat::<BoolType>(&mut group, rows.clone().map(|row| (row % 11 != 3).then_some(row % 2 == 0)));
        put::<Int32Type>(&mut group, [(rows.clone().map(|row| row as i32 - 5).collect(), None, None)]);
        put::<FloatType>(&mut group, [(rows.clone().map(|row| row as f32 / 3.0).collect(), None, None)]);
        let time = |row: usize| {
            let mut time = Int96::new();
            time.set_data(row as u32, 2, 3);
            time
        };
        flat::<Int96Type>(&mut group, rows.clone().map(|row| (row % 4 != 0).then(|| time(row))));
        let three = |row: usize| FixedLenByteArray::from(vec![row as u8, 1, 2]);
        flat::<FixedLenByteArrayType>(&mut group, rows.clone().map(|row| (row % 6 != 2).then(|| three(row))));
        let (mut defined, mut repeated, mut values) = (vec![], vec![], vec![]);
        for row in rows {
            defined.extend(if row % 3 == 0 { vec![0] } else { vec![1; row % 3] });
            repeated.extend((0..(row % 3).max(1)).map(|index| i16::from(index > 0)));
            values.extend((0..row % 3).map(|index| (row * 10 + index) as i32));
        }
        put::<Int32Type>(&mut group, [(values, Some(defined), Some(repeated))]);
        group.close().expect("a row group");
    }
    writer.close().expect("a file");
}

/// Values, definition levels, repetition levels.
type Levels<T> = (Vec<T>, Option<Vec<i16>>, Option<Vec<i16>>);

/// Writes a column, in several pieces so that no page grows far beyond its size.
fn put<T: DataType>(group: &mut SerializedRowGroupWriter<'_, File>, pieces: impl IntoIterator<Item = Levels<T::T>>) {
    let mut column = group.next_column().expect("a file").expect("a column");
    for (values, defined, repeated) in pieces {
        let out = column.typed::<T>();
        out.write_batch(&values, defined.as_deref(), repeated.as_deref()).expect("values");
    }
    column.close().expect("a column");
}

/// A column of values that may be null.
fn flat<T: DataType>(group: &mut SerializedRowGroupWriter<'_, File>, values: impl Iterator<Item = Option<T::T>>) {
    let values: Vec<Option<T::T>> = values.collect();
    let defined = values.iter().map(|value| i16::from(value.is_some())).collect();
    put::<T>(group, [(values.into_iter().flatten().collect(), Some(defined), None)]);
}

/// One field of the structs of lists.
fn texts(
    lists: &[List],
    field: impl Fn(&(Option<ByteArray>, Option<ByteArray>)) -> &Option<ByteArray>,
) -> Levels<ByteArray> {
    let (mut defined, mut repeated, mut values) = (vec![], vec![], vec![]);
    for list in lists {
        match list.as_deref() {
            None => defined.push(0),
            Some([]) => defined.push(1),
            Some(list) => {
                for element in list {
                    let value = element.as_ref().map(&field);
                    defined.push(match value {
                        None => 2,
                        Some(None) => 3,
                        Some(Some(_)) => 4,
                    });
                    values.extend(value.into_iter().flatten().cloned());
                }
            }
        }
        repeated.extend((0..list.as_ref().map_or(1, |list| list.len().max(1))).map(|index| i16::from(index > 0)));
    }
    (values, Some(defined), Some(repeated))
}

/// A field below the structs of a list, whose value has the definition level `all`.
fn nested<T: DataType>(
    group: &mut SerializedRowGroupWriter<'_, File>,
    rows: Range<usize>,
    elements: impl Fn(usize) -> Option<usize>,
    all: i16,
    value: impl Fn(usize, usize) -> T::T,
) {
    let (mut defined, mut repeated, mut values) = (vec![], vec![], vec![]);
    for row in rows {
        match elements(row) {
            None => (defined.push(0), repeated.push(0)).0,
            Some(0) => (defined.push(1), repeated.push(0)).0,
            Some(count) => {
                for index in 0..count {
                    repeated.push(i16::from(index > 0));
                    defined.push(match (index, row % 5) {
                        (1, _) => 2,
                        (0, 0) => all - 1,
                        _ => all,
                    });
                    if defined.last() == Some(&all) {
                        values.push(value(row, index));
                    }
                }
            }
        }
    }
    put::<T>(group, [(values, Some(defined), Some(repeated))]);
}
