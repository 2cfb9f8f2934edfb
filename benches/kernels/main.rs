//! Bytes of weights per second of linear layers with kept weights, beside the bandwidth of plain reading in the same run; one
//! JSON line per measure. Usage: `kernels [THREADS [NAME]]`, where NAME is a part of a format's or a shape's name.
#![allow(clippy::print_stdout, reason = "a program's output")]

use std::hint::black_box;
use std::time::Instant;

use pv_kernels::kept::{Format, Kept, KeptRef};
use pv_kernels::linear::linear;
use pv_kernels::linear_kept::{grad_input_kept, linear_kept, linear_kept_bf16, linear_kept_rounded};
use rayon::prelude::*;

/// Name, inputs and outputs: MLPs, and the output layer of the smallest.
const SHAPES: [(&str, usize, usize); 4] = [
    ("smollm2-135m-mlp", 576, 1536),
    ("smollm2-135m-head", 576, 49152),
    ("qwen2.5-0.5b-mlp", 896, 4864),
    ("qwen2.5-7b-mlp", 3584, 18944),
];

/// Weights of a size that no cache holds are read this often in turn.
const MEMORY: usize = 192 << 20;

/// Rows of a prefill.
const PREFILL: usize = 512;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let threads = args.next().map_or(Ok(0), |threads| threads.parse())?;
    let name = args.next().unwrap_or_default().to_lowercase();
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build()?;
    pool.install(|| measure(&name));
    Ok(())
}

fn measure(name: &str) {
    for (shape, k, n) in SHAPES {
        // A layer's formats are skipped if the name is that of another shape.
        let chosen =
            |format: Format| [shape.to_string(), format.name().to_lowercase()].iter().any(|part| part.contains(name));
        let values = noise(k * n);
        let prefill = seconds(1, |_| {
            let (x, mut out) = (noise(PREFILL * k), vec![0.0; PREFILL * n]);
            let start = Instant::now();
            linear(&x, &values, None, &mut out, PREFILL, k, n);
            black_box(&out);
            start.elapsed().as_secs_f64()
        });
        for format in Format::ALL.into_iter().filter(|&format| chosen(format)) {
            if format.bytes(k).is_none() {
                continue;
            }
            let bytes = quick(format, &values);
            // Several copies, so that each is read from memory.
            let copies: Vec<Kept> =
                (0..(MEMORY / bytes.len()).clamp(1, 300)).map(|_| Kept::new(format, bytes.clone())).collect();
            let read = copies.len() as f64 * bytes.len() as f64 / 1e9;
            let mut products = vec![("f32", linear_kept as Product)];
            if format.block_elements() > 1 {
                products.push(("q8", linear_kept_rounded));
            }
            if format == Format::Bf16 {
                products.push(("bf16", linear_kept_bf16));
            }
            for (activations, product) in products {
                for m in [1, 16] {
                    let (x, mut out) = (noise(m * k), vec![0.0; m * n]);
                    let plain = read / seconds(3, |_| timed(|| copies.iter().for_each(|w| read_all(w.bytes()))));
                    let all = || copies.iter().for_each(|w| product(&x, w.as_ref(), None, &mut out, m, k, n));
                    let ours = read / repeated(3, all);
                    println!(
                        "{{\"shape\": \"{shape}\", \"format\": \"{format}\", \"activations\": \"{activations}\", \"rows\": {m}, \
                         \"gb_per_s\": {ours:.2}, \"plain_read_gb_per_s\": {plain:.2}, \"ratio\": {:.2}, \
                         \"gmul_per_s\": {:.2}}}",
                        ours / plain,
                        ours * m as f64 * 8.0 / f64::from(format.bits_per_element()),
                    );
                }
                let (x, mut out) = (noise(PREFILL * k), vec![0.0; PREFILL * n]);
                let ours = repeated(1, || product(&x, copies[0].as_ref(), None, &mut out, PREFILL, k, n));
                println!(
                    "{{\"shape\": \"{shape}\", \"format\": \"{format}\", \"activations\": \"{activations}\", \"rows\": {PREFILL}, \
                     \"ms\": {:.2}, \"f32_ms\": {:.2}, \"ratio\": {:.2}}}",
                    ours * 1e3,
                    prefill * 1e3,
                    ours / prefill,
                );
            }
            let (upstream, mut grad) = (noise(PREFILL * n), vec![0.0; PREFILL * k]);
            let gradient = repeated(1, || grad_input_kept(&upstream, copies[0].as_ref(), &mut grad, PREFILL, k, n));
            println!(
                "{{\"shape\": \"{shape}\", \"format\": \"{format}\", \"rows\": {PREFILL}, \"gradient_ms\": {:.2}}}",
                gradient * 1e3,
            );
        }
    }
}

/// A linear layer with kept weights.
type Product = fn(&[f32], KeptRef<'_>, Option<&[f32]>, &mut [f32], usize, usize, usize);

/// The blocks of values, with the same blocks over and over: quantizing all would take longer than the measures.
fn quick(format: Format, values: &[f32]) -> Vec<u8> {
    let few = Kept::quantize(format, &values[..values.len().min(1 << 14)]);
    let size = format.bytes(values.len()).unwrap_or_default();
    few.bytes().iter().copied().cycle().take(size).collect()
}

fn noise(len: usize) -> Vec<f32> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    (0..len)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 40) as f32 / (1 << 23) as f32 - 1.0
        })
        .collect()
}

fn timed(work: impl FnOnce()) -> f64 {
    let start = Instant::now();
    work();
    start.elapsed().as_secs_f64()
}

/// The least of several measures after one that does not count: others may use the machine.
fn seconds(runs: usize, mut measure: impl FnMut(usize) -> f64) -> f64 {
    measure(0);
    (0..runs.max(2)).map(&mut measure).fold(f64::INFINITY, f64::min)
}

fn repeated(runs: usize, mut work: impl FnMut()) -> f64 {
    seconds(runs, |_| timed(&mut work))
}

/// Reads bytes with the pool's threads, and does nothing else.
fn read_all(bytes: &[u8]) {
    let task = bytes.len().div_ceil(rayon::current_num_threads() * 4).next_multiple_of(64);
    let sum: u64 = bytes
        .par_chunks(task)
        .map(|bytes| {
            let mut sums = [0u64; 16];
            for chunk in bytes.as_chunks::<128>().0 {
                for (sum, word) in sums.iter_mut().zip(chunk.as_chunks::<8>().0) {
                    *sum ^= u64::from_le_bytes(*word);
                }
            }
            sums.iter().fold(0, |a, b| a ^ b)
        })
        .reduce(|| 0, |a, b| a ^ b);
    black_box(sum);
}
