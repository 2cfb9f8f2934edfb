//! What there is to screen, one answer after another.

use std::path::{Path, PathBuf};

use pv_data::conversations::Summary;
use pv_data::{ConversationError, ConversationReader, FileError, with_causes};
use pv_model::Conversation;
use serde::{Deserialize, Serialize};

use crate::sample::{Skip, weight};
use crate::{Error, Result, ScreenOptions};

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
    /// An answer, with all that stands before it; it is the last message.
    Answer { place: Place, conversation: Conversation },
    /// What is not screened.
    Skipped { place: Place, skip: Skip },
}

impl Item {
    /// What identifies an answer after its prompt, wherever it stands, and what identifies its prompt.
    pub(crate) fn ids(conversation: &Conversation) -> (String, String) {
        // What is learnt of what stands before it does not change the prompt.
        let mut prompt = conversation.first(conversation.messages.len().saturating_sub(1));
        let (row, messages) = (&mut prompt.fields, &mut prompt.messages);
        for fields in messages.iter_mut().map(|message| &mut message.fields).chain([row]) {
            ["weight", "sample_weight", "loss_scale", "train", "training", "trainable", "loss"]
                .iter()
                .for_each(|key| _ = fields.shift_remove(*key));
        }
        (conversation.id(), prompt.id())
    }
}

/// Goes through the answers of files, never holding more than a few rows; what was read in all.
pub(crate) fn each(
    inputs: &[PathBuf],
    options: &ScreenOptions,
    mut take: impl FnMut(Item) -> Result<()>,
) -> Result<Summary> {
    let reader = ConversationReader::new(inputs)?.with_format(options.format);
    let mut reader = match &options.roles {
        Some(roles) => reader.with_roles(roles),
        None => reader,
    };
    for row in &mut reader {
        let place = |file: &Path, row, message| Place { file: file.to_owned(), row, message };
        match row {
            Ok(Ok(row)) => {
                let chosen = options.turns.of(&row.conversation);
                let place = |message| place(&row.place.file, row.place.row, message);
                if chosen.is_empty() {
                    take(Item::Skipped { place: place(None), skip: Skip::NoAnswer })?;
                }
                for message in chosen {
                    let answer = &row.conversation.messages[message];
                    let skip = match weight(&row.conversation, answer) {
                        Ok(0.0) => Some(Skip::Untrained),
                        Ok(_) => answer.is_blank().then_some(Skip::EmptyAnswer),
                        Err(skip) => Some(skip),
                    };
                    let place = place(Some(message));
                    take(match skip {
                        Some(skip) => Item::Skipped { place, skip },
                        None => Item::Answer { place, conversation: row.conversation.first(message + 1) },
                    })?;
                }
            }
            Ok(Err(bad)) => {
                let place = place(&bad.place.file, bad.place.row, None);
                take(Item::Skipped { place, skip: Skip::BadRow { why: bad.reason } })?;
            }
            Err(error) => {
                let why = with_causes(&error);
                let (path, rows) = match &error {
                    ConversationError::Damaged { path, rows, .. } => (path, *rows),
                    ConversationError::File(FileError::Read { path, .. })
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
    Ok(reader.summary())
}
