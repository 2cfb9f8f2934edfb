//! Control on the organism: a cap removes an elicited trait and leaves ordinary answers unchanged, and the control solution moves
//! one trait's projection and not the others'. The sizes of the effects are measured by `organism_studies`.

mod capping;
mod leakage;

use std::ops::ControlFlow;

use pv_examples::SAMPLING;
use pv_examples::organism::contrast;
use pv_model::GenerateOptions;
use pv_organism::Trait;
use pv_tests::{organism, seed};
use pv_vectors::PersonaVector;

fn options() -> GenerateOptions {
    GenerateOptions { max_new_tokens: 80, sampling: SAMPLING, batch_size: 32, ..GenerateOptions::default() }
}

/// A trait's vector, from half of its extraction questions, which is enough here and faster.
fn extract(which: Trait) -> PersonaVector {
    let mut contrast = contrast(which);
    contrast.questions.truncate(10);
    let extraction = contrast.extract(organism(), &options(), seed(0), |_| ControlFlow::Continue(()));
    extraction.expect("an extraction").vector
}
