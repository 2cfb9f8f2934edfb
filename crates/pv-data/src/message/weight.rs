//! Weights of messages and rows in training.

use serde_json::{Map, Value};

use super::{KeyProblem, kind};

/// The product of the numbers and booleans under these keys; 1 if there are none.
pub(crate) fn weight(fields: &Map<String, Value>, numbers: &[&str], flags: &[&str]) -> Result<f64, KeyProblem> {
    let mut product = 1.0;
    for (key, value) in fields.iter().filter(|(_, value)| !value.is_null()) {
        let (number, flag) = (numbers.contains(&key.as_str()), flags.contains(&key.as_str()));
        product *= match value {
            Value::Bool(yes) if number || flag => f64::from(u8::from(*yes)),
            Value::Number(value) if number => {
                let value = value.as_f64().unwrap_or(f64::NAN);
                if !value.is_finite() || value < 0.0 || value > f64::from(f32::MAX) {
                    return Err(KeyProblem::Weight { key: key.clone(), found: value.to_string() });
                }
                value
            }
            // A data set may contain its measured losses.
            _ if key == "loss" => 1.0,
            Value::Number(value) if flag && [Some(0.0), Some(1.0)].contains(&value.as_f64()) => {
                value.as_f64().unwrap_or(1.0)
            }
            other if flag => return Err(KeyProblem::Flag { key: key.clone(), found: shown(other) }),
            other if number => return Err(KeyProblem::Weight { key: key.clone(), found: shown(other) }),
            _ => 1.0,
        };
    }
    match product {
        product if product > f64::from(f32::MAX) => Err(KeyProblem::WeightProduct { product }),
        product => Ok(product),
    }
}

fn shown(value: &Value) -> String {
    match value {
        Value::String(text) => format!("{text:?}"),
        other => kind(other).to_owned(),
    }
}
