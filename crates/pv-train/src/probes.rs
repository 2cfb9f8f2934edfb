//! Probe prompts: projections of the residual at the prompts' last tokens on directions.

use pv_hooks::{Capture, LayerSet, Recorder};
use pv_model::batch::Batch;
use pv_model::decoder::{Decoder, Logits, Pass, to_f32};
use pv_vectors::{TraitDirection, UnitDirection};

use crate::{Error, Result};

/// The number of prompts in a forward pass.
const TOGETHER: usize = 16;

/// Prompts whose last tokens are projected on directions during training. The change since the start of training is the
/// finetuning shift (method: the paper's section 4.2), without a bootstrap interval;
/// [`finetuning_shift`](crate::measure::shift::finetuning_shift) computes it with one.
#[derive(Clone, Debug, PartialEq)]
pub struct Probes {
    prompts: Vec<Vec<u32>>,
    directions: Vec<TraitDirection>,
}

impl Probes {
    /// Creates probes from prompts and directions. Each prompt is a list of token ids that ends where the answer would
    /// begin; each direction has a layer of its own.
    ///
    /// # Errors
    /// [`Error::BadOption`] if there are no prompts or no directions, or if a prompt is empty.
    pub fn new(prompts: Vec<Vec<u32>>, directions: Vec<TraitDirection>) -> Result<Self> {
        let bad = |name, value: usize, expected| Err(Error::BadOption { name, value: value.to_string(), expected });
        if prompts.is_empty() {
            return bad("the number of probe prompts", 0, "at least 1");
        }
        if prompts.iter().any(Vec::is_empty) {
            return bad("the length of a probe prompt", 0, "at least 1");
        }
        if directions.is_empty() {
            return bad("the number of probe directions", 0, "at least 1");
        }
        Ok(Self { prompts, directions })
    }

    /// The prompts' token ids.
    pub fn prompts(&self) -> &[Vec<u32>] {
        &self.prompts
    }

    /// The directions, in the order of [`measure`](Self::measure)'s result.
    pub fn directions(&self) -> &[TraitDirection] {
        &self.directions
    }

    /// A unique name for each direction, such as `evil@7`: trait and layer, with a number appended to duplicates.
    pub fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = Vec::new();
        for TraitDirection { trait_name, direction } in &self.directions {
            let plain = format!("{trait_name}@{}", direction.layer().index());
            let numbered = (2..).map(|n: usize| format!("{plain}#{n}"));
            let name = std::iter::once(plain.clone()).chain(numbered).find(|name| !names.contains(name));
            names.extend(name);
        }
        names
    }

    /// The mean projection of the prompts' last tokens on each direction, `[directions]`, in activation units.
    ///
    /// # Errors
    /// A prompt or a direction that does not fit the decoder.
    pub fn measure(&self, decoder: &Decoder) -> Result<Vec<f64>> {
        let units: Vec<&UnitDirection> = self.directions.iter().map(|named| &named.direction).collect();
        mean_projections(decoder, &self.prompts, &units)
    }
}

/// The mean projection of the prompts' last tokens on each unit direction, `[units]`, in activation units.
pub(crate) fn mean_projections(decoder: &Decoder, prompts: &[Vec<u32>], units: &[&UnitDirection]) -> Result<Vec<f64>> {
    let vocab = decoder.config().vocab;
    if let Some(&id) = prompts.iter().flatten().find(|id| **id as usize >= vocab) {
        return Err(Error::TokenOutOfRange { step: 0, sample: 0, id, vocab });
    }
    let layers: LayerSet = units.iter().map(|unit| unit.layer()).collect();
    let highest = units.iter().map(|unit| unit.layer()).max();
    let width = decoder.shape().d_model;
    let mut sums = vec![0.0; units.len()];
    for prompts in prompts.chunks(TOGETHER) {
        let rows: Vec<&[u32]> = prompts.iter().map(Vec::as_slice).collect();
        let batch = Batch::prompts(&rows, (0..rows.len()).map(|row| vec![row]).collect())?;
        let mut recorder = Recorder::new(layers.clone(), [Capture::PromptLast]);
        pv_hooks::hook::check(&recorder, &decoder.shape(), highest)?;
        let pass = Pass {
            ids: batch.ids(),
            spans: batch.spans(),
            phase: pv_hooks::Phase::Prefill,
            stop_at: highest,
            logits: Logits::None,
        };
        decoder.pass(&pass, None, &mut recorder);
        for (sum, unit) in sums.iter_mut().zip(units) {
            let last = to_f32(recorder.get(&Capture::PromptLast, unit.layer())?)?;
            for row in last.chunks(width) {
                *sum += unit.projection(row).unwrap_or(f64::NAN);
            }
        }
    }
    Ok(sums.into_iter().map(|sum| sum / prompts.len() as f64).collect())
}

#[cfg(test)]
mod tests {
    use pv_hooks::Layer;

    use super::*;

    #[test]
    fn names_tell_directions_apart() {
        let direction = |name: &str, layer| TraitDirection {
            trait_name: name.to_owned(),
            direction: UnitDirection::new(Layer::hidden_state(layer), &[1.0, 2.0]).expect("a direction"),
        };
        let all = [("evil", 7), ("evil", 3), ("evil", 7), ("kind", 7)].map(|(name, layer)| direction(name, layer));
        let probes = Probes::new(vec![vec![1]], all.to_vec()).expect("probes");
        assert_eq!(probes.names(), ["evil@7", "evil@3", "evil@7#2", "kind@7"]);
        for (prompts, directions) in [(vec![], all.to_vec()), (vec![vec![]], all.to_vec()), (vec![vec![1]], vec![])] {
            assert!(matches!(Probes::new(prompts, directions), Err(Error::BadOption { .. })));
        }
    }
}
