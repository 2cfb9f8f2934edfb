//! The most likely tokens. Weights are counted in narrow bins, so that only those of two bins are sorted: the one in which the
//! nucleus ends, and the one from which a token is drawn.

use std::cmp::Ordering;

/// A bin for every exponent and 5 bits of the fraction. Weights are in [0, 1], so that the bits of the greatest are those of 1.
const BINS: usize = bin(1.0) + 1;

const fn bin(weight: f32) -> usize {
    (weight.to_bits() >> 18) as usize
}

/// A token and its weight.
pub(super) type Weighted = (usize, f32);

/// The greater weight comes first, and of equal ones the first token: the order does not depend on the sort.
fn descending(a: &Weighted, b: &Weighted) -> Ordering {
    b.1.total_cmp(&a.1).then(a.0.cmp(&b.0))
}

/// The `top_k` greatest weights, and of those the greatest whose part of their sum reaches `top_p`; one of the two limits them.
#[derive(Debug)]
pub(super) struct Nucleus<'a> {
    weights: &'a [f32],
    /// The sum of each bin's weights.
    masses: Vec<f64>,
    /// The bin in which the nucleus ends.
    end: usize,
    /// The weights of that bin which belong to it, in descending order.
    last: Vec<Weighted>,
    /// The sum of all its weights.
    mass: f64,
}

/// The bins above one.
#[derive(Clone, Copy, Debug, Default)]
struct Above {
    count: usize,
    mass: f64,
}

impl<'a> Nucleus<'a> {
    /// `weights` are in [0, 1], and one of them is 1.
    pub(super) fn of(weights: &'a [f32], top_k: Option<usize>, top_p: f32) -> Self {
        let (mut counts, mut masses) = (vec![0_usize; BINS], vec![0.0; BINS]);
        for &weight in weights {
            let bin = bin(weight).min(BINS - 1);
            counts[bin] += 1;
            masses[bin] += f64::from(weight);
        }
        // The first bin from the top with which there are so many weights, or so large a sum.
        let reaching = |count: usize, mass: f64| {
            let mut above = Above::default();
            for bin in (1..BINS).rev() {
                let all = Above { count: above.count + counts[bin], mass: above.mass + masses[bin] };
                if all.count >= count || all.mass >= mass {
                    return (bin, above);
                }
                above = all;
            }
            (0, above)
        };
        let (mut end, mut above) = reaching(top_k.unwrap_or(usize::MAX), f64::INFINITY);
        let (mut last, mut mass) = (Vec::new(), above.mass + masses[end]);
        if let Some(count) = top_k {
            last = members(weights, end);
            last.truncate(count.saturating_sub(above.count));
            mass = above.mass + sum(&last);
        }
        if top_p < 1.0 {
            let (total, part) = (mass, f64::from(top_p));
            let (bin, reached) = reaching(usize::MAX, part * total);
            if bin > end || top_k.is_none() {
                (end, above, last) = (bin, reached, members(weights, bin));
            }
            mass = above.mass;
            let kept = last.iter().take_while(|(_, weight)| {
                let before = mass / total;
                mass += f64::from(*weight);
                before < part
            });
            let kept = kept.count().max(usize::from(above.count == 0));
            last.truncate(kept);
            mass = above.mass + sum(&last);
        }
        Self { weights, masses, end, last, mass }
    }

    /// The token at a part of the sum, in [0, 1), in descending order of weights; `None` if all weights are zero.
    pub(super) fn at(&self, part: f64) -> Option<usize> {
        let mut left = part * self.mass;
        let mut lowest = None;
        for bin in (self.end + 1..BINS).rev().filter(|bin| self.masses[*bin] > 0.0) {
            if left < self.masses[bin] {
                return walk(members(self.weights, bin), left);
            }
            left -= self.masses[bin];
            lowest = Some(bin);
        }
        // After the last weight, which rounding can lead to, is the last weight.
        walk(self.last.iter().copied(), left).or_else(|| walk(members(self.weights, lowest?), f64::INFINITY))
    }

    /// All weights, in descending order.
    #[cfg(test)]
    pub(super) fn ranked(&self) -> Vec<Weighted> {
        let above = (self.end + 1..BINS).rev().flat_map(|bin| members(self.weights, bin));
        above.chain(self.last.iter().copied()).collect()
    }
}

/// The weights of a bin, in descending order.
fn members(weights: &[f32], of: usize) -> Vec<Weighted> {
    let mut members: Vec<Weighted> =
        weights.iter().copied().enumerate().filter(|(_, weight)| bin(*weight).min(BINS - 1) == of).collect();
    members.sort_unstable_by(descending);
    members
}

fn sum(weights: &[Weighted]) -> f64 {
    weights.iter().map(|(_, weight)| f64::from(*weight)).sum()
}

/// The token of the first weight with which the sum exceeds `left`, or the last token with a weight.
pub(super) fn walk(weights: impl IntoIterator<Item = Weighted>, mut left: f64) -> Option<usize> {
    let mut last = None;
    for (token, weight) in weights.into_iter().filter(|(_, weight)| *weight > 0.0) {
        last = Some(token);
        left -= f64::from(weight);
        if left < 0.0 {
            break;
        }
    }
    last
}
