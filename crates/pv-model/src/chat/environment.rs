//! The variables of a template, and the conversion of its failures.

use serde_json::Map;

use super::jinja::{Fault, Kind, Value};
use super::{Message, RenderOptions, TemplateError};

/// The work limit of one rendering: about one unit per instruction and one per 64 bytes. It suffices for some four
/// thousand messages of 2000 bytes in the templates of known models.
pub(super) const FUEL: u64 = 2_000_000;

/// The template's variables. `transformers` always passes `tools` and `documents`, and special tokens only if they are
/// set.
pub(super) fn variables(
    special_tokens: &Map<String, serde_json::Value>,
    messages: &[Message],
    options: &RenderOptions,
) -> Result<Vec<(String, Value)>, TemplateError> {
    let failed = |fault: Fault| explain(&fault);
    let mut variables = vec![("tools".to_owned(), Value::None), ("documents".to_owned(), Value::None)];
    for (name, value) in special_tokens.iter().chain(&options.variables) {
        variables.push((name.clone(), Value::from_json(value).map_err(failed)?));
    }
    let mut messages = serde_json::to_value(messages).map_err(|source| TemplateError::Messages { source })?;
    let each = messages.as_array_mut().into_iter().flatten().filter_map(serde_json::Value::as_object_mut);
    each.for_each(share_thought);
    variables.push(("messages".to_owned(), Value::from_json(&messages).map_err(failed)?));
    variables.push(("add_generation_prompt".to_owned(), Value::Bool(options.add_generation_prompt)));
    Ok(variables)
}

/// Passes a message's thought to a template as `transformers` (5.24) does: under `reasoning_content`, which most
/// templates read, and under `thinking` if the message has no such key, whatever key the message has.
fn share_thought(message: &mut Map<String, serde_json::Value>) {
    let thought = Message::THOUGHTS.iter().find_map(|key| message.get(*key).filter(|thought| !thought.is_null()));
    let Some(thought) = thought.cloned() else { return };
    // Templates that print a whole message show the order of its keys.
    if message.contains_key("thinking") {
        if let Some(own) = message.shift_remove("thinking") {
            message.shift_insert(0, "thinking".to_owned(), own);
        }
    } else {
        message.shift_insert(0, "thinking".to_owned(), thought.clone());
    }
    message.insert("reasoning_content".to_owned(), thought);
}

/// A failure as an error of this crate.
pub(super) fn explain(fault: &Fault) -> TemplateError {
    match fault.kind {
        Kind::Raised => TemplateError::Raised { message: fault.message.clone() },
        Kind::Clock => TemplateError::NeedsClock,
        Kind::Runaway if fault.message == "nesting" => TemplateError::Runaway { limit: "nesting" },
        Kind::Runaway => TemplateError::Runaway { limit: "steps and memory" },
        _ => TemplateError::Failed { message: fault.message.clone(), line: (fault.line > 0).then_some(fault.line) },
    }
}
