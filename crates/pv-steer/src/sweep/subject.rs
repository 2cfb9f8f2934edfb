//! The steered directions and prompts.

use pv_hooks::LayerSet;
use pv_model::{CausalLm, Message, RenderOptions};
use pv_vectors::{Direction, PersonaVector};

use crate::Result;
use crate::error::SweepError;

/// The directions of layers; for [`LayerSet::All`], of those that have one.
pub(crate) fn directions(vector: &PersonaVector, layers: &LayerSet) -> Result<Vec<Direction>> {
    let blocks = vector.shape().0.saturating_sub(1);
    let all = *layers == LayerSet::All;
    let mut found = Vec::new();
    for layer in layers.resolve(blocks) {
        match vector.direction(layer) {
            Ok(direction) => found.push(direction),
            Err(_) if all => {}
            Err(error) => return Err(error.into()),
        }
    }
    if found.is_empty() { Err(SweepError::NoLayers.into()) } else { Ok(found) }
}

/// A question's prompt.
pub(crate) fn prompt(
    model: &CausalLm,
    system: Option<&str>,
    question: &str,
    render: &RenderOptions,
) -> Result<Vec<u32>> {
    let messages: Vec<Message> = system.map(Message::system).into_iter().chain([Message::user(question)]).collect();
    Ok(model.prompt_with(&messages, &render.as_prompt())?)
}
