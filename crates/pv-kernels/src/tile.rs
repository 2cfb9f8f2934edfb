//! Products with many rows: `out[i] (+)= a[i] . b`, with `b` in strips of 16 columns.
//!
//! Elements of `a` are broadcast against vectors of `b`, so that neither the rows of `a` nor the result are rearranged.
//! Each output element is summed in the order of `k`, whatever the number of rows, and with one rounding per product.

use crate::element::Element;
use crate::lanes::LANES;
use crate::vector::Vector;
use crate::vector::level::Op;

/// Columns of a packed panel.
pub(super) const PANEL: usize = 64;

/// Rows of `a` processed together: with a strip of `b` in two registers, 12 accumulators. With 32 registers there are 24: for
/// twice as many rows and two strips, which stay in the first-level cache if they are packed, or else, as there may be few
/// rows, for four strips.
pub(super) const ROWS: usize = 6;

/// Rows of `a` that are multiplied with each strip before the next strip: they stay in the second-level cache, and a strip
/// in the first.
const BLOCK: usize = 16 * ROWS;

/// Access to the rows of a result.
pub(super) trait Output {
    /// The rows `i..i + M`, from their first column on.
    fn rows<const M: usize>(&mut self, i: usize) -> [&mut [f32]; M];
}

/// One slice per row.
impl Output for &mut [&mut [f32]] {
    #[inline(always)]
    fn rows<const M: usize>(&mut self, i: usize) -> [&mut [f32]; M] {
        let mut rows = self[i..i + M].iter_mut();
        core::array::from_fn(|_| &mut **rows.next().expect("M rows"))
    }
}

/// A buffer and the distance between its rows.
impl Output for (&mut [f32], usize) {
    #[inline(always)]
    fn rows<const M: usize>(&mut self, i: usize) -> [&mut [f32]; M] {
        let mut rows = self.0[i * self.1..].chunks_mut(self.1);
        core::array::from_fn(|_| rows.next().expect("M rows"))
    }
}

/// Rows of columns in strips of 16. If `PACKED`, strips have their rows one after the other.
#[derive(Clone, Copy)]
pub(super) struct Strips<'a, T, const PACKED: bool> {
    values: &'a [T],
    /// The distance between the rows of a strip.
    row: usize,
}

impl<'a, T> Strips<'a, T, true> {
    /// A panel that [`Pack`] wrote.
    pub(super) fn packed(panel: &'a [T]) -> Self {
        Self { values: panel, row: LANES }
    }
}

impl<'a, T> Strips<'a, T, false> {
    /// Rows of a matrix with a distance of `stride`, in place.
    pub(super) fn rows(values: &'a [T], stride: usize) -> Self {
        Self { values, row: stride }
    }
}

/// `out[i][..columns] = a[i] . b` or, with `accumulate`, `+=`. If elements of `b` are pairs, so are those of `a`.
pub(super) struct Tile<'a, O, T, const PACKED: bool> {
    /// Row `i` is at `a[i * a_stride..][..k]`.
    pub a: &'a [f32],
    pub a_stride: usize,
    pub m: usize,
    pub k: usize,
    /// Whole strips of `k` rows.
    pub b: Strips<'a, T, PACKED>,
    /// At most [`PANEL`].
    pub columns: usize,
    pub accumulate: bool,
    pub bias: Option<&'a [f32]>,
    pub out: O,
}

impl<O: Output, T: Element, const PACKED: bool> Op for Tile<'_, O, T, PACKED> {
    type Output = ();

    const PAIRS: bool = T::PAIRS;

    #[inline(always)]
    fn run<V: Vector>(self, v: V) {
        self.blocks::<V, false>(v);
    }
}

/// A [`Tile`] whose `a` is transposed: element `p` of row `i` is at `a[p * a_stride + i]`.
pub(super) struct Transposed<'a, O, T, const PACKED: bool>(pub Tile<'a, O, T, PACKED>);

impl<O: Output, T: Element, const PACKED: bool> Op for Transposed<'_, O, T, PACKED> {
    type Output = ();

    const PAIRS: bool = T::PAIRS;

    #[inline(always)]
    fn run<V: Vector>(self, v: V) {
        self.0.blocks::<V, true>(v);
    }
}

impl<O: Output, T: Element, const PACKED: bool> Tile<'_, O, T, PACKED> {
    #[inline(always)]
    fn blocks<V: Vector, const TRANSPOSED: bool>(mut self, v: V) {
        let strips = self.columns.div_ceil(LANES);
        for first in (0..self.m).step_by(BLOCK) {
            let rows = first..self.m.min(first + BLOCK);
            if V::MANY_REGISTERS && !PACKED {
                match strips {
                    0 => {}
                    1 => self.rows::<V, 1, false, TRANSPOSED>(v, rows, 0),
                    2 => self.rows::<V, 2, false, TRANSPOSED>(v, rows, 0),
                    3 => self.rows::<V, 3, false, TRANSPOSED>(v, rows, 0),
                    _ => self.rows::<V, 4, false, TRANSPOSED>(v, rows, 0),
                }
                continue;
            }
            let mut strip = 0;
            while strip < strips {
                if V::MANY_REGISTERS && strip + 1 < strips {
                    self.rows::<V, 2, false, TRANSPOSED>(v, rows.clone(), strip);
                    strip += 2;
                    continue;
                }
                if V::PARTS == 2 && !T::PAIRS && self.columns <= strip * LANES + LANES / 2 {
                    self.rows::<V, 1, true, TRANSPOSED>(v, rows.clone(), strip);
                } else {
                    self.rows::<V, 1, false, TRANSPOSED>(v, rows.clone(), strip);
                }
                strip += 1;
            }
        }
    }

    /// `S` strips from `strip` on, or the first of two parts of one, for some rows.
    #[inline(always)]
    fn rows<V: Vector, const S: usize, const HALF: bool, const TRANSPOSED: bool>(
        &mut self,
        v: V,
        rows: std::ops::Range<usize>,
        strip: usize,
    ) {
        let mut i = rows.start;
        while V::MANY_REGISTERS && PACKED && i + 2 * ROWS <= rows.end {
            self.block::<V, S, HALF, TRANSPOSED, { 2 * ROWS }>(v, i, strip);
            i += 2 * ROWS;
        }
        while i + ROWS <= rows.end {
            self.block::<V, S, HALF, TRANSPOSED, ROWS>(v, i, strip);
            i += ROWS;
        }
        match rows.end - i {
            0 => {}
            1 => self.block::<V, S, HALF, TRANSPOSED, 1>(v, i, strip),
            2 => self.block::<V, S, HALF, TRANSPOSED, 2>(v, i, strip),
            3 => self.block::<V, S, HALF, TRANSPOSED, 3>(v, i, strip),
            4 => self.block::<V, S, HALF, TRANSPOSED, 4>(v, i, strip),
            _ => self.block::<V, S, HALF, TRANSPOSED, 5>(v, i, strip),
        }
    }

    #[inline(always)]
    fn block<V: Vector, const S: usize, const HALF: bool, const TRANSPOSED: bool, const M: usize>(
        &mut self,
        v: V,
        i: usize,
        strip: usize,
    ) {
        let (k, stride) = (self.k, self.a_stride);
        let mut a: [&[f32]; M] = [&[]; M];
        for (r, a) in a.iter_mut().enumerate().filter(|_| !TRANSPOSED) {
            *a = &self.a[(i + r) * stride..][..k];
        }
        // Of a known length, so that the inner loop has no checks.
        let mut packed: [&[[T; LANES]]; S] = [&[]; S];
        let mut rows: [&[T]; S] = [&[]; S];
        for s in 0..S {
            if PACKED {
                packed[s] = self.b.values[(strip + s) * k * LANES..][..k * LANES].as_chunks().0;
            } else {
                rows[s] = &self.b.values[(strip + s) * LANES..];
            }
        }
        let row = self.b.row;
        // The rows of the result are far apart.
        for out in self.out.rows::<M>(i) {
            for s in 0..S {
                v.prefetch(bytemuck::cast_slice(out), (strip + s) * 4 * LANES);
            }
        }
        let padding = [T::zeroed(); LANES];
        let mut sums = [[v.zero(); S]; M];
        for p in 0..k {
            let mut vectors: [&[T; LANES]; S] = [&padding; S];
            for s in 0..S {
                vectors[s] =
                    if PACKED { &packed[s][p] } else { rows[s][p * row..].first_chunk().expect("whole strips") };
            }
            let column: &[f32; M] = match TRANSPOSED {
                true => self.a[p * stride + i..].first_chunk().expect("whole rows"),
                false => &[0.0; M],
            };
            if HALF {
                let vector = T::part(v, vectors[0], 0);
                for r in 0..M {
                    let value = if TRANSPOSED { column[r] } else { a[r][p] };
                    let sum = v.part_mul_add(v.part_splat(value), vector, v.part_of(sums[r][0], 0));
                    v.set_part(&mut sums[r][0], 0, sum);
                }
                continue;
            }
            let mut loaded = [v.zero(); S];
            for s in 0..S {
                loaded[s] = T::load(v, vectors[s]);
            }
            for r in 0..M {
                let broadcast = v.splat(if TRANSPOSED { column[r] } else { a[r][p] });
                for s in 0..S {
                    sums[r][s] = T::mul_add(v, broadcast, loaded[s], sums[r][s]);
                }
            }
        }
        let (from, to) = (strip * LANES, self.columns.min((strip + S) * LANES));
        let bias = self.bias.map(|bias| &bias[from..to]);
        for (sums, out) in sums.into_iter().zip(self.out.rows::<M>(i)) {
            let out = &mut out[from..to];
            for (s, sum) in sums.into_iter().enumerate() {
                // The last strip can be partial, but not empty.
                let end = out.len().min((s + 1) * LANES);
                store(v, sum, self.accumulate, bias.map(|bias| &bias[s * LANES..end]), &mut out[s * LANES..end]);
            }
        }
    }
}

/// `out (+)= sum + bias`, for up to 16 columns.
#[inline(always)]
fn store<V: Vector>(v: V, mut sum: V::Floats, accumulate: bool, bias: Option<&[f32]>, out: &mut [f32]) {
    if let Some(out) = out.as_chunks_mut::<LANES>().0.first_mut() {
        if accumulate {
            sum = v.add(sum, v.load(out));
        }
        if let Some(bias) = bias {
            sum = v.add(sum, v.load_part(bias));
        }
        return v.store(sum, out);
    }
    if accumulate {
        sum = v.add(sum, v.load_part(out));
    }
    if let Some(bias) = bias {
        sum = v.add(sum, v.load_part(bias));
    }
    v.store_part(sum, out);
}

/// The rows of matrices that are transposed together.
const SIDE: usize = 8;

/// Transposes at most [`PANEL`] rows of `k` elements into strips `[k, 16]` one after the other, with zeros in columns
/// without a row; strips without any row are left out. Row `j` is at `w[j * stride..][..k]`; the last one ends `w`.
pub(super) struct Pack<'a, T = f32> {
    pub w: &'a [T],
    pub stride: usize,
    pub k: usize,
    pub panel: &'a mut [f32],
}

impl<T: Element> Op for Pack<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self, v: V) {
        let Self { w, stride, k, panel } = self;
        let rows = w.len().div_ceil(stride);
        for first in (0..rows).step_by(SIDE) {
            transpose(v, &w[first * stride..], stride, k, panel, first);
        }
        clear(panel, k, rows);
    }
}

/// Zeros in the columns of the last strip from `rows` on.
#[inline(always)]
pub(super) fn clear(panel: &mut [f32], k: usize, rows: usize) {
    if !rows.is_multiple_of(LANES) {
        for row in panel[rows / LANES * k * LANES..][..k * LANES].as_chunks_mut::<LANES>().0 {
            row[rows % LANES..].fill(0.0);
        }
    }
}

/// Transposes up to 8 rows of `k` elements to the columns of a panel from `first` on, a multiple of 8. Row `j` is at
/// `w[j * stride..][..k]`; the last one ends `w` if there are fewer than 8.
#[inline(always)]
pub(super) fn transpose<V: Vector, T: Element>(
    v: V,
    w: &[T],
    stride: usize,
    k: usize,
    panel: &mut [f32],
    first: usize,
) {
    let rows = w.len().div_ceil(stride).min(SIDE);
    let strip = panel[first / LANES * k * LANES..][..k * LANES].as_chunks_mut::<LANES>().0;
    let half = first % LANES / SIDE;
    let mut done = 0;
    if rows == SIDE {
        let sources: [&[T]; SIDE] = core::array::from_fn(|r| &w[r * stride..][..k]);
        let sources: [&[[T; SIDE]]; SIDE] = sources.map(|row| &row.as_chunks().0[..k / SIDE]);
        for (at, out) in strip.as_chunks_mut::<SIDE>().0.iter_mut().enumerate() {
            let mut rows = [v.eight_zero(); SIDE];
            for (row, source) in rows.iter_mut().zip(sources) {
                *row = T::eight(v, &source[at]);
            }
            let columns = v.eight_transpose(rows);
            for (column, out) in columns.into_iter().zip(out) {
                v.eight_store(column, &mut out.as_chunks_mut().0[half]);
            }
        }
        done = k / SIDE * SIDE;
    }
    for r in 0..rows {
        for (&value, out) in w[r * stride..][..k].iter().zip(&mut *strip).skip(done) {
            out[half * SIDE + r] = value.widened();
        }
    }
}
