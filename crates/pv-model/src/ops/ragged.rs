//! Packing: computes rows of different lengths without their padding.
//!
//! Hooks, attention and the cache see windows `[batch, seq]`. All other operations work token by token; for those, a
//! pass may concatenate its tokens and omit padding.

use burn::tensor::{Device, Int, Tensor};

use super::{Window, indices};

/// Packing is worth its copies when one position in this many, or more, is padding.
const WORTH: usize = 16;

/// The positions of a window's tokens among `[batch × seq]`.
#[derive(Debug)]
pub(crate) struct Ragged {
    /// The last one may be repeated, so that there is a least number of rows; the repetitions are not unpacked.
    tokens: Vec<usize>,
    /// The positions that contain a token.
    to_tokens: Tensor<1, Int>,
    /// The token at every position; for padding, a token of the row, since hooks rely on finite values.
    to_positions: Tensor<1, Int>,
}

impl Ragged {
    /// `None` if the window has little padding, and in decoding, whose passes keep one shape, unless that would give fewer
    /// than `least` rows.
    pub(crate) fn of(window: &Window, least: usize, device: &Device) -> Option<Self> {
        let positions = window.starts.len() * window.seq;
        let padded = positions - window.lengths().sum::<usize>();
        let worth = window.seq > 1 && padded * WORTH >= positions;
        if worth || positions < least { Self::in_order(window, 0..window.starts.len(), least, device) } else { None }
    }

    /// All tokens, row after row in an order, as at least `least` rows; `None` if that is the window itself, and without
    /// tokens.
    pub(crate) fn in_order(
        window: &Window,
        order: impl IntoIterator<Item = usize>,
        least: usize,
        device: &Device,
    ) -> Option<Self> {
        let (seq, lengths) = (window.seq, window.lengths().collect::<Vec<_>>());
        let (positions, count) = (lengths.len() * seq, lengths.iter().sum::<usize>());
        if count == 0 || count == positions.max(least) {
            return None;
        }
        let mut tokens = Vec::with_capacity(count.max(least));
        let mut of_position = vec![0; positions];
        for row in order {
            let padding = seq - lengths[row];
            let of_row = &mut of_position[row * seq..(row + 1) * seq];
            // A row of padding only takes a token of a neighbouring row.
            of_row[..padding].fill(tokens.len().min(count - 1));
            of_row[padding..].iter_mut().zip(tokens.len()..).for_each(|(position, token)| *position = token);
            tokens.extend(row * seq + padding..(row + 1) * seq);
        }
        tokens.resize(count.max(least), tokens[count - 1]);
        let to_tokens = indices(tokens.iter().copied(), device);
        Some(Self { to_tokens, to_positions: indices(of_position, device), tokens })
    }

    /// The number of packed rows.
    pub(crate) fn len(&self) -> usize {
        self.tokens.len()
    }

    /// The ids of the packed rows among those of all positions.
    pub(crate) fn ids(&self, ids: &[u32]) -> Vec<u32> {
        self.tokens.iter().map(|position| ids[*position]).collect()
    }

    /// `[batch · seq, d]` to `[rows, d]`.
    pub(crate) fn pack(&self, x: Tensor<2>) -> Tensor<2> {
        x.select(0, self.to_tokens.clone())
    }

    /// `[rows, d]` to `[batch · seq, d]`.
    pub(crate) fn unpack(&self, x: Tensor<2>) -> Tensor<2> {
        x.select(0, self.to_positions.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ragged(column: usize, seq: usize, starts: &[usize]) -> Option<Ragged> {
        Ragged::of(&Window { seq, column, starts: starts.to_vec() }, 0, &Device::flex())
    }

    #[test]
    fn a_least_number_of_rows_repeats_the_last_token() {
        let of = |starts: &[usize], least| {
            Ragged::of(&Window { seq: 2, column: 0, starts: starts.to_vec() }, least, &Device::flex())
        };
        let found = of(&[0, 1], 6).expect("three tokens");
        assert_eq!((found.len(), &found.tokens[..]), (6, &[0, 1, 3, 3, 3, 3][..]));
        let x = Tensor::<1>::from_floats([0., 1., 3., 9., 9., 9.], &Device::flex()).reshape([6, 1]);
        let values: Vec<f32> = found.unpack(x).to_data().try_to_vec().expect("values");
        assert_eq!(values, [0., 1., 3., 3.], "none of the repetitions");
        assert_eq!(of(&[0, 0], 6).expect("four tokens without padding").len(), 6);
        assert!(of(&[0, 0], 4).is_none());
        assert!(of(&[0, 0], 3).is_none());
        assert!(of(&[2, 2], 4).is_none(), "no token");
    }

    #[test]
    fn tokens_come_back_to_their_positions() {
        let of = ragged(0, 4, &[3, 0, 4, 1]).expect("much padding");
        assert_eq!(of.tokens, [3, 4, 5, 6, 7, 13, 14, 15]);
        assert_eq!(of.ids(&(0..16).collect::<Vec<_>>()), [3, 4, 5, 6, 7, 13, 14, 15]);
        let x = Tensor::<1>::from_floats([0., 1., 2., 3., 4., 5., 6., 7.], &Device::flex()).reshape([8, 1]);
        let filled = of.unpack(x.clone());
        let values: Vec<f32> = filled.to_data().try_to_vec().expect("values");
        assert_eq!(values, [0., 0., 0., 0., 1., 2., 3., 4., 5., 5., 5., 5., 5., 5., 6., 7.]);
        assert_eq!(of.pack(filled).to_data(), x.to_data());
        // A last row without a token takes one of the row before.
        let last = ragged(0, 2, &[0, 2]).expect("much padding");
        let values: Vec<i64> = last.to_positions.to_data().iter().collect();
        assert_eq!(values, [0, 1, 1, 1]);
    }

    #[test]
    fn windows_with_little_padding_stay_whole() {
        assert!(ragged(0, 4, &[0, 0]).is_none());
        assert!(ragged(0, 40, &[1, 1]).is_none());
        assert!(ragged(0, 4, &[4, 4]).is_none(), "no token at all");
        assert!(ragged(9, 1, &[3, 10, 10]).is_none(), "a decoding step");
        assert_eq!(ragged(8, 4, &[3, 10]).expect("padding in the second row").tokens, [0, 1, 2, 3, 6, 7]);
    }
}
