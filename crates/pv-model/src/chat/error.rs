use std::path::{Path, PathBuf};

use crate::folder::FolderError;
use crate::gguf::is_gguf;

/// An error of a chat template.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TemplateError {
    /// A file could not be read.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// A model folder has no chat template, as is common for base models.
    #[error("{} has no chat template: {}", folder.display(), where_templates_are(folder))]
    NotFound {
        /// The folder.
        folder: PathBuf,
    },
    /// A folder does not have a chat template of the requested name.
    #[error("unknown chat template `{name}`, expected one of: {}", available.join(", "))]
    Unknown {
        /// The requested name.
        name: String,
        /// The existing names.
        available: Vec<String>,
    },
    /// A template is longer than any known one.
    #[error("the chat template `{name}` has {bytes} bytes, expected at most {limit}")]
    TooLong {
        /// Its name.
        name: String,
        /// Its length in bytes.
        bytes: usize,
        /// The greatest length.
        limit: usize,
    },
    /// A template cannot be parsed.
    #[error("the chat template `{name}` cannot be parsed: {message} (line {line})")]
    Syntax {
        /// Its name.
        name: String,
        /// The parser's message.
        message: String,
        /// The line, from 1.
        line: usize,
    },
    /// A template failed while it was rendered.
    #[error("the chat template failed: {message}{}", line.map(|line| format!(" (line {line})")).unwrap_or_default())]
    Failed {
        /// The message, which corresponds to that of Jinja2.
        message: String,
        /// The line of the innermost statement, from 1, if it is known.
        line: Option<usize>,
    },
    /// A template prints a message's list of parts as a list, including brackets.
    #[error("the content of message {index} is a list of parts, but the chat template supports only text")]
    PartsUnsupported {
        /// The message's index in the conversation.
        index: usize,
    },
    /// The messages cannot be passed to a template.
    #[error("the messages cannot be passed to the chat template")]
    Messages {
        /// The error of their conversion.
        source: serde_json::Error,
    },
    /// A thread for parsing or rendering could not be started.
    #[error("cannot start a thread for the chat template")]
    Thread {
        /// The operating system's error.
        source: std::io::Error,
    },
    /// The parser or the renderer panicked.
    #[error("the chat template's thread panicked")]
    Panicked,
    /// A chat template exceeded a limit on work, memory or nesting.
    #[error("the chat template exceeded the limit on {limit}")]
    Runaway {
        /// The exhausted resource.
        limit: &'static str,
    },
    /// A chat template needs the date, and no clock was given.
    #[error("the chat template needs the date; set `now` in the render options")]
    NeedsClock,
    /// A chat template rejected the messages by calling `raise_exception`.
    #[error("the chat template rejects these messages: {message}")]
    Raised {
        /// The template's message.
        message: String,
    },
    /// A chat template rejects a system message, but accepts the same messages without it.
    #[error(
        "the chat template rejects the system role ({message}); the render options can put the system text into the \
         first user message (`system: first_user_turn`)"
    )]
    SystemRoleRefused {
        /// The template's message.
        message: String,
    },
    /// The final message cannot be continued.
    #[error("to continue the final message, there must be a message and no generation prompt")]
    NothingToContinue,
    /// A chat template rewrites an earlier answer, or the text before it, when later messages follow.
    #[error("the chat template rewrites the conversation up to message {index} when later messages follow")]
    PrefixChanged {
        /// The answer's index in the conversation.
        index: usize,
    },
    /// A message's content cannot be located in the rendered text.
    #[error("the content of message {index} was not found in the text that the chat template renders")]
    AnswerNotFound {
        /// The message's index in the conversation.
        index: usize,
    },
    /// A template cannot be saved under its name, which is not a file name.
    #[error("a chat template cannot be saved under the name {name:?}")]
    Name {
        /// The name.
        name: String,
    },
}

fn where_templates_are(folder: &Path) -> &'static str {
    match is_gguf(folder) {
        true => "no tokenizer.chat_template in its metadata",
        false => "no chat_template.jinja, and no chat_template in tokenizer_config.json",
    }
}
