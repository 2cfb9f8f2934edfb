//! The arguments of functions, filters, tests and methods.

use std::sync::Arc;

use super::fault::{Fault, Result};
use super::value::Value;

#[derive(Clone, Debug, Default)]
pub(super) struct Args {
    pub(super) positional: Vec<Value>,
    pub(super) named: Vec<(Arc<str>, Value)>,
}

impl Args {
    /// The arguments for parameters with these names; the first `required` of them are required.
    pub(super) fn bind<const N: usize>(
        self,
        what: &str,
        names: [&str; N],
        required: usize,
    ) -> Result<[Option<Value>; N]> {
        let mut bound: [Option<Value>; N] = [const { None }; N];
        if self.positional.len() > N {
            let given = self.positional.len();
            return Err(Fault::type_error(format!("{what}() takes at most {N} arguments, {given} were given")));
        }
        for (slot, value) in bound.iter_mut().zip(self.positional) {
            *slot = Some(value);
        }
        for (name, value) in self.named {
            match names.iter().position(|known| **known == *name) {
                Some(at) if bound[at].is_none() => bound[at] = Some(value),
                Some(_) => return Err(Fault::type_error(format!("{what}() got two values for '{name}'"))),
                None => return Err(Fault::type_error(format!("{what}() takes no argument '{name}'"))),
            }
        }
        match bound[..required].iter().position(Option::is_none) {
            Some(at) => Err(Fault::type_error(format!("{what}() misses the argument '{}'", names[at]))),
            None => Ok(bound),
        }
    }

    /// The arguments of a callable without keyword arguments.
    pub(super) fn only_positional(self, what: &str) -> Result<Vec<Value>> {
        match self.named.first() {
            Some(_) => Err(Fault::type_error(format!("{what}() takes no keyword arguments"))),
            None => Ok(self.positional),
        }
    }

    /// Like [`bind`](Self::bind), without keyword arguments.
    pub(super) fn positional<const N: usize>(self, what: &str, required: usize) -> Result<[Option<Value>; N]> {
        let positional = self.only_positional(what)?;
        Self { positional, named: Vec::new() }.bind(what, [""; N], required)
    }
}

/// An argument that must be an integer.
pub(super) fn int(value: &Value) -> Result<i64> {
    let not = || Fault::type_error(format!("'{}' object cannot be interpreted as an integer", value.type_name()));
    let number = match value {
        Value::Undefined(message) => return Err(Fault::undefined(message)),
        _ => value.as_int().ok_or_else(not)?,
    };
    Ok(i64::try_from(number).unwrap_or(if number < 0 { i64::MIN } else { i64::MAX }))
}

/// A string argument.
pub(super) fn text(value: &Value) -> Result<&str> {
    value.as_str().ok_or_else(|| Fault::type_error(format!("a string was expected, not '{}'", value.type_name())))
}
