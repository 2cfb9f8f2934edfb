//! The description of a folder's run.

use serde::Serialize;
use serde_json::{Number, Value};

use crate::{RunError, RunFolder};

/// A value as the JSON that a file will contain. A 32-bit number keeps its shortest text, so that 0.7 is 0.7 and not
/// 0.699999988079071, as [`serde_json::to_value`] has it.
pub fn through_text(value: &impl Serialize) -> Value {
    serde_json::to_string(value).ok().and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default()
}

impl RunFolder {
    /// Writes the description of a run into a new folder, or rejects a folder with the description of another run.
    ///
    /// Include the settings that determine the run's results. Leave out how it is executed (batch sizes, devices,
    /// logging intervals): that may change when the run resumes. 32-bit numbers must have gone [through
    /// text](through_text).
    ///
    /// # Errors
    /// [`RunError::OtherRun`], with the first difference; [`RunError::Json`] for a file that is not JSON.
    pub fn claim(&self, name: &str, given: &Value) -> Result<(), RunError> {
        self.claim_with(name, given, &[])
    }

    /// Like [`claim`](Self::claim), with the paths (JSON pointers such as `/model/weights`) of settings that older
    /// versions did not write. Where the folder lacks one, a warning is logged and the setting is added.
    ///
    /// # Errors
    /// As [`claim`](Self::claim).
    pub fn claim_with(&self, name: &str, given: &Value, later: &[&str]) -> Result<(), RunError> {
        self.claim_read(name, self.read_json(name)?, given, later)
    }

    /// The JSON in a file; `None` if the file does not exist.
    ///
    /// # Errors
    /// [`FileError::Read`](crate::FileError::Read); [`RunError::Json`] for a file that is not JSON.
    pub fn read_json(&self, name: &str) -> Result<Option<Value>, RunError> {
        let damaged = |source| RunError::Json { path: self.file(name), source };
        self.read(name)?.map(|saved| serde_json::from_slice(&saved).map_err(damaged)).transpose()
    }

    /// Like [`claim_with`](Self::claim_with), for a file that has been read: `saved` is its content, or `None` if it does
    /// not exist.
    ///
    /// # Errors
    /// [`RunError::OtherRun`]; [`FileError::Write`](crate::FileError::Write).
    pub fn claim_read(&self, name: &str, saved: Option<Value>, given: &Value, later: &[&str]) -> Result<(), RunError> {
        self.claim_merged(name, saved, given, later, &[])
    }

    /// Like [`claim_with`](Self::claim_with), for a run that can be extended: of each list at one of the JSON pointers
    /// `lists`, the folder's may be the beginning of the given one, which then replaces it, or the given one may be the
    /// beginning of the folder's, which is kept.
    ///
    /// # Errors
    /// As [`claim`](Self::claim).
    pub fn claim_growing(&self, name: &str, given: &Value, later: &[&str], lists: &[&str]) -> Result<(), RunError> {
        self.claim_merged(name, self.read_json(name)?, given, later, lists)
    }

    fn claim_merged(
        &self,
        name: &str,
        saved: Option<Value>,
        given: &Value,
        later: &[&str],
        lists: &[&str],
    ) -> Result<(), RunError> {
        let merged = match saved {
            None => given.clone(),
            Some(saved) => {
                let merged = self.merged(saved.clone(), given, later, lists)?;
                if merged == saved {
                    return Ok(());
                }
                merged
            }
        };
        Ok(self.write(name, |file| Ok(serde_json::to_writer_pretty(file, &merged)?))?)
    }

    /// The description that [`claim_growing`](Self::claim_growing) would store if the folder had `saved`. Writes
    /// nothing.
    ///
    /// # Errors
    /// [`RunError::OtherRun`].
    pub fn merged(&self, mut saved: Value, given: &Value, later: &[&str], lists: &[&str]) -> Result<Value, RunError> {
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
        let mut given = given.clone();
        for pointer in lists {
            let (Some(Value::Array(saved)), Some(Value::Array(given))) =
                (saved.pointer_mut(pointer), given.pointer_mut(pointer))
            else {
                continue;
            };
            // Both become the longer of the two, with the beginnings that are compared.
            let (short, long) = (saved.len(), given.len());
            saved.extend(given.iter().skip(short).cloned());
            given.extend(saved.iter().skip(long).cloned());
        }
        if let Some((what, saved, given)) = first_difference(&saved, &given) {
            return Err(RunError::OtherRun { path: self.path().to_owned(), what, saved, given });
        }
        if !added.is_empty() {
            let folder = self.path().display();
            tracing::warn!(?added, %folder, "an older version did not write this setting into the folder; the present value is assumed");
        }
        Ok(saved)
    }
}

/// The path of the first difference between two values, and both values, shortened. The path of the whole is empty.
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

/// Whether two numbers are equal up to the last bits, which older versions rounded when reading and writing JSON.
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
    fn a_description_grows_at_the_ends_of_its_lists() {
        let folder = tempfile::tempdir().unwrap();
        let folder = RunFolder::lock(folder.path()).unwrap();
        let claim = |seed: u64, list: &[u64], fixed: &[u64]| {
            let given = json!({ "seed": seed, "plan": { "list": list, "fixed": fixed } });
            folder.claim_growing("run.json", &given, &[], &["/plan/list"])
        };
        let list = || folder.read_json("run.json").unwrap().unwrap()["plan"]["list"].clone();
        let refused = |outcome: Result<(), RunError>| match outcome {
            Err(RunError::OtherRun { what, .. }) => what,
            other => panic!("{other:?}"),
        };
        assert_eq!(folder.read_json("run.json").unwrap(), None);
        for (given, saved) in [(&[1, 2][..], json!([1, 2])), (&[1, 2, 3], json!([1, 2, 3])), (&[1], json!([1, 2, 3]))] {
            claim(7, given, &[4]).unwrap();
            assert_eq!(list(), saved);
        }
        assert_eq!(refused(claim(7, &[1, 5, 3, 4], &[4])), "plan.list[1]");
        assert_eq!(refused(claim(7, &[2], &[4])), "plan.list[0]");
        assert_eq!(refused(claim(8, &[1, 2, 3, 4], &[4])), "seed");
        assert_eq!(refused(claim(7, &[1, 2, 3, 4], &[4, 5])), "number of plan.fixed");
        assert_eq!(list(), json!([1, 2, 3]));
    }

    #[test]
    fn through_text_a_number_of_32_bits_is_its_shortest_text() {
        assert_eq!(through_text(&0.7f32), json!(0.7));
        assert_eq!(through_text(&vec![f64::from(0.7f32)]), json!([f64::from(0.7f32)]));
    }
}
