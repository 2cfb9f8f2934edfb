//! How much what is learnt counts.

use serde_json::{Map, Value};

use super::kind;

/// The product of the numbers and truth values under keys; 1 where there is none.
pub(crate) fn weight(fields: &Map<String, Value>, numbers: &[&str], flags: &[&str]) -> Result<f64, String> {
    let mut product = 1.0;
    for (key, value) in fields.iter().filter(|(_, value)| !value.is_null()) {
        let (number, flag) = (numbers.contains(&key.as_str()), flags.contains(&key.as_str()));
        product *= match value {
            Value::Bool(yes) if number || flag => f64::from(u8::from(*yes)),
            Value::Number(value) if number => {
                let value = value.as_f64().unwrap_or(f64::NAN);
                if !value.is_finite() || value < 0.0 || value > f64::from(f32::MAX) {
                    return Err(format!("`{key}` is {value}, not a number of at least 0"));
                }
                value
            }
            // A data set may have its losses beside it.
            _ if key == "loss" => 1.0,
            Value::Number(value) if flag && [Some(0.0), Some(1.0)].contains(&value.as_f64()) => {
                value.as_f64().unwrap_or(1.0)
            }
            other if flag => return Err(format!("`{key}` is {}, not true or false", shown(other))),
            other if number => return Err(format!("`{key}` is {}, not a number of at least 0", shown(other))),
            _ => 1.0,
        };
    }
    match product {
        product if product > f64::from(f32::MAX) => Err(format!("its weights' product is {product}")),
        product => Ok(product),
    }
}

fn shown(value: &Value) -> String {
    match value {
        Value::String(text) => format!("{text:?}"),
        other => kind(other).to_owned(),
    }
}
