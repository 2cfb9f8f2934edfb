//! Runs a template's statements.

use std::cell::Cell;
use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use jiff::civil::DateTime;

use super::arguments::Args;
use super::ast::{Statement, Tag, Target};
use super::fault::{Fault, Kind, Result};
use super::iterate::Iter;
use super::loops::LoopState;
use super::macros::MacroState;
use super::value::Value;

/// The limit on the nesting of running expressions, blocks and calls; a macro call takes some six levels. The stack
/// used per level is bounded, see `worker.rs`.
const LEVELS: u32 = 1200;

/// How a statement ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flow {
    Next,
    Break,
    Continue,
}

/// Names with their values, and the parent scope.
struct Scope {
    names: Vec<(Arc<str>, Value)>,
    parent: Option<usize>,
    /// Whether a macro was defined in it, which may read it later.
    kept: bool,
}

/// Runs a template. All mutable state is here, so that no value can contain itself.
pub(in crate::chat) struct Machine<'t> {
    context: HashMap<Arc<str>, Value>,
    pub(super) now: Option<DateTime>,
    scopes: Vec<Scope>,
    scope: usize,
    pub(super) namespaces: Vec<Vec<(Value, Value)>>,
    pub(super) cyclers: Vec<(Vec<Value>, usize)>,
    pub(super) joiners: Vec<(String, bool)>,
    pub(super) macros: Vec<MacroState<'t>>,
    pub(super) loops: Vec<LoopState<'t>>,
    pub(super) iterators: Vec<Iter>,
    /// The output; the last buffer is that of the innermost block whose text is captured.
    out: Vec<String>,
    spans: Vec<Range<usize>>,
    fuel: Cell<u64>,
    level: u32,
}

impl<'t> Machine<'t> {
    /// A machine with these variables and a work limit: one unit per instruction and one per 64 bytes.
    pub(in crate::chat) fn new(
        context: impl IntoIterator<Item = (String, Value)>,
        now: Option<DateTime>,
        fuel: u64,
    ) -> Self {
        Self {
            context: context.into_iter().map(|(name, value)| (Arc::from(name), value)).collect(),
            now,
            scopes: vec![Scope { names: Vec::new(), parent: None, kept: true }],
            scope: 0,
            namespaces: Vec::new(),
            cyclers: Vec::new(),
            joiners: Vec::new(),
            macros: Vec::new(),
            loops: Vec::new(),
            iterators: Vec::new(),
            out: vec![String::new()],
            spans: Vec::new(),
            fuel: Cell::new(fuel),
            level: 0,
        }
    }

    /// Runs a template; returns its text and the ranges that generation blocks wrote.
    pub(in crate::chat) fn run(mut self, body: &'t [Statement]) -> Result<(String, Vec<Range<usize>>)> {
        self.statements(body)?;
        Ok((self.out.pop().unwrap_or_default(), self.spans))
    }

    /// Subtracts work from the remaining limit.
    pub(super) fn charge(&self, units: usize) -> Result<()> {
        match self.fuel.get().checked_sub(units as u64) {
            Some(left) => {
                self.fuel.set(left);
                Ok(())
            }
            None => Err(Fault::runaway("steps and memory")),
        }
    }

    /// Subtracts the work for a text of this many bytes.
    pub(super) fn charge_bytes(&self, bytes: usize) -> Result<()> {
        self.charge(bytes / 64)
    }

    /// Subtracts the work for this many items.
    pub(super) fn charge_items(&self, items: usize) -> Result<()> {
        self.charge(items / 2 + 1)
    }

    pub(super) fn write(&mut self, text: &str) -> Result<()> {
        self.charge_bytes(text.len())?;
        if let Some(out) = self.out.last_mut() {
            out.push_str(text);
        }
        Ok(())
    }

    /// Enters a nesting level.
    pub(super) fn deeper<T>(&mut self, work: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        if self.level >= LEVELS {
            return Err(Fault::runaway("nesting"));
        }
        self.level += 1;
        let outcome = work(self);
        self.level -= 1;
        outcome
    }

    /// Runs `work` in a new scope with the parent `parent`.
    pub(super) fn scoped<T>(&mut self, parent: usize, work: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        self.charge(1)?;
        let before = self.scope;
        self.scope = self.scopes.len();
        self.scopes.push(Scope { names: Vec::new(), parent: Some(parent), kept: false });
        let outcome = work(self);
        if self.scope + 1 == self.scopes.len() && !self.scopes[self.scope].kept {
            self.scopes.pop();
        }
        self.scope = before;
        outcome
    }

    /// Runs `work` in a new scope with the current one as its parent.
    pub(super) fn inner<T>(&mut self, work: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        self.scoped(self.scope, work)
    }

    /// Runs `work` in another scope.
    pub(super) fn within<T>(&mut self, scope: usize, work: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        let before = std::mem::replace(&mut self.scope, scope);
        let outcome = work(self);
        self.scope = before;
        outcome
    }

    /// The output of `work`.
    pub(super) fn captured<T>(&mut self, work: impl FnOnce(&mut Self) -> Result<T>) -> Result<(T, String)> {
        self.out.push(String::new());
        let outcome = work(self);
        let text = self.out.pop().unwrap_or_default();
        Ok((outcome?, text))
    }

    /// The current scope.
    pub(super) fn here(&self) -> usize {
        self.scope
    }

    /// Keeps the current scope and its parents for a macro.
    pub(super) fn keep(&mut self) {
        let mut at = Some(self.scope);
        while let Some(scope) = at {
            if self.scopes[scope].kept {
                break;
            }
            self.scopes[scope].kept = true;
            at = self.scopes[scope].parent;
        }
    }

    pub(super) fn assign(&mut self, name: &Arc<str>, value: Value) {
        let names = &mut self.scopes[self.scope].names;
        match names.iter_mut().find(|(found, _)| found == name) {
            Some((_, old)) => *old = value,
            None => names.push((name.clone(), value)),
        }
    }

    /// The value of a name.
    pub(super) fn lookup(&self, name: &Arc<str>) -> Value {
        let mut at = Some(self.scope);
        while let Some(scope) = at {
            let Scope { names, parent, .. } = &self.scopes[scope];
            if let Some((_, value)) = names.iter().find(|(found, _)| Arc::ptr_eq(found, name) || found == name) {
                return value.clone();
            }
            at = *parent;
        }
        if let Some(value) = self.context.get(name) {
            return value.clone();
        }
        match self.function(name) {
            Some(name) => Value::Function(name),
            // The template itself.
            None if &**name == "self" => Value::Function("self"),
            None => Value::undefined(format!("'{name}' is undefined")),
        }
    }

    pub(super) fn statements(&mut self, body: &'t [Statement]) -> Result<Flow> {
        self.deeper(|machine| {
            for statement in body {
                machine.charge(1)?;
                match machine.statement(&statement.node) {
                    Ok(Flow::Next) => {}
                    Ok(flow) => return Ok(flow),
                    Err(fault) => {
                        let line = if fault.line == 0 { statement.line } else { fault.line };
                        return Err(Fault { line, ..fault });
                    }
                }
            }
            Ok(Flow::Next)
        })
    }

    fn statement(&mut self, tag: &'t Tag) -> Result<Flow> {
        match tag {
            Tag::Text(text) => self.write(text)?,
            Tag::Print(value) => {
                let value = self.eval(value)?;
                match value.as_str() {
                    Some(text) => self.write(text)?,
                    None => {
                        let text = self.str(&value)?;
                        self.write(&text)?;
                    }
                }
            }
            Tag::If(branches) => {
                for (condition, body) in branches {
                    let holds = match condition {
                        Some(condition) => self.eval(condition)?.truth(),
                        None => true,
                    };
                    if holds {
                        return self.statements(body);
                    }
                }
            }
            Tag::For(node) => {
                let source = self.eval(&node.source)?;
                let here = self.scope;
                return self.for_loop(node, source, here, 0);
            }
            Tag::Set(target, value) => {
                let value = self.eval(value)?;
                self.set(target, value)?;
            }
            Tag::SetBlock(target, filter, body) => {
                let (flow, value) = self.inner(|machine| {
                    let (flow, text) = machine.captured(|machine| machine.statements(body))?;
                    let text = Value::text(text);
                    match filter {
                        Some(filter) if flow == Flow::Next => Ok((flow, machine.filter_text(filter, text)?)),
                        _ => Ok((flow, text)),
                    }
                })?;
                if flow != Flow::Next {
                    return Ok(flow);
                }
                self.set(target, value)?;
            }
            Tag::With(values, body) => {
                let values: Vec<(&Target, Value)> =
                    values.iter().map(|(target, value)| Ok((target, self.eval(value)?))).collect::<Result<_>>()?;
                return self.inner(|machine| {
                    for (target, value) in values {
                        machine.set(target, value)?;
                    }
                    machine.statements(body)
                });
            }
            Tag::Macro(name, node) => {
                let made = self.make_macro(node);
                self.assign(name, made);
            }
            Tag::CallBlock(call, node) => {
                let caller = self.make_macro(node);
                let value = self.eval_call(call, Some(caller))?;
                let text = self.str(&value)?;
                self.write(&text)?;
            }
            Tag::Generation(node) => {
                let caller = self.make_macro(node);
                let text = self.call(caller, Args::default())?;
                let start = self.out.last().map_or(0, String::len);
                self.write(text.as_str().unwrap_or_default())?;
                let end = self.out.last().map_or(0, String::len);
                // Elsewhere, the text may still be changed.
                if self.out.len() == 1 && start < end {
                    self.spans.push(start..end);
                }
            }
            Tag::FilterBlock(filter, body) => {
                let (flow, value) = self.inner(|machine| {
                    let (flow, text) = machine.captured(|machine| machine.statements(body))?;
                    match flow {
                        Flow::Next => Ok((flow, machine.filter_text(filter, Value::text(text))?)),
                        _ => Ok((flow, Value::None)),
                    }
                })?;
                if flow != Flow::Next {
                    return Ok(flow);
                }
                let text = self.str(&value)?;
                self.write(&text)?;
            }
            Tag::Block(body) => return self.scoped(0, |machine| machine.statements(body)),
            Tag::Autoescape(value, body) => {
                if self.eval(value)?.truth() {
                    return Err(Fault::other("automatic escaping is not supported"));
                }
                return self.inner(|machine| machine.statements(body));
            }
            Tag::Load(tag) => return Err(Fault::type_error(format!("there is no other template to {tag}"))),
            Tag::Break => return Ok(Flow::Break),
            Tag::Continue => return Ok(Flow::Continue),
        }
        Ok(Flow::Next)
    }

    pub(super) fn set(&mut self, target: &'t Target, value: Value) -> Result<()> {
        match target {
            Target::Name(name) => self.assign(name, value),
            Target::Attribute(name, attribute) => {
                let Value::Namespace(number) = self.lookup(name) else {
                    return Err(Fault::other("cannot assign attribute on non-namespace object"));
                };
                self.set_attribute(number, Value::Str(attribute.clone()), value)?;
            }
            Target::Tuple(targets) => {
                let items = self.items(&value)?;
                if items.len() != targets.len() {
                    let (found, wanted) = (items.len(), targets.len());
                    return Err(Fault::value_error(format!("{found} values to unpack, {wanted} expected")));
                }
                for (target, item) in targets.iter().zip(items) {
                    self.set(target, item)?;
                }
            }
        }
        Ok(())
    }

    pub(super) fn set_attribute(&mut self, namespace: usize, name: Value, value: Value) -> Result<()> {
        if name.as_str().is_some_and(|name| name.starts_with('_')) {
            return Err(Fault::other("a namespace cannot have attributes that begin with an underscore"));
        }
        name.check_hashable()?;
        let attributes = &mut self.namespaces[namespace];
        match attributes.iter_mut().find(|(found, _)| found.same(&name)) {
            Some((_, old)) => *old = value,
            None => attributes.push((name, value)),
        }
        Ok(())
    }
}

impl Fault {
    /// Whether a filter such as `int` returns its default for this error.
    pub(super) fn is_conversion(&self) -> bool {
        matches!(self.kind, Kind::Type | Kind::Value)
    }
}
