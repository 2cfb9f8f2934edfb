//! Control vectors in GGUF, as repeng, llama.cpp and EasySteer write them.

mod easysteer;
mod element;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use pv_data::gguf::{Gguf, Tensor, TensorType, Value, Writer};
use pv_hooks::Layer;

const ARCHITECTURE: &str = "controlvector";

/// The content of a control vector's file.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct ControlVector {
    /// `controlvector.model_hint`: llama.cpp's name for the architecture.
    pub(super) model_hint: Option<String>,
    /// `controlvector.layer_count`: the writer's count of directions, which need not be the model's number of blocks.
    pub(super) layer_count: Option<i64>,
    /// `direction.{k}` by `k`, all of one width.
    pub(super) directions: BTreeMap<usize, Vec<f32>>,
    /// `controlvector.method`, which EasySteer and some generators write.
    method: Option<String>,
    /// `controlvector.easysteer`.
    easysteer: Option<String>,
}

impl ControlVector {
    /// Whether EasySteer wrote the file. Its `direction.0` belongs to block 0.
    pub(super) fn is_easysteer(&self) -> bool {
        self.easysteer.is_some() || self.directions.contains_key(&0)
    }

    /// Refuses rows that are not directions of the residual stream, and returns the file's other statements as text.
    /// With `residual_stream`, the caller asserts it for rows about which the file says nothing.
    pub(super) fn check_rows(&self, residual_stream: bool) -> Result<Vec<String>, String> {
        let mut remarks = easysteer::check(self.easysteer.as_deref(), self.method.as_deref(), residual_stream)?;
        let held = self.directions.len();
        if let Some(count) = self.layer_count {
            let but = if i64::try_from(held) == Ok(count) { String::new() } else { format!(", but contains {held}") };
            remarks.push(format!("the file counts {count} layers{but}"));
        }
        let zero = |values: &Vec<f32>| values.iter().all(|value| *value == 0.0);
        let zeros: Vec<String> =
            self.directions.iter().filter(|(_, values)| zero(values)).map(|(k, _)| format!("direction.{k}")).collect();
        if zeros.len() == held {
            return Err("all its directions are zero".to_owned());
        }
        if !zeros.is_empty() {
            remarks.push(format!("zero, so that they steer nothing: {}", zeros.join(", ")));
        }
        Ok(remarks)
    }
}

/// The number of the direction that acts at a layer: llama.cpp adds `direction.{k}` to the output of block `k`, and has
/// no number 0.
pub(super) fn direction_number(layer: Layer) -> Option<usize> {
    layer.block().filter(|block| *block > 0)
}

/// The bytes of a file with this hint and these directions by number, all of one width.
pub(super) fn write(model_hint: &str, directions: &BTreeMap<usize, &[f32]>) -> Vec<u8> {
    let mut file = Writer::default();
    file.set("general.architecture", Value::String(ARCHITECTURE));
    file.set("controlvector.model_hint", Value::String(model_hint));
    file.set("controlvector.layer_count", Value::U32(directions.len() as u32));
    for (k, values) in directions {
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        file.tensor(&format!("direction.{k}"), &[values.len()], TensorType::F32, &bytes);
    }
    file.finish()
}

/// Parses a file's bytes; the error is the reason for refusing them.
pub(super) fn read(bytes: &[u8]) -> Result<ControlVector, String> {
    let said = |error: pv_data::gguf::GgufError| error.to_string();
    let file = Gguf::parse(bytes).map_err(said)?;
    let text = |key: &str| Ok::<_, String>(file.string(key).map_err(said)?.map(str::to_owned));
    match text("general.architecture")?.as_deref() {
        Some(ARCHITECTURE) => {}
        Some(other) => return Err(format!("it is a GGUF of {other:?}, not of {ARCHITECTURE:?}")),
        None => return Err("it does not name its general.architecture".to_owned()),
    }
    let (method, easysteer) = (text("controlvector.method")?, text("controlvector.easysteer")?);
    // llama.cpp and repeng have no number 0. EasySteer, which states its method, counts blocks from 0.
    let least = usize::from(easysteer.is_none() && method.is_none());
    let mut directions = BTreeMap::new();
    for tensor in file.tensors() {
        // llama.cpp ignores tensors with other names; here they would be lost silently. A number has one spelling.
        let k = tensor.name.strip_prefix("direction.").and_then(|k| Some((k, k.parse::<usize>().ok()?)));
        let Some((_, k)) = k.filter(|(text, k)| *k >= least && *text == k.to_string()) else {
            return Err(format!("its tensor {:?} is not direction.1, direction.2, …", tensor.name));
        };
        directions.insert(k, values(tensor)?);
    }
    let Some(width) = directions.values().next().map(Vec::len) else {
        return Err("it contains no direction".to_owned());
    };
    if let Some((k, values)) = directions.iter().find(|(_, values)| values.len() != width) {
        return Err(format!("direction.{k} has {} numbers, the first direction has {width}", values.len()));
    }
    // repeng writes an unsigned 32-bit number, llama.cpp's generator a signed one.
    let layer_count = file.integer("controlvector.layer_count").map_err(said)?;
    Ok(ControlVector { model_hint: text("controlvector.model_hint")?, layer_count, directions, method, easysteer })
}

/// The values of a direction.
fn values(tensor: &Tensor<'_>) -> Result<Vec<f32>, String> {
    let Tensor { name, shape, kind, .. } = tensor;
    // Further dimensions of size one change nothing.
    if shape.is_empty() || shape.iter().skip(1).any(|size| *size != 1) {
        return Err(format!("{name} has the shape {shape:?}, directions have one dimension"));
    }
    if shape[0] == 0 {
        return Err(format!("{name} is empty"));
    }
    let values = element::values(*kind, tensor.bytes).ok_or_else(|| {
        format!(
            "{name} is of GGML's type {} ({kind}); directions are read as F32, F16, BF16, F64 or Q8_0",
            kind.number()
        )
    })?;
    match values.iter().all(|value| value.is_finite()) {
        true => Ok(values),
        false => Err(format!("{name} contains values that are not finite")),
    }
}
