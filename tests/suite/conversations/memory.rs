//! The memory that reading and writing large files takes, each in a process of its own.

use std::fs;
use std::path::Path;

use parquet::basic::Compression;
use pv_data::ConversationReader;
use pv_data::conversations::{Cell, NewColumn, add_columns, add_fields};
use pv_tests::{measured_apart, peak_memory, tell_bytes};

use super::making::{Layout, Talk, gzip, lines, lmsys};

/// Names the file, in the process that reads it.
const FILE: &str = "PV_TESTS_LARGE_FILE";

const ROWS: usize = 30_000;

/// The maximum memory of reading and writing, for any file size; much of it is cached by the allocator.
const MOST: u64 = 80 << 20;

/// About 10 kB each, which compress little.
fn large() -> Vec<Talk> {
    let mut state = 1_u64;
    let mut text = |words: usize| {
        let mut text = String::new();
        for _ in 0..words {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            text.push_str(&format!("{:x} ", state >> 8));
        }
        text
    };
    (0..ROWS).map(|_| vec![("user", text(120)), ("assistant", text(560))]).collect()
}

/// In a process of its own: reads a file and writes it again with further columns and every second row.
fn read_and_write(path: &Path) {
    let before = peak_memory();
    let mut reader = ConversationReader::new([path]).expect("a file");
    let mut bytes = 0;
    for row in reader.by_ref() {
        let row = row.expect("a file").expect("a row");
        bytes += row.conversation.messages.iter().map(|message| message.content.len()).sum::<usize>();
    }
    assert_eq!((reader.summary().rows, reader.summary().duplicates), (ROWS as u64, 0));
    assert!(bytes > ROWS * 8000, "{bytes} bytes");
    let columns = [NewColumn::number("x"), NewColumn::text("y")];
    let values = |place: &pv_data::conversations::RowPlace| {
        Ok(place
            .row
            .is_multiple_of(2)
            .then(|| vec![Cell::Number(place.row as f64), Cell::Text(format!("row {}", place.row))]))
    };
    let written = match path.extension().and_then(|name| name.to_str()) {
        Some("parquet") => add_columns(&[path], path.with_extension("out.parquet"), &columns, values),
        _ => add_fields(&[path], path.with_extension("out.jsonl"), &columns, values),
    };
    assert_eq!(written.expect("a file").kept, ROWS as u64 / 2);
    tell_bytes(peak_memory() - before);
}

#[test]
#[cfg(target_os = "linux")]
fn a_large_file_takes_little_memory() {
    if let Some(path) = std::env::var_os(FILE) {
        return read_and_write(Path::new(&path));
    }
    let folder = tempfile::tempdir().expect("a folder");
    let at = |name: &str| folder.path().join(name);
    let talks = large();
    fs::write(at("a.jsonl"), lines(&talks)).expect("a writable folder");
    fs::write(at("b.jsonl.gz"), gzip(&lines(&talks))).expect("a writable folder");
    let layout = |group, compression| Layout { group, compression, ..Layout::default() };
    lmsys(&at("c.parquet"), &talks, &layout(1000, Compression::SNAPPY));
    lmsys(&at("d.parquet"), &talks, &layout(ROWS, Compression::UNCOMPRESSED));
    let size = fs::metadata(at("a.jsonl")).expect("a file").len();
    for name in ["a.jsonl", "b.jsonl.gz", "c.parquet", "d.parquet"] {
        let test = "conversations::memory::a_large_file_takes_little_memory";
        let taken = measured_apart(test, &[(FILE, at(name).as_os_str())]);
        println!("{name}: {:.1} MB for {:.0} MB of conversations", taken as f64 / 1e6, size as f64 / 1e6);
        assert!(taken < MOST && 3 * taken < size, "{name}: {taken} bytes for {size}");
    }
}
