//! The memory that loading takes. Alone in its process, since the peak that the system reports is the process's.
#![cfg(target_os = "linux")]
#![allow(clippy::print_stdout, reason = "a test shows what it measured")]

use burn::tensor::DType;
use pv_model::CausalLm;

/// The most memory that this process has held so far, in bytes.
fn peak() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("proc");
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).expect("a peak");
    line.split_whitespace().nth(1).expect("kB").parse::<f64>().expect("a number") * 1024.0
}

#[test]
fn loading_takes_little_more_memory_than_the_model() {
    let before = peak();
    let device = pv_model::device("flex").expect("the CPU");
    let model = CausalLm::from_folder(pv_tests::smollm2(), &device, DType::F32).expect("the model");
    let size = model.config().parameters() as f64 * 4.0;
    let taken = peak() - before;
    println!("loading took {:.2} × the model's size", taken / size);
    assert!(taken <= 1.25 * size, "loading took {taken} bytes for a model of {size}");
}
