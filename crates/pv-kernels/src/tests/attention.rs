use super::{assert_close, in_pool, noise};
use crate::attention::{AttentionShape, attention, attention_f16};
use crate::cache::{write_cache, write_cache_f16};
use crate::half::{f16_to_f32, f32_to_f16};
use crate::vector::level::forced::at_each;

struct Case {
    shape: AttentionShape,
    starts: Vec<usize>,
    qkv: Vec<f32>,
    keys: Vec<f32>,
    values: Vec<f32>,
    sinks: Option<Vec<f32>>,
}

fn case(batch: usize, seq: usize, column: usize, sizes: [usize; 3], window: Option<usize>) -> Case {
    let [heads, kv_heads, head_dim] = sizes;
    let capacity = column + seq + 3;
    let shape =
        AttentionShape { batch, seq, heads, kv_heads, head_dim, capacity, column, window, scale: 0.7, softcap: None };
    let cache = batch * kv_heads * capacity * head_dim;
    let qkv: Vec<f32> = noise(batch * seq * shape.row_stride(), 1).iter().map(|v| v * 2.0).collect();
    // Values after the last column, or before the first, must never be read.
    let (mut keys, mut values) = (noise(cache, 2), noise(cache, 3));
    let starts: Vec<usize> = (0..batch).map(|b| (b * (column + seq)) / batch.max(2)).collect();
    for (i, (key, value)) in keys.chunks_mut(head_dim).zip(values.chunks_mut(head_dim)).enumerate() {
        let (b, at) = (i / capacity / kv_heads, i % capacity);
        if at < starts[b] || at >= column + seq {
            key.fill(f32::NAN);
            value.fill(f32::NAN);
        }
    }
    write_cache(&shape, &qkv, &mut keys, &mut values);
    Case { shape, starts, qkv, keys, values, sinks: None }
}

impl Case {
    fn run(&self, threads: usize) -> Vec<f32> {
        let s = &self.shape;
        let mut out = vec![f32::NAN; s.batch * s.seq * s.heads * s.head_dim];
        in_pool(threads, || {
            attention(s, &self.qkv, &self.keys, &self.values, &self.starts, self.sinks.as_deref(), &mut out);
        });
        out
    }

    fn expected(&self) -> Vec<f64> {
        let s = &self.shape;
        let d = s.head_dim;
        let mut out = Vec::new();
        for b in 0..s.batch {
            for i in 0..s.seq {
                for head in 0..s.heads {
                    let q = &self.qkv[(b * s.seq + i) * s.row_stride() + head * d..][..d];
                    let cell = b * s.kv_heads + head / (s.heads / s.kv_heads);
                    let end = s.column + i + 1;
                    let low = s.window.map_or(0, |w| end.saturating_sub(w)).max(self.starts[b]);
                    let at = |c: usize| (cell * s.capacity + c) * d;
                    let scores: Vec<f64> = (low..end)
                        .map(|c| {
                            let key = &self.keys[at(c)..][..d];
                            let dot: f64 = q.iter().zip(key).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum();
                            let score = dot * f64::from(s.scale);
                            s.softcap.map_or(score, |cap| f64::from(cap) * (score / f64::from(cap)).tanh()).exp()
                        })
                        .collect();
                    let sink = self.sinks.as_ref().map_or(0.0, |sinks| f64::from(sinks[head]).exp());
                    let total: f64 = scores.iter().sum::<f64>() + sink;
                    for e in 0..d {
                        let sum: f64 =
                            (low..end).zip(&scores).map(|(c, p)| p * f64::from(self.values[at(c) + e])).sum();
                        out.push(if total == 0.0 { 0.0 } else { sum / total });
                    }
                }
            }
        }
        out
    }
}

#[test]
fn matches_the_plain_softmax() {
    let sizes = [[6, 2, 8], [4, 4, 16], [9, 3, 64], [3, 1, 80], [2, 1, 128], [8, 2, 50]];
    for sizes in sizes {
        for (batch, seq, column) in
            [(1, 24, 0), (3, 24, 5), (2, 1, 40), (3, 1, 600), (2, 2, 300), (2, 150, 200), (1, 400, 0)]
        {
            for window in [None, Some(1), Some(7), Some(130)] {
                let case = case(batch, seq, column, sizes, window);
                for threads in [1, 3] {
                    assert_close(&case.run(threads), &case.expected(), 4e-5);
                }
            }
        }
    }
}

#[test]
fn sinks_join_the_sum() {
    for (sizes, (batch, seq, column)) in
        [([6, 2, 8], (1, 24, 0)), ([6, 2, 8], (3, 1, 600)), ([4, 4, 50], (2, 150, 200)), ([8, 2, 64], (2, 2, 300))]
    {
        for window in [None, Some(7)] {
            let mut case = case(batch, seq, column, sizes, window);
            let plain = case.run(1);
            // Above and below all scores, and between them.
            case.sinks = Some((0..sizes[0]).map(|head| [0.5, -30.0, 12.0, 2.0][head % 4]).collect());
            for threads in [1, 3] {
                assert_close(&case.run(threads), &case.expected(), 4e-5);
            }
            case.sinks = Some(vec![-1e30; sizes[0]]);
            let none = case.run(2);
            assert_close(&none, &plain.iter().copied().map(f64::from).collect::<Vec<_>>(), 1e-6);
        }
    }
}

/// With bounds below the scores, among them, and far above.
#[test]
fn a_softcap_bounds_the_scores() {
    for (sizes, (batch, seq, column)) in
        [([6, 2, 8], (1, 24, 0)), ([6, 2, 8], (3, 1, 600)), ([4, 4, 50], (2, 150, 200)), ([8, 2, 64], (2, 2, 300))]
    {
        for (window, cap) in [(None, 0.5), (Some(7), 3.0), (Some(130), 50.0)] {
            let mut case = case(batch, seq, column, sizes, window);
            case.shape.softcap = Some(cap);
            case.sinks = window.map(|_| vec![1.0; sizes[0]]);
            for threads in [1, 3] {
                assert_close(&case.run(threads), &case.expected(), 4e-5);
            }
        }
    }
}

#[test]
fn padding_queries_give_zeros() {
    for (seq, column) in [(24, 0), (2, 0), (1, 0)] {
        let mut case = case(2, seq, column, [6, 2, 8], None);
        case.starts = vec![0, seq.max(2) - 1];
        case.sinks = (column == 0 && seq > 1).then(|| vec![1.0; 6]);
        let out = case.run(2);
        let row = 6 * 8;
        let padding = &out[seq * row..][..(seq.max(2) - 1).min(seq) * row];
        assert!(padding.iter().all(|&v| v == 0.0));
        assert!(out.iter().all(|v| v.is_finite()));
    }
}

#[test]
fn a_row_depends_neither_on_padding_nor_on_the_batch() {
    for (seq, padding, window) in [(30, 10, None), (300, 77, None), (300, 77, Some(50)), (1, 0, None)] {
        let sizes = [6, 2, 16];
        let alone = case(1, seq, 0, sizes, window);
        let mut both = case(2, seq + padding, 0, sizes, window);
        let stride = both.shape.row_stride();
        both.starts = vec![0, padding];
        let from = (seq + 2 * padding) * stride;
        both.qkv[from..].copy_from_slice(&alone.qkv);
        write_cache(&both.shape, &both.qkv, &mut both.keys, &mut both.values);
        let out = both.run(3);
        assert_eq!(out[(seq + 2 * padding) * 96..], alone.run(1));
    }
}

#[test]
fn large_scores_stay_finite() {
    for seq in [1, 40] {
        let mut case = case(1, seq, 300, [4, 2, 16], None);
        case.shape.scale = 500.0;
        assert!(case.run(2).iter().all(|v| v.is_finite()));
    }
}

#[test]
fn the_write_leaves_the_rest_of_the_cache() {
    let shape = AttentionShape {
        batch: 2,
        seq: 3,
        heads: 4,
        kv_heads: 2,
        head_dim: 5,
        capacity: 9,
        column: 4,
        window: None,
        scale: 1.0,
        softcap: None,
    };
    let qkv = noise(2 * 3 * shape.row_stride(), 1);
    let mut keys = vec![7.0; 2 * 2 * 9 * 5];
    let mut values = keys.clone();
    write_cache(&shape, &qkv, &mut keys, &mut values);
    for (cache, first) in [(&keys, 4), (&values, 6)] {
        for (i, vector) in cache.chunks(5).enumerate() {
            let (b, head, column) = (i / 9 / 2, i / 9 % 2, i % 9);
            if (4..7).contains(&column) {
                let row = (b * 3 + column - 4) * shape.row_stride() + (first + head) * 5;
                assert_eq!(vector, &qkv[row..row + 5]);
            } else {
                assert_eq!(vector, [7.0; 5]);
            }
        }
    }
}

#[test]
fn a_cache_in_f16_gives_the_bits_of_its_values_in_f32() {
    for sizes in [[6, 2, 8], [4, 4, 16], [9, 3, 64], [3, 1, 80], [8, 2, 50]] {
        for (batch, seq, column) in [(1, 24, 0), (3, 24, 300), (3, 1, 600), (2, 2, 300), (2, 150, 200)] {
            for window in [None, Some(130)] {
                let mut case = case(batch, seq, column, sizes, window);
                let narrow = |values: &[f32]| values.iter().map(|v| f32_to_f16(*v)).collect::<Vec<u16>>();
                let (mut keys, mut values) = (narrow(&case.keys), narrow(&case.values));
                assert!(write_cache_f16(&case.shape, &case.qkv, &mut keys, &mut values));
                assert_eq!((&keys, &values), (&narrow(&case.keys), &narrow(&case.values)));
                case.keys = keys.iter().map(|bits| f16_to_f32(*bits)).collect();
                case.values = values.iter().map(|bits| f16_to_f32(*bits)).collect();
                let (s, size) = (case.shape, batch * seq * sizes[0] * sizes[2]);
                case.sinks = window.map(|_| vec![0.5; sizes[0]]);
                let (wide, sinks) = (case.run(1), case.sinks.as_deref());
                let narrow = |threads| {
                    let mut out = vec![f32::NAN; size];
                    in_pool(threads, || attention_f16(&s, &case.qkv, &keys, &values, &case.starts, sinks, &mut out));
                    out
                };
                let results = at_each(|_| [1, 3].map(narrow));
                for (level, results) in results {
                    assert!(results.iter().all(|result| *result == wide), "{level:?} {sizes:?} {batch} {seq} {column}");
                }
            }
        }
    }
}

#[test]
fn a_value_beyond_f16_is_reported() {
    let shape = case(1, 1, 0, [2, 1, 4], None).shape;
    let size = shape.capacity * 4;
    let (mut keys, mut values) = (vec![0; size], vec![0; size]);
    for (at, value, fits) in
        [(8, 65519.0, true), (8, -65520.0, false), (15, 1e30, false), (0, 1e30, true), (9, f32::NAN, true)]
    {
        let mut qkv = vec![1.0; shape.row_stride()];
        qkv[at] = value;
        assert_eq!(write_cache_f16(&shape, &qkv, &mut keys, &mut values), fits, "{value} at {at}");
    }
}

/// A prompt may be read in two passes.
#[test]
fn a_query_does_not_depend_on_where_its_pass_begins() {
    for sizes in [[6, 2, 16], [9, 3, 64], [2, 2, 50]] {
        for (column, seq) in [(17, 40), (300, 17), (700, 120)] {
            for window in [None, Some(3), Some(130), Some(290)] {
                let whole = case(1, column + seq, 0, sizes, window);
                let stride = whole.shape.row_stride();
                // Padding before the prompt too: the second pass has it in the cache.
                let padding = 5;
                let mut later = case(1, seq, padding + column, sizes, window);
                let capacity = [whole.shape.capacity, later.shape.capacity];
                for (to, from) in [(&mut later.keys, &whole.keys), (&mut later.values, &whole.values)] {
                    let d = sizes[2];
                    for (to, from) in to.chunks_mut(capacity[1] * d).zip(from.chunks(capacity[0] * d)) {
                        to[padding * d..(padding + column) * d].copy_from_slice(&from[..column * d]);
                    }
                }
                later.starts = vec![padding];
                later.qkv = whole.qkv[column * stride..].to_vec();
                write_cache(&later.shape, &later.qkv, &mut later.keys, &mut later.values);
                let expected = &whole.run(1)[column * sizes[0] * sizes[2]..];
                assert_eq!(later.run(3), expected, "{sizes:?} {column} {seq} {window:?}");
            }
        }
    }
}
