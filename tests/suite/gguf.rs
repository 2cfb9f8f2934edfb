//! GGUF files as models: SmolLM2's own file against the folder made from it, and against gguf, llama.cpp and transformers if `PV_PYTHON`
//! names a Python with them (tests/python/gguf_files.py, gguf_models.py).

mod containers;
mod experts;
mod families;
mod gemma3;
mod llama_cpp;
mod made;
mod refused;
mod smollm2;
mod tokenizers;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use pv_hooks::NoHook;
use pv_model::CausalLm;
use pv_model::batch::{Batch, Sequence};
use pv_model::causal_lm::ForwardOptions;
use pv_model::decoder::{Logits, to_f32};
use pv_tests::root;
use serde_json::Value;

/// SmolLM2's own file, from which its folder is made.
fn own_file() -> PathBuf {
    pv_tests::smollm2().join("model.gguf")
}

fn script(arguments: &[&str], input: &str) -> Option<Value> {
    script_of("gguf_files.py", arguments, input)
}

/// The output of a script with this input; `None` without `PV_PYTHON`. A named Python that does not work is an error.
pub(crate) fn script_of(name: &str, arguments: &[&str], input: &str) -> Option<Value> {
    let Some(python) = std::env::var_os("PV_PYTHON").map(PathBuf::from) else {
        println!("PV_PYTHON names no Python for {name}: NOT CHECKED");
        return None;
    };
    let mut command = Command::new(&python);
    command.arg(root().join("tests/python").join(name)).args(arguments);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap_or_else(|error| panic!("PV_PYTHON={}: {error}", python.display()));
    child.stdin.take().expect("piped").write_all(input.as_bytes()).expect("the script reads");
    let output = child.wait_with_output().expect("the script ends");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "PV_PYTHON={} {arguments:?}: {errors}", python.display());
    Some(serde_json::from_slice(&output.stdout).expect("JSON"))
}

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

/// The logits of every token of one sequence.
fn logits(model: &CausalLm, prompt: &[u32]) -> Vec<f32> {
    let batch = Batch::whole(&[Sequence { prompt, ..Sequence::default() }]).expect("a batch");
    let options = ForwardOptions { stop_at: None, logits: Logits::All };
    let output = model.forward(&batch, options, &mut NoHook).expect("a pass");
    to_f32(output.logits.expect("asked for")).expect("values")
}
