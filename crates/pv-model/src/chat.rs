//! Chat templates: render messages as the text format that a model was trained on.
//!
//! A model folder's template is Jinja, run as the `transformers` library runs it (`trim_blocks`, `lstrip_blocks`,
//! Python's values and their methods, `raise_exception`, …), but with limits on work and memory.

use std::{collections::BTreeMap, fs, io, ops::Range, path::Path, sync::Arc};

use pv_data::Message;
use pv_data::files::read_file;
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::{
    folder::{Files, FolderError, with_files},
    tokenizer::special_tokens,
};

mod environment;
mod error;
mod jinja;
mod options;
mod spans;
#[cfg(test)]
mod tests;
mod worker;
mod written;

pub use error::TemplateError;
pub use options::{RenderOptions, SystemText};
pub use spans::{answer_span, assistant_spans, assistant_spans_at};
pub use written::{Unwritten, UnwrittenPart, alters, unwritten_parts};

/// A rendered conversation.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Rendered {
    /// The text, to be encoded without further special tokens.
    pub text: String,
    /// The byte ranges of `text` that the template's non-empty `{% generation %}` blocks wrote. Blocks inside a macro,
    /// a filter or a `{% set %}` block are not recorded, since a template may change their text.
    pub generation_spans: Vec<Range<usize>>,
}

/// A model folder's chat templates, ready to render. `Send + Sync`; share it by reference.
#[derive(Clone, Debug)]
pub struct ChatTemplate {
    templates: BTreeMap<String, Named>,
    special_tokens: Map<String, Value>,
}

#[derive(Clone, Debug)]
struct Named {
    source: String,
    /// The template, or the reason why it cannot be used (a folder's other templates may still work).
    parsed: Result<Arc<jinja::Template>, Unusable>,
}

/// The reason why a template cannot be used.
#[derive(Clone, Debug)]
enum Unusable {
    TooLong,
    Syntax { message: String, line: usize },
}

impl Named {
    fn unusable(&self, name: &str, reason: &Unusable) -> TemplateError {
        let name = name.to_owned();
        match reason {
            Unusable::TooLong => TemplateError::TooLong { name, bytes: self.source.len(), limit: LONGEST },
            Unusable::Syntax { message, line } => TemplateError::Syntax { name, message: message.clone(), line: *line },
        }
    }
}

const DEFAULT: &str = "default";

/// The greatest length of a template in bytes, many times that of known models. It bounds the nesting depth.
const LONGEST: usize = 128 << 10;

impl ChatTemplate {
    /// Loads a model folder's templates: `chat_template.jinja` and `additional_chat_templates/*.jinja`, or else the
    /// `chat_template` of `tokenizer_config.json`, which is one string or a list of `{name, template}`. Special tokens
    /// are read from `tokenizer_config.json` (or the older `special_tokens_map.json`).
    ///
    /// # Errors
    /// [`TemplateError::NotFound`] if the folder has none, [`TemplateError::Syntax`] if the default template cannot be
    /// parsed, [`TemplateError::Folder`] for the files.
    pub fn from_folder(folder: &Path) -> Result<Self, TemplateError> {
        with_files(folder, Self::from_files)
    }

    /// Like [`from_folder`](Self::from_folder), for files that are open.
    pub(crate) fn from_files(files: &Files<'_>) -> Result<Self, TemplateError> {
        let folder = files.path();
        let mut sources = if files.is_gguf() { Vec::new() } else { jinja_files(folder)? };
        if sources.is_empty() {
            let name = "tokenizer_config.json";
            let path = folder.join(name);
            let mut config = files.object(name)?.unwrap_or_default();
            let value = config.remove("chat_template").filter(|value| !value.is_null());
            let value = value.ok_or_else(|| TemplateError::NotFound { folder: folder.to_owned() })?;
            let stored = serde_json::from_value(value).map_err(|source| FolderError::Json { path, source })?;
            sources = match stored {
                Stored::One(template) => vec![(DEFAULT.to_owned(), template)],
                Stored::Many(list) => list.into_iter().map(|one| (one.name, one.template)).collect(),
            };
            if sources.is_empty() {
                return Err(TemplateError::NotFound { folder: folder.to_owned() });
            }
        }
        Self::from_sources(sources, special_tokens(files)?)
    }

    /// A single template, with the special tokens (`bos_token`, …) that it may use.
    ///
    /// # Errors
    /// [`TemplateError::Syntax`] if it cannot be parsed.
    pub fn from_source(source: impl Into<String>, special_tokens: Map<String, Value>) -> Result<Self, TemplateError> {
        Self::from_sources(vec![(DEFAULT.to_owned(), source.into())], special_tokens)
    }

    fn from_sources(sources: Vec<(String, String)>, special_tokens: Map<String, Value>) -> Result<Self, TemplateError> {
        let mut templates = BTreeMap::new();
        for (name, source) in sources {
            let parsed = parse(&source)?;
            let named = Named { source, parsed };
            if let (DEFAULT, Err(reason)) = (name.as_str(), &named.parsed) {
                return Err(named.unusable(DEFAULT, reason));
            }
            templates.insert(name, named);
        }
        Ok(Self { templates, special_tokens })
    }

    /// The names of the templates.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.templates.keys().map(String::as_str)
    }

    /// The Jinja source of a template, for example to store its hash.
    pub fn source(&self, name: &str) -> Option<&str> {
        self.templates.get(name).map(|named| named.source.as_str())
    }

    /// Renders a conversation.
    ///
    /// # Errors
    /// - [`TemplateError::Unknown`], [`TemplateError::Syntax`]: `options` select a template that does not exist or
    ///   cannot be parsed.
    /// - [`TemplateError::SystemRoleRefused`], [`TemplateError::Raised`]: the template rejects these messages.
    /// - [`TemplateError::NeedsClock`]: it needs the date and `options.now` is `None`.
    /// - [`TemplateError::Runaway`]: it exceeds the limit on work, memory or nesting.
    /// - [`TemplateError::Failed`]: any other failure inside the template.
    /// - [`TemplateError::NothingToContinue`], [`TemplateError::AnswerNotFound`]: `options.continue_final_message` is
    ///   set and the last message cannot be located in the text, or a generation prompt is requested too.
    pub fn render(&self, messages: &[Message], options: &RenderOptions) -> Result<Rendered, TemplateError> {
        let messages = &options.system.place(messages);
        if !options.continue_final_message {
            return self.render_explaining(messages, options);
        }
        if options.add_generation_prompt || messages.is_empty() {
            return Err(TemplateError::NothingToContinue);
        }
        let (mut rendered, content) = spans::last_content(self, messages, &options.closed())?;
        rendered.text.truncate(content.end);
        for span in &mut rendered.generation_spans {
            span.end = span.end.min(content.end);
        }
        rendered.generation_spans.retain(|span| span.start < span.end);
        Ok(rendered)
    }

    /// Renders, and if the template raises an error, checks whether a system message is the cause.
    fn render_explaining(&self, messages: &[Message], options: &RenderOptions) -> Result<Rendered, TemplateError> {
        let outcome = self.render_once(messages, options);
        let Err(TemplateError::Raised { message }) = outcome else { return outcome };
        let without: Vec<Message> = messages.iter().filter(|message| message.role != "system").cloned().collect();
        if without.len() < messages.len() && self.render_once(&without, options).is_ok() {
            return Err(TemplateError::SystemRoleRefused { message });
        }
        Err(TemplateError::Raised { message })
    }

    fn render_once(&self, messages: &[Message], options: &RenderOptions) -> Result<Rendered, TemplateError> {
        let (name, named) = self.choose(options)?;
        let template = named.parsed.as_ref().map_err(|reason| named.unusable(name, reason))?.clone();
        let variables = environment::variables(&self.special_tokens, messages, options)?;
        let now = options.now;
        let outcome = worker::on_worker(move || template.run(variables, now, environment::FUEL))?;
        let (text, generation_spans) = outcome.map_err(|fault| environment::explain(&fault))?;
        Ok(Rendered { text, generation_spans })
    }

    fn choose<'a>(&'a self, options: &'a RenderOptions) -> Result<(&'a str, &'a Named), TemplateError> {
        let with_tools = options.variables.get("tools").is_some_and(|tools| !tools.is_null());
        let name = match &options.template_name {
            Some(name) => name.as_str(),
            None if with_tools && self.templates.contains_key("tool_use") => "tool_use",
            None => DEFAULT,
        };
        let named = self.templates.get(name).ok_or_else(|| TemplateError::Unknown {
            name: name.to_owned(),
            available: self.templates.keys().cloned().collect(),
        })?;
        Ok((name, named))
    }
}

/// A template, or the reason why it cannot be used.
fn parse(source: &str) -> Result<Result<Arc<jinja::Template>, Unusable>, TemplateError> {
    if source.len() > LONGEST {
        return Ok(Err(Unusable::TooLong));
    }
    let source = source.to_owned();
    let parsed = worker::on_worker(move || jinja::Template::parse(&source).map(Arc::new))?;
    Ok(parsed.map_err(|error| Unusable::Syntax { message: error.message, line: error.line }))
}

/// The value of `chat_template` in `tokenizer_config.json`.
#[derive(Deserialize)]
#[serde(untagged)]
enum Stored {
    One(String),
    Many(Vec<StoredNamed>),
}

#[derive(Deserialize)]
struct StoredNamed {
    name: String,
    template: String,
}

fn jinja_files(folder: &Path) -> Result<Vec<(String, String)>, FolderError> {
    let mut paths = vec![(DEFAULT.to_owned(), folder.join("chat_template.jinja"))];
    let additional = folder.join("additional_chat_templates");
    if additional.is_dir() {
        let read = |source| FolderError::read(&additional, source);
        for entry in fs::read_dir(&additional).map_err(read)? {
            let path = entry.map_err(read)?.path();
            if let (Some("jinja"), Some(name)) =
                (path.extension().and_then(|extension| extension.to_str()), path.file_stem().and_then(|s| s.to_str()))
            {
                paths.push((name.to_owned(), path));
            }
        }
    }
    let mut sources = Vec::new();
    for (name, path) in paths {
        let text = |bytes| String::from_utf8(bytes).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error));
        match read_file(&path).and_then(text) {
            Ok(source) => sources.push((name, source)),
            Err(source) if source.kind() == io::ErrorKind::NotFound => {}
            Err(source) => return Err(FolderError::read(&path, source)),
        }
    }
    Ok(sources)
}
