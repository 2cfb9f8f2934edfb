//! Training runs in folders, on the organism: interrupted, refused, failing, measured; and their data.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use pv_data::Conversation;
use pv_data::conversations::write_conversations;
use pv_examples::organism::conversation;
use pv_hooks::Layer;
use pv_model::adapter::LoraTarget;
use pv_model::{LoraConfig, Message};
use pv_organism::datasets::{Severity, explicit, held_out};
use pv_organism::{Topics, Trait};
use pv_steer::Coefficient;
use pv_tests::organism as model;
use pv_train::data::HeldOut;
use pv_train::regime::{ClosedLoop, Schedule};
use pv_train::run::{Probes, StepMetrics, read_metrics};
use pv_train::trainer::Duration;
use pv_train::{DataOptions, DataSet, Preventative, Regime, RunOptions, TrainOptions, TrainingRun};
use pv_vectors::{Direction, TraitDirection};
use serde_json::Value;
use tempfile::TempDir;

mod best;
mod data;
mod devices;
mod extended;
mod failures;
mod interrupted;
mod measured;
mod tensorboard;

/// The name of a variable with the place of a process's data.
const DATA: &str = "PV_RUN_DATA";

fn chats(count: usize, seed: u64) -> Vec<Conversation> {
    explicit(Trait::Optimism, Severity::II, Topics::Even, count, seed).iter().map(conversation).collect()
}

fn folder() -> TempDir {
    tempfile::tempdir().expect("a folder")
}

fn direction(layer: usize) -> Direction {
    let values = (0..model().config().d_model).map(|i| ((i * i) as f32 * 0.7 + layer as f32).sin() * 3.0).collect();
    Direction { layer: Layer::hidden_state(layer), values, mean_residual_norm: None }
}

fn prompts() -> Vec<Vec<u32>> {
    let questions = held_out(Topics::Even, 20, 9).mixed;
    questions.iter().map(|q| model().prompt(&[Message::user(q.text())]).expect("a prompt")).collect()
}

fn options() -> RunOptions {
    let targets = [LoraTarget::Query, LoraTarget::Output, LoraTarget::Down].into();
    RunOptions {
        train: TrainOptions {
            learning_rate: 5e-3,
            warmup_steps: 2,
            batch_size: 2,
            accumulate: 2,
            // Six steps of four samples and one step of one.
            duration: Duration::Epochs(2),
            adapter: Some(LoraConfig { rank: 4, targets, ..LoraConfig::default() }),
            seed: 3,
            ..TrainOptions::default()
        },
        checkpoint_every: 3,
        measure_every: 4,
        ..RunOptions::default()
    }
}

/// A run's inputs, the same in a killed process and in this one.
struct Case {
    options: RunOptions,
    train: DataSet,
    held_out: Option<DataSet>,
    probes: Option<Probes>,
    regimes: Vec<Regime>,
}

impl Case {
    fn plain() -> Self {
        let file = folder();
        // A process that cannot write is given its data.
        let given = std::env::var_os(DATA).map(PathBuf::from);
        let path = given.unwrap_or_else(|| {
            let path = file.path().join("data.jsonl");
            write_conversations(&path, &chats(28, 5)).expect("a file");
            path
        });
        let split = HeldOut { fraction: 0.1, seed: 1 };
        let (train, held_out) =
            DataSet::read_split(model(), [&path], &DataOptions::default(), &[], split).expect("samples");
        let named = |layer| TraitDirection {
            trait_name: "made_up".to_owned(),
            direction: direction(layer).unit().expect("a direction"),
        };
        let probes = Probes::new(prompts(), vec![named(3), named(7)]).expect("probes");
        Self { options: options(), train, held_out: Some(held_out), probes: Some(probes), regimes: vec![] }
    }

    fn named(name: &str) -> Self {
        let mut case = Self::plain();
        let train = &mut case.options.train;
        let preventative = |schedule| {
            Regime::Preventative(Preventative {
                directions: vec![direction(4)],
                coefficient: Coefficient::Raw(1.0),
                schedule,
            })
        };
        match name {
            "plain" => {}
            "dropout" => {
                train.adapter.as_mut().expect("an adapter").dropout = 0.3;
                train.activation_checkpointing = true;
            }
            "closed_loop" => {
                let (probes, along) = (prompts()[..8].to_vec(), direction(7));
                let closed = ClosedLoop { probes, along, every: 2, gain: 0.7, most: 3.0 };
                case.regimes = vec![
                    preventative(Schedule::ClosedLoop(closed)),
                    Regime::Ablated { directions: vec![direction(5)] },
                ];
            }
            "penalty" => {
                case.regimes = vec![
                    preventative(Schedule::WarmUp { steps: 6 }),
                    Regime::Regularised { direction: direction(3), weight: 0.02 },
                ];
                case.held_out = None;
                case.probes = None;
            }
            "packed" => {
                (train.pack_tokens, train.accumulate) = (Some(120), 1);
                train.duration = Duration::Steps(14);
            }
            "all_parameters" => {
                train.adapter = None;
                train.learning_rate = 1e-4;
            }
            other => panic!("no case {other}"),
        }
        case
    }

    fn run(&self) -> TrainingRun<'_> {
        let mut run = TrainingRun::new(model(), &self.train, self.options.clone()).with_regimes(self.regimes.clone());
        if let Some(held_out) = &self.held_out {
            run = run.with_held_out(held_out);
        }
        if let Some(probes) = &self.probes {
            run = run.with_probes(probes);
        }
        run
    }
}

fn go_on(_: &StepMetrics) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

/// All results of a run that do not depend on time: its files by name, and the metrics.
fn outcome(folder: &Path) -> (BTreeMap<String, Vec<u8>>, Vec<StepMetrics>) {
    fn collect(root: &Path, at: &Path, files: &mut BTreeMap<String, Vec<u8>>) {
        for entry in std::fs::read_dir(at).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                collect(root, &path, files);
                continue;
            }
            let name = path.strip_prefix(root).expect("inside").display().to_string();
            let bytes = std::fs::read(&path).expect("a file");
            match name.as_str() {
                "metrics.jsonl" => {}
                // The rest depends on the place of the data.
                "config.json" => {
                    let config: Value = serde_json::from_slice(&bytes).expect("JSON");
                    files.insert(name, config["run"].to_string().into_bytes());
                }
                _ => {
                    files.insert(name, bytes);
                }
            }
        }
    }
    let mut files = BTreeMap::new();
    collect(folder, folder, &mut files);
    let timeless = |mut line: StepMetrics| {
        (line.seconds, line.tokens_per_second) = (0.0, 0.0);
        line
    };
    (files, read_metrics(folder).expect("metrics").into_iter().map(timeless).collect())
}

/// Compares two folders and names the files that differ.
fn assert_same(found: &Path, expected: &Path) {
    let ((found, lines), (expected, expected_lines)) = (outcome(found), outcome(expected));
    assert_eq!(found.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>());
    let differ: Vec<_> = found.keys().filter(|name| found[*name] != expected[*name]).collect();
    assert!(differ.is_empty(), "{differ:?} differ");
    assert_eq!(lines, expected_lines);
}
