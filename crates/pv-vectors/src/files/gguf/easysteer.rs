//! The notes that EasySteer writes in its control vectors.

use serde::Deserialize;
use serde_json::Value;

/// The supported version of the notes.
const VERSION: i64 = 1;
/// The component whose rows are directions of the residual stream.
const RESIDUAL: &str = "hidden_states";
/// The method of older files whose rows are outputs of attention heads, which those files do not state.
const OF_HEADS: &str = "iti";
/// The maximum number of characters of a file's notes that are kept.
const MOST: usize = 500;

/// `controlvector.easysteer`, a JSON object in a string.
#[derive(Debug, Deserialize)]
struct Notes {
    version: Value,
    /// What was captured: `hidden_states`, `attention_heads`, `router_logits`; null if the writer did not know.
    #[serde(default)]
    component: Option<Value>,
    #[serde(default)]
    metadata: Value,
}

/// Refuses rows that are not directions of the residual stream, and rows of unknown origin unless the caller asserts it
/// with `residual_stream`. Returns the other notes as text.
pub(super) fn check(notes: Option<&str>, method: Option<&str>, residual_stream: bool) -> Result<Vec<String>, String> {
    const SAY_SO: &str = "if they are known to be directions of the residual stream, say so \
                          (ImportOptions::residual_stream)";
    let of_heads = method.is_some_and(|method| method.eq_ignore_ascii_case(OF_HEADS));
    let mut remarks: Vec<String> =
        method.map(|method| format!("the method was {}", shortened(method))).into_iter().collect();
    let Some(notes) = notes else {
        if of_heads && !residual_stream {
            return Err(format!("its method is {OF_HEADS:?}, whose rows are of attention heads; {SAY_SO}"));
        }
        return Ok(remarks);
    };
    let notes: Notes =
        serde_json::from_str(notes).map_err(|error| format!("its controlvector.easysteer is unreadable: {error}"))?;
    if notes.version.as_i64() != Some(VERSION) {
        let version = shortened(&notes.version.to_string());
        return Err(format!("its controlvector.easysteer is of version {version}; version {VERSION} can be read"));
    }
    match notes.component.as_ref() {
        Some(Value::String(component)) if component == RESIDUAL => {}
        None | Some(Value::Null) if residual_stream => {}
        None | Some(Value::Null) => {
            return Err(format!("its controlvector.easysteer does not state what its rows are; {SAY_SO}"));
        }
        Some(other) => {
            let other = shortened(&other.to_string());
            return Err(format!("its rows are EasySteer's {other}, no directions of the residual stream"));
        }
    }
    if !notes.metadata.is_null() {
        remarks.push(format!("EasySteer's metadata: {}", shortened(&notes.metadata.to_string())));
    }
    Ok(remarks)
}

fn shortened(text: &str) -> String {
    match text.char_indices().nth(MOST) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}
