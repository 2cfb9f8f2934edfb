//! Parity with Hugging Face transformers on small models with random weights.
//!
//! `PV_GOLDEN_DIRS` adds folders; see `golden_folders`.

use std::ops::ControlFlow;
use std::path::Path;

use burn::tensor::{DType, Device};
use pv_hooks::{Capture, Hook, Layer, LayerSet, NoHook, Recorder};
use pv_model::batch::{Batch, Sequence};
use pv_model::causal_lm::ForwardOptions;
use pv_model::decoder::{Logits, to_f32};
use pv_model::{CausalLm, GenerateOptions, Request};
use pv_parity::{Divergence, Golden, compare, golden_folders};
use pv_steer::{Coefficient, Positions, Steerer};
use pv_vectors::Direction;

/// The greatest absolute difference on the CPU.
const F32: f32 = 2e-4;
/// On GPUs, whose sums have another order.
#[cfg(any(feature = "wgpu", feature = "cuda"))]
const GPU_F32: f32 = 1e-3;

/// The tolerance for these values: rounding grows with the values, so the tolerance grows with values beyond 16.
fn allowed(tolerance: f32, reference: &[f32]) -> f32 {
    let greatest = reference.iter().fold(0.0f32, |most, value| most.max(value.abs()));
    tolerance * (greatest / 16.0).max(1.0)
}

struct Case {
    golden: Golden,
    model: CausalLm,
    rows: Vec<Vec<u32>>,
    padded: usize,
    tolerance: f32,
    /// Every difference beyond the tolerance.
    failures: Vec<Divergence>,
}

impl Case {
    fn open(folder: &Path, device: &Device, dtype: DType, tolerance: f32) -> Self {
        let golden = Golden::open(folder);
        let model = CausalLm::from_folder(folder, device, dtype).expect("a model folder");
        let padded = golden.shape("input_ids")[1];
        let (ids, mask) = (golden.integers("input_ids"), golden.integers("attention_mask"));
        let rows = ids.chunks(padded).zip(mask.chunks(padded));
        let real = |(ids, mask): (&[u32], &[u32])| {
            let padding = mask.iter().take_while(|&&m| m == 0).count();
            assert!(mask[padding..].iter().all(|&m| m == 1), "only left padding is known");
            ids[padding..].to_vec()
        };
        Self { golden, model, rows: rows.map(real).collect(), padded, tolerance, failures: Vec::new() }
    }

    fn batch(&self) -> Batch {
        let prompts: Vec<&[u32]> = self.rows.iter().map(Vec::as_slice).collect();
        Batch::prompts(&prompts, (0..prompts.len()).map(|i| vec![i]).collect()).expect("prompts")
    }

    /// Compares `[rows, padded, width]` at the positions that are not padding.
    fn check(&mut self, what: &str, ours: &[f32], reference: &[f32]) {
        let width = reference.len() / (self.rows.len() * self.padded);
        let real = |values: &[f32]| -> Vec<f32> {
            let rows = values.chunks(self.padded * width).zip(&self.rows);
            rows.flat_map(|(row, ids)| row[(self.padded - ids.len()) * width..].to_vec()).collect()
        };
        assert_eq!(ours.len(), reference.len(), "{what}");
        let found = compare(format!("{}: {what}", self.golden.folder.display()), &real(ours), &real(reference));
        if found.max_abs > allowed(self.tolerance, reference) {
            self.failures.push(found);
        }
    }

    fn logits(&self, hook: &mut impl Hook) -> Vec<f32> {
        let options = ForwardOptions { stop_at: None, logits: Logits::All };
        let output = self.model.forward(&self.batch(), options, hook).expect("a pass");
        to_f32(output.logits.expect("logits were asked for")).expect("logits")
    }

    fn direction(&self) -> Direction {
        let layer = self.golden.setting("/steer_layer").as_u64().expect("a layer") as usize;
        let values = self.golden.floats("steer_vector");
        Direction { layer: Layer::hidden_state(layer), values, mean_residual_norm: None }
    }

    fn coefficient(&self) -> Coefficient {
        Coefficient::Raw(self.golden.setting("/steer_alpha").as_f64().expect("a coefficient") as f32)
    }

    fn adding(&self, positions: Positions) -> Steerer {
        Steerer::new().add(&self.direction(), self.coefficient(), positions).expect("a direction")
    }

    fn hidden_states(&mut self) {
        let blocks = self.model.config().layers;
        let mut recorder = Recorder::new(LayerSet::All, [Capture::Everything]);
        let output =
            self.model.forward(&self.batch(), ForwardOptions::default(), &mut recorder).expect("a recorded pass");
        let width = self.model.config().d_model;
        let layer = |recorder: &Recorder, index: usize| -> Vec<f32> {
            let rows = (0..self.rows.len()).map(|row| {
                let tokens = recorder.tokens(row, Layer::hidden_state(index)).expect("recorded");
                let mut padded = vec![0.0; (self.padded - self.rows[row].len()) * width];
                padded.extend(to_f32(tokens).expect("values"));
                padded
            });
            rows.flatten().collect()
        };
        let ours: Vec<Vec<f32>> = (0..=blocks).map(|index| layer(&recorder, index)).collect();
        let normed = to_f32(self.model.decoder().final_norm(output.residual.clone())).expect("values");
        let reference = self.golden.floats("hidden_states");
        let per_layer = reference.len() / (blocks + 1);
        for (index, reference) in reference.chunks(per_layer).enumerate() {
            // The last entry is after the final norm; ours at that layer is the raw residual.
            let (what, ours) = match index == blocks {
                true => ("the final norm's output".to_owned(), &normed),
                false => (Layer::hidden_state(index).to_string(), &ours[index]),
            };
            self.check(&what, ours, reference);
        }
        let raw = self.golden.floats("last_residual");
        self.check("the last residual", &to_f32(output.residual).expect("values"), &raw);
        self.check("the last residual as recorded", &ours[blocks], &raw);
    }

    fn generate(&self, hook: &mut impl Hook) -> Vec<u32> {
        let n = self.golden.shape("greedy")[0];
        let options = GenerateOptions { max_new_tokens: n, stop_tokens: Some(vec![]), ..GenerateOptions::default() };
        let request = Request::new(self.rows[0].clone(), 0);
        let answers = self.model.generate(&[request], &options, hook, |_| ControlFlow::Continue(()));
        answers.expect("an answer")[0].tokens.clone()
    }

    /// Greedy tokens must be equal as long as the best logit leads by more than the tolerance.
    fn greedy(&self, name: &str, hook: &mut impl Hook) {
        let reference = self.golden.integers(name);
        assert_eq!(self.generate(hook), reference, "{}: {name}", self.golden.folder.display());
    }
}

/// Everything that a folder's reference data allows to compare.
fn parity(folder: &Path, device: &Device, dtype: DType, tolerance: f32, greedy: bool) -> Vec<Divergence> {
    let mut case = Case::open(folder, device, dtype, tolerance);
    case.hidden_states();
    let logits = case.logits(&mut NoHook);
    case.check("logits", &logits, &case.golden.floats("logits"));
    for (name, mut steerer) in [
        ("logits_steer_all", case.adding(Positions::All)),
        ("logits_steer_last", case.adding(Positions::Response)),
        ("logits_ablate", Steerer::new().ablate(&case.direction(), Positions::All).expect("a direction")),
    ] {
        let logits = case.logits(&mut steerer);
        case.check(name, &logits, &case.golden.floats(name));
    }
    if greedy {
        case.greedy("greedy", &mut NoHook);
        case.greedy("greedy_steer_response", &mut case.adding(Positions::Response));
    }
    // The same rows as whole sequences, one at a time: padding has no effect.
    let logits = case.golden.floats("logits");
    let width = logits.len() / (case.rows.len() * case.padded);
    for (row, ids) in case.rows.clone().iter().enumerate() {
        let batch = Batch::whole(&[Sequence { prompt: ids, ..Sequence::default() }]).expect("a sequence");
        let options = ForwardOptions { stop_at: None, logits: Logits::All };
        let output = case.model.forward(&batch, options, &mut NoHook).expect("a pass");
        let ours = to_f32(output.logits.expect("logits were asked for")).expect("values");
        let reference = &logits[((row + 1) * case.padded - ids.len()) * width..(row + 1) * case.padded * width];
        let found = compare(format!("{}: logits of row {row} alone", folder.display()), &ours, reference);
        if found.max_abs > allowed(tolerance, reference) {
            case.failures.push(found);
        }
    }
    case.failures
}

fn all_folders(device: &Device, dtype: DType, tolerance: f32, greedy: bool) {
    let mut failures = Vec::new();
    for folder in golden_folders() {
        let found = parity(&folder, device, dtype, tolerance, greedy);
        println!("{}: {}", folder.display(), if found.is_empty() { "equal" } else { "DIFFERENT" });
        failures.extend(found.iter().map(ToString::to_string));
    }
    assert!(failures.is_empty(), "beyond {tolerance:e}; the first line is where it begins:\n{}", failures.join("\n"));
}

#[test]
fn flex_f32() {
    all_folders(&pv_model::device("flex").expect("the CPU"), DType::F32, F32, true);
}

/// The kernels with gradients.
#[test]
fn flex_f32_autodiff() {
    all_folders(&Device::flex().autodiff(), DType::F32, F32, true);
}

/// The portable operations that all other backends use; with gradient checkpointing, the CPU uses them too.
#[test]
fn flex_f32_portable() {
    all_folders(&Device::flex().autodiff().gradient_checkpointing(), DType::F32, F32, true);
}

/// Half precision has few digits: this checks the code path, not the last digits.
#[test]
fn flex_bf16() {
    all_folders(&Device::flex(), DType::BF16, 0.35, false);
}

#[test]
fn flex_f16() {
    all_folders(&Device::flex(), DType::F16, 0.04, false);
}

/// WGSL shaders, which software adapters support too.
#[cfg(all(feature = "wgpu", not(feature = "vulkan")))]
#[test]
fn wgpu_f32() {
    all_folders(&pv_model::device("wgpu").expect("an adapter"), DType::F32, GPU_F32, true);
}

/// SPIR-V shaders, for real GPUs: Mesa 22.3's software driver crashes on some of the kernels.
#[cfg(feature = "vulkan")]
#[test]
fn vulkan_f32() {
    all_folders(&pv_model::device("vulkan").expect("a Vulkan adapter"), DType::F32, GPU_F32, true);
}

#[cfg(feature = "cuda")]
#[test]
fn cuda_f32() {
    all_folders(&pv_model::device("cuda").expect("a CUDA GPU"), DType::F32, GPU_F32, true);
}

#[cfg(feature = "cuda")]
#[test]
fn cuda_bf16() {
    all_folders(&pv_model::device("cuda").expect("a CUDA GPU"), DType::BF16, 0.35, false);
}
