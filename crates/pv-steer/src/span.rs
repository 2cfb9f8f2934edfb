//! An orthonormal basis of the span of several directions.

use pv_vectors::Direction;

/// A direction adds nothing to the span of the others if no more than this fraction of it is outside. It is about ten
/// times the rounding of a vector in f32, so that two roundings of one vector count as one.
pub(crate) const SAME_SPAN: f64 = 1e-6;

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// Orthonormal vectors, `[d_model]` each, that span the directions, rounded once. There are fewer of them than
/// directions if the directions are dependent ([`SAME_SPAN`]). The basis depends only on the set of directions, not on
/// their order; for one direction it is the unit vector.
///
/// The directions must have a length above zero and one width.
pub(crate) fn orthonormal(directions: &[Direction]) -> Vec<Vec<f32>> {
    let unit = |direction: &Direction| {
        let norm = direction.norm();
        direction.values.iter().map(|value| f64::from(*value) / norm).collect::<Vec<f64>>()
    };
    let mut rest: Vec<Vec<f64>> = directions.iter().map(unit).collect();
    let order = |a: &Vec<f64>, b: &Vec<f64>| {
        let pairs = a.iter().zip(b).map(|(a, b)| a.total_cmp(b));
        pairs.fold(std::cmp::Ordering::Equal, std::cmp::Ordering::then)
    };
    rest.sort_by(order);
    let mut basis: Vec<Vec<f64>> = Vec::new();
    // Modified Gram-Schmidt, the longest remainder first.
    while !rest.is_empty() {
        let lengths: Vec<f64> = rest.iter().map(|vector| dot(vector, vector).sqrt()).collect();
        let longest = (0..rest.len()).fold(0, |longest, at| if lengths[at] > lengths[longest] { at } else { longest });
        if lengths[longest] <= SAME_SPAN {
            break;
        }
        let mut next = rest.remove(longest);
        if !basis.is_empty() {
            // Two rounds are enough for orthogonality to the last bits, however small the remainder.
            for _ in 0..2 {
                for known in &basis {
                    take_out(&mut next, known);
                }
            }
            let length = dot(&next, &next).sqrt();
            next.iter_mut().for_each(|value| *value /= length);
        }
        rest.iter_mut().for_each(|vector| take_out(vector, &next));
        basis.push(next);
    }
    basis.into_iter().map(|vector| vector.into_iter().map(|value| value as f32).collect()).collect()
}

fn take_out(vector: &mut [f64], unit: &[f64]) {
    let along = dot(vector, unit);
    vector.iter_mut().zip(unit).for_each(|(value, unit)| *value -= along * unit);
}

#[cfg(test)]
mod tests {
    use nalgebra::DMatrix;
    use pv_hooks::Layer;
    use rand::rngs::ChaCha8Rng;
    use rand::{RngExt, SeedableRng};

    use super::*;
    use crate::constant::unit_values;

    const WIDTH: usize = 24;

    fn direction(values: Vec<f32>) -> Direction {
        Direction { layer: Layer::hidden_state(1), values, mean_residual_norm: None }
    }

    /// `h − Q·Qᵀ·h` by an f64 decomposition that shares no code with the tested one.
    fn reference(directions: &[Direction], h: &[f64]) -> Vec<f64> {
        let norms: Vec<f64> = directions.iter().map(Direction::norm).collect();
        let columns = DMatrix::from_fn(WIDTH, directions.len(), |i, j| f64::from(directions[j].values[i]) / norms[j]);
        let svd = columns.svd(true, false);
        let (u, most) = (svd.u.expect("asked for"), svd.singular_values.max());
        let mut left = nalgebra::DVector::from_column_slice(h);
        for (index, value) in svd.singular_values.iter().enumerate() {
            if *value > 1e-5 * most {
                let along = u.column(index).dot(&left);
                left -= u.column(index) * along;
            }
        }
        left.iter().copied().collect()
    }

    fn projected(basis: &[Vec<f32>], h: &[f64]) -> Vec<f64> {
        let mut left = h.to_vec();
        for vector in basis {
            let vector: Vec<f64> = vector.iter().copied().map(f64::from).collect();
            take_out(&mut left, &vector);
        }
        left
    }

    #[test]
    fn the_basis_spans_what_the_directions_do() {
        let mut random = ChaCha8Rng::seed_from_u64(4);
        for case in 0..200 {
            let count = 1 + case % 7;
            let mut values = || -> Vec<f32> { (0..WIDTH).map(|_| random.random_range(-1.0..1.0)).collect() };
            // Correlated, with norms from 1e-3 to 1e3; every third set contains a duplicate and a sum of two.
            let common = values();
            let mut all: Vec<Direction> = (0..count)
                .map(|at| {
                    let own = values();
                    let mixed = own.iter().zip(&common).map(|(a, b)| (0.6 * a + b) * 10f32.powi(at as i32 % 7 - 3));
                    direction(mixed.collect())
                })
                .collect();
            if case % 3 == 0 {
                let (first, last) = (all[0].clone(), all[count - 1].clone());
                all.push(direction(first.values.iter().map(|value| value * -0.3).collect()));
                let sum = first.values.iter().zip(&last.values).map(|(a, b)| a / 3.0 + b);
                all.push(direction(sum.collect()));
            }
            let basis = orthonormal(&all);
            assert_eq!(basis.len(), count, "case {case}");
            let h: Vec<f64> = (0..WIDTH).map(|_| random.random_range(-5.0..5.0)).collect();
            let (found, expected) = (projected(&basis, &h), reference(&all, &h));
            for (found, expected) in found.iter().zip(&expected) {
                assert!((found - expected).abs() < 3e-5, "case {case}: {found}, not {expected}");
            }
            for direction in &all {
                let values: Vec<f64> = direction.values.iter().copied().map(f64::from).collect();
                let left = dot(&found, &values) / dot(&values, &values).sqrt();
                assert!(left.abs() < 1e-5, "case {case}: {left} is left");
            }
            all.reverse();
            assert_eq!(orthonormal(&all), basis, "case {case}: the order shows");
        }
    }

    #[test]
    fn one_direction_is_its_unit_vector_and_near_duplicates_are_one() {
        let values: Vec<f32> = (0..WIDTH).map(|i| (i as f32 * 0.7).sin() * 3.1).collect();
        let one = direction(values.clone());
        let unit = unit_values(&one).expect("a length");
        assert_eq!(orthonormal(std::slice::from_ref(&one)), vec![unit.clone()]);
        assert_eq!(orthonormal(&[one.clone(), one.clone()]), vec![unit]);
        // Rounded differently, then moved by a little more than rounding.
        let moved =
            |by: f32| direction(values.iter().enumerate().map(|(i, v)| v * 1.7 + by * (i % 2) as f32).collect());
        assert_eq!(orthonormal(&[one.clone(), moved(0.0)]).len(), 1);
        assert_eq!(orthonormal(&[one.clone(), moved(1e-6)]).len(), 1);
        assert_eq!(orthonormal(&[one, moved(1e-4)]).len(), 2);
        // More directions than dimensions.
        let all: Vec<Direction> =
            (0..5).map(|k| direction((0..3).map(|i| ((k * 3 + i) as f32).cos()).collect())).collect();
        assert!(orthonormal(&all).len() <= 3);
    }
}
