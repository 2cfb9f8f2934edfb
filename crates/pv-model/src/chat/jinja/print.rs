//! Values as text: Python's `str` and `repr`.

use std::fmt::Write as _;

use super::fault::{Fault, Result};
use super::machine::Machine;
use super::numbers::float_text;
use super::value::{Value, View};

/// The greatest nesting depth of namespaces that are printed.
const DEEPEST: u32 = 250;

/// A string as Python writes it in code.
pub(super) fn quoted(text: &str) -> String {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    let mut out = String::with_capacity(text.len() + 2);
    out.push(quote);
    for character in text.chars() {
        match character {
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\\' => out.push_str("\\\\"),
            _ if character == quote => {
                out.push('\\');
                out.push(character);
            }
            ' '..='~' => out.push(character),
            _ if is_printable(character) => out.push(character),
            _ => {
                let code = u32::from(character);
                let _ = match code {
                    0..=0xff => write!(out, "\\x{code:02x}"),
                    0x100..=0xffff => write!(out, "\\u{code:04x}"),
                    _ => write!(out, "\\U{code:08x}"),
                };
            }
        }
    }
    out.push(quote);
    out
}

/// Whether Python's `repr` prints a character unchanged.
pub(super) fn is_printable(character: char) -> bool {
    // After a letter, so that a combining mark is not at the start of a text.
    let shown = format!("{:?}", String::from_iter(['a', character]));
    !shown.contains('\\') || matches!(character, '\\' | '"')
}

impl Machine<'_> {
    /// Python's `str(value)`.
    pub(super) fn str(&mut self, value: &Value) -> Result<String> {
        let mut text = String::new();
        self.write_str(value, &mut text)?;
        self.charge_bytes(text.len())?;
        Ok(text)
    }

    /// Python's `repr(value)`.
    pub(super) fn repr(&mut self, value: &Value) -> Result<String> {
        let mut text = String::new();
        self.write_repr(value, &mut text, 0)?;
        Ok(text)
    }

    pub(super) fn write_str(&mut self, value: &Value, out: &mut String) -> Result<()> {
        match value {
            Value::Str(text) | Value::Markup(text) => out.push_str(text),
            Value::Undefined(_) => {}
            _ => self.write_repr(value, out, 0)?,
        }
        Ok(())
    }

    fn write_all(&mut self, items: &[Value], out: &mut String, depth: u32) -> Result<()> {
        for (at, item) in items.iter().enumerate() {
            if at > 0 {
                out.push_str(", ");
            }
            self.write_repr(item, out, depth + 1)?;
        }
        Ok(())
    }

    fn write_pairs(&mut self, pairs: &[(Value, Value)], out: &mut String, depth: u32) -> Result<()> {
        out.push('{');
        for (at, (key, value)) in pairs.iter().enumerate() {
            if at > 0 {
                out.push_str(", ");
            }
            self.write_repr(key, out, depth + 1)?;
            out.push_str(": ");
            self.write_repr(value, out, depth + 1)?;
        }
        out.push('}');
        Ok(())
    }

    fn write_repr(&mut self, value: &Value, out: &mut String, depth: u32) -> Result<()> {
        if depth > DEEPEST {
            return Err(Fault::runaway("nesting"));
        }
        self.charge(1 + value.as_str().map_or(0, str::len) / 64)?;
        match value {
            Value::Undefined(_) => out.push_str("Undefined"),
            Value::None => out.push_str("None"),
            Value::Bool(value) => out.push_str(if *value { "True" } else { "False" }),
            Value::Int(number) => out.push_str(&number.to_string()),
            Value::Float(number) => out.push_str(&float_text(*number)),
            Value::Str(text) => out.push_str(&quoted(text)),
            Value::Markup(text) => {
                out.push_str("Markup(");
                out.push_str(&quoted(text));
                out.push(')');
            }
            Value::List(items) => {
                out.push('[');
                self.write_all(&items.items, out, depth)?;
                out.push(']');
            }
            Value::Tuple(items) => {
                out.push('(');
                self.write_all(&items.items, out, depth)?;
                out.push_str(if items.items.len() == 1 { ",)" } else { ")" });
            }
            Value::Dict(dict) => self.write_pairs(&dict.entries, out, depth)?,
            Value::Range(start, stop, 1) => out.push_str(&format!("range({start}, {stop})")),
            Value::Range(start, stop, step) => out.push_str(&format!("range({start}, {stop}, {step})")),
            Value::View(kind, _) => {
                out.push_str(match kind {
                    View::Keys => "dict_keys([",
                    View::Values => "dict_values([",
                    View::Items => "dict_items([",
                });
                self.write_all(&value.items().unwrap_or_default(), out, depth)?;
                out.push_str("])");
            }
            Value::Namespace(number) => {
                let attributes = self.namespaces[*number].clone();
                out.push_str("<Namespace ");
                self.write_pairs(&attributes, out, depth)?;
                out.push('>');
            }
            Value::Loop(number) => {
                let length = self.loop_length(*number)?;
                let index = self.loop_attribute(*number, "index")?.and_then(|index| index.as_int()).unwrap_or(0);
                out.push_str(&format!("<LoopContext {index}/{length}>"));
            }
            Value::Macro(number) => match &self.macros[*number].node.name {
                Some(name) => out.push_str(&format!("<Macro {}>", quoted(name))),
                None => out.push_str("<Macro anonymous>"),
            },
            // Python prints their addresses in memory.
            Value::Function(name) => out.push_str(&format!("<function {name}>")),
            Value::Method(method) => {
                out.push_str(&format!("<built-in method {} of {} object>", method.1, method.0.type_name()));
            }
            other => out.push_str(&format!("<{} object>", other.type_name())),
        }
        Ok(())
    }
}
