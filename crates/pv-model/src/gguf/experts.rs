//! Models with experts. A file has one tensor for all experts of a block, one expert after another: each expert's part is a
//! tensor of a checkpoint, in the same bytes.

use std::ops::Range;

use pv_data::gguf::{Tensor, Value};
use serde_json::{Map, Value as Json};

use super::{GgufModelError, Model};

/// The number of experts of a block, in the metadata.
pub(super) const COUNT: &str = "expert_count";
/// The number of experts that are chosen for a token.
const PER_TOKEN: &str = "expert_used_count";
/// The width of an expert.
const WIDTH: &str = "expert_feed_forward_length";
/// Whether the weights of the chosen experts are divided by their sum.
const NORMALISED: &str = "expert_weights_norm";

/// The settings that [`settings`] reads.
pub(super) const SETTINGS: [&str; 4] = [COUNT, PER_TOKEN, WIDTH, NORMALISED];

/// The limit on the number of experts of a block, above that of any model: that of a configuration.
const MOST: u64 = 1 << 12;

/// The place of an expert's number in the name of a tensor.
const NUMBER: &str = "{}";

/// A tensor of one expert: the name and the shape in a checkpoint, and the bytes in the file.
type Part = (String, Vec<usize>, Range<usize>);

/// How an architecture's models with experts translate to a family of Hugging Face's.
pub(super) struct ExpertFamily {
    /// `model_type` of the `config.json`.
    pub(super) model_type: &'static str,
    /// Whether there are no models without experts.
    pub(super) always: bool,
    /// The keys of the `config.json` for the number of experts and for the width of one.
    pub(super) count: &'static str,
    pub(super) width: &'static str,
    /// Settings that llama.cpp knows by the architecture.
    pub(super) fixed: &'static [(&'static str, bool)],
}

/// The number of experts of a block; `None` for a model without experts.
pub(super) fn count(model: &Model<'_>) -> Result<Option<u64>, GgufModelError> {
    let Some(family) = &model.architecture.experts else { return Ok(None) };
    match model.size(COUNT)? {
        Some(count) if count > MOST || (count == 0 && family.always) => {
            let least = u64::from(family.always);
            Err(GgufModelError::value(model.key(COUNT), count.to_string(), format!("from {least} to {MOST}")))
        }
        None if family.always => Err(GgufModelError::missing(model.key(COUNT))),
        count => Ok(count.filter(|count| *count > 0)),
    }
}

/// Adds the settings of experts to the `config.json`, if the model has experts.
pub(super) fn settings(model: &Model<'_>, config: &mut Map<String, Json>) -> Result<(), GgufModelError> {
    let Some((family, count)) = model.architecture.experts.as_ref().zip(count(model)?) else { return Ok(()) };
    let mut set = |key: &str, value: Json| config.insert(key.to_owned(), value);
    set("model_type", family.model_type.into());
    set(family.count, count.into());
    let chosen = model.size(PER_TOKEN)?.ok_or_else(|| GgufModelError::missing(model.key(PER_TOKEN)))?;
    set("num_experts_per_tok", chosen.into());
    // Without a width of their own, experts have that of the file.
    let width = model.size(WIDTH)?.or(model.size("feed_forward_length")?);
    set(family.width, width.into());
    family.fixed.iter().for_each(|(key, value)| {
        set(key, (*value).into());
    });
    match model.setting(NORMALISED)? {
        None | Some(Value::Bool(true)) => Ok(()),
        Some(other) => Err(GgufModelError::unsupported(model.key(NORMALISED), format!("{other:?}"), "true")),
    }
}

/// Each expert's part of a tensor of all experts of a block, whose name in a checkpoint has a place for the number; `None` for
/// another tensor.
pub(super) fn parts(name: &str, tensor: &Tensor<'_>, count: Option<u64>) -> Result<Option<Vec<Part>>, GgufModelError> {
    let Some((before, after)) = name.split_once(NUMBER) else { return Ok(None) };
    let Some(count) = count.and_then(|count| usize::try_from(count).ok()) else {
        let expected = format!("no such tensor without {COUNT}");
        return Err(GgufModelError::value(tensor.name, "in the file", expected));
    };
    let shape: Vec<usize> = tensor.shape.iter().rev().copied().collect();
    if shape.len() < 2 || shape[0] != count {
        let expected = format!("{count} experts on the last of at least two dimensions");
        return Err(GgufModelError::value(tensor.name, format!("of the shape {:?}", tensor.shape), expected));
    }
    let each = tensor.range.len() / count;
    let part = |number: usize| {
        let start = tensor.range.start + number * each;
        (format!("{before}{number}{after}"), shape[1..].to_vec(), start..start + each)
    };
    Ok(Some((0..count).map(part).collect()))
}
