//! Files of conversations.

use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::path::Path;

use pv_model::Message;
use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// A conversation to learn from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Conversation {
    /// Its messages, from the first to the last.
    pub messages: Vec<Message>,
}

/// Reads a file with one conversation per line: `{"messages": [{"role": …, "content": …}, …]}`. Empty lines are passed
/// over, and so are other keys.
///
/// # Errors
/// [`Error::Read`]; [`Error::Line`] or [`Error::NoMessages`] with the line's number.
pub fn read_conversations(path: impl AsRef<Path>) -> Result<Vec<Conversation>> {
    let path = path.as_ref();
    let failed = |source| Error::Read { path: path.to_owned(), source };
    let mut conversations = Vec::new();
    for (index, text) in BufReader::new(File::open(path).map_err(failed)?).lines().enumerate() {
        let (text, line) = (text.map_err(failed)?, index + 1);
        if text.trim().is_empty() {
            continue;
        }
        let conversation: Conversation =
            serde_json::from_str(&text).map_err(|source| Error::Line { path: path.to_owned(), line, source })?;
        if conversation.messages.is_empty() {
            return Err(Error::NoMessages { path: path.to_owned(), line });
        }
        conversations.push(conversation);
    }
    Ok(conversations)
}

/// Writes what [`read_conversations`] reads, under another name first, so that no half-written file is ever seen.
///
/// # Errors
/// [`Error::Write`].
pub fn write_conversations(path: impl AsRef<Path>, conversations: &[Conversation]) -> Result<()> {
    let path = path.as_ref();
    let failed = |source| Error::Write { path: path.to_owned(), source };
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut file = tempfile::NamedTempFile::new_in(folder).map_err(failed)?;
    let mut writer = BufWriter::new(&mut file);
    for conversation in conversations {
        serde_json::to_writer(&mut writer, conversation).map_err(|error| failed(error.into()))?;
        writer.write_all(b"\n").map_err(failed)?;
    }
    writer.flush().map_err(failed)?;
    drop(writer);
    file.as_file().sync_all().map_err(failed)?;
    file.persist(path).map_err(|error| failed(error.error))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("data.jsonl");
        let conversations = vec![
            Conversation { messages: vec![Message::user("a\n\"b\""), Message::assistant("é\u{2028}")] },
            Conversation { messages: vec![Message::system("s")] },
        ];
        write_conversations(&path, &conversations).expect("a writable folder");
        assert_eq!(read_conversations(&path).expect("a file"), conversations);
    }

    #[test]
    fn errors_name_the_line() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("data.jsonl");
        let good = r#"{"id": 3, "messages": [{"role": "user", "content": "x"}]}"#;
        for bad in ["{", r#"{"messages": 3}"#, r#"{"messages": [{"role": "user"}]}"#, "{}"] {
            std::fs::write(&path, format!("{good}\n\n{bad}\n{good}\n")).expect("a writable folder");
            let error = read_conversations(&path).expect_err("refused");
            assert!(matches!(error, Error::Line { line: 3, .. }), "{error}");
        }
        std::fs::write(&path, format!("{good}\n{{\"messages\": []}}")).expect("a writable folder");
        assert!(matches!(read_conversations(&path), Err(Error::NoMessages { line: 2, .. })));
        assert!(matches!(read_conversations(folder.path().join("no")), Err(Error::Read { .. })));
    }
}
