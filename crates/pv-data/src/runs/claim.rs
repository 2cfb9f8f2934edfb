//! What a run's folder belongs to.

use serde::Serialize;
use serde_json::Value;

use crate::{RunError, RunFolder};

/// A value as JSON whose numbers have gone through text once, as those in a file have: an `f32` becomes the `f64` that its
/// shortest decimal form stands for.
pub fn through_text(value: &impl Serialize) -> Value {
    serde_json::to_string(value).ok().and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default()
}

impl RunFolder {
    /// Writes what a run is into a folder that does not say so yet, or refuses a folder of another run.
    ///
    /// Give what decides the run's results, and leave out how it is executed (batch sizes, devices, intervals of logging):
    /// that may change when the run goes on. Numbers must have gone [through text](through_text).
    ///
    /// # Errors
    /// [`RunError::OtherRun`], which names the first thing that differs; [`RunError::Damaged`] for a file that is not JSON.
    pub fn claim(&self, name: &str, given: &Value) -> Result<(), RunError> {
        let Some(saved) = self.read(name)? else {
            return Ok(self.write(name, |file| Ok(serde_json::to_writer_pretty(file, given)?))?);
        };
        let damaged = |error: serde_json::Error| RunError::Damaged { path: self.file(name), reason: error.to_string() };
        let saved: Value = serde_json::from_slice(&saved).map_err(damaged)?;
        match first_difference(&saved, given) {
            None => Ok(()),
            Some((what, saved, given)) => Err(RunError::OtherRun { path: self.path().to_owned(), what, saved, given }),
        }
    }
}

/// The first place at which two values differ, with both values in short; the place of the whole is empty.
pub fn first_difference(saved: &Value, given: &Value) -> Option<(String, String, String)> {
    difference("", saved, given)
}

fn difference(at: &str, saved: &Value, given: &Value) -> Option<(String, String, String)> {
    match (saved, given) {
        (Value::Object(a), Value::Object(b)) => {
            let mut names = b.keys().chain(a.keys().filter(|name| !b.contains_key(*name)));
            names.find_map(|name| {
                let at = if at.is_empty() { name.clone() } else { format!("{at}.{name}") };
                let value = |all: &serde_json::Map<String, Value>| all.get(name).cloned().unwrap_or(Value::Null);
                difference(&at, &value(a), &value(b))
            })
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            a.iter().zip(b).enumerate().find_map(|(i, (a, b))| difference(&format!("{at}[{i}]"), a, b))
        }
        (Value::Array(a), Value::Array(b)) => {
            Some((format!("number of {at}"), a.len().to_string(), b.len().to_string()))
        }
        _ if saved == given => None,
        _ => Some((at.to_owned(), short(saved), short(given))),
    }
}

fn short(value: &Value) -> String {
    const LONGEST: usize = 80;
    let text = value.to_string();
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}
