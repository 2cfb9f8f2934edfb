//! Compares architectures.

use serde_json::{Map, Value};

use super::DecoderConfig;

impl DecoderConfig {
    /// SHA-256 of the architecture, in hexadecimal. Different notations of the same configuration have the same hash.
    pub fn hash(&self) -> String {
        // Serialising plain numbers and strings cannot fail; an empty hash would still never equal another model's.
        pv_data::files::sha256(serde_json::to_vec(self).unwrap_or_default())
    }

    /// The first key in which two architectures differ, with the values of `self` and `other`; `None` if they are
    /// equal. The storage type of the weights is not part of the architecture.
    pub fn difference(&self, other: &Self) -> Option<(String, String, String)> {
        self.first_difference(other, false)
    }

    pub(crate) fn first_difference(&self, other: &Self, stored: bool) -> Option<(String, String, String)> {
        let entries = |config: &Self| match serde_json::to_value(config) {
            Ok(Value::Object(map)) => map,
            // A configuration is a struct of plain values, which always serialises to an object.
            _ => Map::new(),
        };
        let (ours, theirs) = (entries(self), entries(other));
        let differs = |key: &String| (stored || key != "stored_dtype") && ours.get(key) != theirs.get(key);
        let key = ours.keys().chain(theirs.keys()).find(|key| differs(key))?;
        let shown = |map: &Map<String, Value>| map.get(key).map_or_else(|| "the usual".to_owned(), Value::to_string);
        Some((key.clone(), shown(&ours), shown(&theirs)))
    }
}
