//! The memory that loading takes. In a process of its own, because the system reports the peak of the whole process.
#![cfg(target_os = "linux")]
#![allow(clippy::print_stdout, reason = "a test shows what it measured")]

use burn::tensor::DType;
use pv_model::CausalLm;
use pv_tests::peak_memory;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[test]
fn loading_takes_little_more_memory_than_the_model() {
    let before = peak_memory() as f64;
    let device = pv_model::device("flex").expect("the CPU");
    let model = CausalLm::from_folder(pv_tests::smollm2(), &device, DType::F32).expect("the model");
    let size = model.config().parameters() as f64 * 4.0;
    let taken = peak_memory() as f64 - before;
    println!("loading took {:.2} × the model's size", taken / size);
    assert!(taken <= 1.25 * size, "loading took {taken} bytes for a model of {size}");
}
