//! Macros and their calls.

use std::sync::Arc;

use super::arguments::Args;
use super::ast::Macro;
use super::fault::{Fault, Result};
use super::machine::Machine;
use super::value::Value;

/// A macro, and the scope of its definition.
pub(super) struct MacroState<'t> {
    pub(super) node: &'t Macro,
    pub(super) scope: usize,
}

impl<'t> Machine<'t> {
    /// A macro that is defined here.
    pub(super) fn make_macro(&mut self, node: &'t Macro) -> Value {
        self.keep();
        let scope = self.here();
        self.macros.push(MacroState { node, scope });
        Value::Macro(self.macros.len() - 1)
    }

    /// Calls a macro.
    pub(super) fn call_macro(&mut self, number: usize, args: Args) -> Result<Value> {
        let MacroState { node, scope } = self.macros[number];
        let Args { positional, mut named } = args;
        let mut bound: Vec<Option<Value>> = positional.iter().take(node.parameters.len()).cloned().map(Some).collect();
        for name in &node.parameters[bound.len()..] {
            let at = named.iter().position(|(found, _)| found == name);
            bound.push(at.map(|at| named.remove(at).1));
        }
        let explicit_caller = node.parameters.iter().any(|name| &**name == "caller");
        let mut special: Vec<(&str, Value)> = Vec::new();
        if node.reads.caller && !explicit_caller {
            let at = named.iter().position(|(name, _)| &**name == "caller");
            let caller = at.map(|at| named.remove(at).1).filter(|caller| !matches!(caller, Value::None));
            special.push(("caller", caller.unwrap_or_else(|| Value::undefined("No caller defined"))));
        }
        let has = |name: &str| node.parameters.iter().any(|parameter| &**parameter == name);
        let shown = || node.name.as_deref().unwrap_or("caller").to_owned();
        if node.reads.kwargs && !has("kwargs") {
            let pairs = named.drain(..).map(|(name, value)| (Value::Str(name), value)).collect();
            special.push(("kwargs", Value::dict_of_distinct(pairs)?));
        } else if let Some((name, _)) = named.first() {
            return Err(Fault::type_error(format!("macro '{}' takes no keyword argument '{name}'", shown())));
        }
        let more = positional.get(node.parameters.len()..).unwrap_or_default();
        if node.reads.varargs && !has("varargs") {
            special.push(("varargs", Value::tuple(more.to_vec())?));
        } else if !more.is_empty() {
            let most = node.parameters.len();
            return Err(Fault::type_error(format!("macro '{}' takes not more than {most} argument(s)", shown())));
        }
        self.deeper(|machine| {
            machine.scoped(scope, |machine| {
                for (name, value) in special {
                    machine.assign(&Arc::from(name), value);
                }
                let first_default = node.parameters.len() - node.defaults.len();
                // All parameters shadow outer names before the first default is evaluated.
                for (name, value) in node.parameters.iter().zip(&bound) {
                    let missing = || Value::undefined(format!("parameter '{name}' was not provided"));
                    machine.assign(name, value.clone().unwrap_or_else(missing));
                }
                for (at, name) in node.parameters.iter().enumerate().skip(first_default) {
                    if bound[at].is_none() {
                        let value = machine.eval(&node.defaults[at - first_default])?;
                        machine.assign(name, value);
                    }
                }
                let (_, text) = machine.captured(|machine| machine.statements(&node.body))?;
                Ok(Value::text(text))
            })
        })
    }
}
