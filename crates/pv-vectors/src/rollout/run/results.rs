//! The results of a complete run: its vector and its activations.

use std::io::Write;

use pv_hooks::Layer;

use super::RolloutRun;
use crate::Result;
use crate::filter::Kept;
use crate::rollout::KeptActivations;
use crate::rollout::means::{MeansTable, difference};
use crate::vector::{PersonaVector, Pooling, Provenance};

impl RolloutRun {
    /// The persona vector of the kept rollouts, for all poolings and at all layers.
    ///
    /// # Errors
    /// [`Error::IncompleteRun`](crate::Error::IncompleteRun); a file that cannot be read.
    pub fn vector(&self, kept: &Kept) -> Result<PersonaVector> {
        difference(self.means()?, &Pooling::ALL, [&kept.pos, &kept.neg], self.provenance(kept))
    }

    /// Writes a vector to the run's folder with the folder's own writer, which removes the partial file of a killed
    /// process at the next start.
    pub(crate) fn write_vector(&self, name: &str, vector: &PersonaVector) -> Result<()> {
        Ok(self.folder.write(name, |file| file.write_all(&vector.to_bytes().map_err(std::io::Error::other)?))?)
    }

    /// The provenance of a vector of the kept rollouts.
    pub(crate) fn provenance(&self, kept: &Kept) -> Provenance {
        let (plan, model) = (self.plan(), &self.header.model);
        Provenance {
            trait_name: plan.trait_name.clone(),
            model: model.name.clone(),
            config_hash: Some(model.config_hash.clone()),
            template_hash: model.template_hash.clone(),
            weights: model.weights.clone(),
            render: plan.options.render.closed(),
            judge: self.scores.judge(&plan.trait_name).map(str::to_owned),
            verdicts: self.scores.counts(),
            filter: Some(kept.filter),
            kept_positive: Some(kept.pos.len()),
            kept_negative: Some(kept.neg.len()),
            total: Some(plan.len()),
            seed: Some(plan.options.seed),
            sampling: Some(plan.options.sampling.clone()),
            max_new_tokens: Some(plan.options.max_new_tokens),
            version: Provenance::current_version(),
            best_layer: None,
            imported: None,
        }
    }

    /// The activations of the kept rollouts at a layer, for statistics.
    ///
    /// # Errors
    /// [`Error::IncompleteRun`](crate::Error::IncompleteRun); a layer outside the model; a file that cannot be read.
    pub fn activations(&self, pooling: Pooling, layer: Layer, kept: &Kept) -> Result<KeptActivations> {
        let place = |index: usize| self.records.get(index).map(|record| record.place);
        KeptActivations::read(self.means()?, pooling, layer, kept, place)
    }

    /// The activation of one rollout of a complete run at a layer, `[d_model]`. The response's activation of an empty
    /// answer is zero.
    ///
    /// # Errors
    /// Those of [`activations`](Self::activations).
    pub fn activation(&self, pooling: Pooling, layer: Layer, rollout: usize) -> Result<Vec<f32>> {
        self.means()?.rows(pooling, layer, &[rollout])
    }
}
