//! What a template is given, and how its failures are reported.

use serde_json::Map;

use super::jinja::{Fault, Kind, Value};
use super::{Message, RenderOptions};
use crate::error::{Error, Result};

/// The work that one rendering may do: about one unit an instruction and one for 64 bytes. The templates of known models
/// get some four thousand messages of 2000 bytes out of it.
pub(super) const FUEL: u64 = 2_000_000;

/// What a template sees. `transformers` passes `tools` and `documents` always, special tokens only where they are set.
pub(super) fn variables(
    special_tokens: &Map<String, serde_json::Value>,
    messages: &[Message],
    options: &RenderOptions,
) -> Result<Vec<(String, Value)>> {
    let failed = |fault: Fault| explain(&fault);
    let mut variables = vec![("tools".to_owned(), Value::None), ("documents".to_owned(), Value::None)];
    for (name, value) in special_tokens.iter().chain(&options.variables) {
        variables.push((name.clone(), Value::from_json(value).map_err(failed)?));
    }
    let unreadable = |error: serde_json::Error| Error::TemplateFailed { reason: error.to_string() };
    let mut messages = serde_json::to_value(messages).map_err(unreadable)?;
    let each = messages.as_array_mut().into_iter().flatten().filter_map(serde_json::Value::as_object_mut);
    each.for_each(share_thought);
    variables.push(("messages".to_owned(), Value::from_json(&messages).map_err(failed)?));
    variables.push(("add_generation_prompt".to_owned(), Value::Bool(options.add_generation_prompt)));
    Ok(variables)
}

/// Gives a message's thought to a template as `transformers` (5.24) does: under `reasoning_content`, which most templates read,
/// and under `thinking`, where the message has no such key, whatever name it has in the message.
fn share_thought(message: &mut Map<String, serde_json::Value>) {
    let thought = Message::THOUGHTS.iter().find_map(|key| message.get(*key).filter(|thought| !thought.is_null()));
    let Some(thought) = thought.cloned() else { return };
    // Templates that write a whole message see the order of its keys.
    if message.contains_key("thinking") {
        if let Some(own) = message.shift_remove("thinking") {
            message.shift_insert(0, "thinking".to_owned(), own);
        }
    } else {
        message.shift_insert(0, "thinking".to_owned(), thought.clone());
    }
    message.insert("reasoning_content".to_owned(), thought);
}

/// A failure in the words of this crate.
pub(super) fn explain(fault: &Fault) -> Error {
    match fault.kind {
        Kind::Raised => Error::TemplateRaised { message: fault.message.clone() },
        Kind::Clock => Error::TemplateNeedsClock,
        Kind::Runaway if fault.message == "nesting" => Error::TemplateRunaway { limit: "nesting" },
        Kind::Runaway => Error::TemplateRunaway { limit: "steps and memory" },
        _ if fault.line > 0 => Error::TemplateFailed { reason: format!("{} (line {})", fault.message, fault.line) },
        _ => Error::TemplateFailed { reason: fault.message.clone() },
    }
}
