//! Updates of parameters.

use rayon::prelude::*;

use crate::PARALLEL_ELEMENTS;

/// One step of AdamW (Loshchilov and Hutter, arXiv 1711.05101) for some parameters.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamW {
    /// The learning rate.
    pub rate: f32,
    /// What weight decay leaves of a parameter: 1 − rate · decay.
    pub kept: f32,
    /// How much of the first moment stays.
    pub beta_1: f32,
    /// How much of the second moment stays.
    pub beta_2: f32,
    /// Added to the root of the second moment.
    pub epsilon: f32,
    /// The number of updates, this one included.
    pub time: i32,
}

/// A parameter, its gradient and its two moments.
type Slices<'a> = (&'a mut [f32], &'a [f32], &'a mut [f32], &'a mut [f32]);

impl AdamW {
    /// Updates parameters and their moments in place. Each operation rounds, in the order of Burn's optimizer, whose results
    /// these are to the bit.
    ///
    /// # Panics
    /// If the slices differ in length.
    pub fn update(&self, values: &mut [f32], gradient: &[f32], first: &mut [f32], second: &mut [f32]) {
        let len = values.len();
        assert!([gradient.len(), first.len(), second.len()] == [len; 3], "AdamW: lengths differ");
        let threads = rayon::current_num_threads();
        if threads == 1 || len < PARALLEL_ELEMENTS {
            return self.part((values, gradient, first, second));
        }
        let chunk = len.div_ceil(threads * 4).max(8 * 1024);
        values
            .par_chunks_mut(chunk)
            .zip(gradient.par_chunks(chunk))
            .zip(first.par_chunks_mut(chunk).zip(second.par_chunks_mut(chunk)))
            .for_each(|((values, gradient), (first, second))| self.part((values, gradient, first, second)));
    }

    fn part(&self, (values, gradient, first, second): Slices<'_>) {
        let Self { rate, kept, beta_1, beta_2, epsilon, time } = *self;
        let (new_1, new_2) = (1.0 - beta_1, 1.0 - beta_2);
        let (bias_1, bias_2) = (1.0 - beta_1.powi(time), 1.0 - beta_2.powi(time));
        let moments = first.iter_mut().zip(second);
        for ((value, &gradient), (first, second)) in values.iter_mut().zip(gradient).zip(moments) {
            *first = *first * beta_1 + gradient * new_1;
            *second = *second * beta_2 + gradient * gradient * new_2;
            let change = *first / bias_1 / ((*second / bias_2).sqrt() + epsilon);
            *value = *value * kept - change * rate;
        }
    }
}
