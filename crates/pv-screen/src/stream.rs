//! What there is to screen, one answer after another.

use std::path::{Path, PathBuf};

use pv_model::{Conversation, ConversationError, ConversationReader, Message};
use serde::{Deserialize, Serialize};

use crate::sample::{Skip, Turns};
use crate::{Error, Result};

/// Where an answer stands.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Place {
    /// The file.
    pub file: PathBuf,
    /// The line on which its row begins, or the row, from 1; 0 for the file as a whole.
    pub row: u64,
    /// The index of its message in the conversation, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<usize>,
}

/// Something in a data set.
#[derive(Debug)]
pub(crate) enum Item {
    /// An answer, with all that stands before it.
    Answer { place: Place, messages: Vec<Message> },
    /// What is not screened.
    Skipped { place: Place, skip: Skip },
}

impl Item {
    /// What identifies an answer after its prompt, wherever it stands, and what identifies its prompt.
    pub(crate) fn ids(messages: &[Message]) -> (String, String) {
        let id = |messages: &[Message]| Conversation { messages: messages.to_vec() }.id();
        (id(messages), id(&messages[..messages.len().saturating_sub(1)]))
    }
}

/// Goes through the answers of files, never holding more than a few rows.
pub(crate) fn each(
    inputs: &[PathBuf],
    roles: Option<&[String]>,
    turns: Turns,
    mut take: impl FnMut(Item) -> Result<()>,
) -> Result<()> {
    let reader = ConversationReader::new(inputs)?;
    let reader = match roles {
        Some(roles) => reader.with_roles(roles),
        None => reader,
    };
    for row in reader {
        let place = |file: &Path, row, message| Place { file: file.to_owned(), row, message };
        match row {
            Ok(Ok(row)) => {
                let chosen = turns.of(&row.conversation);
                let place = |message| place(&row.place.file, row.place.row, message);
                if chosen.is_empty() {
                    take(Item::Skipped { place: place(None), skip: Skip::NoAnswer })?;
                }
                for message in chosen {
                    let messages = &row.conversation.messages[..=message];
                    take(match messages[message].content.trim().is_empty() {
                        true => Item::Skipped { place: place(Some(message)), skip: Skip::EmptyAnswer },
                        false => Item::Answer { place: place(Some(message)), messages: messages.to_vec() },
                    })?;
                }
            }
            Ok(Err(bad)) => {
                let place = place(&bad.place.file, bad.place.row, None);
                take(Item::Skipped { place, skip: Skip::BadRow { why: bad.reason } })?;
            }
            Err(error) => {
                let why = chain(&error);
                let (path, rows) = match &error {
                    ConversationError::Damaged { path, rows, .. } => (path, *rows),
                    ConversationError::Read { path, .. }
                    | ConversationError::Format { path, .. }
                    | ConversationError::NotBuilt { path }
                    | ConversationError::Unsupported { path, .. }
                    | ConversationError::Columns { path, .. } => (path, 0),
                    _ => return Err(Error::Conversations(error)),
                };
                take(Item::Skipped { place: place(path, rows, None), skip: Skip::BadFile { why } })?;
            }
        }
    }
    Ok(())
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}
