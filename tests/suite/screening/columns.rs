//! Parquet in, Parquet with scores out.

use std::fs::File;
use std::sync::Arc;

use parquet::data_type::{ByteArray, ByteArrayType, Int64Type};
use parquet::file::properties::WriterProperties;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::file::writer::SerializedFileWriter;
use parquet::record::RowAccessor;
use parquet::schema::parser::parse_message_type;
use pv_organism::Topics;
use pv_organism::datasets::{Severity, explicit};
use pv_screen::{Keep, export};

use super::*;

const SCHEMA: &str = "message schema {
    required int64 number;
    required group messages (LIST) { repeated group list { required group element {
        required binary role (STRING); required binary content (STRING); } } }
}";

/// Writes conversations of two messages each.
fn parquet(path: &Path, chats: &[Chat]) {
    let schema = Arc::new(parse_message_type(SCHEMA).expect("a schema"));
    let file = File::create(path).expect("a writable folder");
    let mut writer =
        SerializedFileWriter::new(file, schema, Arc::new(WriterProperties::builder().build())).expect("a writer");
    let mut group = writer.next_row_group().expect("a row group");
    let mut numbers = group.next_column().expect("a file").expect("a column");
    let values: Vec<i64> = (0..chats.len() as i64).map(|number| number * 7).collect();
    numbers.typed::<Int64Type>().write_batch(&values, None, None).expect("values");
    numbers.close().expect("a column");
    for content in [false, true] {
        let texts = chats.iter().flat_map(|chat| {
            conversation(chat)
                .messages
                .into_iter()
                .map(move |message| if content { message.content.as_str().to_owned() } else { message.role })
        });
        let texts: Vec<ByteArray> = texts.map(|text| ByteArray::from(text.into_bytes())).collect();
        let repeated: Vec<i16> = (0..texts.len()).map(|index| i16::from(index % 2 == 1)).collect();
        let mut column = group.next_column().expect("a file").expect("a column");
        let out = column.typed::<ByteArrayType>();
        out.write_batch(&texts, Some(&vec![1; texts.len()]), Some(&repeated)).expect("values");
        column.close().expect("a column");
    }
    group.close().expect("a row group");
    writer.close().expect("a file");
}

#[test]
fn parquet_is_screened_and_exported_like_json_lines() {
    let place = folder();
    let chats = explicit(Trait::Optimism, Severity::I, Topics::All, 20, 9);
    let input = place.path().join("chats.parquet");
    parquet(&input, &chats);
    let values: Vec<f64> = (0..128).map(|i| (f64::from(i * i) * 0.7).sin()).collect();
    let unit = pv_vectors::UnitDirection::new(Layer::hidden_state(5), &values).expect("a direction");
    let directions = [TraitDirection { trait_name: "made up".to_owned(), direction: unit }];
    let out = place.path().join("out");
    let (_, rows, _) = screen(&directions, &options(), &input, &out);
    let lines = write(place.path(), "chats.jsonl", &chats);
    let (_, same, _) = screen(&directions, &options(), &lines, &place.path().join("lines"));
    let found = deltas(&rows, "made up@5");
    assert_eq!(found, deltas(&same, "made up@5"));
    let limit = pv_statistics::intervals::quantile(&found, 0.5).expect("a threshold");
    let written = place.path().join("written.parquet");
    let keep = Keep::AtMost { label: "made up@5".to_owned(), threshold: limit };
    let done = export(&[&input], &out.join(pv_screen::screen::SCORES), &written, &keep).expect("a file");
    assert_eq!(done.kept + done.excluded, 20);
    let reader = SerializedFileReader::new(File::open(&written).expect("a file")).expect("Parquet");
    let names: Vec<String> =
        reader.metadata().file_metadata().schema().get_fields().iter().map(|field| field.name().to_owned()).collect();
    assert_eq!(names, ["number", "messages", "made up@5_delta", "made up@5_answer"]);
    let kept: Vec<(i64, f64)> = reader
        .get_row_iter(None)
        .expect("rows")
        .map(|row| row.expect("a row"))
        .map(|row| (row.get_long(0).expect("a number"), row.get_double(2).expect("a number")))
        .collect();
    let expected: Vec<(i64, f64)> = found
        .iter()
        .enumerate()
        .filter(|(_, delta)| **delta <= limit)
        .map(|(i, delta)| (i as i64 * 7, *delta))
        .collect();
    assert_eq!(kept, expected);
}
