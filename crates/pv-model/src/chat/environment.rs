//! The Jinja environment that `transformers` gives to chat templates, with limits.

use std::{cell::Cell, collections::BTreeMap, error::Error as _, fmt, thread};

use jiff::civil::DateTime;
use minijinja::{
    AutoEscape, Environment, Error, ErrorKind, Output, State,
    syntax::SyntaxConfig,
    value::{Kwargs, Rest, Tuple, Value, ValueKind},
};
use minijinja_contrib::globals;
use serde_json::Map;

use super::{Message, RenderOptions, json, methods};
use crate::error::Error as ModelError;

/// The work that one rendering may do: about one unit an instruction and one for 64 bytes. The templates of known models
/// get some four thousand messages of 2000 bytes out of it. A level of nesting costs at least one, so that it also bounds
/// what [`STACK`] must hold.
const FUEL: u64 = 800_000;

/// How deep macros (at four or more a call), loops and conditions may run in one another.
const RECURSION: usize = 150;

/// The filter that [`super::generation::rewrite`] puts on what a namespace is to hold.
pub(super) const STORED: &str = "pv_stored";

/// How deep a value in a namespace may nest.
const DEEPEST: usize = 64;

pub(super) fn new() -> Environment<'static> {
    let mut environment = Environment::new();
    environment.set_syntax(
        // Cannot fail: only custom delimiters can.
        SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build().unwrap_or_default(),
    );
    environment.add_filter(STORED, stored);
    environment.set_auto_escape_callback(|_| AutoEscape::None);
    environment.set_debug(false);
    environment.set_fuel(Some(FUEL));
    environment.set_recursion_limit(RECURSION);
    environment.set_unknown_method_callback(methods::call);
    environment.add_filter("tojson", json::tojson);
    environment.add_filter("trim", methods::trim);
    environment.add_filter("int", methods::int);
    environment.add_filter("float", methods::float);
    environment.add_function("cycler", |items: Rest<Value>| globals::cycler(items.0));
    environment.add_function("joiner", globals::joiner);
    environment.add_test("sequence", |value: &Value| {
        matches!(value.kind(), ValueKind::Seq | ValueKind::String | ValueKind::Map)
    });
    environment.set_formatter(write);
    environment.add_function("raise_exception", raise_exception);
    environment
}

/// What a template sees. `transformers` passes `tools` and `documents` always, special tokens only where they are set.
pub(super) fn context(
    special_tokens: &Map<String, serde_json::Value>,
    messages: &[Message],
    options: &RenderOptions,
    generation: Option<&str>,
) -> Value {
    let mut context: BTreeMap<String, Value> = BTreeMap::new();
    context.insert("tools".to_owned(), ().into());
    context.insert("documents".to_owned(), ().into());
    if let Some(now) = options.now {
        let strftime_now = move |format: &str| strftime(now, format);
        context.insert("strftime_now".to_owned(), Value::from_function(strftime_now));
    }
    for (name, value) in special_tokens.iter().chain(&options.variables) {
        context.insert(name.clone(), from_json(value));
    }
    context.insert("messages".to_owned(), messages.iter().map(Message::jinja).collect::<Vec<Value>>().into());
    context.insert("add_generation_prompt".to_owned(), options.add_generation_prompt.into());
    if let Some(name) = generation {
        context.insert(name.to_owned(), Value::from_function(generation_block));
    }
    context.into()
}

fn stored(state: &State, value: Value) -> Result<Value, Error> {
    plain(state, value, DEEPEST)
}

/// A copy in plain lists and maps (the engine's own may be lazy, each holding the one before), refusing a value that nests
/// too deeply or holds a namespace, which could then come to hold itself.
fn plain(state: &State, value: Value, levels: usize) -> Result<Value, Error> {
    if !matches!(value.kind(), ValueKind::Seq | ValueKind::Iterable | ValueKind::Map) {
        return Ok(value);
    }
    let refuse = |why| Error::new(ErrorKind::InvalidOperation, why);
    match value.as_object().map_or("", |object| object.type_name()) {
        name if name.contains("Namespace") => return Err(refuse("a namespace cannot hold a namespace")),
        name if name.contains("Macro") => return Ok(value),
        _ => {}
    }
    let levels = levels.checked_sub(1).ok_or_else(|| refuse("a value nests beyond the recursion limit"))?;
    let mut items = Vec::new();
    let mut pairs = Vec::new();
    for item in value.try_iter()? {
        state.consume_fuel(1)?;
        if value.kind() == ValueKind::Map {
            let held = plain(state, value.get_item(&item)?, levels)?;
            pairs.push((item, held));
        } else {
            items.push(plain(state, item, levels)?);
        }
    }
    Ok(match value.kind() {
        ValueKind::Map => Value::from_pairs(pairs),
        _ if value.is_tuple() => Tuple::from(items).into(),
        _ => items.into(),
    })
}

/// Writes `{{ value }}`. Floats are all that the engine does not write as Python does.
fn write(out: &mut Output, _: &mut State, value: &Value) -> Result<(), Error> {
    if value.kind() == ValueKind::Number && !value.is_integer() {
        let float = f64::try_from(value.clone())?;
        return out.write_str(&json::python_float(float)).map_err(Error::from);
    }
    write!(out, "{value}").map_err(Error::from)
}

pub(super) fn from_json(value: &serde_json::Value) -> Value {
    use serde_json::Value as Json;
    match value {
        Json::Null => ().into(),
        Json::Bool(value) => (*value).into(),
        Json::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(integer), _) => integer.into(),
            (None, Some(integer)) => integer.into(),
            (None, None) => number.as_f64().into(),
        },
        Json::String(text) => text.as_str().into(),
        Json::Array(items) => items.iter().map(from_json).collect(),
        Json::Object(entries) => Value::from_pairs(entries.iter().map(|(key, value)| (key.as_str(), from_json(value)))),
    }
}

fn generation_block(state: &mut State, kwargs: Kwargs) -> Result<Value, Error> {
    kwargs.get::<Value>("caller")?.call(state, &[])
}

fn strftime(now: DateTime, format: &str) -> Result<String, Error> {
    jiff::fmt::strtime::format(format, now)
        .map_err(|error| Error::new(ErrorKind::InvalidOperation, "strftime_now: bad format").with_source(error))
}

/// What `raise_exception` was called with, to be told apart from every other failure.
#[derive(Debug)]
struct Raised(String);

impl fmt::Display for Raised {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

impl std::error::Error for Raised {}

fn raise_exception(message: &Value) -> Result<Value, Error> {
    let raised = Raised(message.to_string());
    Err(Error::new(ErrorKind::InvalidOperation, "the template raised an exception").with_source(raised))
}

/// The stack on which templates are parsed and run. Chains of operators, and values that nest as deep as a template's size
/// and the recursion limit allow, need more than the two megabytes of an ordinary thread; only what is used is committed.
const STACK: usize = 1 << 30;

/// Runs `work` on a large stack.
pub(super) fn on_large_stack<T: Send>(work: impl FnOnce() -> Result<T, ModelError> + Send) -> Result<T, ModelError> {
    thread_local!(static LARGE: Cell<bool> = const { Cell::new(false) });
    if LARGE.get() {
        return work();
    }
    let failed = |reason: &str| ModelError::TemplateFailed { reason: reason.to_owned() };
    thread::scope(|scope| {
        let work = || {
            LARGE.set(true);
            work()
        };
        let thread = thread::Builder::new().name("chat template".to_owned()).stack_size(STACK);
        let thread = thread.spawn_scoped(scope, work).map_err(|_| failed("no memory for its stack"))?;
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// The engine's error in the words of this crate.
pub(super) fn explain(error: &Error) -> ModelError {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(current) = cause {
        if let Some(Raised(message)) = current.downcast_ref() {
            return ModelError::TemplateRaised { message: message.clone() };
        }
        if let Some(engine) = current.downcast_ref::<Error>() {
            let detail = engine.detail().unwrap_or_default();
            match engine.kind() {
                ErrorKind::OutOfFuel => return ModelError::TemplateRunaway { limit: "steps and memory" },
                _ if detail.contains("recursion limit") => return ModelError::TemplateRunaway { limit: "nesting" },
                ErrorKind::UnknownFunction if detail.contains("strftime_now") => return ModelError::TemplateNeedsClock,
                _ => {}
            }
        }
        cause = current.source();
    }
    ModelError::TemplateFailed { reason: reason(error) }
}

/// An error with its causes on one line.
pub(super) fn reason(error: &Error) -> String {
    let mut reason = error.to_string();
    let mut cause = error.source();
    while let Some(current) = cause {
        reason.push_str(": ");
        reason.push_str(&current.to_string());
        cause = current.source();
    }
    reason
}
