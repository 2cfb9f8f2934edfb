//! Our adapters in PEFT, and PEFT's adapters here, on SmolLM2, if `PV_PYTHON` names a Python with PEFT.

use std::path::{Path, PathBuf};
use std::process::Command;

use pv_model::adapter::LoraTarget;
use pv_tests::{root, smollm2};
use safetensors::SafeTensors;
use serde_json::{Value, json};

use super::*;

/// Token ids of rows of two lengths; no tokenizer is needed.
fn rows(vocab: usize) -> Vec<Vec<u32>> {
    [29, 17].iter().map(|n| (0..*n).map(|i| ((i * 7919 + n * 104_729 + 17) % vocab) as u32).collect()).collect()
}

fn logits(model: &CausalLm, ids: &[u32]) -> Vec<f32> {
    let batch = Batch::whole(&[Sequence { prompt: ids, ..Sequence::default() }]).expect("a batch");
    let options = ForwardOptions { stop_at: None, logits: Logits::All };
    let output = model.forward(&batch, options, &mut NoHook).expect("a pass");
    to_f32(output.logits.expect("asked for")).expect("values")
}

/// The greatest difference of the logits of all rows from the reference's, and the greatest logit.
fn gap(model: &CausalLm, rows: &[Vec<u32>], reference: &SafeTensors<'_>, name: &str) -> (f32, f32) {
    let mut worst = (0.0f32, 0.0f32);
    for (row, ids) in rows.iter().enumerate() {
        let tensor = reference.tensor(&format!("{name}.{row}")).expect("the script computed it");
        let theirs: Vec<f32> =
            tensor.data().chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
        let found = compare(name.to_owned(), &logits(model, ids), &theirs).max_abs;
        worst = (worst.0.max(found), theirs.iter().fold(worst.1, |most, value| most.max(value.abs())));
    }
    worst
}

/// A few steps on the rows, which change the logits clearly.
fn trained(model: &CausalLm, rows: &[Vec<u32>]) -> Adapter {
    let options = TrainOptions {
        learning_rate: 2e-3,
        decay: Decay::Constant,
        batch_size: 2,
        duration: Duration::Steps(3),
        adapter: Some(LoraConfig { rank: 8, alpha: 16.0, rslora: true, ..LoraConfig::default() }),
        ..TrainOptions::default()
    };
    let samples: Vec<Sample> = rows
        .iter()
        .map(|ids| Sample::new(ids.clone(), (0..ids.len()).map(|i| i > 4).collect()).expect("a sample"))
        .collect();
    let mut trainer = Trainer::new(model.decoder(), options).expect("a trainer");
    let report = trainer.run(|_| Ok(samples.clone()), &mut NoHook, None, |_| ControlFlow::Continue(()));
    let losses = report.expect("a run").losses;
    assert!(losses[2] < losses[0], "{losses:?}");
    trainer.adapter().expect("an adapter").with_base("SmolLM2-135M-Instruct")
}

fn run_script(python: &Path, place: &Path) -> Value {
    let output = Command::new(python)
        .arg(root().join("tests/python/adapters.py"))
        .args([smollm2().as_os_str(), place.as_os_str()])
        .output()
        .unwrap_or_else(|error| panic!("PV_PYTHON={}: {error}", python.display()));
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "PV_PYTHON={}: {errors}", python.display());
    serde_json::from_slice(&output.stdout).expect("JSON")
}

#[test]
fn adapters_are_exchanged_with_peft() {
    let Some(python) = std::env::var_os("PV_PYTHON").map(PathBuf::from) else {
        println!("PV_PYTHON names no Python with PEFT: NOT CHECKED");
        return;
    };
    let model = CausalLm::from_folder(smollm2(), &Device::flex(), DType::F32).expect("the model");
    let rows = rows(model.config().vocab);
    let place = tempfile::tempdir().expect("a folder");
    let ours = trained(&model, &rows);
    ours.save(place.path().join("ours")).expect("it is written");
    std::fs::write(place.path().join("rows.json"), json!(rows).to_string()).expect("a file");
    let said = run_script(&python, place.path());
    println!("{said}");

    let bytes = std::fs::read(place.path().join("logits.safetensors")).expect("the script's logits");
    let reference = SafeTensors::deserialize(&bytes).expect("safetensors");
    let check = |name: &str, adapter: &Adapter| {
        let adapted = model.with_adapter(adapter).expect("it fits");
        let (found, greatest) = gap(&adapted, &rows, &reference, name);
        let (without, _) = gap(&model, &rows, &reference, name);
        println!("{name}: logits differ by {found:.1e} of {greatest:.0}, without the adapter by {without:.2}");
        // Rounding grows with the values, as in the parity tests.
        assert!(found <= 2e-4 * (greatest / 16.0).max(1.0), "{name}: {found}");
        assert!(without > 0.1, "{name}: the adapter does nothing");
    };
    check("ours", &ours);
    for (name, rslora, targets) in [
        ("peft-rslora", true, LoraTarget::ALL.to_vec()),
        ("peft-plain", false, vec![LoraTarget::Query, LoraTarget::Value, LoraTarget::Down]),
    ] {
        let adapter = Adapter::load_for(place.path().join(name), model.config()).expect("PEFT's adapter");
        let config = adapter.config();
        assert_eq!((config.rank, config.rslora), (8, rslora));
        assert_eq!(config.targets.iter().copied().collect::<Vec<_>>(), targets);
        check(name, &adapter);
    }
    // Several together, on the decoder and merged into it.
    let read = |name: &str| Adapter::load_for(place.path().join(name), model.config()).expect("PEFT's adapter");
    let both = model.decoder().with_adapter(&read("peft-plain"), 0.5).expect("it fits");
    let both = both.with_adapter(&read("peft-rslora"), 1.0).expect("it fits");
    for (what, decoder) in [("both", both.clone()), ("both merged", both.merged())] {
        let model = model.clone().with_decoder(decoder).expect("the same architecture");
        let (found, greatest) = gap(&model, &rows, &reference, "peft-sum");
        println!("{what}: logits differ by {found:.1e} of {greatest:.0}");
        assert!(found <= 2e-4 * (greatest / 16.0).max(1.0), "{what}: {found}");
    }
    // PEFT reads the settings of our folder as we wrote them.
    assert_eq!(said["ours"], json!({ "r": 8, "lora_alpha": 16.0, "use_rslora": true, "tensors": 2 * 7 * 30 }));
}
