//! Serialization of projections. JSON has no NaN and no infinity, but alarms may contain them: they are written as
//! text.

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A number, or the text of a number that is not finite.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Written {
    Finite(f32),
    Text(String),
    /// The form in which earlier versions wrote every number that is not finite.
    Nothing(()),
}

impl Written {
    fn of(value: f32) -> Self {
        if value.is_finite() { Self::Finite(value) } else { Self::Text(value.to_string()) }
    }

    fn read<E: serde::de::Error>(self) -> Result<f32, E> {
        match self {
            Self::Finite(value) => Ok(value),
            Self::Text(text) => text.parse().map_err(|_| E::custom(format!("{text:?} is no number"))),
            Self::Nothing(()) => Ok(f32::NAN),
        }
    }
}

pub(super) fn serialize<S: Serializer>(value: &f32, serializer: S) -> Result<S::Ok, S::Error> {
    Written::of(*value).serialize(serializer)
}

pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f32, D::Error> {
    Written::deserialize(deserializer)?.read()
}

/// The same for a list of numbers.
pub(super) mod list {
    use super::{Deserialize, Deserializer, Serializer, Written};

    pub(in super::super) fn serialize<S: Serializer>(values: &[f32], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(values.iter().map(|value| Written::of(*value)))
    }

    pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<f32>, D::Error> {
        Vec::<Written>::deserialize(deserializer)?.into_iter().map(Written::read).collect()
    }
}
