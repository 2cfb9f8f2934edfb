//! Attributes and items of values, restricted by the sandbox.

use std::sync::Arc;

use super::fault::{Fault, Result};
use super::machine::Machine;
use super::value::{Value, View, char_value, range_item, range_len};

const TEXT: &[&str] = &[
    "capitalize",
    "casefold",
    "center",
    "count",
    "endswith",
    "expandtabs",
    "find",
    "format",
    "format_map",
    "index",
    "isalnum",
    "isalpha",
    "isascii",
    "isdecimal",
    "isdigit",
    "isidentifier",
    "islower",
    "isnumeric",
    "isprintable",
    "isspace",
    "istitle",
    "isupper",
    "join",
    "ljust",
    "lower",
    "lstrip",
    "partition",
    "removeprefix",
    "removesuffix",
    "replace",
    "rfind",
    "rindex",
    "rjust",
    "rpartition",
    "rsplit",
    "rstrip",
    "split",
    "splitlines",
    "startswith",
    "strip",
    "swapcase",
    "title",
    "upper",
    "zfill",
    "encode",
    "translate",
    "maketrans",
];
const LIST: &[&str] = &["copy", "count", "index"];
const TUPLE: &[&str] = &["count", "index"];
const DICT: &[&str] = &["copy", "get", "items", "keys", "values", "fromkeys"];
const INT: &[&str] = &["as_integer_ratio", "bit_count", "bit_length", "conjugate"];
const FLOAT: &[&str] = &["as_integer_ratio", "conjugate", "hex", "is_integer"];

/// Methods that change a value, and attributes that lead out of the sandbox.
const UNSAFE_LIST: &[&str] = &["append", "clear", "extend", "insert", "pop", "remove", "reverse", "sort"];
const UNSAFE_DICT: &[&str] = &["clear", "pop", "popitem", "setdefault", "update"];

/// Attributes that every object of Python has.
const INTERNAL: &[&str] = &[
    "__class__",
    "__delattr__",
    "__dir__",
    "__doc__",
    "__eq__",
    "__format__",
    "__ge__",
    "__getattribute__",
    "__getstate__",
    "__gt__",
    "__hash__",
    "__init__",
    "__init_subclass__",
    "__le__",
    "__lt__",
    "__ne__",
    "__new__",
    "__reduce__",
    "__reduce_ex__",
    "__repr__",
    "__setattr__",
    "__sizeof__",
    "__str__",
    "__subclasshook__",
];

fn methods(value: &Value) -> &'static [&'static str] {
    match value {
        Value::Str(_) | Value::Markup(_) => TEXT,
        Value::List(_) => LIST,
        Value::Tuple(_) | Value::Range(..) => TUPLE,
        Value::Dict(_) => DICT,
        Value::Int(_) | Value::Bool(_) => INT,
        Value::Float(_) => FLOAT,
        Value::Cycler(_) => &["next", "reset"],
        Value::Loop(_) => &["changed", "cycle"],
        _ => &[],
    }
}

fn unsafe_attribute(value: &Value, name: &str) -> bool {
    let mutating = match value {
        Value::List(_) => UNSAFE_LIST,
        Value::Dict(_) => UNSAFE_DICT,
        _ => &[],
    };
    mutating.contains(&name) || (INTERNAL.contains(&name) && !matches!(value, Value::Namespace(_)))
}

impl Machine<'_> {
    /// An attribute as in Python.
    fn own_attribute(&mut self, value: &Value, name: &str) -> Result<Option<Value>> {
        if let Some(method) = methods(value).iter().find(|method| **method == name) {
            return Ok(Some(Value::Method(Arc::new((value.clone(), *method)))));
        }
        if unsafe_attribute(value, name) {
            let message = format!("access to attribute '{name}' of '{}' object is unsafe", value.type_name());
            return Ok(Some(Value::undefined(message)));
        }
        let int = |number: i64| Some(Value::Int(number.into()));
        Ok(match (value, name) {
            (Value::Int(_) | Value::Bool(_), "real" | "numerator") => value.as_int().map(Value::Int),
            (Value::Int(_) | Value::Bool(_), "imag") => int(0),
            (Value::Int(_) | Value::Bool(_), "denominator") => int(1),
            (Value::Float(_), "real") => Some(value.clone()),
            (Value::Float(_), "imag") => Some(Value::Float(0.0)),
            (Value::Range(start, ..), "start") => int(*start),
            (Value::Range(_, stop, _), "stop") => int(*stop),
            (Value::Range(_, _, step), "step") => int(*step),
            (Value::Tuple(items), "grouper") if items.group => items.items.first().cloned(),
            (Value::Tuple(items), "list") if items.group => items.items.get(1).cloned(),
            (Value::Namespace(number), _) => {
                let attributes = &self.namespaces[*number];
                attributes.iter().find(|(found, _)| found.as_str() == Some(name)).map(|(_, value)| value.clone())
            }
            (Value::Cycler(number), "current") => {
                let (items, at) = &self.cyclers[*number];
                items.get(*at).cloned()
            }
            (Value::Cycler(number), "items") => Some(Value::tuple(self.cyclers[*number].0.clone())?),
            (Value::Cycler(number), "pos") => int(self.cyclers[*number].1 as i64),
            (Value::Joiner(number), "sep") => Some(Value::text(&self.joiners[*number].0)),
            (Value::Joiner(number), "used") => Some(Value::Bool(self.joiners[*number].1)),
            (Value::Loop(number), _) => self.loop_attribute(*number, name)?,
            (Value::Macro(number), _) => {
                let node = self.macros[*number].node;
                let has = |wanted: &str| node.parameters.iter().any(|parameter| &**parameter == wanted);
                match name {
                    "name" => Some(node.name.clone().map_or(Value::None, Value::Str)),
                    "arguments" => Some(Value::tuple(node.parameters.iter().cloned().map(Value::Str).collect())?),
                    "catch_kwargs" => Some(Value::Bool(node.reads.kwargs && !has("kwargs"))),
                    "catch_varargs" => Some(Value::Bool(node.reads.varargs && !has("varargs"))),
                    "caller" => Some(Value::Bool(node.reads.caller)),
                    "explicit_caller" => Some(Value::Bool(has("caller"))),
                    _ => None,
                }
            }
            _ => None,
        })
    }

    /// `value.name`: an attribute, or else an item.
    pub(super) fn attribute(&mut self, value: &Value, name: &str) -> Result<Value> {
        if let Value::Undefined(message) = value {
            return Err(Fault::undefined(message));
        }
        if let Some(found) = self.own_attribute(value, name)? {
            return Ok(found);
        }
        if let Value::Dict(dict) = value {
            self.charge(dict.entries.len() / 16)?;
            if let Some(found) = dict.text(name) {
                return Ok(found.clone());
            }
        }
        Ok(lacking(value, name))
    }

    /// `value[index]`: an item, or else an attribute.
    pub(super) fn item(&mut self, value: &Value, index: &Value) -> Result<Value> {
        if let Value::Undefined(message) = value {
            return Err(Fault::undefined(message));
        }
        let found = match value {
            Value::Dict(dict) => {
                self.charge(dict.entries.len() / 16)?;
                if index.check_hashable().is_ok() { dict.get(index).cloned() } else { None }
            }
            _ => index.as_int().and_then(|at| at_index(value, at)),
        };
        if let Some(found) = found {
            return Ok(found);
        }
        let Some(name) = index.as_str() else {
            let shown = self.repr(index)?;
            return Ok(Value::undefined(format!("{} object has no element {shown}", value.type_name())));
        };
        Ok(self.own_attribute(value, name)?.unwrap_or_else(|| lacking(value, name)))
    }

    /// An item by a dotted path, as filters accept it: `a.b.0`.
    pub(super) fn path(&mut self, value: &Value, path: &[Value]) -> Result<Value> {
        let mut value = value.clone();
        for part in path {
            value = self.item(&value, part)?;
        }
        Ok(value)
    }

    /// Whether a value has an attribute, as in Python.
    pub(super) fn has_attribute(&mut self, value: &Value, name: &str) -> Result<bool> {
        match value {
            Value::Undefined(message) if !name.starts_with("__") => Err(Fault::undefined(message)),
            Value::Undefined(_) => Ok(false),
            _ => Ok(self.own_attribute(value, name)?.is_some()),
        }
    }
}

/// The parts of a dotted path.
pub(super) fn path_parts(path: &Value) -> Vec<Value> {
    match path {
        Value::None => Vec::new(),
        Value::Str(text) | Value::Markup(text) => {
            let part = |part: &str| match part.parse::<i128>() {
                Ok(number) if part.bytes().all(|byte| byte.is_ascii_digit()) => Value::Int(number),
                _ => Value::text(part),
            };
            text.split('.').map(part).collect()
        }
        other => vec![other.clone()],
    }
}

fn lacking(value: &Value, name: &str) -> Value {
    Value::undefined(match value {
        Value::None => format!("None has no attribute '{name}'"),
        _ => format!("'{} object' has no attribute '{name}'", value.type_name()),
    })
}

/// The item at an index of a sequence; a negative index counts from the end.
fn at_index(value: &Value, at: i128) -> Option<Value> {
    let length = match value {
        Value::View(View::Keys | View::Values | View::Items, _) => return None,
        _ => value.len()?,
    };
    let at = if at < 0 { at + length as i128 } else { at };
    let at = usize::try_from(at).ok().filter(|&at| at < length)?;
    match value {
        Value::Str(text) | Value::Markup(text) => text.chars().nth(at).map(char_value),
        Value::List(items) | Value::Tuple(items) => items.items.get(at).cloned(),
        Value::Range(..) => Some(Value::Int(range_item(value, at.min(range_len(value))).into())),
        _ => None,
    }
}
