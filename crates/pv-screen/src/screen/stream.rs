//! The answers of a data set, one after another.

use std::path::{Path, PathBuf};

use pv_data::conversations::{ConversationError, Summary};
use pv_data::error::with_causes;
use pv_data::{Conversation, ConversationReader, FileError};

use super::ScreenOptions;
use crate::sample::{Skip, weight};
use crate::scores::Place;
use crate::{Error, Result};

/// An item of a data set.
#[derive(Debug)]
pub(crate) enum Item {
    /// An answer with all messages before it; it is the last message.
    Answer { place: Place, conversation: Conversation },
    /// A skipped row or answer.
    Skipped { place: Place, skip: Skip },
}

impl Item {
    /// The id of an answer with its prompt, and the id of the prompt; both are independent of the place.
    pub(crate) fn ids(conversation: &Conversation) -> (String, String) {
        // Training weights of the messages before it do not change the prompt.
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

/// Visits the answers of files, with only a few rows in memory, and returns the counts of the rows that were read.
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
                take(Item::Skipped { place, skip: Skip::BadRow { why: bad.problem.to_string() } })?;
            }
            Err(error) => {
                let why = with_causes(&error);
                let (path, rows) = match &error {
                    ConversationError::Damaged { path, rows, .. } => (path, *rows),
                    ConversationError::File(FileError::Read { path, .. })
                    | ConversationError::Format { path, .. }
                    | ConversationError::NotBuilt { path }
                    | ConversationError::Unsupported { path, .. }
                    | ConversationError::Columns { path, .. }
                    | ConversationError::DuplicateColumn { path, .. } => (path, 0),
                    _ => return Err(Error::Conversations(error)),
                };
                take(Item::Skipped { place: place(path, rows, None), skip: Skip::BadFile { why } })?;
            }
        }
    }
    Ok(reader.summary())
}
