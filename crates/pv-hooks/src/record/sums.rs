//! The sums of a recorder.

use std::collections::BTreeMap;
use std::ops::Range;

use burn::tensor::{DType, Device, IndexingUpdateOp, Tensor};

use super::uploads::Uploads;
use crate::TokenSpans;
use crate::tokens::RowSpans;

/// The sums of one capture at one layer. A sequence gets its place with its first token, so that memory depends on the
/// number of sequences and not on their identifiers. Sequences with the same tokens so far have one place: all that a row
/// represents.
#[derive(Debug, Default)]
pub(super) struct Sums {
    /// The place of each sequence; `None` before its first token.
    of: BTreeMap<usize, Option<usize>>,
    places: Vec<Place>,
    /// `[places, d_model]`; `None` before the first token.
    sums: Option<Tensor<2>>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Place {
    /// The number of tokens in the sum.
    count: usize,
    /// The position in its sequence of the first token that has not been seen.
    next: usize,
    /// The number of sequences.
    sequences: usize,
}

/// Positions of a row's window that are added to the sum of a place.
#[derive(Clone, Debug)]
struct Addend {
    place: usize,
    row: usize,
    window: Range<usize>,
}

impl Sums {
    /// The places to which the tokens of a pass belong, and those of which new places are copies; see [`add`](Self::add).
    fn addends(
        &mut self,
        spans: &TokenSpans,
        window: impl Fn(&RowSpans) -> Range<usize>,
        once: bool,
    ) -> (Vec<Addend>, Vec<Option<usize>>) {
        let (mut addends, mut copies) = (Vec::new(), Vec::new());
        for (row, of) in spans.rows().iter().enumerate() {
            let window = window(of);
            let mut places: BTreeMap<Option<usize>, Vec<usize>> = BTreeMap::new();
            for &sequence in &of.sequences {
                let place = *self.of.entry(sequence).or_default();
                if !window.is_empty() {
                    places.entry(place).or_default().push(sequence);
                }
            }
            for (place, sequences) in places {
                let before = place.map_or_else(Place::default, |place| self.places[place]);
                let seen = if once { (before.next + of.padding).saturating_sub(of.offset) } else { 0 };
                let window = window.start.max(seen)..window.end;
                if window.is_empty() {
                    continue;
                }
                let after = Place {
                    count: before.count + window.len(),
                    next: of.offset + window.end - of.padding,
                    sequences: sequences.len(),
                };
                let target = match place {
                    Some(place) if before.sequences == after.sequences => place,
                    _ => {
                        place.into_iter().for_each(|place| self.places[place].sequences -= after.sequences);
                        copies.push(place);
                        self.places.push(after);
                        self.places.len() - 1
                    }
                };
                self.places[target] = after;
                sequences.into_iter().for_each(|sequence| _ = self.of.insert(sequence, Some(target)));
                addends.push(Addend { place: target, row, window });
            }
        }
        (addends, copies)
    }

    /// Adds the values, `[batch, seq, width]`, at some tokens of a pass, given as a range of each row's window. Tokens that a
    /// sequence had before are left out if `once`. All sequences of the pass become known, so that a lack of tokens is
    /// reported as an error.
    pub(super) fn add(
        &mut self,
        spans: &TokenSpans,
        window: impl Fn(&RowSpans) -> Range<usize>,
        once: bool,
        values: impl FnOnce() -> Tensor<3>,
        uploads: &mut Uploads,
    ) {
        let (addends, copies) = self.addends(spans, window, once);
        if addends.is_empty() {
            return;
        }
        let values = values();
        if values.device() != Device::flex() && addends.iter().any(|addend| addend.window.len() > 1) {
            let targets: Vec<usize> = addends.iter().map(|addend| addend.place).collect();
            return self.add_rows(&targets, window_sums(values, &addends, uploads), &copies, uploads);
        }
        let [batch, seq, width] = values.dims();
        let (mut targets, mut tokens) = (Vec::new(), Vec::new());
        for Addend { place, row, window } in addends {
            targets.extend(std::iter::repeat_n(place, window.len()));
            tokens.extend(window.map(|position| row * seq + position));
        }
        let values = rows(values.reshape([batch * seq, width]), &tokens, uploads);
        self.add_rows(&targets, values, &copies, uploads);
    }

    /// The number of tokens of every known sequence.
    pub(super) fn counts(&self) -> impl Iterator<Item = (usize, usize)> {
        let count = |place: Option<usize>| place.map_or(0, |place| self.places[place].count);
        self.of.iter().map(move |(sequence, place)| (*sequence, count(*place)))
    }

    /// Whether no sequence has a token.
    pub(super) fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// The means of these sequences, `[sequences, width]`; the first sequence without a token is the error.
    pub(super) fn means(&self, sequences: &[usize], uploads: &mut Uploads) -> Result<Tensor<2>, usize> {
        let place = |sequence: &usize| self.of.get(sequence).copied().flatten().ok_or(*sequence);
        let places = sequences.iter().map(place).collect::<Result<Vec<usize>, _>>()?;
        let sums = self.sums.clone().ok_or_else(|| sequences.first().copied().unwrap_or(0))?;
        let device = sums.device();
        let counts: Vec<f32> = places.iter().map(|place| self.places[*place].count as f32).collect();
        let sums = rows(sums, &places, uploads);
        if counts.iter().all(|&n| n == 1.0) {
            return Ok(sums);
        }
        Ok(sums / uploads.factors(&counts, &device).reshape([sequences.len(), 1]))
    }

    /// Adds rows of `values`, `[rows, width]`, each to the place with the same index in `targets`, in order.
    fn add_rows(&mut self, targets: &[usize], values: Tensor<2>, copies: &[Option<usize>], uploads: &mut Uploads) {
        let device = values.device();
        // Taken out, so that the buffer has one owner and is added to in place.
        let [_, width] = values.dims();
        let sums = match self.sums.take() {
            None if targets.iter().copied().eq(0..self.places.len()) => {
                self.sums = Some(values);
                return;
            }
            None => Tensor::zeros([self.places.len(), width], (&device, DType::F32)),
            Some(sums) if copies.is_empty() => sums,
            Some(sums) => grown(sums, copies, uploads),
        };
        self.sums = Some(if targets.iter().copied().eq(0..sums.dims()[0]) {
            sums + values
        } else {
            sums.select_assign(0, uploads.indices(targets, &device), values, IndexingUpdateOp::Add)
        });
    }
}

/// Some rows of a matrix; the matrix itself if they are all of its rows.
fn rows(values: Tensor<2>, rows: &[usize], uploads: &mut Uploads) -> Tensor<2> {
    if rows.iter().copied().eq(0..values.dims()[0]) {
        return values;
    }
    let device = values.device();
    values.select(0, uploads.indices(rows, &device))
}

/// The sum of the values, `[batch, seq, width]`, over each addend's window: `[addends, width]`.
fn window_sums(values: Tensor<3>, addends: &[Addend], uploads: &mut Uploads) -> Tensor<2> {
    let [batch, seq, width] = values.dims();
    let device = values.device();
    let mut mask = vec![0f32; addends.len() * seq];
    for (mask, addend) in mask.chunks_exact_mut(seq).zip(addends) {
        mask[addend.window.clone()].fill(1.0);
    }
    let mask = uploads.factors(&mask, &device).reshape([addends.len(), 1, seq]);
    let of: Vec<usize> = addends.iter().map(|addend| addend.row).collect();
    let values = rows(values.reshape([batch, seq * width]), &of, uploads).reshape([addends.len(), seq, width]);
    let sums = if width == 1 {
        // Not a product: the norm of a finite residual may be infinite outside the window.
        let outside = mask.swap_dims(1, 2).equal_elem(0.0);
        values.mask_fill(outside, 0.0).sum_dim(1)
    } else {
        // A product reads the values once and makes no masked copy.
        mask.matmul(values)
    };
    sums.reshape([addends.len(), width])
}

/// The sums with rows for new places, each a copy of another row or zeros.
fn grown(sums: Tensor<2>, copies: &[Option<usize>], uploads: &mut Uploads) -> Tensor<2> {
    let device = sums.device();
    let (to, from): (Vec<usize>, Vec<usize>) =
        copies.iter().enumerate().filter_map(|(new, place)| Some((new, (*place)?))).unzip();
    let new = Tensor::zeros([copies.len(), sums.dims()[1]], (&device, DType::F32));
    let new = match from.is_empty() {
        true => new,
        false => {
            let copied = sums.clone().select(0, uploads.indices(&from, &device));
            new.select_assign(0, uploads.indices(&to, &device), copied, IndexingUpdateOp::Add)
        }
    };
    Tensor::cat(vec![sums, new], 0)
}

#[cfg(test)]
mod tests {
    use burn::tensor::TensorData;

    use super::*;

    /// The sums of devices other than the CPU.
    #[test]
    fn window_sums_are_those_of_the_windows_tokens() {
        for width in [1, 2] {
            let mut values: Vec<f32> = (0..2 * 4 * width).map(|i| i as f32).collect();
            // Outside every window.
            values[..width].fill(if width == 1 { f32::INFINITY } else { 1e30 });
            let tensor = Tensor::<3>::from_data(TensorData::new(values.clone(), [2, 4, width]), &Device::flex());
            let addends = [(1, 0..2), (0, 1..4), (1, 3..4)].map(|(row, window)| Addend { place: 0, row, window });
            let sum = |addend: &Addend, column: usize| {
                addend.window.clone().map(|at| values[(addend.row * 4 + at) * width + column]).sum::<f32>()
            };
            let expected: Vec<f32> =
                addends.iter().flat_map(|addend| (0..width).map(|column| sum(addend, column))).collect();
            let found: Vec<f32> =
                window_sums(tensor, &addends, &mut Uploads::default()).into_data().try_to_vec().expect("values");
            assert_eq!(found, expected);
        }
    }
}
