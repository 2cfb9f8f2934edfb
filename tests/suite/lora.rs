//! Adapters, compared with PEFT on small models with random weights, in forward passes and in training.

mod peft;

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use burn::tensor::{DType, Device};
use pv_hooks::{Layer, NoHook};
use pv_model::batch::{Batch, Sequence};
use pv_model::causal_lm::ForwardOptions;
use pv_model::decoder::{Logits, to_f32};
use pv_model::{Adapter, CausalLm, GenerateOptions, LoraConfig, Request};
use pv_steer::{Coefficient, Positions, Steerer};
use pv_tests::{Golden, compare, golden_folders};
use pv_train::regime::Schedule;
use pv_train::trainer::{Decay, Duration, Regimes, RunHook};
use pv_train::{Preventative, Regime, Sample, TrainOptions, Trainer};
use pv_vectors::Direction;

/// The folders with an adapter; at least the five of tests/golden.
fn folders() -> Vec<PathBuf> {
    let folders: Vec<PathBuf> =
        golden_folders().into_iter().filter(|folder| Golden::open(folder).has("logits_lora")).collect();
    assert!(folders.len() >= 5, "tests/golden lost its adapters");
    folders
}

struct Case {
    golden: Golden,
    model: CausalLm,
    adapter: Adapter,
    rows: Vec<Vec<u32>>,
    padded: usize,
}

impl Case {
    fn open(folder: &Path, device: &Device) -> Self {
        let golden = Golden::open(folder);
        let model = CausalLm::from_folder(folder, device, DType::F32).expect("a model folder");
        let adapter = Adapter::load_for(folder.join("adapter"), model.config()).expect("an adapter");
        let padded = golden.shape("input_ids")[1];
        let (ids, mask) = (golden.integers("input_ids"), golden.integers("attention_mask"));
        let rows = ids
            .chunks(padded)
            .zip(mask.chunks(padded))
            .map(|(ids, mask)| ids.iter().zip(mask).filter(|(_, mask)| **mask == 1).map(|(id, _)| *id).collect());
        Self { rows: rows.collect(), golden, model, adapter, padded }
    }

    /// The greatest difference from the reference's logits at real tokens.
    fn logits_differ_by(&self, model: &CausalLm) -> f32 {
        let sequences: Vec<_> = self.rows.iter().map(|ids| Sequence { prompt: ids, ..Sequence::default() }).collect();
        let batch = Batch::whole(&sequences).expect("a batch");
        let options = ForwardOptions { stop_at: None, logits: Logits::All };
        let output = model.forward(&batch, options, &mut NoHook).expect("a pass");
        let ours = to_f32(output.logits.expect("asked for")).expect("values");
        let reference = self.golden.floats("logits_lora");
        let width = reference.len() / (self.rows.len() * self.padded);
        let real = |values: &[f32]| -> Vec<f32> {
            let rows = values.chunks(self.padded * width).zip(&self.rows);
            rows.flat_map(|(row, ids)| row[(self.padded - ids.len()) * width..].to_vec()).collect()
        };
        compare("logits_lora".to_owned(), &real(&ours), &real(&reference)).max_abs
    }

    /// Both rows, trained from the given column on.
    fn samples(&self) -> Vec<Sample> {
        let from = self.golden.setting("/sft/response_from_token").as_u64().expect("a number") as usize;
        let sample = |ids: &Vec<u32>| {
            let padding = self.padded - ids.len();
            Sample::new(ids.clone(), (0..ids.len()).map(|i| i + padding >= from).collect()).expect("a sample")
        };
        self.rows.iter().map(sample).collect()
    }

    fn options(&self) -> TrainOptions {
        let number = |pointer: &str| self.golden.setting(pointer).as_f64().expect("a number");
        TrainOptions {
            learning_rate: number("/sft/lr"),
            decay: Decay::Constant,
            beta_1: number("/sft/betas/0") as f32,
            beta_2: number("/sft/betas/1") as f32,
            epsilon: number("/sft/eps") as f32,
            weight_decay: number("/sft/weight_decay") as f32,
            max_grad_norm: None,
            batch_size: 2,
            duration: Duration::Steps(number("/sft/steps") as usize),
            ..TrainOptions::default()
        }
    }

    fn direction(&self) -> Direction {
        let layer = self.golden.setting("/steer_layer").as_u64().expect("a layer") as usize;
        let values = self.golden.floats("steer_vector");
        Direction { layer: Layer::hidden_state(layer), values, mean_residual_norm: None }
    }

    fn regime(&self, name: &str) -> Vec<Regime> {
        let alpha = self.golden.setting("/steer_alpha").as_f64().expect("a coefficient") as f32;
        match name {
            "plain" => vec![],
            "steer" => vec![Regime::Preventative(Preventative {
                directions: vec![self.direction()],
                coefficient: Coefficient::Raw(alpha),
                schedule: Schedule::Constant,
            })],
            _ => vec![Regime::Ablated { directions: vec![self.direction()] }],
        }
    }

    /// Losses and gradient norms of the training steps.
    fn series(&self, options: TrainOptions, run: &mut impl RunHook) -> (Vec<f64>, Vec<f64>, Adapter) {
        let mut trainer = Trainer::on_adapter(self.model.decoder(), &self.adapter, options).expect("a trainer");
        let samples = self.samples();
        let mut norms = Vec::new();
        let report = trainer.run(
            |_| Ok(samples.clone()),
            run,
            None,
            |step| {
                norms.push(step.grad_norm);
                ControlFlow::Continue(())
            },
        );
        (report.expect("a run").losses, norms, trainer.adapter().expect("an adapter"))
    }
}

#[test]
fn logits_equal_those_of_peft() {
    for folder in folders() {
        let case = Case::open(&folder, &Device::flex());
        let adapted = case.model.with_adapter(&case.adapter).expect("it fits");
        let merged = case.model.clone().with_decoder(adapted.decoder().merged()).expect("the same architecture");
        let found = [&adapted, &merged].map(|model| case.logits_differ_by(model));
        println!("{}: {:.1e} as an adapter, {:.1e} merged", folder.display(), found[0], found[1]);
        assert!(found.iter().all(|gap| *gap <= 2e-4), "{}: {found:?}", folder.display());
        // Removed again, and saved and loaded in our format.
        assert!(case.logits_differ_by(&case.model) > 1e-2, "the adapter acts");
        let saved = tempfile::tempdir().expect("a folder");
        case.adapter.save(saved.path()).expect("it is written");
        assert_eq!(Adapter::load(saved.path()).expect("it is read"), case.adapter);
        // In generated answers, too: the merged model's answers equal the adapted one's.
        let answer = |model: &CausalLm| {
            let options =
                GenerateOptions { max_new_tokens: 12, stop_tokens: Some(vec![]), ..GenerateOptions::default() };
            let request = Request::new(case.rows[0].clone(), 0);
            let answers = model.generate(&[request], &options, &mut NoHook, |_| ControlFlow::Continue(()));
            answers.expect("an answer")[0].tokens.clone()
        };
        assert_eq!(answer(&adapted), answer(&merged));
    }
}

#[test]
fn every_training_step_equals_that_of_peft() {
    for folder in folders() {
        let case = Case::open(&folder, &Device::flex());
        for name in ["plain", "steer", "ablate"] {
            let losses = case.golden.floats(&format!("sft_losses_{name}"));
            let norms = case.golden.floats(&format!("sft_grad_norms_{name}"));
            let ways = [(false, 2, None), (false, 1, None), (true, 2, None), (true, 1, None), (false, 1, Some(1000))];
            for (activation_checkpointing, batch_size, pack_tokens) in ways {
                let options = TrainOptions { activation_checkpointing, batch_size, pack_tokens, ..case.options() };
                let mut regimes = Regimes::new(case.model.decoder(), case.regime(name)).expect("regimes");
                let (ours, our_norms, _) = case.series(options, &mut regimes);
                let worst = |ours: &[f64], reference: &[f32]| {
                    assert_eq!(ours.len(), reference.len());
                    let gaps = ours.iter().zip(reference).map(|(a, b)| (a / f64::from(*b) - 1.0).abs());
                    gaps.fold(0.0, f64::max)
                };
                let found = (worst(&ours, &losses), worst(&our_norms, &norms));
                println!("{} {name}: losses {:.1e}, norms {:.1e}", folder.display(), found.0, found.1);
                assert!(
                    found.0 <= 1e-3 && found.1 <= 1e-3,
                    "{name}: {ours:?} for {losses:?}; {our_norms:?} for {norms:?}"
                );
            }
        }
    }
}

#[test]
fn a_regime_and_the_same_hook_give_equal_results() {
    let folder = &folders()[0];
    let case = Case::open(folder, &Device::flex());
    let alpha = case.golden.setting("/steer_alpha").as_f64().expect("a coefficient") as f32;
    let mut regimes = Regimes::new(case.model.decoder(), case.regime("steer")).expect("regimes");
    let mut hook = Steerer::new().add(&case.direction(), Coefficient::Raw(alpha), Positions::All).expect("a steerer");
    let one = case.series(case.options(), &mut regimes);
    let other = case.series(case.options(), &mut hook);
    assert_eq!(one, other);
    // Coefficient 0 equals plain training, bit for bit.
    let mut nothing = Steerer::new().add(&case.direction(), Coefficient::Raw(0.0), Positions::All).expect("a steerer");
    assert_eq!(case.series(case.options(), &mut nothing), case.series(case.options(), &mut NoHook));
}

/// With more trained tokens than the logits in memory at one time when activations are recomputed.
#[test]
fn activation_checkpointing_changes_nothing_on_smollm2() {
    let model = CausalLm::from_folder(pv_tests::smollm2(), &Device::flex(), DType::F32).expect("the model");
    let vocab = model.config().vocab;
    let sample = |row: usize| {
        let ids: Vec<u32> = (0..120).map(|i| ((i * 7919 + row * 104_729 + 17) % vocab) as u32).collect();
        Sample::new(ids, vec![true; 120]).expect("a sample")
    };
    let samples = [sample(0), sample(1)];
    let series = |activation_checkpointing: bool| {
        let options = TrainOptions {
            learning_rate: 1e-3,
            batch_size: 2,
            duration: Duration::Steps(2),
            activation_checkpointing,
            adapter: Some(LoraConfig { rank: 4, ..LoraConfig::default() }),
            ..TrainOptions::default()
        };
        let mut trainer = Trainer::new(model.decoder(), options).expect("a trainer");
        [0, 1].map(|_| {
            let report = trainer.step(&samples, &mut NoHook).expect("a step");
            (report.loss, report.grad_norm)
        })
    };
    let (whole, by_layer) = (series(false), series(true));
    println!("{whole:?}, layer by layer {by_layer:?}");
    for ((loss, norm), (other_loss, other_norm)) in whole.iter().zip(&by_layer) {
        assert!((loss - other_loss).abs() < 1e-4 && (norm / other_norm - 1.0).abs() < 1e-3);
    }
    assert!(whole[1].0 < whole[0].0 - 1e-3, "nothing was learnt");
}
