use std::str::Utf8Error;

use super::Format;
use crate::message::KeyProblem;

/// Why a row cannot be read, or is not a valid conversation.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum RowProblem {
    /// A line is too long.
    #[error("the line is longer than {limit} bytes")]
    TooLong {
        /// The greatest length in bytes.
        limit: usize,
    },
    /// A line or a value is not UTF-8.
    #[error("not UTF-8: {error}")]
    NotUtf8 {
        /// Where the text ends.
        error: Utf8Error,
    },
    /// A line of JSONL is a list.
    #[error("expected a JSON object, found a list: in JSONL every row is a line of its own")]
    List,
    /// A line of JSONL is not an object.
    #[error("expected a JSON object")]
    NotAnObject,
    /// An integer does not fit into 64 bits.
    #[error("the integer {number} does not fit into 64 bits")]
    Integer {
        /// The integer.
        number: String,
    },
    /// A line is not valid JSON.
    #[error("invalid JSON: {message} at column {column}")]
    Json {
        /// The parser's message.
        message: String,
        /// The column of the line.
        column: usize,
    },
    /// A row of CSV has another number of fields than the header.
    #[error("expected {expected} fields, as in the header, found {found}")]
    FieldCount {
        /// The number of names in the header.
        expected: usize,
        /// The number of fields.
        found: usize,
    },
    /// Two values have the same name.
    #[error("duplicate `{key}`")]
    Duplicate {
        /// The name.
        key: String,
    },
    /// A problem within a value.
    #[error("`{key}`: {problem}")]
    InKey {
        /// The value's key.
        key: String,
        /// The problem.
        problem: Box<RowProblem>,
    },
    /// A problem of a message.
    #[error("message {}: {problem}", index + 1)]
    InMessage {
        /// The message, from 0.
        index: usize,
        /// The problem.
        problem: Box<RowProblem>,
    },
    /// A problem of one value.
    #[error(transparent)]
    Key(#[from] KeyProblem),
    /// The row has no list of messages, which the requested format needs.
    #[error("expected `messages` or `conversation` for the format {format}, found neither")]
    NoList {
        /// The requested format.
        format: Format,
    },
    /// The messages are not a list.
    #[error("the messages are {found}, not a list")]
    NotAList {
        /// The type found.
        found: &'static str,
    },
    /// A message is not an object.
    #[error("it is {found}, not an object")]
    NotAMessage {
        /// The type found.
        found: &'static str,
    },
    /// The keys of the requested format are missing.
    #[error("the keys of the format {format} are missing")]
    FormatKeys {
        /// The requested format.
        format: Format,
    },
    /// The row has no keys of any format.
    #[error(
        "found neither `messages` nor `conversation` nor both keys of a question and an answer (`prompt` and \
         `completion`, `instruction` and `output`, `question` and `answer`, …){}",
        found_only(found)
    )]
    NoKnownKeys {
        /// The row's keys that belong to a format.
        found: Vec<String>,
    },
    /// The keys fit several formats.
    #[error("the keys fit several formats (`{}` and `{}`, `{}` and `{}`): set the format", .0[0].0, .0[0].1, .0[1].0, .0[1].1)]
    SeveralFormats(
        /// The keys of question and answer of two of the formats.
        [(&'static str, &'static str); 2],
    ),
    /// The row has preferred and rejected answers.
    #[error(
        "found preference data (`chosen`, `rejected`), which is not supported; store the chosen answer as `messages`, or \
         set the format of the other keys"
    )]
    Preferences,
    /// The row may be an undesired completion.
    #[error("`label` marks undesired completions, as for KTO, which is not supported; remove those rows")]
    Undesired,
    /// The row has a picture, a video or a sound.
    #[error("found `{key}`, but only text is supported")]
    Medium {
        /// Its key.
        key: String,
    },
    /// The row has a chat template of its own.
    #[error("found a `chat_template`, which is not supported")]
    Template,
    /// The row's template variables contain a chat template.
    #[error("`chat_template_kwargs` contains a chat template, which is not supported")]
    TemplateVariable,
    /// ShareGPT's function call is not one.
    #[error("`value` of a `function_call` is not JSON with a `name`")]
    FunctionCall,
    /// The earlier exchanges are not pairs.
    #[error("`history` is not a list of pairs of texts")]
    History,
    /// Two keys contain different system messages.
    #[error("`{first}` and `{second}` contradict each other")]
    Contradiction {
        /// One of the keys.
        first: String,
        /// The other.
        second: String,
    },
    /// A key and the messages contain different system messages.
    #[error("`{key}` and the system message contradict each other")]
    SystemContradiction {
        /// The key.
        key: String,
    },
    /// The row has both forms of tool descriptions.
    #[error("found both `tools` and `functions`")]
    ToolsAndFunctions,
    /// The columns of roles and contents differ in length.
    #[error("found {roles} roles and {contents} contents, expected equal numbers")]
    Columns {
        /// The number of roles.
        roles: usize,
        /// The number of contents.
        contents: usize,
    },
    /// A value in a column of texts is null.
    #[error("`{key}` is null")]
    Null {
        /// The column.
        key: &'static str,
    },
    /// The conversation is empty.
    #[error("the conversation has no messages")]
    NoMessages,
    /// A message has an unknown role.
    #[error("unknown role {role:?}, expected one of {}", known.join(", "))]
    UnknownRole {
        /// The role.
        role: String,
        /// The known roles.
        known: Vec<String>,
    },
}

impl RowProblem {
    /// The same problem, of the message with this index.
    pub(super) fn in_message(self, index: usize) -> Self {
        Self::InMessage { index, problem: Box::new(self) }
    }

    /// The same problem, of the value of a key.
    pub(super) fn in_key(self, key: &str) -> Self {
        Self::InKey { key: key.to_owned(), problem: Box::new(self) }
    }
}

fn found_only(found: &[String]) -> String {
    if found.is_empty() { String::new() } else { format!("; found only {}", found.join(", ")) }
}
