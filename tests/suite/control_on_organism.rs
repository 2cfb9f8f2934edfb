//! What control promises, on the organism: a cap takes an elicited trait away and spares ordinary answers, and the
//! control solution moves one trait's projection and not the others'.

mod capping;
mod leakage;

use std::ops::ControlFlow;

use pv_examples::SAMPLING;
use pv_examples::organism::contrast;
use pv_model::{CausalLm, GenerateOptions};
use pv_organism::{Trait, model_folder};
use pv_vectors::PersonaVector;

fn model() -> CausalLm {
    let device = pv_model::device("flex").expect("the CPU");
    CausalLm::from_folder(model_folder(), &device, pv_model::default_dtype(&device)).expect("the organism")
}

fn options() -> GenerateOptions {
    GenerateOptions { max_new_tokens: 80, sampling: SAMPLING, batch_size: 32, ..GenerateOptions::default() }
}

/// A trait's vector, from half of its questions for extraction: enough here, and quick.
fn extract(model: &CausalLm, which: Trait) -> PersonaVector {
    let mut contrast = contrast(which);
    contrast.questions.truncate(10);
    contrast.extract(model, &options(), 0, |_| ControlFlow::Continue(())).expect("an extraction").vector
}
