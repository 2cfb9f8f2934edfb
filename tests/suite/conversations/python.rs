//! What pyarrow writes and reads, where `PV_PYTHON` names a Python that has it.

use std::path::{Path, PathBuf};
use std::process::Command;

use pv_model::{Cell, NewColumn, add_columns};
use pv_tests::root;

use super::making::{lines, talks};
use super::{conversations, good};

/// Python with pyarrow, where `PV_PYTHON` names one.
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

#[test]
fn pyarrow_and_we_read_one_another() {
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
