//! Which layer's vector separates a trait's answers best.

use pv_hooks::Layer;
use pv_vectors::uncertainty::Stability;

/// How well a layer's vector separates answers to held-out questions.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Separation {
    /// The layer.
    pub layer: Layer,
    /// The ROC-AUC of the held-out projections.
    pub auc: f64,
    /// The difference of their means in standard deviations; NaN if unknown.
    pub cohens_d: f64,
}

/// Smaller differences between AUCs are rounding.
const EQUAL: f64 = 1e-9;

impl Separation {
    /// The separation of a layer, from its stability.
    pub fn of(layer: Layer, found: &Stability) -> Self {
        Self { layer, auc: found.held_out_auc, cohens_d: found.held_out_cohens_d }
    }

    /// A sentence on the layers that separate answers best. Often many layers separate them perfectly. Of such ties,
    /// the sentence names the layer with the widest margin (the middle one if no margin is known). It does not say
    /// which layer steers best, because only steering and judging shows that (method: paper, layer choice).
    pub fn summary(layers: &[Self]) -> Option<String> {
        let most = layers.iter().map(|layer| layer.auc).filter(|auc| auc.is_finite()).reduce(f64::max)?;
        let best: Vec<&Self> = layers.iter().filter(|layer| layer.auc >= most - EQUAL).collect();
        let what = "answers to held-out questions are separated";
        if let [only] = best.as_slice() {
            return Some(format!("{what} best at {}: AUC {most:.3}", only.layer));
        }
        let margin = |layer: &&&Self| if layer.cohens_d.is_finite() { layer.cohens_d } else { f64::NEG_INFINITY };
        let widest = best.iter().map(|layer| margin(&layer)).fold(f64::NEG_INFINITY, f64::max);
        let by_margin: Vec<&&Self> = best.iter().filter(|layer| margin(layer) >= widest).collect();
        let chosen = by_margin.get(by_margin.len().saturating_sub(1) / 2)?;
        let how = match widest.is_finite() {
            true => format!("with the widest margin at {} ({widest:.1} standard deviations)", chosen.layer),
            false => format!("of which {} is the middle one", chosen.layer),
        };
        Some(format!("{what} equally well at {} layers ({}): AUC {most:.3}, {how}", best.len(), ranges(&best)))
    }
}

/// Layers in short: "1–4, 7".
fn ranges(layers: &[&Separation]) -> String {
    let indices: Vec<usize> = layers.iter().map(|layer| layer.layer.index()).collect();
    let runs = indices.chunk_by(|a, b| *b == a + 1).map(|run| match run {
        [first, .., last] => format!("{first}–{last}"),
        _ => run.first().map_or_else(String::new, usize::to_string),
    });
    runs.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn summary(figures: &[(usize, f64, f64)]) -> Option<String> {
        let layer = |&(layer, auc, cohens_d)| Separation { layer: Layer::hidden_state(layer), auc, cohens_d };
        Separation::summary(&figures.iter().map(layer).collect::<Vec<_>>())
    }

    #[test]
    fn the_best_layer_and_ties_are_named() {
        let one = summary(&[(1, 0.9, 1.0), (2, 0.95, 0.5), (3, 0.9, 2.0)]).expect("a layer");
        assert!(one.contains("best at layer 2") && one.contains("0.950"), "{one}");
        // All perfect: the one with the widest margin, not the lowest.
        let ties =
            summary(&[(0, 0.5, 0.0), (1, 1.0, 3.0), (2, 1.0, 9.0), (3, 1.0, 5.0), (5, 1.0, 5.0)]).expect("a layer");
        assert!(ties.contains("equally well at 4 layers (1–3, 5)"), "{ties}");
        assert!(ties.contains("margin at layer 2 (after block 1) (9.0 standard deviations)"), "{ties}");
        // Equal or unknown margins: the middle layer.
        let equal = summary(&[(1, 1.0, 4.0), (2, 1.0, 4.0), (3, 1.0, 4.0)]).expect("a layer");
        assert!(equal.contains("margin at layer 2"), "{equal}");
        let unknown = summary(&[(1, 1.0, f64::NAN), (2, 1.0, f64::NAN), (3, 1.0, f64::NAN)]).expect("a layer");
        assert!(unknown.contains("layer 2 (after block 1) is the middle one"), "{unknown}");
        // Rounding is not a difference.
        assert!(summary(&[(1, 1.0 - 1e-12, 4.0), (2, 1.0, 5.0)]).expect("a layer").contains("2 layers"));
    }

    #[test]
    fn without_a_finite_auc_there_is_no_summary() {
        assert_eq!(summary(&[]), None);
        assert_eq!(summary(&[(1, f64::NAN, f64::NAN)]), None);
    }
}
