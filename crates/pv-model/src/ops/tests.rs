//! The nodes recorded on the CPU, compared with the portable operations and Burn's own gradients.

mod decoder;

use burn::tensor::{Gradients, TensorData};
use proptest::prelude::*;

use super::*;
use crate::DecoderConfig;
use crate::tensors::to_f32;

/// Reproducible values in `[-1, 1)`.
fn noise(len: usize, seed: u64) -> Vec<f32> {
    let mut state = (seed + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..len)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 40) as f32 / (1 << 23) as f32 - 1.0
        })
        .collect()
}

fn tensor<const D: usize>(values: Vec<f32>, shape: [usize; D], device: &Device) -> Tensor<D> {
    Tensor::from_data(TensorData::new(values, shape), (device, DType::F32))
}

/// The role of an argument in a graph.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    Tracked,
    Untracked,
    Plain,
}

/// All combinations of roles of `n` arguments with at least one tracked.
fn kinds(n: usize) -> Vec<Vec<Kind>> {
    let one = [Kind::Tracked, Kind::Untracked, Kind::Plain];
    let all = (0..3usize.pow(n as u32)).map(|code| (0..n).map(|i| one[code / 3usize.pow(i as u32) % 3]).collect());
    all.filter(|kinds: &Vec<Kind>| kinds.contains(&Kind::Tracked)).collect()
}

#[track_caller]
fn assert_close(what: &str, found: &[f32], expected: &[f32]) {
    assert_eq!(found.len(), expected.len(), "{what}");
    let largest = expected.iter().fold(0.0f32, |most, value| most.max(value.abs()));
    for (i, (found, expected)) in found.iter().zip(expected).enumerate() {
        let gap = (found - expected).abs();
        assert!(gap <= 1e-4 * largest.max(1e-3), "{what}, element {i}: {found} instead of {expected} (of {largest})");
    }
}

/// Compares an operation's node with the portable operation: results and gradients. Arguments are matrices; rows of the
/// result for which `counts` is false are ignored.
fn compare(
    shapes: &[[usize; 2]],
    node: impl Fn(&[Tensor<2>]) -> Option<Tensor<2>>,
    portable: impl Fn(&[Tensor<2>]) -> Tensor<2>,
    counts: impl Fn(usize) -> bool,
) {
    compare_in(kinds(shapes.len()), shapes, node, portable, counts);
}

/// Like [`compare`], for the given combinations of roles.
fn compare_in(
    ways: Vec<Vec<Kind>>,
    shapes: &[[usize; 2]],
    node: impl Fn(&[Tensor<2>]) -> Option<Tensor<2>>,
    portable: impl Fn(&[Tensor<2>]) -> Tensor<2>,
    counts: impl Fn(usize) -> bool,
) {
    for kinds in ways {
        let arguments = || -> Vec<Tensor<2>> {
            let argument = |(i, (shape, kind)): (usize, (&[usize; 2], &Kind))| {
                let values = noise(shape[0] * shape[1], i as u64).iter().map(|v| v * 1.5).collect();
                match kind {
                    Kind::Plain => tensor(values, *shape, &Device::flex()),
                    Kind::Untracked => tensor(values, *shape, &Device::flex().autodiff()),
                    Kind::Tracked => tensor(values, *shape, &Device::flex().autodiff()).require_grad(),
                }
            };
            shapes.iter().zip(&kinds).enumerate().map(argument).collect()
        };
        let run = |arguments: Vec<Tensor<2>>, out: Tensor<2>| {
            let dims = out.dims();
            let seen: Vec<bool> = (0..dims[0]).flat_map(|row| vec![counts(row); dims[1]]).collect();
            let mask = |values: Vec<f32>| -> Vec<f32> {
                values.into_iter().zip(&seen).map(|(value, seen)| if *seen { value } else { 0.0 }).collect()
            };
            let upstream = tensor(mask(noise(dims[0] * dims[1], 77)), dims, &Device::flex());
            let mut gradients = (out.clone() * upstream).sum().backward();
            let mut found = vec![mask(to_f32(out).expect("values"))];
            for (argument, kind) in arguments.iter().zip(&kinds) {
                let gradient = match kind {
                    Kind::Plain => None,
                    _ => argument.grad_remove(&mut gradients),
                };
                assert_eq!(gradient.is_some(), *kind == Kind::Tracked, "{kinds:?}");
                found.push(gradient.map_or_else(Vec::new, |gradient| to_f32(gradient).expect("values")));
            }
            found
        };
        let ours = arguments();
        let ours = run(ours.clone(), node(&ours).expect("the node applies"));
        let reference = arguments();
        let reference = run(reference.clone(), portable(&reference));
        for (i, (found, expected)) in ours.iter().zip(&reference).enumerate() {
            assert_close(&format!("{kinds:?}, result and gradients, number {i}"), found, expected);
        }
    }
}

/// The roles of `y`, `x` and updates' matrices: all combinations for one update; for more, those of training, and each
/// argument tracked alone.
/// argument tracked alone.
fn ways_of_updates(n: usize) -> Vec<Vec<Kind>> {
    if n == 4 {
        return kinds(n);
    }
    let of = |tracked: &dyn Fn(usize) -> bool, else_: Kind| -> Vec<Kind> {
        (0..n).map(|i| if tracked(i) { Kind::Tracked } else { else_ }).collect()
    };
    let mut ways = vec![of(&|_| true, Kind::Plain), of(&|i| i >= 2, Kind::Plain), of(&|i| i < 2, Kind::Untracked)];
    ways.extend((0..n).map(|one| of(&|i| i == one, Kind::Plain)));
    ways
}

fn vector(x: &Tensor<2>) -> Tensor<1> {
    let [_, d] = x.dims();
    x.clone().reshape([d])
}

fn every_row(_: usize) -> bool {
    true
}

fn cases(cases: u32) -> ProptestConfig {
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(cases(12))]

    #[test]
    fn low_rank_updates_and_their_gradients(
        m in 1usize..120, k in 1usize..70,
        parts in proptest::collection::vec((1usize..9, 0usize..20, 1usize..40), 1..4), after in 0usize..40,
    ) {
        // The updates' columns are consecutive, with some unchanged ones between them.
        let mut width = 0;
        let mut places = Vec::new();
        let mut shapes = vec![[0, 0], [m, k]];
        for (number, (rank, before, n)) in parts.iter().enumerate() {
            places.push(LoraPlace { first: width + before, scale: 0.7 + number as f64 });
            width += before + n;
            shapes.extend([[*rank, k], [*n, *rank]]);
        }
        shapes[0] = [m, width + after];
        let terms = |x: &[Tensor<2>]| -> Vec<LoraTerm> {
            let pairs = x[2..].chunks(2).zip(&places);
            pairs.map(|(ab, place)| LoraTerm { a: ab[0].clone(), b: ab[1].clone(), place: *place }).collect()
        };
        let node = |x: &[Tensor<2>]| lora::recorded(x[0].clone(), &x[1], &terms(x)).ok();
        let portable = |x: &[Tensor<2>]| lora::portable(x[0].clone(), &x[1], &terms(x));
        compare_in(ways_of_updates(shapes.len()), &shapes, node, portable, every_row);
        let plain: Vec<Tensor<2>> = shapes
            .iter()
            .enumerate()
            .map(|(i, shape)| tensor(noise(shape[0] * shape[1], i as u64), *shape, &Device::flex()))
            .collect();
        let found = lora::on_cpu(plain[0].clone(), &plain[1], &terms(&plain)).expect("plain tensors");
        // Burn's products, written out: each update as one dense matrix.
        let expected = terms(&plain).into_iter().fold(plain[0].clone(), |y, LoraTerm { a, b, place }| {
            let columns = [0..m, place.first..place.first + b.dims()[0]];
            let sum = y.clone().slice(columns.clone()) + plain[1].clone().matmul((b.matmul(a) * place.scale).transpose());
            y.slice_assign(columns, sum)
        });
        assert_close("plain", &to_f32(found).expect("values"), &to_f32(expected).expect("values"));
    }
}

/// More updates than one node has, as with several adapters, and none.
#[test]
fn updates_beyond_one_node() {
    let [y, x] = [[40, 12], [40, 9]].map(|shape| tensor(noise(shape[0] * shape[1], 3), shape, &Device::flex()));
    let term = |seed: u64| LoraTerm {
        a: tensor(noise(2 * 9, seed), [2, 9], &Device::flex()),
        b: tensor(noise(12 * 2, seed + 50), [12, 2], &Device::flex()),
        place: LoraPlace { first: 0, scale: 0.5 },
    };
    let terms: Vec<LoraTerm> = (0..7).map(term).collect();
    let found = to_f32(lora_add(y.clone(), &x, &terms)).expect("values");
    let expected = to_f32(lora::portable(y.clone(), &x, &terms)).expect("values");
    assert_close("seven", &found, &expected);
    assert_eq!(to_f32(lora_add(y.clone(), &x, &[])).expect("values"), to_f32(y).expect("values"));
}

proptest! {
    #![proptest_config(cases(12))]

    #[test]
    fn linear_and_its_gradients(m in 1usize..200, k in 1usize..90, n in 1usize..90) {
        let shapes = [[m, k], [n, k], [1, n]];
        compare(
            &shapes[..2],
            |x| cpu_autodiff::linear(&x[0], &x[1], None, true),
            |x| portable::linear(x[0].clone(), &x[1], None),
            every_row,
        );
        compare(
            &shapes,
            |x| cpu_autodiff::linear(&x[0], &x[1], Some(&vector(&x[2])), true),
            |x| portable::linear(x[0].clone(), &x[1], Some(&vector(&x[2]))),
            every_row,
        );
        // Without values.
        compare(
            &shapes,
            |x| cpu_autodiff::linear(&x[0], &x[1], Some(&vector(&x[2])), false),
            |x| {
                let y = portable::linear(x[0].clone(), &x[1], Some(&vector(&x[2])));
                y.clone() - y.detach()
            },
            every_row,
        );
    }

    #[test]
    fn norms_and_their_gradients(m in 1usize..300, d in 1usize..70) {
        let shapes = [[m, d], [1, d], [m, d]];
        compare(
            &shapes[..2],
            |x| cpu_autodiff::rms_norm(&x[0], &vector(&x[1]), 1e-5),
            |x| portable::rms_norm(x[0].clone(), &vector(&x[1]), 1e-5),
            every_row,
        );
        compare(
            &shapes,
            |x| {
                cpu_autodiff::add_rms_norm(&x[0], &x[2], &vector(&x[1]), 1e-5).map(|(sum, normed)| sum * 0.3 + normed)
            },
            |x| {
                let sum = x[0].clone() + x[2].clone();
                sum.clone() * 0.3 + portable::rms_norm(sum, &vector(&x[1]), 1e-5)
            },
            every_row,
        );
    }

    #[test]
    fn activations_and_their_gradients(m in 1usize..200, f in 1usize..90) {
        for activation in [Activation::Silu, Activation::GeluTanh] {
            compare(
                &[[m, 2 * f]],
                |x| cpu_autodiff::gated(&x[0], activation),
                |x| portable::gated(x[0].clone(), activation),
                every_row,
            );
        }
    }

    #[test]
    fn per_head_norms_and_their_gradients(
        m in 1usize..200,
        kv_heads in 1usize..4,
        group in 1usize..4,
        head_dim in 1usize..40,
    ) {
        let shape = shape(kv_heads * group, kv_heads, head_dim);
        // One weight for all heads, or one for all values.
        for [queries, keys] in [[1, 1], [shape.heads, kv_heads]] {
            compare(
                &[[m, (shape.heads + 2 * kv_heads) * head_dim], [1, queries * head_dim], [1, keys * head_dim]],
                |x| cpu_autodiff::qk_norm(&x[0], &vector(&x[1]), &vector(&x[2]), &shape, 1e-5),
                |x| portable::qk_norm(x[0].clone(), &vector(&x[1]), &vector(&x[2]), &shape, 1e-5),
                every_row,
            );
        }
    }

    #[test]
    fn cross_entropy_and_its_gradient(n in 1usize..60, vocab in 1usize..90, scale in 0.1f32..60.0) {
        let targets: Vec<u32> = (0..n).map(|i| ((i * i + 3) % vocab) as u32).collect();
        compare(
            &[[n, vocab]],
            |x| cpu_autodiff::cross_entropy(&(x[0].clone() * scale), &targets).map(|sum| sum.reshape([1, 1])),
            |x| portable::cross_entropy(x[0].clone() * scale, &targets).reshape([1, 1]),
            every_row,
        );
    }
}

fn shape(heads: usize, kv_heads: usize, head_dim: usize) -> AttentionShape {
    let sizes = serde_json::json!({ "head_dim": 8 });
    AttentionShape { heads, kv_heads, head_dim, ..AttentionShape::of(&config(&sizes), None) }
}

/// Attention of rows that start with this much padding.
fn compare_attention(shape: AttentionShape, seq: usize, padding: &[usize]) {
    let config = config(&serde_json::json!({ "head_dim": shape.head_dim }));
    let window = Window { seq, column: 0, starts: padding.to_vec() };
    let context = PassContext::new(&RotaryAngles::new(&config), window, (Device::flex(), DType::F32), Some(0));
    let shapes = [[padding.len() * seq, (shape.heads + 2 * shape.kv_heads) * shape.head_dim], [1, shape.heads]];
    compare(
        &shapes[..1],
        |x| cpu_autodiff::attention(&x[0], None, &shape, &context),
        |x| portable::attention(x[0].clone(), None, &shape, &context, None),
        |row| row % seq >= padding[row / seq],
    );
    compare(
        &shapes,
        |x| cpu_autodiff::attention(&x[0], Some(&vector(&x[1])), &shape, &context),
        |x| portable::attention(x[0].clone(), Some(&vector(&x[1])), &shape, &context, None),
        |row| row % seq >= padding[row / seq],
    );
}

proptest! {
    #![proptest_config(cases(40))]

    #[test]
    fn attention_and_its_gradient(
        seq in 1usize..180,
        padding in proptest::collection::vec(0.0f64..1.0, 1..4),
        kv_heads in 1usize..4,
        group in 1usize..4,
        half in 1usize..36,
        window in proptest::option::of(1usize..90),
        softcap in proptest::option::of(0.5f64..20.0),
        scale in 0.1f64..1.5,
    ) {
        let shape = AttentionShape { window, scale, softcap, ..shape(kv_heads * group, kv_heads, 2 * half) };
        let padding: Vec<usize> = padding.iter().map(|part| (part * part * seq as f64) as usize).collect();
        compare_attention(shape, seq, &padding);
    }
}

proptest! {
    #![proptest_config(cases(30))]

    #[test]
    fn attention_in_tiles_is_attention(
        seq in 1usize..40,
        padding in proptest::collection::vec(0.0f64..1.0, 1..4),
        group in 1usize..3,
        window in proptest::option::of(1usize..30),
        softcap in proptest::option::of(1.0f64..20.0),
        scores in 1usize..4000,
    ) {
        let shape = AttentionShape { window, softcap, ..shape(2 * group, 2, 8) };
        let starts: Vec<usize> = padding.iter().map(|part| (part * seq as f64) as usize).collect();
        let (rows, real) = (starts.len(), |row: usize| row % seq >= starts[row / seq]);
        let context = PassContext::new(
            &RotaryAngles::new(&config(&serde_json::json!({ "head_dim": 8 }))),
            Window { seq, column: 0, starts: starts.clone() },
            (Device::flex(), DType::F32),
            Some(0),
        );
        compare(
            &[[rows * seq, (shape.heads + 2 * shape.kv_heads) * shape.head_dim]],
            |x| Some(portable::attention_in_tiles(x[0].clone(), None, (&shape, &context), None, scores)),
            |x| portable::attention(x[0].clone(), None, &shape, &context, None),
            real,
        );
    }
}

#[test]
fn rows_of_like_length_are_computed_together() {
    let window = Window { seq: 40, column: 0, starts: vec![35, 0, 21, 40, 20, 38, 30] };
    let groups = window.rows_of_like_length();
    // Lengths 5, 40, 19, 0, 20, 2, 10.
    assert_eq!(groups, [vec![1, 4], vec![2, 6], vec![0], vec![5], vec![3]]);
    let own = window.of_rows(&groups[1]);
    assert_eq!((own.seq, own.starts), (19, vec![0, 9]));
    assert_eq!(Window { seq: 4, column: 0, starts: vec![0, 2, 1] }.rows_of_like_length(), [[0, 2, 1]]);
}

#[test]
fn a_row_of_nothing_but_padding_has_no_gradient() {
    let shape = AttentionShape { scale: 0.4, ..shape(2, 1, 8) };
    compare_attention(shape, 20, &[20, 3]);
}

/// With inputs on both sides of the bounds.
#[test]
fn the_clamped_activation_and_its_gradient() {
    for (tokens, width) in [(1, 2), (7, 30), (90, 66)] {
        compare(
            &[[tokens, width]],
            |x| cpu_autodiff::gated(&(x[0].clone() * 8.0), Activation::ClampedSwiGlu),
            |x| portable::gated(x[0].clone() * 8.0, Activation::ClampedSwiGlu),
            every_row,
        );
    }
}

/// Gradients reach a node transposed, expanded or sliced from a larger tensor.
#[test]
fn upstream_gradients_of_any_layout() {
    let twice = |x: Tensor<2>| Tensor::cat(vec![x.clone().transpose(), x.transpose()], 1);
    compare(
        &[[5, 12]],
        |x| cpu_autodiff::gated(&x[0], Activation::Silu).map(twice),
        |x| twice(portable::gated(x[0].clone(), Activation::Silu)),
        every_row,
    );
    let sum = |x: Tensor<2>| x.sum_dim(0).slice([0..1, 1..4]);
    compare(
        &[[5, 7], [6, 7]],
        |x| cpu_autodiff::linear(&x[0], &x[1], None, true).map(sum),
        |x| sum(portable::linear(x[0].clone(), &x[1], None)),
        every_row,
    );
}

#[test]
fn devices_with_checkpointing_and_other_types_are_left_to_the_portable_operations() {
    let x = |device: Device| tensor(noise(24, 1), [4, 6], &device).require_grad();
    let gated = |x: Tensor<2>| cpu_autodiff::gated(&x, Activation::Silu);
    assert!(gated(x(Device::flex().autodiff())).is_some());
    assert!(gated(x(Device::flex().autodiff().gradient_checkpointing())).is_none());
    assert!(gated(x(Device::flex().autodiff()).cast(DType::F64)).is_none());
}

fn config(changes: &serde_json::Value) -> DecoderConfig {
    let mut json = serde_json::json!({
        "model_type": "llama", "hidden_size": 24, "intermediate_size": 20, "num_hidden_layers": 3, "head_dim": 8,
        "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 37,
    });
    for (key, value) in changes.as_object().expect("an object") {
        json[key] = value.clone();
    }
    DecoderConfig::from_json(&json).expect("a configuration")
}
