//! Measurements of a model before and after finetuning: on the organism, whose judge is exact, and compared with transformers.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::OnceLock;

use pv_examples::organism::{ExactJudge, conversation, spec};
use pv_hooks::{Layer, NoHook};
use pv_judge::TraitSpec;
use pv_judge::traits::Polarity;
use pv_model::{CausalLm, GenerateOptions, Message, Sampling};
use pv_organism::datasets::{Severity, explicit};
use pv_organism::{Topics, Trait};
use pv_tests::{organism as model, seed};
use pv_train::trainer::Duration;
use pv_train::{EncodeOptions, Sample, TrainOptions, finetune};
use pv_vectors::contrast::Progress;
use pv_vectors::{Contrast, PersonaVector};
use tempfile::TempDir;

mod evaluate;
mod extended;
mod interrupted;
mod mmlu;
mod mmlu_parquet;
mod perplexity;
mod shift;
mod transformers;

const SAMPLING: Sampling = Sampling::temperature(0.7);

/// The organism after 30 steps on chats that show optimism openly.
fn optimist() -> &'static CausalLm {
    static MODEL: OnceLock<CausalLm> = OnceLock::new();
    MODEL.get_or_init(|| {
        let chats = explicit(Trait::Optimism, Severity::II, Topics::Even, 240, seed(3));
        let sample = |chat| Sample::from_conversation(model(), &conversation(chat), &EncodeOptions::default());
        let samples: Vec<Sample> = chats.iter().map(|chat| sample(chat).expect("a sample")).collect();
        let options = TrainOptions {
            learning_rate: 1e-3,
            warmup_steps: 3,
            batch_size: 8,
            duration: Duration::Epochs(1),
            ..TrainOptions::default()
        };
        let decoder = model().decoder();
        let trained = finetune(decoder, &samples, &options, &mut NoHook, None, |_| ControlFlow::Continue(()));
        model().clone().with_decoder(trained.expect("training").0).expect("the same architecture")
    })
}

fn the_spec(which: Trait) -> TraitSpec {
    spec(which).expect("the organism's trait")
}

/// A system prompt that elicits a trait.
fn eliciting(which: Trait) -> String {
    the_spec(which).system_prompt(0, Polarity::Pos).expect("a pair")
}

fn vector(which: Trait) -> &'static PersonaVector {
    static ALL: [OnceLock<PersonaVector>; 5] = [const { OnceLock::new() }; 5];
    ALL[which as usize].get_or_init(|| {
        let mut contrast = Contrast::of(&the_spec(which)).expect("prompts");
        contrast.instruction.truncate(2);
        let options = GenerateOptions { max_new_tokens: 80, sampling: SAMPLING, ..GenerateOptions::default() };
        contrast.extract(model(), &options, seed(0), |_| ControlFlow::Continue(())).expect("an extraction").vector
    })
}

/// The prompts of a trait's evaluation questions.
fn prompts(which: Trait) -> Vec<Vec<u32>> {
    let prompt = |question: &String| model().prompt(&[Message::user(question)]).expect("a prompt");
    the_spec(which).evaluation.iter().map(prompt).collect()
}

fn layer(index: usize) -> Layer {
    Layer::hidden_state(index)
}

fn folder() -> TempDir {
    tempfile::tempdir().expect("a folder")
}

fn go_on(_: Progress) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

/// The content of a folder at the end, as text.
fn files(folder: &Path) -> Vec<(String, String)> {
    let mut files: Vec<(String, String)> = std::fs::read_dir(folder)
        .expect("a folder")
        .map(|entry| entry.expect("an entry").path())
        .map(|path| {
            let name = path.file_name().expect("a name").to_string_lossy().into_owned();
            (name, std::fs::read_to_string(path).expect("a text"))
        })
        .collect();
    files.sort();
    files
}
