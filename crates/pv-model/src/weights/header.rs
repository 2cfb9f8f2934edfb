//! The header of a safetensors file.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::ops::Range;
use std::path::Path;

use serde::Deserialize;
use serde::de::{Deserializer, Error as _, IgnoredAny, MapAccess, Visitor};

use super::WeightsError;
use crate::folder::FolderError;

/// The limit of the reference implementation.
const MAX_HEADER_BYTES: u64 = 100_000_000;

/// The type, shape and position of a tensor.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) dtype: String,
    pub(super) shape: Vec<usize>,
    /// Counted from the end of the header.
    pub(super) bytes: Range<usize>,
}

#[derive(Deserialize)]
struct Info {
    dtype: String,
    shape: Vec<u64>,
    data_offsets: (u64, u64),
}

/// The tensors in the order of the header, including duplicate names, which a map would hide.
struct Tensors(Vec<(String, Info)>);

impl<'de> Deserialize<'de> for Tensors {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = Tensors;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("an object of tensors")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Tensors, A::Error> {
                let mut tensors = Vec::new();
                while let Some(name) = map.next_key::<String>()? {
                    let named = |error| A::Error::custom(format!("`{name}`: {error}"));
                    if name == "__metadata__" {
                        // Its values are not used, and some writers leave a null there.
                        map.next_value::<Option<HashMap<String, IgnoredAny>>>().map_err(named)?;
                    } else {
                        let info = map.next_value().map_err(named)?;
                        tensors.push((name, info));
                    }
                }
                Ok(Tensors(tensors))
            }
        }
        deserializer.deserialize_map(Entries)
    }
}

/// Parses and checks the header of `file`: the start of its data, and its tensors.
///
/// Accepts what the reference implementation accepts, except duplicate names.
pub(super) fn parse(path: &Path, file: &[u8]) -> Result<(usize, BTreeMap<String, Entry>), WeightsError> {
    let (length, rest) = file.split_first_chunk::<8>().unwrap_or((&[0; 8], &[]));
    let (header, available) = (u64::from_le_bytes(*length), rest.len() as u64);
    if header == 0 || header > available || header > MAX_HEADER_BYTES {
        return Err(WeightsError::Header { path: path.into(), header, available, limit: MAX_HEADER_BYTES });
    }
    let (header, data) = rest.split_at(header as usize);
    let tensors: Tensors =
        serde_json::from_slice(header).map_err(|source| FolderError::Json { path: path.into(), source })?;
    let mut entries = BTreeMap::new();
    for (name, info) in tensors.0 {
        let entry = checked(path, &name, info, data.len())?;
        if entries.insert(name.clone(), entry).is_some() {
            return Err(WeightsError::DuplicateTensor { tensor: name, first: path.into(), second: path.into() });
        }
    }
    check_cover(path, &entries, data.len())?;
    Ok((8 + header.len(), entries))
}

/// Checks one tensor's range, type and shape.
fn checked(path: &Path, name: &str, info: Info, available: usize) -> Result<Entry, WeightsError> {
    let Info { dtype, shape, data_offsets: (start, end) } = info;
    let range = match (usize::try_from(start), usize::try_from(end)) {
        (Ok(start), Ok(end)) if start <= end && end <= available => start..end,
        _ => {
            let (path, tensor) = (path.into(), name.into());
            return Err(WeightsError::TensorOffsets { path, tensor, start, end, available: available as u64 });
        }
    };
    let Some(bits) = bits(&dtype) else {
        return Err(WeightsError::TensorDtype { path: path.into(), tensor: name.into(), dtype });
    };
    let needed = shape.iter().try_fold(bits, |product, size| product.checked_mul(*size));
    let sizes = shape.iter().map(|size| usize::try_from(*size)).collect::<Result<Vec<_>, _>>();
    match (needed, sizes) {
        (Some(needed), Ok(shape)) if needed % 8 == 0 && needed / 8 == range.len() as u64 => {
            Ok(Entry { dtype, shape, bytes: range })
        }
        _ => {
            let found = range.len() as u64;
            Err(WeightsError::TensorBytes { path: path.into(), tensor: name.into(), dtype, shape, found })
        }
    }
}

/// Checks that every byte of the data belongs to exactly one tensor.
fn check_cover(path: &Path, entries: &BTreeMap<String, Entry>, available: usize) -> Result<(), WeightsError> {
    let mut sorted: Vec<_> = entries.iter().collect();
    sorted.sort_by_key(|(_, entry)| (entry.bytes.start, entry.bytes.end));
    let unclaimed = |start: usize, end: usize| {
        Err(WeightsError::UnclaimedBytes { path: path.into(), start: start as u64, end: end as u64 })
    };
    let (mut reached, mut last) = (0, "");
    for (name, Entry { bytes, .. }) in sorted {
        if bytes.start < reached {
            let (first, second) = (last.into(), name.clone());
            return Err(WeightsError::TensorOverlap { path: path.into(), first, second, at: bytes.start as u64 });
        }
        if bytes.start > reached {
            return unclaimed(reached, bytes.start);
        }
        (reached, last) = (bytes.end, name);
    }
    if reached < available {
        return unclaimed(reached, available);
    }
    Ok(())
}

/// Bits per value of every type in the format.
fn bits(dtype: &str) -> Option<u64> {
    Some(match dtype {
        "F4" => 4,
        "F6_E2M3" | "F6_E3M2" => 6,
        "BOOL" | "U8" | "I8" | "F8_E5M2" | "F8_E4M3" | "F8_E8M0" | "F8_E4M3FNUZ" | "F8_E5M2FNUZ" => 8,
        "U16" | "I16" | "F16" | "BF16" => 16,
        "U32" | "I32" | "F32" => 32,
        "U64" | "I64" | "F64" | "C64" => 64,
        _ => return None,
    })
}
