//! Python's values in a template.

use std::sync::Arc;

use super::fault::{Fault, Kind, Result};

/// The greatest nesting depth of lists and mappings. It bounds the stack that printing, comparing and dropping them
/// need.
pub(super) const DEEPEST: u32 = 200;

/// A value. Lists and mappings are immutable, as in the sandbox, so that they are shared and cannot contain themselves;
/// mutable values are in the machine, identified by a number.
#[derive(Clone, Debug)]
pub(in crate::chat) enum Value {
    /// With the message for its use.
    Undefined(Arc<str>),
    None,
    Bool(bool),
    Int(i128),
    Float(f64),
    Str(Arc<str>),
    /// Text marked by `escape` or `safe`.
    Markup(Arc<str>),
    List(Arc<Items>),
    Tuple(Arc<Items>),
    Dict(Arc<Dict>),
    /// Start, stop, step.
    Range(i64, i64, i64),
    /// The result of a mapping's `keys()`, `values()` or `items()`.
    View(View, Arc<Dict>),
    /// An iterator, which yields each of its items once.
    Iterator(usize),
    Namespace(usize),
    Cycler(usize),
    Joiner(usize),
    Loop(usize),
    Macro(usize),
    /// A global function.
    Function(&'static str),
    /// A method of a value.
    Method(Arc<(Value, &'static str)>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::chat) enum View {
    Keys,
    Values,
    Items,
}

/// The items of a list or tuple.
#[derive(Debug, Default)]
pub(in crate::chat) struct Items {
    pub(super) items: Vec<Value>,
    depth: u32,
    /// Whether `groupby` created it: its two items then have names.
    pub(super) group: bool,
}

/// A mapping in the order of insertion.
#[derive(Debug, Default)]
pub(in crate::chat) struct Dict {
    pub(super) entries: Vec<(Value, Value)>,
    depth: u32,
}

fn deepen<'a>(values: impl IntoIterator<Item = &'a Value>) -> Result<u32> {
    let depth = 1 + values.into_iter().map(Value::depth).max().unwrap_or(0);
    if depth > DEEPEST { Err(Fault::runaway("nesting")) } else { Ok(depth) }
}

impl Items {
    fn new(items: Vec<Value>) -> Result<Arc<Self>> {
        let depth = deepen(&items)?;
        Ok(Arc::new(Self { items, depth, group: false }))
    }
}

impl Dict {
    /// The value of a key.
    pub(super) fn get(&self, key: &Value) -> Option<&Value> {
        self.entries.iter().find(|(found, _)| found.same(key)).map(|(_, value)| value)
    }

    pub(super) fn text(&self, key: &str) -> Option<&Value> {
        self.entries.iter().find(|(found, _)| found.as_str() == Some(key)).map(|(_, value)| value)
    }
}

impl Value {
    pub(super) fn undefined(message: impl AsRef<str>) -> Self {
        Self::Undefined(Arc::from(message.as_ref()))
    }

    pub(super) fn text(text: impl AsRef<str>) -> Self {
        Self::Str(Arc::from(text.as_ref()))
    }

    pub(super) fn list(items: Vec<Value>) -> Result<Self> {
        Ok(Self::List(Items::new(items)?))
    }

    pub(super) fn tuple(items: Vec<Value>) -> Result<Self> {
        Ok(Self::Tuple(Items::new(items)?))
    }

    /// A group of `groupby`.
    pub(super) fn group(grouper: Value, list: Value) -> Result<Self> {
        let items = vec![grouper, list];
        let depth = deepen(&items)?;
        Ok(Self::Tuple(Arc::new(Items { items, depth, group: true })))
    }

    /// A mapping; of equal keys the first is kept, with the last value.
    pub(super) fn dict(pairs: Vec<(Value, Value)>) -> Result<Self> {
        let mut entries: Vec<(Value, Value)> = Vec::with_capacity(pairs.len());
        for (key, value) in pairs {
            key.check_hashable()?;
            match entries.iter_mut().find(|(found, _)| found.same(&key)) {
                Some((_, old)) => *old = value,
                None => entries.push((key, value)),
            }
        }
        Self::dict_of_distinct(entries)
    }

    /// A mapping whose keys are known to be distinct.
    pub(super) fn dict_of_distinct(entries: Vec<(Value, Value)>) -> Result<Self> {
        let depth = deepen(entries.iter().flat_map(|(key, value)| [key, value]))?;
        Ok(Self::Dict(Arc::new(Dict { entries, depth })))
    }

    /// The value of a JSON document.
    pub(in crate::chat) fn from_json(value: &serde_json::Value) -> Result<Self> {
        Self::from_json_at(value, 0)
    }

    fn from_json_at(value: &serde_json::Value, depth: u32) -> Result<Self> {
        use serde_json::Value as Json;
        if depth > DEEPEST {
            return Err(Fault::runaway("nesting"));
        }
        let inner = |value: &Json| Self::from_json_at(value, depth + 1);
        Ok(match value {
            Json::Null => Self::None,
            Json::Bool(value) => Self::Bool(*value),
            Json::Number(number) => match (number.as_i64(), number.as_u64()) {
                (Some(integer), _) => Self::Int(integer.into()),
                (None, Some(integer)) => Self::Int(integer.into()),
                (None, None) => Self::Float(number.as_f64().unwrap_or(f64::NAN)),
            },
            Json::String(text) => Self::text(text),
            Json::Array(items) => Self::list(items.iter().map(inner).collect::<Result<_>>()?)?,
            Json::Object(entries) => {
                let entry = |(key, value): (&String, &Json)| Ok((Self::text(key), inner(value)?));
                Self::dict_of_distinct(entries.iter().map(entry).collect::<Result<_>>()?)?
            }
        })
    }

    fn depth(&self) -> u32 {
        match self {
            Self::List(items) | Self::Tuple(items) => items.depth,
            Self::Dict(dict) | Self::View(_, dict) => dict.depth,
            Self::Method(method) => 1 + method.0.depth(),
            _ => 0,
        }
    }

    /// The text of a string, marked or not.
    pub(super) fn as_str(&self) -> Option<&str> {
        match self {
            Self::Str(text) | Self::Markup(text) => Some(text),
            _ => None,
        }
    }

    /// The integer value; a boolean is an integer too.
    pub(super) fn as_int(&self) -> Option<i128> {
        match self {
            Self::Int(number) => Some(*number),
            Self::Bool(value) => Some((*value).into()),
            _ => None,
        }
    }

    pub(super) fn as_float(&self) -> Option<f64> {
        match self {
            Self::Float(number) => Some(*number),
            _ => self.as_int().map(|number| number as f64),
        }
    }

    /// The name of the type in Python.
    pub(super) fn type_name(&self) -> &'static str {
        match self {
            Self::Undefined(_) => "Undefined",
            Self::None => "NoneType",
            Self::Bool(_) => "bool",
            Self::Int(_) => "int",
            Self::Float(_) => "float",
            Self::Str(_) => "str",
            Self::Markup(_) => "Markup",
            Self::List(_) => "list",
            Self::Tuple(_) => "tuple",
            Self::Dict(_) => "dict",
            Self::Range(..) => "range",
            Self::View(View::Keys, _) => "dict_keys",
            Self::View(View::Values, _) => "dict_values",
            Self::View(View::Items, _) => "dict_items",
            Self::Iterator(_) => "generator",
            Self::Namespace(_) => "Namespace",
            Self::Cycler(_) => "Cycler",
            Self::Joiner(_) => "Joiner",
            Self::Loop(_) => "LoopContext",
            Self::Macro(_) => "Macro",
            Self::Function(_) => "function",
            Self::Method(_) => "builtin_function_or_method",
        }
    }

    /// Rejects values that cannot be keys.
    pub(super) fn check_hashable(&self) -> Result<()> {
        match self {
            Self::List(_) | Self::Dict(_) | Self::View(View::Keys | View::Items, _) => {
                Err(Fault::new(Kind::Type, format!("unhashable type: '{}'", self.type_name())))
            }
            Self::Tuple(items) => items.items.iter().try_for_each(Self::check_hashable),
            _ => Ok(()),
        }
    }

    /// Whether `==` holds.
    pub(super) fn same(&self, other: &Self) -> bool {
        use Value as V;
        match (self, other) {
            (V::Undefined(_), V::Undefined(_)) | (V::None, V::None) => true,
            (V::Str(a) | V::Markup(a), V::Str(b) | V::Markup(b)) => a == b,
            (V::List(a), V::List(b)) | (V::Tuple(a), V::Tuple(b)) => {
                a.items.len() == b.items.len() && a.items.iter().zip(&b.items).all(|(a, b)| a.same(b))
            }
            (V::Dict(a), V::Dict(b)) => {
                a.entries.len() == b.entries.len()
                    && a.entries.iter().all(|(key, value)| b.get(key).is_some_and(|found| found.same(value)))
            }
            (V::Range(..), V::Range(..)) => {
                let (a, b) = (range_len(self), range_len(other));
                a == b
                    && (a == 0 || range_item(self, 0) == range_item(other, 0) && (a == 1 || step(self) == step(other)))
            }
            (V::View(View::Keys, a), V::View(View::Keys, b)) => {
                a.entries.len() == b.entries.len() && a.entries.iter().all(|(key, _)| b.get(key).is_some())
            }
            (V::View(View::Items, _), V::View(View::Items, _)) => match (self, other) {
                (V::View(_, a), V::View(_, b)) => V::Dict(a.clone()).same(&V::Dict(b.clone())),
                _ => false,
            },
            (V::Iterator(a), V::Iterator(b))
            | (V::Namespace(a), V::Namespace(b))
            | (V::Cycler(a), V::Cycler(b))
            | (V::Joiner(a), V::Joiner(b))
            | (V::Loop(a), V::Loop(b))
            | (V::Macro(a), V::Macro(b)) => a == b,
            (V::Function(a), V::Function(b)) => a == b,
            (V::Method(a), V::Method(b)) => a.1 == b.1 && a.0.same(&b.0),
            _ => match (self.as_int(), other.as_int()) {
                (Some(a), Some(b)) => a == b,
                _ => matches!((self.as_float(), other.as_float()), (Some(a), Some(b)) if a == b),
            },
        }
    }

    /// The items of values that can be iterated without the machine; `None` for others.
    pub(super) fn items(&self) -> Option<Vec<Value>> {
        Some(match self {
            Self::Undefined(_) => Vec::new(),
            Self::Str(text) | Self::Markup(text) => text.chars().map(char_value).collect(),
            Self::List(items) | Self::Tuple(items) => items.items.clone(),
            Self::Dict(dict) | Self::View(View::Keys, dict) => {
                dict.entries.iter().map(|(key, _)| key.clone()).collect()
            }
            Self::View(View::Values, dict) => dict.entries.iter().map(|(_, value)| value.clone()).collect(),
            Self::View(View::Items, dict) => {
                // As deep as the mapping itself, so that it cannot fail.
                dict.entries
                    .iter()
                    .filter_map(|(key, value)| Self::tuple(vec![key.clone(), value.clone()]).ok())
                    .collect()
            }
            Self::Range(..) => (0..range_len(self)).map(|i| Self::Int(range_item(self, i).into())).collect(),
            _ => return None,
        })
    }

    /// The number of items, for values with Python's `len` that do not need the machine.
    pub(super) fn len(&self) -> Option<usize> {
        Some(match self {
            Self::Undefined(_) => 0,
            Self::Str(text) | Self::Markup(text) => text.chars().count(),
            Self::List(items) | Self::Tuple(items) => items.items.len(),
            Self::Dict(dict) | Self::View(_, dict) => dict.entries.len(),
            Self::Range(..) => range_len(self),
            _ => return None,
        })
    }

    /// Whether the value is true in a condition.
    pub(super) fn truth(&self) -> bool {
        match self {
            Self::None | Self::Undefined(_) => false,
            Self::Bool(value) => *value,
            Self::Int(number) => *number != 0,
            Self::Float(number) => *number != 0.0,
            Self::Str(text) | Self::Markup(text) => !text.is_empty(),
            Self::List(_) | Self::Tuple(_) | Self::Dict(_) | Self::View(..) | Self::Range(..) => {
                self.len().is_some_and(|length| length > 0)
            }
            _ => true,
        }
    }
}

pub(super) fn char_value(character: char) -> Value {
    Value::text(character.encode_utf8(&mut [0; 4]))
}

/// The step of a range.
fn step(range: &Value) -> i64 {
    if let Value::Range(_, _, step) = range { *step } else { 1 }
}

pub(super) fn range_len(range: &Value) -> usize {
    let Value::Range(start, stop, step) = *range else { return 0 };
    let (start, stop, step) = (i128::from(start), i128::from(stop), i128::from(step));
    let length = if step > 0 { (stop - start + step - 1) / step } else { (start - stop - step - 1) / -step };
    usize::try_from(length.max(0)).unwrap_or(usize::MAX)
}

pub(super) fn range_item(range: &Value, index: usize) -> i64 {
    let Value::Range(start, _, step) = *range else { return 0 };
    start.wrapping_add(step.wrapping_mul(index as i64))
}
