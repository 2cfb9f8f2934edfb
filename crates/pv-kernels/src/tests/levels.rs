//! Every kernel gives the same bits on every instruction set and with every number of threads.

use std::ffi::OsStr;
use std::process::Command;

use super::{hash, in_pool, noise};
use crate::attention::{AttentionShape, attention};
use crate::cache::write_cache;
use crate::elementwise::add_in_place;
use crate::gated::{Activation, gated};
use crate::gradients::{
    Vectors, attention_gradient, column_sums, cross_entropy, cross_entropy_gradient, gated_gradient, rms_norm_gradient,
};
use crate::kept::{Format, dequantize, quantize};
use crate::linear::{Columns, grad_input, grad_weight, linear, linear_add};
use crate::norm::{add_rms_norm, rms_norm, rms_norm_heads_in_place};
use crate::rope::rope_in_place;
use crate::simd::{SimdError, check};
use crate::softmax::softmax_weights;
use crate::vector::level::Level;
use crate::vector::level::forced::at_each;

/// Runs a kernel for some sizes; the results.
type Case = (&'static str, fn() -> Vec<f32>);

/// The kernels of kept weights have a test of their own.
const CASES: [Case; 22] = [
    ("linear", || {
        let sizes = [
            (1, 577, 67),
            (2, 64, 33),
            (3, 50, 9),
            (7, 300, 130),
            (16, 65, 66),
            (17, 577, 67),
            (37, 577, 67),
            (200, 530, 130),
        ];
        let product = |(m, k, n): (usize, usize, usize)| {
            let mut out = vec![0.0; m * n];
            linear(&noise(m * k, 1), &noise(n * k, 2), Some(&noise(n, 3)), &mut out, m, k, n);
            out
        };
        sizes.into_iter().flat_map(product).collect()
    }),
    ("grad_input", || {
        let gradient = |(m, k, n): (usize, usize, usize)| {
            let mut out = vec![0.0; m * k];
            grad_input(&noise(m * n, 1), &noise(n * k, 2), &mut out, m, k, n);
            out
        };
        [(1, 67, 30), (9, 70, 300), (200, 130, 257)].into_iter().flat_map(gradient).collect()
    }),
    ("grad_weight", || {
        let gradient = |(m, n, k): (usize, usize, usize)| {
            let (of, from) =
                (Columns { width: n + 5, first: 3, count: n }, Columns { width: k + 9, first: 6, count: k });
            let mut out = vec![0.0; n * k];
            grad_weight(&noise(m * of.width, 1), of, &noise(m * from.width, 2), from, &mut out);
            out
        };
        [(1, 3, 5), (70, 33, 170), (300, 170, 33), (130, 1100, 70)].into_iter().flat_map(gradient).collect()
    }),
    ("linear_add", || {
        let add = |(m, k, n): (usize, usize, usize)| {
            let (from, to) =
                (Columns { width: k + 5, first: 3, count: k }, Columns { width: n + 9, first: 6, count: n });
            let mut out = noise(m * to.width, 3);
            linear_add(&noise(m * from.width, 1), from, &noise(n * k, 2), &mut out, to);
            out
        };
        [(3, 8, 70), (16, 33, 20), (150, 8, 70), (150, 33, 130)].into_iter().flat_map(add).collect()
    }),
    ("attention of few queries", || attend(&[(3, 1, 700), (2, 2, 300), (1, 4, 30)], None)),
    ("attention of many queries", || attend(&[(1, 300, 0), (2, 40, 290)], None)),
    ("attention with a softcap", || {
        let capped = |shape| AttentionShape { softcap: Some(1.5), ..shape };
        attend_as(capped, &[(3, 1, 700), (1, 4, 30), (2, 40, 290)], None)
    }),
    ("attention with sinks", || attend(&[(3, 1, 700), (1, 4, 30), (2, 40, 290)], Some(&SINKS))),
    ("attention_gradient", || {
        let gradient = |(d, window): (usize, Option<usize>)| {
            let shape = shape(2, 130, 0, [6, 2, d], window);
            let mut out = vec![0.0; 2 * 130 * shape.row_stride()];
            let upstream = noise(2 * 130 * 6 * d, 2);
            attention_gradient(&shape, &noise(out.len(), 1), &[0, 20], None, &upstream, &mut out);
            out
        };
        [(16, None), (20, Some(50))].into_iter().flat_map(gradient).collect()
    }),
    ("attention_gradient with a softcap", || {
        let shape = AttentionShape { softcap: Some(1.5), ..shape(2, 130, 0, [6, 2, 20], None) };
        let mut out = vec![0.0; 2 * 130 * shape.row_stride()];
        let upstream = noise(2 * 130 * 6 * 20, 2);
        attention_gradient(&shape, &noise(out.len(), 1), &[0, 20], None, &upstream, &mut out);
        out
    }),
    ("attention_gradient with sinks", || {
        let shape = shape(2, 130, 0, [6, 2, 20], Some(50));
        let mut out = vec![0.0; 2 * 130 * shape.row_stride()];
        let upstream = noise(2 * 130 * 6 * 20, 2);
        let qkv = noise(out.len(), 1);
        let of_sinks = attention_gradient(&shape, &qkv, &[0, 20], Some(&SINKS), &upstream, &mut out);
        [out, of_sinks].concat()
    }),
    ("geglu", || {
        let (m, f) = (40, 33);
        let gate_up: Vec<f32> = noise(m * 2 * f, 1).iter().map(|v| v * 8.0).collect();
        let (mut out, mut gradient) = (vec![0.0; m * f], vec![0.0; m * 2 * f]);
        gated(Activation::GeluTanh, &gate_up, &mut out, m, f);
        gated_gradient(Activation::GeluTanh, &gate_up, &noise(m * f, 2), &mut gradient, f);
        [out, gradient].concat()
    }),
    ("clamped_swiglu", || {
        let (m, f) = (40, 33);
        let gate_up: Vec<f32> = noise(m * 2 * f, 1).iter().map(|v| v * 30.0).collect();
        let (mut out, mut gradient) = (vec![0.0; m * f], vec![0.0; m * 2 * f]);
        gated(Activation::ClampedSwiGlu, &gate_up, &mut out, m, f);
        gated_gradient(Activation::ClampedSwiGlu, &gate_up, &noise(m * f, 2), &mut gradient, f);
        [out, gradient].concat()
    }),
    ("rms_norm", || {
        let norm = |(m, d): (usize, usize)| {
            let (x, weight) = (noise(m * d, 1), noise(d, 2));
            let (mut plain, mut added, mut residual) = (vec![0.0; m * d], vec![0.0; m * d], noise(m * d, 3));
            rms_norm(&x, &weight, 1e-5, &mut plain);
            add_rms_norm(&mut residual, &x, &weight, 1e-5, &mut added);
            [plain, added, residual].concat()
        };
        ROWS.into_iter().flat_map(norm).collect()
    }),
    ("rms_norm_heads_in_place", || {
        let norm = |(m, d): (usize, usize)| {
            let mut buffer = noise(m * (4 * d + 3), 1);
            rms_norm_heads_in_place(&mut buffer, 4 * d + 3, d, 3, &noise(d, 2), 1e-6);
            buffer
        };
        ROWS.into_iter().flat_map(norm).collect()
    }),
    ("rms_norm_gradient", || {
        let gradient = |(m, d): (usize, usize)| {
            let vectors = Vectors { stride: 3 * d + 1, offset: 1, count: 2 };
            let len = m * vectors.stride;
            let (mut out, mut weights) = (vec![0.0; len], vec![0.0; d]);
            rms_norm_gradient(vectors, &noise(len, 1), &noise(d, 2), 1e-6, &noise(len, 3), &mut out, &mut weights);
            [out, weights].concat()
        };
        ROWS.into_iter().flat_map(gradient).collect()
    }),
    ("rope_in_place", || {
        let rotate = |(m, half): (usize, usize)| {
            let d = 2 * half + 3;
            let angles = noise(40 * half, 1);
            let cos: Vec<f32> = angles.iter().map(|a| 1.0 - a * a / 2.0).collect();
            let positions: Vec<usize> = (0..m).map(|i| i * 7 % 40).collect();
            let mut buffer = noise(m * 5 * d, 2);
            rope_in_place(&mut buffer, 5 * d, 4, d, half, &cos, &angles, &positions);
            buffer
        };
        [(3, 8), (5, 25), (400, 33)].into_iter().flat_map(rotate).collect()
    }),
    ("elementwise", || {
        let all = |(m, f): (usize, usize)| {
            let gate_up: Vec<f32> = noise(m * 2 * f, 1).iter().map(|v| v * 30.0).collect();
            let (mut out, mut gradient) = (vec![0.0; m * f], vec![0.0; m * 2 * f]);
            gated(Activation::Silu, &gate_up, &mut out, m, f);
            gated_gradient(Activation::Silu, &gate_up, &noise(m * f, 2), &mut gradient, f);
            let mut sum = noise(m * 2 * f, 3);
            add_in_place(&mut sum, &gate_up);
            [out, gradient, sum].concat()
        };
        ROWS.into_iter().flat_map(all).collect()
    }),
    ("column_sums", || {
        let sums = |(m, n): (usize, usize)| {
            let mut out = vec![0.0; n];
            column_sums(&noise(m * n, 1), &mut out);
            out
        };
        ROWS.into_iter().flat_map(sums).collect()
    }),
    ("softmax_weights", || {
        let weights = |(m, n): (usize, usize)| {
            let logits: Vec<f32> = noise(m * n, 1).iter().map(|v| v * 50.0).collect();
            let mut out = vec![0.0; m * n];
            softmax_weights(&logits, 50.0, 1.3, &mut out);
            out
        };
        ROWS.into_iter().flat_map(weights).collect()
    }),
    ("cross_entropy", || {
        let loss = |(m, vocab): (usize, usize)| {
            let mut logits: Vec<f32> = noise(m * vocab, 1).iter().map(|v| v * 20.0).collect();
            let targets: Vec<usize> = (0..m).map(|i| i * 5 % vocab).collect();
            let mut sums = vec![0.0; m];
            let loss = cross_entropy(&logits, &targets, vocab, &mut sums);
            cross_entropy_gradient(&mut logits, &targets, vocab, &sums, 0.3);
            [logits, sums, vec![loss]].concat()
        };
        ROWS.into_iter().flat_map(loss).collect()
    }),
    ("quantize", || {
        let there_and_back = |format: Format| {
            let (mut bytes, mut out) = (Vec::new(), vec![0.0; 256 * 200]);
            quantize(format, &noise(256 * 200, 1), &mut bytes);
            dequantize(format, &bytes, &mut out);
            out
        };
        Format::ALL.into_iter().flat_map(there_and_back).collect()
    }),
];

/// Rows with and without whole vectors, and enough of them for several tasks.
const ROWS: [(usize, usize); 4] = [(1, 48), (3, 7), (40, 577), (900, 50)];

fn shape(
    batch: usize,
    seq: usize,
    column: usize,
    [heads, kv_heads, head_dim]: [usize; 3],
    window: Option<usize>,
) -> AttentionShape {
    AttentionShape {
        batch,
        seq,
        heads,
        kv_heads,
        head_dim,
        capacity: column + seq + 3,
        column,
        window,
        scale: 0.7,
        softcap: None,
    }
}

/// One for each of six heads.
const SINKS: [f32; 6] = [0.3, -2.0, 1.5, 0.0, 4.0, -0.7];

fn attend(sizes: &[(usize, usize, usize)], sinks: Option<&[f32]>) -> Vec<f32> {
    attend_as(|shape| shape, sizes, sinks)
}

fn attend_as(
    change: fn(AttentionShape) -> AttentionShape,
    sizes: &[(usize, usize, usize)],
    sinks: Option<&[f32]>,
) -> Vec<f32> {
    let one = |(d, window): (usize, Option<usize>), &(batch, seq, column): &(usize, usize, usize)| {
        let shape = change(shape(batch, seq, column, [6, 2, d], window));
        let cache = batch * 2 * shape.capacity * d;
        let qkv = noise(batch * seq * shape.row_stride(), 1);
        let (mut keys, mut values) = (noise(cache, 2), noise(cache, 3));
        write_cache(&shape, &qkv, &mut keys, &mut values);
        let starts: Vec<usize> = (0..batch).map(|b| b * (column + seq) / 4).collect();
        let mut out = vec![0.0; batch * seq * 6 * d];
        attention(&shape, &qkv, &keys, &values, &starts, sinks, &mut out);
        out
    };
    let kinds = [(64, None), (50, Some(90)), (7, None)];
    kinds.into_iter().flat_map(|kind| sizes.iter().flat_map(move |size| one(kind, size))).collect()
}

#[test]
fn every_instruction_set_gives_the_stored_bits() {
    let mut found = Vec::new();
    for (name, case) in CASES {
        let results = at_each(|_| [1, 3].map(|threads| in_pool(threads, || hash(&case()))));
        let first = results[0].1[0];
        assert!(results.iter().all(|(_, hashes)| *hashes == [first; 2]), "{name}: {results:x?}");
        found.push((name, first));
    }
    let list: String = found.iter().map(|(name, hash)| format!("    (\"{name}\", {hash:#018x}),\n")).collect();
    assert!(found == HASHES, "{list}");
}

const HASHES: [(&str, u64); 22] = [
    ("linear", 0xbfca_968d_914a_fb91),
    ("grad_input", 0xb74e_3022_ab49_ecf0),
    ("grad_weight", 0x780f_ccec_93ab_f05f),
    ("linear_add", 0x16f6_c460_4d0f_9126),
    ("attention of few queries", 0x91d7_60d3_c113_882d),
    ("attention of many queries", 0xea9f_7b4c_58c0_4992),
    ("attention with a softcap", 0xb420_2138_7a7a_ca82),
    ("attention with sinks", 0x776c_1f37_b041_043b),
    ("attention_gradient", 0xbec6_5a88_39b4_b129),
    ("attention_gradient with a softcap", 0xde01_771e_a112_e3aa),
    ("attention_gradient with sinks", 0x6cad_cb17_5572_c393),
    ("geglu", 0xb41a_642b_791c_5f4f),
    ("clamped_swiglu", 0xda2e_e9bb_6619_83a5),
    ("rms_norm", 0x42bc_d827_a5ab_769c),
    ("rms_norm_heads_in_place", 0x27a0_0918_7745_2953),
    ("rms_norm_gradient", 0x6ed7_3a79_142b_342f),
    ("rope_in_place", 0x8308_6551_b174_e5f1),
    ("elementwise", 0xc15a_fff0_057b_521c),
    ("column_sums", 0x056b_b664_1984_032c),
    ("softmax_weights", 0xa7e1_5478_3b0c_9f6e),
    ("cross_entropy", 0x3f1b_200d_eed3_0461),
    ("quantize", 0x4d7f_654c_4b4e_60ad),
];

/// `PV_SIMD` is read once, so that each value needs a process of its own: this test in the same program.
#[test]
fn the_environment_limits_the_instruction_set() {
    let names = ["portable", "avx2", "avx512", "avx1024"];
    if let Some(value) = std::env::var_os("PV_SIMD") {
        let (expected, known) = Level::best(Some(&value));
        assert_eq!(check().is_ok(), known);
        assert_eq!(Level::chosen(), expected);
        return;
    }
    assert_eq!(check(), Ok(()));
    let name = "tests::levels::the_environment_limits_the_instruction_set";
    for value in names {
        let mut child = Command::new(std::env::current_exe().expect("this program"));
        let output = child.args(["--exact", name]).env("PV_SIMD", value).output().expect("this program runs");
        assert!(output.status.success(), "{value}: {}", String::from_utf8_lossy(&output.stdout));
    }
    let all = Level::all();
    let best = |limit: &str| Level::best(Some(OsStr::new(limit)));
    assert_eq!(best("portable"), (Level::Portable, true));
    assert_eq!(best("avx512"), (*all.last().expect("one is always there"), true));
    assert_eq!(best("avx1024"), (*all.last().expect("one is always there"), false));
    #[cfg(target_arch = "x86_64")]
    assert!(matches!(best("avx2"), (Level::Portable | Level::Avx2(_), true)));
    let error = SimdError::UnknownLevel { value: "avx1024".into() };
    assert_eq!(error.to_string(), "PV_SIMD is \"avx1024\", expected portable, avx2 or avx512");
}
