//! JSON as Python's `json.dumps` writes it; `transformers` uses that for the `tojson` filter.

use std::fmt::Write as _;

use super::arguments::Args;
use super::fault::{Fault, Result};
use super::machine::Machine;
use super::numbers::float_text;
use super::value::Value;

impl Machine<'_> {
    /// `value|tojson(ensure_ascii, indent, separators, sort_keys)`.
    pub(super) fn tojson(&mut self, value: &Value, args: Args) -> Result<Value> {
        let names = ["ensure_ascii", "indent", "separators", "sort_keys"];
        let [ensure_ascii, indent, separators, sort_keys] = args.bind("tojson", names, 0)?;
        let given = |value: Option<Value>| value.filter(|value| !matches!(value, Value::None));
        let indent = match given(indent) {
            None => None,
            Some(indent) => match (indent.as_str(), indent.as_int()) {
                (Some(text), _) => Some(text.to_owned()),
                (None, Some(width)) => {
                    let width = usize::try_from(width.max(0)).unwrap_or(usize::MAX);
                    self.charge_bytes(width)?;
                    Some(" ".repeat(width))
                }
                _ => return Err(Fault::type_error("tojson: indent must be a number or a string")),
            },
        };
        let (item, key) = match given(separators) {
            Some(pair) => match &self.items(&pair)?[..] {
                [item, key] => (super::arguments::text(item)?.to_owned(), super::arguments::text(key)?.to_owned()),
                _ => return Err(Fault::value_error("tojson: separators must be a pair")),
            },
            None if indent.is_some() => (",".to_owned(), ": ".to_owned()),
            None => (", ".to_owned(), ": ".to_owned()),
        };
        let ensure_ascii = ensure_ascii.is_some_and(|value| value.truth());
        let sort_keys = sort_keys.is_some_and(|value| value.truth());
        let mut writer = Writer { machine: self, out: String::new(), indent, item, key, ensure_ascii, sort_keys };
        writer.value(value, 0)?;
        let text = writer.out;
        self.charge_bytes(text.len())?;
        Ok(Value::text(text))
    }
}

struct Writer<'a, 't> {
    machine: &'a mut Machine<'t>,
    out: String,
    indent: Option<String>,
    item: String,
    key: String,
    ensure_ascii: bool,
    sort_keys: bool,
}

impl Writer<'_, '_> {
    fn value(&mut self, value: &Value, depth: usize) -> Result<()> {
        self.machine.charge(1 + value.as_str().map_or(0, str::len) / 64)?;
        match value {
            Value::Str(text) | Value::Markup(text) => self.string(text),
            Value::List(items) | Value::Tuple(items) => {
                self.out.push('[');
                for (at, item) in items.items.iter().enumerate() {
                    self.separate(at == 0, depth + 1)?;
                    self.value(item, depth + 1)?;
                }
                self.close(']', items.items.is_empty(), depth)?;
            }
            Value::Dict(dict) => {
                let mut entries = dict.entries.clone();
                if self.sort_keys {
                    entries = self.machine.sorted(entries, |entry| entry.0.clone())?;
                }
                self.out.push('{');
                for (at, (key, value)) in entries.iter().enumerate() {
                    self.separate(at == 0, depth + 1)?;
                    match (key.as_str(), scalar(key)) {
                        (Some(text), _) => self.string(text),
                        (None, Some(text)) => self.string(&text),
                        _ => {
                            let name = key.type_name();
                            let reason = format!("keys must be str, int, float, bool or None, not {name}");
                            return Err(Fault::type_error(reason));
                        }
                    }
                    self.out.push_str(&self.key);
                    self.value(value, depth + 1)?;
                }
                self.close('}', entries.is_empty(), depth)?;
            }
            _ => match scalar(value) {
                Some(text) => self.out.push_str(&text),
                None => {
                    let name = value.type_name();
                    return Err(Fault::type_error(format!("Object of type {name} is not JSON serializable")));
                }
            },
        }
        Ok(())
    }

    fn separate(&mut self, first: bool, depth: usize) -> Result<()> {
        if !first {
            self.out.push_str(&self.item);
        }
        self.line(depth)
    }

    fn close(&mut self, bracket: char, empty: bool, depth: usize) -> Result<()> {
        if !empty {
            self.line(depth)?;
        }
        self.out.push(bracket);
        Ok(())
    }

    fn line(&mut self, depth: usize) -> Result<()> {
        if let Some(indent) = &self.indent {
            self.machine.charge_bytes(indent.len() * depth)?;
            self.out.push('\n');
            self.out.push_str(&indent.repeat(depth));
        }
        Ok(())
    }

    fn string(&mut self, text: &str) {
        self.out.push('"');
        for character in text.chars() {
            match character {
                '"' => self.out.push_str("\\\""),
                '\\' => self.out.push_str("\\\\"),
                '\n' => self.out.push_str("\\n"),
                '\r' => self.out.push_str("\\r"),
                '\t' => self.out.push_str("\\t"),
                '\u{8}' => self.out.push_str("\\b"),
                '\u{c}' => self.out.push_str("\\f"),
                character if character < ' ' || (self.ensure_ascii && character > '~') => {
                    for unit in character.encode_utf16(&mut [0; 2]) {
                        let _ = write!(self.out, "\\u{unit:04x}");
                    }
                }
                character => self.out.push(character),
            }
        }
        self.out.push('"');
    }
}

fn scalar(value: &Value) -> Option<String> {
    Some(match value {
        Value::None => "null".to_owned(),
        Value::Bool(value) => value.to_string(),
        Value::Int(number) => number.to_string(),
        Value::Float(number) if number.is_nan() => "NaN".to_owned(),
        Value::Float(number) if number.is_infinite() => if *number < 0.0 { "-Infinity" } else { "Infinity" }.to_owned(),
        Value::Float(number) => float_text(*number),
        _ => return None,
    })
}
