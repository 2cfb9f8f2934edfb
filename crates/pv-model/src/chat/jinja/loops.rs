//! Loops, and the attributes of `loop`.

use super::arguments::Args;
use super::ast::For;
use super::fault::{Fault, Result};
use super::iterate::Source;
use super::machine::{Flow, Machine};
use super::value::Value;

/// A running loop.
pub(super) struct LoopState<'t> {
    node: &'t For,
    /// The scope that contains the loop.
    scope: usize,
    source: Source,
    /// Whether the source's items must still be checked against the loop's condition.
    tested: bool,
    /// The next item, if it was read ahead.
    after: Option<Option<Value>>,
    /// The number of the iteration; −1 before the first one.
    index0: i64,
    current: Option<Value>,
    before: Option<Value>,
    changed: Option<Vec<Value>>,
    length: Option<usize>,
    depth0: i64,
}

impl<'t> Machine<'t> {
    /// Runs a loop in `scope` over a value.
    pub(super) fn for_loop(&mut self, node: &'t For, over: Value, scope: usize, depth0: i64) -> Result<Flow> {
        let length = if node.test.is_none() { over.len() } else { None };
        let source = self.source(&over)?;
        let number = self.loops.len();
        let tested = node.test.is_some();
        self.loops.push(LoopState {
            node,
            scope,
            source,
            tested,
            after: None,
            index0: -1,
            current: None,
            before: None,
            changed: None,
            length,
            depth0,
        });
        let mut ran = false;
        let special = std::sync::Arc::from("loop");
        while let Some(item) = self.next_item(number)? {
            let state = &mut self.loops[number];
            state.index0 += 1;
            state.before = state.current.replace(item.clone());
            let flow = self.scoped(scope, |machine| {
                machine.assign(&special, Value::Loop(number));
                machine.set(&node.target, item)?;
                machine.statements(&node.body)
            })?;
            match flow {
                // As in Jinja, a loop whose first iteration was left by `break` counts as one that did not run.
                Flow::Next => ran = true,
                Flow::Continue => {}
                Flow::Break => break,
            }
        }
        self.loops[number].source = Source::default();
        if ran || node.otherwise.is_empty() {
            return Ok(Flow::Next);
        }
        self.scoped(scope, |machine| machine.statements(&node.otherwise))
    }

    fn next_item(&mut self, number: usize) -> Result<Option<Value>> {
        match self.loops[number].after.take() {
            Some(after) => Ok(after),
            None => self.fetch(number),
        }
    }

    /// The next item that meets the loop's condition.
    fn fetch(&mut self, number: usize) -> Result<Option<Value>> {
        loop {
            self.charge(1)?;
            let mut source = std::mem::take(&mut self.loops[number].source);
            let item = self.next_of(&mut source);
            self.loops[number].source = source;
            let Some(item) = item? else { return Ok(None) };
            let LoopState { node, scope, tested, .. } = &self.loops[number];
            let (node, scope) = (*node, *scope);
            let Some(test) = node.test.as_ref().filter(|_| *tested) else { return Ok(Some(item)) };
            let holds = self.scoped(scope, |machine| {
                machine.set(&node.target, item.clone())?;
                Ok(machine.eval(test)?.truth())
            })?;
            if holds {
                return Ok(Some(item));
            }
        }
    }

    fn peek_item(&mut self, number: usize) -> Result<Option<Value>> {
        if self.loops[number].after.is_none() {
            let item = self.fetch(number)?;
            self.loops[number].after = Some(item);
        }
        Ok(self.loops[number].after.clone().flatten())
    }

    /// The number of items of a loop.
    pub(super) fn loop_length(&mut self, number: usize) -> Result<usize> {
        if let Some(length) = self.loops[number].length {
            return Ok(length);
        }
        let mut rest = Vec::new();
        while let Some(item) = self.fetch(number)? {
            self.charge_items(1)?;
            rest.push(item);
        }
        let state = &mut self.loops[number];
        let looked_at = usize::from(matches!(state.after, Some(Some(_))));
        let length = rest.len() + usize::try_from(state.index0 + 1).unwrap_or(0) + looked_at;
        state.source = Source::Items(rest, 0);
        state.tested = false;
        state.length = Some(length);
        Ok(length)
    }

    /// The remaining items of a loop.
    pub(super) fn loop_rest(&mut self, number: usize) -> Result<Vec<Value>> {
        let mut rest = Vec::new();
        while let Some(item) = self.next_item(number)? {
            self.charge_items(1)?;
            rest.push(Value::tuple(vec![item, Value::Loop(number)])?);
        }
        Ok(rest)
    }

    /// An attribute of `loop`.
    pub(super) fn loop_attribute(&mut self, number: usize, name: &str) -> Result<Option<Value>> {
        let LoopState { index0, depth0, .. } = self.loops[number];
        let int = |number: i64| Ok(Some(Value::Int(number.into())));
        match name {
            "index0" => int(index0),
            "index" => int(index0 + 1),
            "depth0" => int(depth0),
            "depth" => int(depth0 + 1),
            "first" => Ok(Some(Value::Bool(index0 == 0))),
            "last" => Ok(Some(Value::Bool(self.peek_item(number)?.is_none()))),
            "length" => int(self.loop_length(number)? as i64),
            "revindex0" => int(self.loop_length(number)? as i64 - index0 - 1),
            "revindex" => int(self.loop_length(number)? as i64 - index0),
            "previtem" => {
                let before = self.loops[number].before.clone().filter(|_| index0 != 0);
                Ok(Some(before.unwrap_or_else(|| Value::undefined("there is no previous item"))))
            }
            "nextitem" => {
                let next = self.peek_item(number)?;
                Ok(Some(next.unwrap_or_else(|| Value::undefined("there is no next item"))))
            }
            _ => Ok(None),
        }
    }

    /// `loop.cycle(…)` and `loop.changed(…)`.
    pub(super) fn loop_method(&mut self, number: usize, name: &str, args: Args) -> Result<Value> {
        let values = args.only_positional(name)?;
        let state = &mut self.loops[number];
        if name == "cycle" {
            if values.is_empty() {
                return Err(Fault::type_error("no items for cycling given"));
            }
            let at = state.index0.rem_euclid(values.len() as i64);
            return Ok(values[at as usize].clone());
        }
        let same = state
            .changed
            .as_ref()
            .is_some_and(|old| old.len() == values.len() && old.iter().zip(&values).all(|(old, new)| old.same(new)));
        state.changed = Some(values);
        Ok(Value::Bool(!same))
    }

    /// `loop(…)` in a recursive loop.
    pub(super) fn loop_call(&mut self, number: usize, args: Args) -> Result<Value> {
        let [over] = args.bind("loop", ["iterable"], 1)?;
        let LoopState { node, scope, depth0, .. } = self.loops[number];
        if !node.recursive {
            return Err(Fault::type_error("the loop must have the 'recursive' marker to be called recursively"));
        }
        let over = over.unwrap_or(Value::None);
        self.deeper(|machine| {
            let (_, text) = machine
                .within(scope, |machine| machine.captured(|machine| machine.for_loop(node, over, scope, depth0 + 1)))?;
            Ok(Value::text(text))
        })
    }
}
