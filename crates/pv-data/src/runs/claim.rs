//! What a run's folder belongs to.

use serde::Serialize;
use serde_json::{Number, Value};

use crate::{RunError, RunFolder};

/// A value as the JSON that a file will hold: a 32-bit number is its shortest text, so that 0.7 is 0.7 there, and not
/// 0.699999988079071, which [`serde_json::to_value`] makes of it.
pub fn through_text(value: &impl Serialize) -> Value {
    serde_json::to_string(value).ok().and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default()
}

impl RunFolder {
    /// Writes what a run is into a folder that does not say so yet, or refuses a folder of another run.
    ///
    /// Give what decides the run's results, and leave out how it is executed (batch sizes, devices, intervals of logging):
    /// that may change when the run goes on. 32-bit numbers must have gone [through text](through_text).
    ///
    /// # Errors
    /// [`RunError::OtherRun`], which names the first thing that differs; [`RunError::Damaged`] for a file that is not JSON.
    pub fn claim(&self, name: &str, given: &Value) -> Result<(), RunError> {
        self.claim_with(name, given, &[])
    }

    /// As [`claim`](Self::claim), with the places (as JSON pointers, such as `/model/weights`) of what older versions did not
    /// write: where the folder does not say it, a warning is given, and the folder says it from then on.
    ///
    /// # Errors
    /// As [`claim`](Self::claim).
    pub fn claim_with(&self, name: &str, given: &Value, later: &[&str]) -> Result<(), RunError> {
        let write = |value: &Value| self.write(name, |file| Ok(serde_json::to_writer_pretty(file, value)?));
        let Some(saved) = self.read(name)? else { return Ok(write(given)?) };
        let damaged = |error: serde_json::Error| RunError::Damaged { path: self.file(name), reason: error.to_string() };
        let mut saved: Value = serde_json::from_slice(&saved).map_err(damaged)?;
        let mut added = Vec::new();
        for pointer in later {
            let Some((object, key)) = pointer.rsplit_once('/') else { continue };
            let (Some(value), Some(object)) =
                (given.pointer(pointer), saved.pointer_mut(object).and_then(Value::as_object_mut))
            else {
                continue;
            };
            if !object.contains_key(key) {
                object.insert(key.to_owned(), value.clone());
                added.push(*pointer);
            }
        }
        match first_difference(&saved, given) {
            None if added.is_empty() => Ok(()),
            None => {
                let folder = self.path().display();
                tracing::warn!(?added, %folder, "the folder is of an older version, which did not write this; taken to be as now");
                Ok(write(&saved)?)
            }
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
        (Value::Number(a), Value::Number(b)) if same(a, b) => None,
        _ if saved == given => None,
        _ => Some((at.to_owned(), short(saved), short(given))),
    }
}

/// Whether two numbers are the same but for the last bits, which older versions rounded when they read JSON and wrote it again.
fn same(a: &Number, b: &Number) -> bool {
    match (a.as_f64(), b.as_f64()) {
        (Some(x), Some(y)) if a.is_f64() && b.is_f64() => (x - y).abs() <= 2.0 * f64::EPSILON * x.abs().max(y.abs()),
        _ => false,
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn headers_that_older_versions_rounded_are_the_same() {
        let moved = |value: f64, ulps: u64| json!({ "a": { "b": [f64::from_bits(value.to_bits() + ulps)] } });
        for value in [0.1, f64::from(0.9f32), -1e-300, f64::from(1e-8f32), 12345.678] {
            for ulps in 0..2 {
                assert_eq!(first_difference(&moved(value, ulps), &moved(value, 0)), None, "{value} {ulps}");
            }
            let found = first_difference(&moved(value, 8), &moved(value, 0)).expect("another number");
            assert_eq!(found.0, "a.b[0]");
        }
        assert!(first_difference(&json!(7), &json!(8)).is_some());
        assert!(first_difference(&json!(u64::MAX), &json!(u64::MAX - 1)).is_some());
        assert!(first_difference(&json!(1), &json!(1.0)).is_some());
    }

    #[test]
    fn through_text_a_number_of_32_bits_is_its_shortest_text() {
        assert_eq!(through_text(&0.7f32), json!(0.7));
        assert_eq!(through_text(&vec![f64::from(0.7f32)]), json!([f64::from(0.7f32)]));
    }
}
