//! Jinja's tests: `value is name`.

use super::arguments::Args;
use super::ast::{Binary, Comparison};
use super::fault::{Fault, Result};
use super::machine::Machine;
use super::value::Value;

const NAMES: &[&str] = &[
    "odd",
    "even",
    "divisibleby",
    "defined",
    "undefined",
    "filter",
    "test",
    "none",
    "boolean",
    "false",
    "true",
    "integer",
    "float",
    "lower",
    "upper",
    "string",
    "mapping",
    "number",
    "sequence",
    "iterable",
    "callable",
    "sameas",
    "escaped",
    "in",
    "==",
    "eq",
    "equalto",
    "!=",
    "ne",
    ">",
    "gt",
    "greaterthan",
    "ge",
    ">=",
    "<",
    "lt",
    "lessthan",
    "<=",
    "le",
];

fn comparison(name: &str) -> Option<Comparison> {
    Some(match name {
        "==" | "eq" | "equalto" => Comparison::Equal,
        "!=" | "ne" => Comparison::NotEqual,
        ">" | "gt" | "greaterthan" => Comparison::Greater,
        ">=" | "ge" => Comparison::GreaterEqual,
        "<" | "lt" | "lessthan" => Comparison::Less,
        "<=" | "le" => Comparison::LessEqual,
        "in" => Comparison::In,
        _ => return None,
    })
}

impl Machine<'_> {
    /// Whether `value is name(…)`.
    pub(super) fn test(&mut self, name: &str, value: &Value, args: Args) -> Result<bool> {
        use Value as V;
        if let Some(comparison) = comparison(name) {
            // Python's operators accept no keyword arguments; `in` does.
            let [other] = if name == "in" { args.bind(name, ["seq"], 1)? } else { args.positional(name, 1)? };
            return self.compare(comparison, value, &other.unwrap_or(V::None));
        }
        match name {
            "odd" | "even" => {
                args.bind::<0>(name, [], 0)?;
                let rest = self.binary(Binary::Mod, value, &V::Int(2))?;
                Ok(rest.same(&V::Int((name == "odd").into())))
            }
            "divisibleby" => {
                let [by] = args.bind(name, ["num"], 1)?;
                Ok(self.binary(Binary::Mod, value, &by.unwrap_or(V::None))?.same(&V::Int(0)))
            }
            "sameas" => {
                let [other] = args.bind(name, ["other"], 1)?;
                Ok(identical(value, &other.unwrap_or(V::None)))
            }
            _ if NAMES.contains(&name) => {
                args.bind::<0>(name, [], 0)?;
                self.plain_test(name, value)
            }
            _ => Err(Fault::other(format!("unknown test '{name}'"))),
        }
    }

    fn plain_test(&mut self, name: &str, value: &Value) -> Result<bool> {
        use Value as V;
        Ok(match name {
            "defined" => !matches!(value, V::Undefined(_)),
            "undefined" => matches!(value, V::Undefined(_)),
            "filter" | "test" => {
                value.check_hashable()?;
                match value.as_str() {
                    Some(wanted) if name == "filter" => super::filters::is_filter(wanted),
                    Some(wanted) => NAMES.contains(&wanted),
                    None => false,
                }
            }
            "none" => matches!(value, V::None),
            "boolean" => matches!(value, V::Bool(_)),
            "true" => matches!(value, V::Bool(true)),
            "false" => matches!(value, V::Bool(false)),
            "integer" => matches!(value, V::Int(_)),
            "float" => matches!(value, V::Float(_)),
            "number" => value.as_float().is_some(),
            "string" => value.as_str().is_some(),
            "mapping" => matches!(value, V::Dict(_)),
            "lower" | "upper" => {
                let text = self.str(value)?;
                is_case(&text, name == "upper")
            }
            // A value with a length and items.
            "sequence" => {
                matches!(
                    value,
                    V::Undefined(_) | V::Str(_) | V::Markup(_) | V::List(_) | V::Tuple(_) | V::Dict(_) | V::Range(..)
                )
            }
            "iterable" => value.len().is_some() || matches!(value, V::Iterator(_) | V::Loop(_)),
            "callable" => {
                matches!(
                    value,
                    V::Undefined(_) | V::Macro(_) | V::Function(_) | V::Method(_) | V::Joiner(_) | V::Loop(_)
                )
            }
            _ => matches!(value, V::Markup(_)),
        })
    }
}

/// Whether a text has letters and all of them have this case.
pub(super) fn is_case(text: &str, upper: bool) -> bool {
    let (upper_letters, lower_letters) = (text.chars().any(char::is_uppercase), text.chars().any(char::is_lowercase));
    if upper { upper_letters && !lower_letters } else { lower_letters && !upper_letters }
}

/// Whether two values are the same object, as far as a template can depend on that.
fn identical(left: &Value, right: &Value) -> bool {
    use std::sync::Arc;
    match (left, right) {
        (Value::List(a), Value::List(b)) | (Value::Tuple(a), Value::Tuple(b)) => Arc::ptr_eq(a, b),
        (Value::Dict(a), Value::Dict(b)) => Arc::ptr_eq(a, b),
        (Value::Undefined(a), Value::Undefined(b)) => Arc::ptr_eq(a, b),
        _ => left.type_name() == right.type_name() && left.same(right),
    }
}
