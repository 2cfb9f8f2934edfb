//! Parquet files of every codec, in the three readers: codecs that are not built in are named.

use pv_data::ConversationReader;
use pv_data::conversations::{ConversationError, NewColumn, TableReader, add_columns};
use pv_train::measure::mmlu::Question;

use super::file;

const READ: [&str; 5] = ["none", "snappy", "gzip", "lz4", "zstd"];

fn conversations(name: &str) -> Result<usize, ConversationError> {
    let reader = ConversationReader::new([file(name)])?;
    reader.map(|row| row.map(|row| usize::from(row.is_ok()))).sum()
}

fn table(name: &str) -> Result<u64, ConversationError> {
    let rows = TableReader::open(file(name), |_| true)?;
    rows.map(|row| row.map(|(_, row)| u64::from(row.is_ok()))).sum()
}

#[test]
fn built_in_codecs_are_read() {
    for codec in READ {
        let (talks, questions) = (format!("talks_{codec}.parquet"), format!("test-{codec}.parquet"));
        assert_eq!(conversations(&talks).unwrap_or_else(|error| panic!("{codec}: {error}")), 3);
        assert_eq!(table(&talks).expect(codec), 3);
        assert_eq!(Question::read_parquet(file(&questions)).expect(codec).len(), 3);
    }
}

#[test]
fn a_codec_that_is_not_built_in_is_named_by_every_reader() {
    let folder = tempfile::tempdir().expect("a folder");
    let copied = |name: &str| {
        let new = [NewColumn::number("score")];
        add_columns(&[file(name)], folder.path().join("out.parquet"), &new, |_| Ok(None)).map(|_| ())
    };
    // The reference file, and an equivalent one of ours.
    for name in ["brotli.parquet", "talks_brotli.parquet"] {
        let errors = [conversations(name).map(|_| ()), table(name).map(|_| ()), copied(name)].map(Result::unwrap_err);
        for error in errors {
            let said = error.to_string();
            assert!(matches!(error, ConversationError::Unsupported { .. }), "{said}");
            assert!(said.contains("brotli") && said.contains("zstd or snappy") && said.contains(name), "{said}");
            assert!(!said.contains("damaged") && !said.contains("truncated"), "{said}");
        }
    }
    assert!(!folder.path().join("out.parquet").exists());
    let said = Question::read_parquet(file("test-brotli.parquet")).expect_err("no brotli").to_string();
    assert!(said.contains("brotli") && !said.contains("damaged"), "{said}");
}

#[test]
fn an_encrypted_file_is_named() {
    for name in ["encrypted.parquet", "encrypted_columns.parquet"] {
        for error in [conversations(name).map(|_| ()), table(name).map(|_| ())] {
            let said = error.expect_err("encrypted").to_string();
            assert!(said.contains("encrypted") && !said.contains("damaged"), "{said}");
        }
    }
}

/// A data set's other files are read, and the unreadable one is one error.
#[test]
fn other_files_are_still_read() {
    let folder = tempfile::tempdir().expect("a folder");
    for codec in ["brotli", "zstd"] {
        std::fs::copy(file(&format!("talks_{codec}.parquet")), folder.path().join(format!("{codec}.parquet")))
            .expect("a copy");
    }
    let (mut good, mut errors) = (0, Vec::new());
    for row in ConversationReader::new([folder.path()]).expect("files") {
        match row {
            Ok(row) => good += usize::from(row.is_ok()),
            Err(error) => errors.push(error),
        }
    }
    assert_eq!((good, errors.len()), (3, 1), "{errors:?}");
    assert!(matches!(errors[0], ConversationError::Unsupported { .. }));
}
