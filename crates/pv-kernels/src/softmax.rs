//! Unnormalised probabilities from logits.

use crate::lanes;
use crate::vector::Vector;
use crate::vector::level::{Op, dispatch};

struct Weights<'a> {
    logits: &'a [f32],
    shift: f32,
    factor: f32,
    out: &'a mut [f32],
}

impl Op for Weights<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self, v: V) {
        let (shift, factor) = (v.splat(self.shift), v.splat(self.factor));
        lanes::map(
            v,
            [self.logits],
            self.out,
            #[inline(always)]
            |[x]| lanes::exp(v, v.mul(v.sub(x, shift), factor)),
        );
    }
}

/// `out = e^((logits - shift) * factor)`, with the greatest logit as `shift` and the inverse of the temperature as `factor`.
/// Where that is below e^−87, `out` is 0.
///
/// # Panics
/// If the lengths differ.
pub fn softmax_weights(logits: &[f32], shift: f32, factor: f32, out: &mut [f32]) {
    assert_eq!(logits.len(), out.len(), "softmax_weights: lengths differ");
    dispatch(Weights { logits, shift, factor, out });
    // The exponential stays at the end of its range.
    let smallest = -87.0 / factor;
    out.iter_mut().zip(logits).for_each(|(out, logit)| {
        if logit - shift < smallest {
            *out = 0.0;
        }
    });
}
