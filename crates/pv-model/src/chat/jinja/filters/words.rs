//! Filters of text.

use crate::chat::jinja::arguments::Args;
use crate::chat::jinja::fault::{Fault, Result};
use crate::chat::jinja::machine::Machine;
use crate::chat::jinja::text::{escaped, is_numeric, is_space, splitlines};
use crate::chat::jinja::value::Value;

/// Jinja's `title`: words begin after white space, hyphens and opening brackets.
pub(super) fn title(text: &str) -> String {
    let begins = |c: char| is_space(c) || matches!(c, '-' | '(' | '{' | '[' | '<');
    let mut out = String::with_capacity(text.len());
    for word in text.split_inclusive(begins) {
        let mut characters = word.chars();
        out.extend(characters.next().into_iter().flat_map(char::to_uppercase));
        out.push_str(&characters.as_str().to_lowercase());
    }
    out
}

/// The number of words.
pub(super) fn count(text: &str) -> usize {
    text.split(|c: char| !(c == '_' || c.is_alphanumeric() || is_numeric(c))).filter(|word| !word.is_empty()).count()
}

pub(super) fn indent(text: &str, indention: &str, first: bool, blank: bool) -> String {
    let text = format!("{text}\n");
    let lines = splitlines(&text, false);
    let mut out = if first { indention.to_owned() } else { String::new() };
    for (at, line) in lines.iter().enumerate() {
        if at > 0 {
            out.push('\n');
            if blank || !line.is_empty() {
                out.push_str(indention);
            }
        }
        out.push_str(line);
    }
    out
}

pub(super) fn filesize(bytes: f64, binary: bool) -> String {
    let base: f64 = if binary { 1024.0 } else { 1000.0 };
    let prefixes = match binary {
        true => ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB", "ZiB", "YiB"],
        false => ["kB", "MB", "GB", "TB", "PB", "EB", "ZB", "YB"],
    };
    if bytes == 1.0 {
        return "1 Byte".to_owned();
    }
    if bytes < base {
        return format!("{} Bytes", bytes.trunc());
    }
    let mut unit = base;
    let mut prefix = "";
    for name in prefixes {
        unit *= base;
        prefix = name;
        if bytes < unit {
            break;
        }
    }
    format!("{:.1} {prefix}", base * bytes / unit)
}

/// Text without comments and tags, with single spaces.
pub(super) fn striptags(text: &str) -> String {
    let mut text = text.to_owned();
    for (open, close) in [("<!--", "-->"), ("<", ">")] {
        while let Some(start) = text.find(open) {
            let Some(end) = text[start..].find(close).map(|end| start + end + close.len()) else { break };
            text.replace_range(start..end, "");
        }
    }
    let text = text.split(is_space).filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ");
    let entities = [("&lt;", "<"), ("&gt;", ">"), ("&#39;", "'"), ("&#34;", "\""), ("&quot;", "\""), ("&amp;", "&")];
    entities.iter().fold(text, |text, (entity, character)| text.replace(entity, character))
}

/// The pieces between which a line may be broken: white space, and words up to their hyphens.
fn chunks(line: &str, hyphens: bool) -> Vec<String> {
    let mut chunks: Vec<String> = Vec::new();
    let characters: Vec<char> = line.chars().collect();
    let letter = |at: usize| characters.get(at).is_some_and(|c| c.is_alphabetic() || *c == '_');
    let mut last_space = None;
    for (at, &character) in characters.iter().enumerate() {
        let space = matches!(character, '\t' | '\n' | '\u{b}' | '\u{c}' | '\r' | ' ');
        let after_hyphen = hyphens
            && at >= 2
            && characters[at - 1] == '-'
            && letter(at - 2)
            && letter(at)
            && (letter(at + 1) || characters.get(at + 1) == Some(&'-'));
        match chunks.last_mut().filter(|_| last_space == Some(space) && !after_hyphen) {
            Some(chunk) => chunk.push(character),
            None => chunks.push(character.to_string()),
        }
        last_space = Some(space);
    }
    chunks
}

/// Text broken into lines of at most `width`, as far as words permit.
pub(super) fn wrap(text: &str, width: usize, wrap: &str, break_long: bool, hyphens: bool) -> String {
    let mut lines: Vec<String> = Vec::new();
    for line in splitlines(text, false) {
        let wrapped = wrap_line(line, width, break_long, hyphens);
        lines.push(wrapped.join(wrap));
    }
    lines.join(wrap)
}

fn wrap_line(line: &str, width: usize, break_long: bool, hyphens: bool) -> Vec<String> {
    let mut chunks: std::collections::VecDeque<String> = chunks(line, hyphens).into();
    let mut lines = Vec::new();
    let size = |text: &str| text.chars().count();
    while !chunks.is_empty() {
        let mut current: Vec<String> = Vec::new();
        let mut length = 0;
        if !lines.is_empty() && chunks.front().is_some_and(|chunk| chunk.trim_matches(is_space).is_empty()) {
            chunks.pop_front();
        }
        while let Some(chunk) = chunks.front() {
            if length + size(chunk) > width {
                break;
            }
            length += size(chunk);
            current.extend(chunks.pop_front());
        }
        if let Some(chunk) = chunks.front_mut().filter(|chunk| size(chunk) > width) {
            if break_long {
                let mut room = (width - length).max(1);
                if hyphens && size(chunk) > room {
                    let head: Vec<char> = chunk.chars().take(room).collect();
                    let hyphen = head.iter().rposition(|c| *c == '-').filter(|at| *at > 0);
                    if let Some(at) = hyphen.filter(|at| head[..*at].iter().any(|c| *c != '-')) {
                        room = at + 1;
                    }
                }
                let head: String = chunk.chars().take(room).collect();
                *chunk = chunk.chars().skip(room).collect();
                current.push(head);
            } else if current.is_empty() {
                current.extend(chunks.pop_front());
            }
        }
        if current.last().is_some_and(|chunk| chunk.trim_matches(is_space).is_empty()) {
            current.pop();
        }
        if !current.is_empty() {
            lines.push(current.concat());
        }
    }
    lines
}

/// Text encoded for a URL.
fn url_quoted(text: &str, query: bool) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'_' | b'.' | b'-' | b'~' => out.push(byte.into()),
            b'/' if !query => out.push('/'),
            b' ' if query => out.push('+'),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

impl Machine<'_> {
    pub(super) fn urlencode(&mut self, value: &Value, args: Args) -> Result<Value> {
        args.bind::<0>("urlencode", [], 0)?;
        let pairs = match value {
            Value::Dict(dict) => dict.entries.clone(),
            Value::Str(_) | Value::Markup(_) => return Ok(Value::text(url_quoted(&self.str(value)?, false))),
            _ if value.len().is_none() && !matches!(value, Value::Iterator(_)) => {
                return Ok(Value::text(url_quoted(&self.str(value)?, false)));
            }
            _ => {
                let mut pairs = Vec::new();
                for item in self.items(value)? {
                    match &self.items(&item)?[..] {
                        [key, value] => pairs.push((key.clone(), value.clone())),
                        _ => return Err(Fault::value_error("urlencode: pairs are expected")),
                    }
                }
                pairs
            }
        };
        let mut parts = Vec::with_capacity(pairs.len());
        for (key, value) in pairs {
            let (key, value) = (self.str(&key)?, self.str(&value)?);
            parts.push(format!("{}={}", url_quoted(&key, true), url_quoted(&value, true)));
        }
        Ok(Value::text(parts.join("&")))
    }

    pub(super) fn xmlattr(&mut self, value: &Value, args: Args) -> Result<Value> {
        let [autospace] = args.bind("xmlattr", ["autospace"], 0)?;
        let Value::Dict(dict) = value else {
            return Err(match value {
                Value::Undefined(message) => Fault::undefined(message),
                _ => Fault::other("xmlattr: a mapping is expected"),
            });
        };
        let mut parts = Vec::new();
        for (key, value) in &dict.entries {
            if matches!(value, Value::None | Value::Undefined(_)) {
                continue;
            }
            let Some(key) = key.as_str() else { return Err(Fault::type_error("xmlattr: keys must be strings")) };
            if key.contains([' ', '\t', '\n', '\r', '\u{b}', '\u{c}', '/', '>', '=']) {
                return Err(Fault::value_error(format!("invalid character in attribute name: '{key}'")));
            }
            let value = match value {
                Value::Markup(text) => text.to_string(),
                other => escaped(&self.str(other)?),
            };
            parts.push(format!("{}=\"{value}\"", escaped(key)));
        }
        let text = parts.join(" ");
        let space = !text.is_empty() && autospace.is_none_or(|value| value.truth());
        Ok(Value::text(if space { format!(" {text}") } else { text }))
    }

    /// `pprint`: like `repr`, with sorted keys of mappings. Python breaks lines wider than 80.
    pub(super) fn pprint(&mut self, value: &Value, args: Args) -> Result<Value> {
        args.bind::<0>("pprint", [], 0)?;
        let ordered = self.ordered(value)?;
        let text = self.repr(&ordered)?;
        if text.chars().count() > 80 {
            return Err(Fault::other("pprint: a value that does not fit into a line is not supported"));
        }
        Ok(Value::text(text))
    }

    fn ordered(&mut self, value: &Value) -> Result<Value> {
        match value {
            Value::List(items) => Value::list(items.items.iter().map(|i| self.ordered(i)).collect::<Result<_>>()?),
            Value::Tuple(items) => Value::tuple(items.items.iter().map(|i| self.ordered(i)).collect::<Result<_>>()?),
            Value::Dict(dict) => {
                let entries =
                    self.sorted(dict.entries.clone(), |entry| entry.0.clone()).unwrap_or(dict.entries.clone());
                let entries = entries.into_iter().map(|(key, value)| Ok((key, self.ordered(&value)?)));
                Value::dict_of_distinct(entries.collect::<Result<_>>()?)
            }
            other => Ok(other.clone()),
        }
    }
}
