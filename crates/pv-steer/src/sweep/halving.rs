//! Successive halving: the choice of cells that get more questions.

use super::estimate::Estimate;

/// The standing of a cell after a round.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Standing {
    pub(crate) cell: usize,
    pub(crate) expression: Estimate,
    pub(crate) coherence: Estimate,
}

/// The cells that continue, in the given order.
///
/// Dropped are cells without scores, cells whose interval of coherence is entirely below the threshold, and of the rest
/// the lower half by expression. Expression is compared among cells on the same side of the threshold: strong steering
/// that makes the text incoherent shows most of the trait, and would displace the cells that can be chosen in the end.
pub(crate) fn survivors(standings: &[Standing], coherence_min: f64) -> Vec<usize> {
    let (mut above, mut below) = (Vec::new(), Vec::new());
    for standing in standings {
        let Standing { expression, coherence, .. } = standing;
        let (Some(trait_score), Some(mean)) = (expression.mean, coherence.mean) else { continue };
        let hopeless = coherence.high.unwrap_or(mean) < coherence_min;
        if hopeless || !expression.is_representative() || !coherence.is_representative() {
            continue;
        }
        if mean >= coherence_min { &mut above } else { &mut below }.push((trait_score, standing.cell));
    }
    let mut kept = Vec::new();
    for mut side in [above, below] {
        // Stable, so that of equal cells the first continues.
        side.sort_by(|a, b| b.0.total_cmp(&a.0));
        kept.extend(side[..side.len().div_ceil(2)].iter().map(|(_, cell)| *cell));
    }
    standings.iter().map(|standing| standing.cell).filter(|cell| kept.contains(cell)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn estimate(mean: f64, reach: f64) -> Estimate {
        let (low, high) = (Some(mean - reach), Some(mean + reach));
        Estimate { mean: Some(mean), low, high, questions: 4, scored: 4, abstained: 0 }
    }

    fn standing(cell: usize, expression: f64, coherence: f64) -> Standing {
        Standing { cell, expression: estimate(expression, 5.0), coherence: estimate(coherence, 10.0) }
    }

    #[test]
    fn the_upper_half_goes_on_and_hopeless_cells_do_not() {
        let standings = [
            standing(0, 5.0, 99.0),
            standing(1, 40.0, 90.0),
            standing(2, 60.0, 76.0),
            // Below the threshold, but its interval reaches it.
            standing(3, 80.0, 70.0),
            standing(4, 75.0, 66.0),
            // The largest expression of all, but far below the threshold.
            standing(5, 99.0, 60.0),
            standing(6, 50.0, 80.0),
            standing(7, 10.0, 95.0),
        ];
        assert_eq!(survivors(&standings, 75.0), [1, 2, 3, 6]);
    }

    #[test]
    fn a_cell_that_may_be_chosen_is_never_lost_to_incoherent_ones() {
        let standings: Vec<Standing> =
            (0..9).map(|cell| standing(cell, 90.0, 70.0)).chain([standing(9, 1.0, 80.0)]).collect();
        assert!(survivors(&standings, 75.0).contains(&9));
        assert_eq!(survivors(&standings[9..], 75.0), [9]);
    }

    #[test]
    fn cells_without_scores_do_not_go_on() {
        let none = Estimate::of([(0, None), (1, None)]);
        let silent = Standing { expression: none, ..standing(0, 0.0, 90.0) };
        let rare = Standing { expression: Estimate { abstained: 5, ..estimate(90.0, 1.0) }, ..standing(1, 0.0, 90.0) };
        assert_eq!(survivors(&[silent, rare], 75.0), Vec::<usize>::new());
        assert_eq!(survivors(&[silent, rare, standing(2, 1.0, 90.0)], 75.0), [2]);
    }

    #[test]
    fn of_equals_the_first_go_on() {
        let equal: Vec<Standing> = (0..6).map(|cell| standing(cell, 50.0, 90.0)).collect();
        assert_eq!(survivors(&equal, 75.0), [0, 1, 2]);
    }
}
