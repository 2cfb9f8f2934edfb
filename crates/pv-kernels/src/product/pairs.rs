//! Products of rows that are rounded to bf16 with weights in bf16.
//!
//! With many rows, two neighbours are multiplied in one step: the second product is added to the sum, then the first, each
//! with one rounding, as in the instruction that some processors have for it. A product of two values in bf16 is exact in
//! `f32`, so that multiplications in `f32` give the same bits elsewhere.

use rayon::prelude::*;

use super::wide::{self, depth};
use super::{PARALLEL_PRODUCTS, SKINNY_ROWS, for_each_panel, parts};
use crate::element::Pair;
use crate::half::{bf16_to_f32, f32_to_bf16};
use crate::kept::KeptRef;
use crate::scratch::with_scratch;
use crate::tile::{PANEL, Pack, Strips, Tile};
use crate::vector::Vector;
use crate::vector::level::{Level, Op, dispatch};

/// The form of rounded rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// In `f32`.
    Values,
    /// In `f32`; neighbours change places.
    Swapped,
    /// Two neighbours in each element.
    Pairs,
}

/// `out = x . wᵀ + bias`, with `x` rounded to bf16 and `w` in bf16; no size is 0.
pub(crate) fn linear(
    x: &[f32],
    w: KeptRef<'_>,
    bias: Option<&[f32]>,
    out: &mut [f32],
    (m, k, n): (usize, usize, usize),
) {
    let form = match Level::chosen().has_fast_pairs() {
        _ if m <= SKINNY_ROWS || !k.is_multiple_of(2) => Form::Values,
        true => Form::Pairs,
        false => Form::Swapped,
    };
    linear_in(form, x, w, bias, out, (m, k, n));
}

/// The product by way of one form; the last two give the same bits.
pub(crate) fn linear_in(
    form: Form,
    x: &[f32],
    w: KeptRef<'_>,
    bias: Option<&[f32]>,
    out: &mut [f32],
    (m, k, n): (usize, usize, usize),
) {
    let row = if form == Form::Pairs { k / 2 } else { k };
    with_scratch(m * row, |rounded| {
        // Some rows at a time, in parallel if there are many.
        let rows = PARALLEL_PRODUCTS.div_ceil(k);
        let tasks = x.par_chunks(rows * k).zip(rounded.par_chunks_mut(rows * row));
        tasks.for_each(|(x, out)| dispatch(Round { x, form, out }));
        match form {
            Form::Values => super::linear(rounded, w, bias, out, (m, k, n)),
            Form::Swapped => wide::linear(rounded, w, bias, out, (m, k, n), true),
            Form::Pairs => of_pairs(rounded, w, bias, out, (m, k, n)),
        }
    });
}

struct Round<'a> {
    x: &'a [f32],
    form: Form,
    out: &'a mut [f32],
}

impl Op for Round<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self, _: V) {
        match self.form {
            Form::Values => {
                for (out, &value) in self.out.iter_mut().zip(self.x) {
                    *out = bf16_to_f32(rounded(value));
                }
            }
            Form::Swapped => {
                let pairs = self.out.as_chunks_mut::<2>().0.iter_mut().zip(self.x.as_chunks::<2>().0);
                for (out, &[first, second]) in pairs {
                    *out = [bf16_to_f32(rounded(second)), bf16_to_f32(rounded(first))];
                }
            }
            Form::Pairs => {
                for (out, &[first, second]) in self.out.iter_mut().zip(self.x.as_chunks::<2>().0) {
                    *out = f32::from_bits(u32::from(rounded(second)) << 16 | u32::from(rounded(first)));
                }
            }
        }
    }
}

/// The nearest value in bf16, or zero below the least normal one, as in the instruction.
#[inline(always)]
fn rounded(value: f32) -> u16 {
    let bits = f32_to_bf16(value);
    if bits & 0x7f80 == 0 { bits & 0x8000 } else { bits }
}

/// Many rows `x`, `[m, k / 2]` pairs. Sums are split as in [`wide::linear`].
fn of_pairs(x: &[f32], w: KeptRef<'_>, bias: Option<&[f32]>, out: &mut [f32], (m, k, n): (usize, usize, usize)) {
    let parts = parts(n.div_ceil(PANEL), m);
    let rows = m.div_ceil(parts);
    let (k, most) = (k / 2, depth(k) / 2);
    let w: &[Pair] = bytemuck::cast_slice(w.bytes);
    for_each_panel(out, (n, PANEL), parts, m * n * k, |panel, part, out| {
        let (from, to) = (panel * PANEL, n.min((panel + 1) * PANEL));
        with_scratch(most * PANEL, |b| {
            for at in (0..k).step_by(most) {
                let depth = most.min(k - at);
                let w = &w[from * k + at..(to - 1) * k + at + depth];
                dispatch(Pack { w, stride: k, k: depth, panel: &mut *b });
                dispatch(Tile {
                    a: &x[part * rows * k + at..],
                    a_stride: k,
                    m: out.len(),
                    k: depth,
                    b: Strips::packed(bytemuck::cast_slice::<_, Pair>(b)),
                    columns: to - from,
                    accumulate: at > 0,
                    bias: bias.filter(|_| at == 0).map(|bias| &bias[from..to]),
                    out: &mut *out,
                });
            }
        });
    });
}
