//! An [`Array2`] in a file: a list of rows, each a list of numbers.
//!
//! For `#[serde(with = "pv_vectors::serde_rows")]`. [`option`] is for a table that may be missing.

use ndarray::Array2;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Writes the rows.
///
/// # Errors
/// Those of the serializer.
pub fn serialize<T: Serialize, S: Serializer>(table: &Array2<T>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(table.outer_iter().map(|row| row.into_iter().collect::<Vec<&T>>()))
}

/// Reads rows.
///
/// # Errors
/// Those of the deserializer, and rows of different lengths.
pub fn deserialize<'de, T: Deserialize<'de>, D: Deserializer<'de>>(deserializer: D) -> Result<Array2<T>, D::Error> {
    let rows = Vec::<Vec<T>>::deserialize(deserializer)?;
    let shape = (rows.len(), rows.first().map_or(0, Vec::len));
    if let Some(row) = rows.iter().position(|row| row.len() != shape.1) {
        return Err(D::Error::custom(format!("row {row} has {} numbers, the first {}", rows[row].len(), shape.1)));
    }
    Array2::from_shape_vec(shape, rows.into_iter().flatten().collect()).map_err(D::Error::custom)
}

/// A table that may be missing.
pub mod option {
    use super::{Array2, Deserialize, Deserializer, Serialize, Serializer};

    /// A table in its serialized form.
    #[derive(Serialize, Deserialize)]
    #[serde(transparent, bound(serialize = "T: Serialize + Clone", deserialize = "T: Deserialize<'de>"))]
    struct Rows<T>(#[serde(with = "super")] Array2<T>);

    /// Writes the rows, or nothing for `None`.
    ///
    /// # Errors
    /// Those of the serializer.
    pub fn serialize<T: Serialize + Clone, S: Serializer>(
        table: &Option<Array2<T>>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        table.clone().map(Rows).serialize(serializer)
    }

    /// Reads rows, or `None`.
    ///
    /// # Errors
    /// Those of the deserializer, and rows of different lengths.
    pub fn deserialize<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Array2<T>>, D::Error> {
        Ok(Option::<Rows<T>>::deserialize(deserializer)?.map(|Rows(table)| table))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct File {
        #[serde(with = "super")]
        table: Array2<f32>,
        #[serde(default, skip_serializing_if = "Option::is_none", with = "super::option")]
        other: Option<Array2<f32>>,
    }

    #[test]
    fn tables_are_lists_of_lists() {
        let table = ndarray::array![[1.0, 0.1], [-2.5, 1e-9]];
        // Independent of the memory layout.
        let file = File { table: table.t().to_owned().reversed_axes(), other: None };
        let text = serde_json::to_string(&file).unwrap();
        assert_eq!(text, r#"{"table":[[1.0,0.1],[-2.5,1e-9]]}"#);
        assert_eq!(serde_json::from_str::<File>(&text).unwrap(), file);
        let both = File { other: Some(table.clone()), table };
        let text = serde_json::to_string(&both).unwrap();
        assert_eq!(serde_json::from_str::<File>(&text).unwrap(), both);
        let error = serde_json::from_str::<File>(r#"{"table":[[1.0],[2.0,3.0]]}"#).unwrap_err().to_string();
        assert!(error.contains("row 1 has 2 numbers, the first 1"), "{error}");
        assert_eq!(serde_json::from_str::<File>(r#"{"table":[]}"#).unwrap().table.len(), 0);
    }
}
