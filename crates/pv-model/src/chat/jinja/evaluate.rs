//! Evaluates expressions.

use std::sync::Arc;

use super::arguments::Args;
use super::ast::{Arguments, Comparison, Expr, Node};
use super::fault::{Fault, Result};
use super::machine::Machine;
use super::operators::Bound;
use super::value::Value;

impl<'t> Machine<'t> {
    pub(super) fn eval(&mut self, expr: &'t Expr) -> Result<Value> {
        self.charge(1)?;
        match &expr.node {
            // These need no nesting level of their own.
            Node::Const(value) => Ok(value.clone()),
            Node::Name(name) => Ok(self.lookup(name)),
            _ => self.deeper(|machine| machine.eval_node(&expr.node)),
        }
    }

    fn eval_node(&mut self, node: &'t Node) -> Result<Value> {
        Ok(match node {
            Node::Const(value) => value.clone(),
            Node::Name(name) => self.lookup(name),
            Node::List(items) => Value::list(self.eval_all(items)?)?,
            Node::Tuple(items) => Value::tuple(self.eval_all(items)?)?,
            Node::Dict(pairs) => {
                self.charge_items(pairs.len())?;
                let pairs = pairs.iter().map(|(key, value)| Ok((self.eval(key)?, self.eval(value)?)));
                Value::dict(pairs.collect::<Result<_>>()?)?
            }
            Node::Attribute(value, name) => {
                let value = self.eval(value)?;
                self.attribute(&value, name)?
            }
            Node::Item(value, index) => {
                let value = self.eval(value)?;
                let index = self.eval(index)?;
                self.item(&value, &index)?
            }
            Node::Slice(value, parts) => {
                let value = self.eval(value)?;
                let mut bounds = [Bound::None; 3];
                for (bound, part) in bounds.iter_mut().zip(parts.iter()) {
                    if let Some(part) = part {
                        *bound = Bound::of(&self.eval(part)?);
                    }
                }
                self.slice(&value, bounds)?
            }
            Node::Call(..) => return self.eval_call_node(node, None),
            Node::Filter(value, name, arguments) => {
                let Some(value) = value else { return Err(Fault::other("a filter without a value")) };
                let value = self.eval(value)?;
                let args = self.eval_arguments(arguments)?;
                self.filter(name, value, args)?
            }
            Node::Test(value, name, arguments) => {
                let value = self.eval(value)?;
                let args = self.eval_arguments(arguments)?;
                Value::Bool(self.test(name, &value, args)?)
            }
            Node::Not(value) => Value::Bool(!self.eval(value)?.truth()),
            Node::Negative(value) => {
                let value = self.eval(value)?;
                self.negative(&value)?
            }
            Node::Positive(value) => {
                let value = self.eval(value)?;
                self.positive(&value)?
            }
            Node::And(left, right) => match self.eval(left)? {
                left if left.truth() => self.eval(right)?,
                left => left,
            },
            Node::Or(left, right) => match self.eval(left)? {
                left if left.truth() => left,
                _ => self.eval(right)?,
            },
            Node::Binary(operator, left, right) => {
                let left = self.eval(left)?;
                let right = self.eval(right)?;
                self.binary(*operator, &left, &right)?
            }
            Node::Concat(parts) => {
                let mut text = String::new();
                for part in parts {
                    let part = self.eval(part)?;
                    let before = text.len();
                    self.write_str(&part, &mut text)?;
                    self.charge_bytes(text.len() - before)?;
                }
                Value::text(text)
            }
            Node::Compare(first, others) => {
                let mut left = self.eval(first)?;
                let mut holds = Value::Bool(true);
                for (comparison, other) in others {
                    let right = self.eval(other)?;
                    holds = Value::Bool(self.compare(*comparison, &left, &right)?);
                    if !holds.truth() {
                        break;
                    }
                    left = right;
                }
                holds
            }
            Node::If(condition, value, other) => match (self.eval(condition)?.truth(), other) {
                (true, _) => self.eval(value)?,
                (false, Some(other)) => self.eval(other)?,
                (false, None) => Value::undefined("the inline if-expression was false and has no else"),
            },
        })
    }

    fn eval_all(&mut self, items: &'t [Expr]) -> Result<Vec<Value>> {
        self.charge_items(items.len())?;
        items.iter().map(|item| self.eval(item)).collect()
    }

    fn eval_arguments(&mut self, arguments: &'t Arguments) -> Result<Args> {
        let Arguments { positional, named, more, more_named } = arguments;
        let mut args = Args { positional: self.eval_all(positional)?, named: Vec::new() };
        if let Some(more) = more {
            let more = self.eval(more)?;
            let more = self.items(&more)?;
            args.positional.extend(more);
        }
        for (name, value) in named {
            args.named.push((name.clone(), self.eval(value)?));
        }
        if let Some(more) = more_named {
            let Value::Dict(more) = self.eval(more)? else {
                return Err(Fault::type_error("what follows ** must be a mapping"));
            };
            for (name, value) in &more.entries {
                let Some(name) = name.as_str() else { return Err(Fault::type_error("keywords must be strings")) };
                if args.named.iter().any(|(found, _)| **found == *name) {
                    return Err(Fault::type_error(format!("there are two values for the keyword '{name}'")));
                }
                args.named.push((Arc::from(name), value.clone()));
            }
        }
        Ok(args)
    }

    /// A call whose callee also receives `caller`.
    pub(super) fn eval_call(&mut self, call: &'t Expr, caller: Option<Value>) -> Result<Value> {
        self.deeper(|machine| machine.eval_call_node(&call.node, caller))
    }

    fn eval_call_node(&mut self, node: &'t Node, caller: Option<Value>) -> Result<Value> {
        let Node::Call(callee, arguments) = node else { return Err(Fault::other("expected a call")) };
        let callee = self.eval(callee)?;
        let mut args = self.eval_arguments(arguments)?;
        if let Some(caller) = caller {
            args.named.push((Arc::from("caller"), caller));
        }
        self.call(callee, args)
    }

    /// Calls a value.
    pub(super) fn call(&mut self, callee: Value, args: Args) -> Result<Value> {
        match callee {
            Value::Macro(number) => self.call_macro(number, args),
            Value::Function(name) => self.call_function(name, args),
            Value::Method(method) => {
                let (value, name) = &*method;
                self.call_method(value, name, args)
            }
            Value::Loop(number) => self.loop_call(number, args),
            Value::Joiner(number) => {
                args.positional::<0>("joiner", 0)?;
                let (separator, used) = &mut self.joiners[number];
                let text = if *used { separator.as_str() } else { "" };
                let text = Value::text(text);
                *used = true;
                Ok(text)
            }
            Value::Undefined(message) => Err(Fault::undefined(&message)),
            other => Err(Fault::type_error(format!("'{}' object is not callable", other.type_name()))),
        }
    }

    /// Applies the filters of a block to its text.
    pub(super) fn filter_text(&mut self, filters: &'t Expr, text: Value) -> Result<Value> {
        let Node::Filter(inner, name, arguments) = &filters.node else { return Err(Fault::other("expected a filter")) };
        self.deeper(|machine| {
            let value = match inner {
                Some(inner) => machine.filter_text(inner, text)?,
                None => text,
            };
            let args = machine.eval_arguments(arguments)?;
            machine.filter(name, value, args)
        })
    }

    pub(super) fn compare(&mut self, comparison: Comparison, left: &Value, right: &Value) -> Result<bool> {
        self.charge_bytes(left.as_str().map_or(0, str::len))?;
        match comparison {
            Comparison::Equal => Ok(left.same(right)),
            Comparison::NotEqual => Ok(!left.same(right)),
            Comparison::Less => self.less(left, right, "<"),
            Comparison::Greater => self.less(right, left, ">"),
            Comparison::LessEqual => self.less_or_equal(left, right, "<="),
            Comparison::GreaterEqual => self.less_or_equal(right, left, ">="),
            Comparison::In => self.contains(right, left),
            Comparison::NotIn => Ok(!self.contains(right, left)?),
        }
    }
}
