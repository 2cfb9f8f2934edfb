//! Iteration over values.

use super::fault::{Fault, Result};
use super::machine::Machine;
use super::value::{Value, char_value, range_item, range_len};

/// An iterator: its remaining items, and the error after them.
#[derive(Debug, Default)]
pub(super) struct Iter {
    items: std::collections::VecDeque<Value>,
    fault: Option<Fault>,
}

/// The source of a loop's items.
#[derive(Debug)]
pub(super) enum Source {
    Items(Vec<Value>, usize),
    Iterator(usize),
    /// The range, and the index of the next number.
    Range(Value, usize),
}

impl Default for Source {
    fn default() -> Self {
        Self::Items(Vec::new(), 0)
    }
}

impl Machine<'_> {
    /// The source of items for a loop over a value.
    pub(super) fn source(&mut self, value: &Value) -> Result<Source> {
        match value {
            Value::Iterator(number) => Ok(Source::Iterator(*number)),
            Value::Range(..) => Ok(Source::Range(value.clone(), 0)),
            _ => Ok(Source::Items(self.items(value)?, 0)),
        }
    }

    pub(super) fn next_of(&mut self, source: &mut Source) -> Result<Option<Value>> {
        match source {
            Source::Items(items, at) => {
                *at += 1;
                Ok(items.get_mut(*at - 1).map(|item| std::mem::replace(item, Value::None)))
            }
            Source::Iterator(number) => self.advance(*number),
            Source::Range(range, at) => {
                *at += 1;
                Ok((*at <= range_len(range)).then(|| Value::Int(range_item(range, *at - 1).into())))
            }
        }
    }

    /// The next item of an iterator.
    pub(super) fn advance(&mut self, number: usize) -> Result<Option<Value>> {
        let iterator = &mut self.iterators[number];
        match iterator.items.pop_front() {
            Some(item) => Ok(Some(item)),
            None => iterator.fault.take().map_or(Ok(None), Err),
        }
    }

    /// All items of a value.
    pub(super) fn items(&mut self, value: &Value) -> Result<Vec<Value>> {
        match value {
            Value::Iterator(number) => {
                let iterator = std::mem::take(&mut self.iterators[*number]);
                match iterator.fault {
                    Some(fault) => Err(fault),
                    None => Ok(iterator.items.into()),
                }
            }
            Value::Loop(number) => self.loop_rest(*number),
            _ => {
                if let Some(length) = value.len() {
                    self.charge_items(length)?;
                }
                let not = || Fault::type_error(format!("'{}' object is not iterable", value.type_name()));
                value.items().ok_or_else(not)
            }
        }
    }

    /// The first item of a value; it is removed from an iterator.
    pub(super) fn first(&mut self, value: &Value) -> Result<Option<Value>> {
        match value {
            Value::Iterator(number) => self.advance(*number),
            Value::Str(text) | Value::Markup(text) => Ok(text.chars().next().map(char_value)),
            Value::List(items) | Value::Tuple(items) => Ok(items.items.first().cloned()),
            Value::Range(..) => Ok((range_len(value) > 0).then(|| Value::Int(range_item(value, 0).into()))),
            _ => Ok(self.items(value)?.into_iter().next()),
        }
    }

    /// An iterator over the results of `make` for each item, up to its first error.
    pub(super) fn iterator(
        &mut self,
        items: Vec<Value>,
        mut make: impl FnMut(&mut Self, Value) -> Result<Option<Value>>,
    ) -> Result<Value> {
        let mut made = Iter::default();
        for item in items {
            self.charge(1)?;
            match make(self, item) {
                Ok(item) => made.items.extend(item),
                // The error is reported when the iterator reaches it, which may never happen.
                Err(fault) if fault.kind != super::fault::Kind::Runaway => {
                    made.fault = Some(fault);
                    break;
                }
                Err(fault) => return Err(fault),
            }
        }
        self.iterators.push(made);
        Ok(Value::Iterator(self.iterators.len() - 1))
    }

    /// An iterator over items.
    pub(super) fn iterator_over(&mut self, items: Vec<Value>) -> Value {
        self.iterators.push(Iter { items: items.into(), fault: None });
        Value::Iterator(self.iterators.len() - 1)
    }

    /// An iterator that fails immediately.
    pub(super) fn failing(&mut self, fault: Fault) -> Value {
        self.iterators.push(Iter { items: Default::default(), fault: Some(fault) });
        Value::Iterator(self.iterators.len() - 1)
    }

    /// The number of items of a value.
    pub(super) fn length(&mut self, value: &Value) -> Result<usize> {
        match value {
            Value::Loop(number) => self.loop_length(*number),
            _ => value
                .len()
                .ok_or_else(|| Fault::type_error(format!("object of type '{}' has no len()", value.type_name()))),
        }
    }
}
