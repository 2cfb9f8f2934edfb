//! Writing the key and value caches.

use crate::attention::AttentionShape;

/// Copies the new keys and values into the caches at columns `column..column + seq`.
///
/// `qkv` is `[batch * seq, (heads + 2 kv_heads) * head_dim]`: queries, then keys, then values. The
/// caches are `[batch, kv_heads, capacity, head_dim]`.
///
/// # Panics
/// If the length of a slice does not match the shapes above.
pub fn write_cache(shape: &AttentionShape, qkv: &[f32], keys: &mut [f32], values: &mut [f32]) {
    shape.check(qkv, keys, values);
    let d = shape.head_dim;
    let stride = shape.row_stride();
    for batch in 0..shape.batch {
        for head in 0..shape.kv_heads {
            let to = ((batch * shape.kv_heads + head) * shape.capacity + shape.column) * d;
            let key_at = (shape.heads + head) * d;
            let value_at = key_at + shape.kv_heads * d;
            for i in 0..shape.seq {
                let row = &qkv[(batch * shape.seq + i) * stride..][..stride];
                keys[to + i * d..][..d].copy_from_slice(&row[key_at..][..d]);
                values[to + i * d..][..d].copy_from_slice(&row[value_at..][..d]);
            }
        }
    }
}
