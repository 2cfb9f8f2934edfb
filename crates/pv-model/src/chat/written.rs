//! Detects parts of a conversation that a template omits.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{ChatTemplate, Message, RenderOptions, TemplateError};

/// How to treat a conversation that the chat template does not render completely. It is counted in either case.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unwritten {
    /// The conversation is not used.
    #[default]
    Refuse,
    /// The conversation is used as the template renders it.
    Keep,
}

/// A part of a conversation that leaves no trace in its rendering.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub struct UnwrittenPart {
    /// The message's index; `None` for a part of the whole conversation.
    pub message: Option<usize>,
    /// The role of the message.
    pub role: Option<String>,
    /// The key: `content`, `tool_calls`, `tools`, …
    pub key: String,
}

impl fmt::Display for UnwrittenPart {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { message, role, key } = self;
        match message {
            Some(index) => {
                let role = role.as_deref().unwrap_or_default();
                write!(out, "message {} ({role}): the chat template does not write its `{key}`", index + 1)
            }
            None => write!(out, "the chat template does not write the conversation's `{key}`"),
        }
    }
}

/// The parts of a conversation that are absent from `text`, its rendering with `options`: contents, tool calls,
/// refusals, and tool descriptions (`tools` of the options' variables). Thoughts are not examined: templates omit them
/// from earlier turns, and [`alters`] compares an answer with its rendering.
///
/// The conversation is rendered once more with a mark in every part; a part whose mark is missing is then examined
/// alone.
///
/// # Errors
/// [`TemplateError::PartsUnsupported`] for a list of parts that the template prints as a list, including brackets.
pub fn unwritten_parts(
    template: &ChatTemplate,
    messages: &[Message],
    options: &RenderOptions,
    text: &str,
) -> Result<Vec<UnwrittenPart>, TemplateError> {
    if let Some(index) = written_as_list(messages, text) {
        return Err(TemplateError::PartsUnsupported { index });
    }
    let parts = parts(messages, options);
    if parts.is_empty() {
        return Ok(Vec::new());
    }
    Ok(unwritten_here(template, messages, options, text, parts))
}

fn unwritten_here(
    template: &ChatTemplate,
    messages: &[Message],
    options: &RenderOptions,
    text: &str,
    parts: Vec<Part>,
) -> Vec<UnwrittenPart> {
    let salt = (0..).map(|n| format!("qz{n}x")).find(|salt| !text.contains(salt.as_str())).unwrap_or_default();
    let mark = |index: usize| format!("{salt}{index}y");
    let append = |index: usize, text: &str| format!("{text}{}", mark(index));
    let (mut marked, mut variables) = (messages.to_vec(), options.clone());
    parts
        .iter()
        .enumerate()
        .for_each(|(index, part)| part.change(&mut marked, &mut variables, &|text| append(index, text)));
    let together = template.render(&marked, &variables).map(|rendered| rendered.text).unwrap_or_default();
    let lost = parts.into_iter().enumerate().filter(|(index, _)| !together.contains(&mark(*index)));
    // The change of another part may have caused the template to omit this one, or only its end.
    let lost = lost.filter(|(index, part)| {
        let middle = |text: &str| {
            let at = text.chars().count() / 2;
            text.chars().take(at).chain(mark(*index).chars()).chain(text.chars().skip(at)).collect::<String>()
        };
        let start = |text: &str| {
            let at = text.len() - text.trim_start().len();
            let first = text[at..].chars().next().map_or(at, |first| at + first.len_utf8());
            format!("{}{}{}", &text[..first], mark(*index), &text[first..])
        };
        let end = |text: &str| append(*index, text);
        let changes: [&dyn Fn(&str) -> String; 3] = [&end, &start, &middle];
        changes.into_iter().all(|change| {
            let (mut marked, mut variables) = (messages.to_vec(), options.clone());
            part.change(&mut marked, &mut variables, change);
            // A template that rejects the change has read the part.
            template.render(&marked, &variables).is_ok_and(|rendered| rendered.text == text)
        })
    });
    let mut lost: Vec<UnwrittenPart> = lost.map(|(_, part)| part.named).collect();
    lost.dedup();
    lost
}

/// Whether `written`, the text of an answer in a rendering, lacks some of the message's text: a thought that the
/// template cut off, for example. White space does not count.
pub fn alters(message: &Message, written: &str) -> bool {
    let dense = |text: &str| text.chars().filter(|character| !character.is_whitespace()).collect::<String>();
    let written = dense(written);
    let content = (!message.content.is_object()).then_some(message.content.as_str());
    let mut said = content.into_iter().chain(message.thoughts().map(|(_, thought)| thought)).map(dense);
    said.any(|said| !written.contains(&said))
}

/// The first message whose content is a list that the rendering shows as a list.
fn written_as_list(messages: &[Message], text: &str) -> Option<usize> {
    const SIGNS: [&str; 2] = ["'text': ", "\"text\": "];
    let lists = |message: &Message| message.content.is_list();
    let index = messages.iter().position(lists)?;
    let sign = SIGNS.into_iter().find(|sign| text.contains(sign))?;
    (!messages.iter().any(|message| message.content.contains(sign))).then_some(index)
}

/// A part to locate, and how to change it.
struct Part {
    named: UnwrittenPart,
    /// Which of the key's values: a field of a call, or a tool.
    place: Option<(usize, &'static str)>,
}

/// The parts of a conversation that are not empty.
fn parts(messages: &[Message], options: &RenderOptions) -> Vec<Part> {
    let mut parts = Vec::new();
    for (index, message) in messages.iter().enumerate() {
        let mut add = |key: &str, place| {
            let named = UnwrittenPart { message: Some(index), role: Some(message.role.clone()), key: key.to_owned() };
            parts.push(Part { named, place });
        };
        if !message.content.trim().is_empty() {
            add("content", None);
        }
        if message.field("refusal").is_some_and(Value::is_string) {
            add("refusal", None);
        }
        if message.field("function_call").is_some_and(Value::is_object) {
            add("function_call", Some((0, "name")));
            add("function_call", Some((0, "arguments")));
        }
        let calls = message.field("tool_calls").and_then(Value::as_array).map_or(0, Vec::len);
        for call in 0..calls {
            add("tool_calls", Some((call, "name")));
            add("tool_calls", Some((call, "arguments")));
        }
    }
    let tools = options.variables.get("tools").and_then(Value::as_array).map_or(0, Vec::len);
    for tool in 0..tools {
        let named = UnwrittenPart { message: None, role: None, key: "tools".to_owned() };
        parts.push(Part { named, place: Some((tool, "name")) });
    }
    // A part without text for a mark cannot be located.
    parts.retain(|part| {
        part.named.message.is_none_or(|index| {
            let mut marked = messages[index].clone();
            part.change_message(&mut marked, &|text| format!("{text}m"));
            marked != messages[index]
        })
    });
    parts
}

impl Part {
    fn change(&self, messages: &mut [Message], options: &mut RenderOptions, change: &dyn Fn(&str) -> String) {
        let Some(index) = self.named.message else {
            let tool =
                options.variables.get_mut("tools").zip(self.place).and_then(|(tools, (at, _))| tools.get_mut(at));
            return tool.into_iter().for_each(|tool| change_in(tool, "name", change));
        };
        self.change_message(&mut messages[index], change);
    }

    fn change_message(&self, message: &mut Message, change: &dyn Fn(&str) -> String) {
        match (self.named.key.as_str(), self.place) {
            ("content", _) => message.content = message.content.map_text(change),
            (key, Some((at, what))) => {
                let value = message.fields.get_mut(key);
                let call = value.and_then(|value| if value.is_array() { value.get_mut(at) } else { Some(value) });
                call.into_iter().for_each(|call| change_in(call, what, change));
            }
            (key, None) => {
                if let Some(Value::String(text)) = message.fields.get_mut(key) {
                    *text = change(text);
                }
            }
        }
    }
}

/// Changes a value of a call or a tool, which may be under `function`.
fn change_in(holder: &mut Value, key: &str, change: &dyn Fn(&str) -> String) {
    let place = if holder.get("function").is_some_and(Value::is_object) {
        format!("/function/{key}")
    } else {
        format!("/{key}")
    };
    match holder.pointer_mut(&place) {
        Some(Value::String(text)) => *text = change(text),
        Some(Value::Object(entries)) => _ = entries.insert(change("a"), change("a").into()),
        _ => {}
    }
}
