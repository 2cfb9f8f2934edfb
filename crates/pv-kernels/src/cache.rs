//! Writing the key and value caches.

use crate::attention::AttentionShape;
use crate::half::f32_to_f16;

/// Copies the new keys and values into the caches at columns `column..column + seq`.
///
/// `qkv` is `[batch * seq, (heads + 2 kv_heads) * head_dim]`: queries, then keys, then values. The
/// caches are `[batch, kv_heads, capacity, head_dim]`.
///
/// # Panics
/// If the length of a slice does not match the shapes above.
pub fn write_cache(shape: &AttentionShape, qkv: &[f32], keys: &mut [f32], values: &mut [f32]) {
    write(shape, qkv, keys, values, <[f32]>::copy_from_slice);
}

/// [`write_cache`] for caches in f16, given as their bits: values are rounded to the nearest, ties to even. Returns whether
/// all of them fit; a value that would round beyond 65504 becomes infinite, and the cache is of no use then.
///
/// # Panics
/// Like [`write_cache`].
#[must_use]
pub fn write_cache_f16(shape: &AttentionShape, qkv: &[f32], keys: &mut [u16], values: &mut [u16]) -> bool {
    let mut fits = true;
    write(shape, qkv, keys, values, |to, from| {
        for (to, from) in to.iter_mut().zip(from) {
            *to = f32_to_f16(*from);
            fits &= *to & 0x7fff != 0x7c00;
        }
    });
    fits
}

fn write<E>(
    shape: &AttentionShape,
    qkv: &[f32],
    keys: &mut [E],
    values: &mut [E],
    mut put: impl FnMut(&mut [E], &[f32]),
) {
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
                put(&mut keys[to + i * d..][..d], &row[key_at..][..d]);
                put(&mut values[to + i * d..][..d], &row[value_at..][..d]);
            }
        }
    }
}
