//! Screening of training data: on the organism, whose data sets have known traits, and compared with plain loops.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use pv_data::Conversation;
use pv_data::conversations::write_conversations;
use pv_examples::organism::{contrast, conversation};
use pv_hooks::{Hook, Layer};
use pv_model::batch::{Batch, Sequence};
use pv_model::causal_lm::ForwardOptions;
use pv_model::decoder::{Logits, to_f32};
use pv_model::{CausalLm, GenerateOptions, Sampling};
use pv_organism::{Chat, Trait};
use pv_screen::base_answers::BaseOptions;
use pv_screen::scores::{ScoreRow, read_scores};
use pv_screen::screen::Step;
use pv_screen::{Screen, ScreenOptions, Summary};
use pv_tests::{organism as model, seed};
use pv_vectors::{PersonaVector, TraitDirection};
use tempfile::TempDir;

mod columns;
mod difference;
mod estimates;
mod inputs;
mod interrupted;
mod judging;
mod likelihoods;
mod memory;
mod real;
mod score_table;
mod separation;

/// A trait's vector from two of its instruction pairs.
fn vector(which: Trait) -> &'static PersonaVector {
    static ALL: [OnceLock<PersonaVector>; 5] = [const { OnceLock::new() }; 5];
    ALL[which as usize].get_or_init(|| {
        let mut contrast = contrast(which);
        contrast.instruction.truncate(2);
        let sampling = Sampling::temperature(0.7);
        let options = GenerateOptions { max_new_tokens: 80, sampling, ..GenerateOptions::default() };
        contrast.extract(model(), &options, seed(0), |_| ControlFlow::Continue(())).expect("an extraction").vector
    })
}

fn direction(which: Trait, layer: usize) -> TraitDirection {
    TraitDirection::of(vector(which), Layer::hidden_state(layer)).expect("a direction")
}

/// The log-probabilities of an answer's tokens from one pass per sequence, with the softmax in f64.
fn log_probs_alone(model: &CausalLm, prompt: &[u32], answer: &[u32], hook: &mut dyn Hook) -> Vec<f64> {
    let batch = Batch::whole(&[Sequence { prompt, response: answer, rest: &[] }]).expect("a batch");
    let options = ForwardOptions { logits: Logits::All, ..ForwardOptions::default() };
    let logits = model.forward(&batch, options, hook).expect("a pass").logits.expect("asked for");
    let logits = to_f32(logits).expect("values");
    let log_prob = |(row, token): (&[f32], &u32)| {
        let sum: f64 = row.iter().map(|logit| f64::from(*logit).exp()).sum();
        f64::from(row[*token as usize]) - sum.ln()
    };
    logits.chunks(model.config().vocab).skip(prompt.len() - 1).zip(answer).map(log_prob).collect()
}

fn folder() -> TempDir {
    tempfile::tempdir().expect("a folder")
}

/// Writes chats to a file of a folder.
fn write(folder: &Path, name: &str, chats: &[Chat]) -> PathBuf {
    let conversations: Vec<Conversation> = chats.iter().map(conversation).collect();
    let path = folder.join(name);
    write_conversations(&path, &conversations).expect("a writable folder");
    path
}

fn options() -> ScreenOptions {
    ScreenOptions {
        answers: BaseOptions { max_new_tokens: 80, batch_size: 32, ..BaseOptions::default() },
        ..ScreenOptions::default()
    }
}

/// Screens a file; the summary, the table, and how many base answers were generated.
fn screen(
    directions: &[TraitDirection],
    options: &ScreenOptions,
    input: &Path,
    out: &Path,
) -> (Summary, Vec<ScoreRow>, usize) {
    let mut answered = 0;
    let summary = Screen::new(model(), directions, options)
        .expect("a screening")
        .run(&[input], out, |progress| {
            answered += usize::from(progress.step == Step::Answering);
            ControlFlow::Continue(())
        })
        .expect("a summary");
    (summary, table(out), answered)
}

fn table(out: &Path) -> Vec<ScoreRow> {
    let mut rows = Vec::new();
    read_scores(&out.join(pv_screen::screen::SCORES), |row| {
        rows.push(row);
        Ok(())
    })
    .expect("a table");
    rows
}

/// ΔP of every row on a direction.
fn deltas(rows: &[ScoreRow], label: &str) -> Vec<f64> {
    rows.iter().map(|row| row.scores[label].delta.expect("every base answer")).collect()
}
