//! The learning rate of each step.

use serde::{Deserialize, Serialize};

/// What the learning rate does after the warm-up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Decay {
    /// It stays.
    Constant,
    /// It falls linearly to zero after the last step.
    #[default]
    Linear,
    /// It falls along half a cosine to zero after the last step.
    Cosine,
}

/// The learning rate of a step (from 0) of `steps`: it rises linearly to `peak` over `warmup` steps, then decays. Neither
/// the first nor the last step has a rate of zero.
pub fn learning_rate(step: usize, steps: usize, warmup: usize, peak: f64, decay: Decay) -> f64 {
    if step < warmup {
        return peak * (step + 1) as f64 / (warmup + 1) as f64;
    }
    let part = (step - warmup) as f64 / steps.saturating_sub(warmup).max(1) as f64;
    match decay {
        Decay::Constant => peak,
        Decay::Linear => peak * (1.0 - part).max(0.0),
        Decay::Cosine => peak * 0.5 * (1.0 + (std::f64::consts::PI * part.min(1.0)).cos()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_rises_and_falls() {
        let rates = |decay| (0..12).map(|step| learning_rate(step, 10, 3, 8.0, decay)).collect::<Vec<_>>();
        assert_eq!(rates(Decay::Constant), [2.0, 4.0, 6.0, 8.0, 8.0, 8.0, 8.0, 8.0, 8.0, 8.0, 8.0, 8.0]);
        let linear = rates(Decay::Linear);
        assert_eq!(&linear[..4], [2.0, 4.0, 6.0, 8.0]);
        assert!((linear[9] - 8.0 / 7.0).abs() < 1e-12 && linear[10] == 0.0 && linear[11] == 0.0);
        let cosine = rates(Decay::Cosine);
        assert!(cosine[3] == 8.0 && cosine[9] > 0.0 && cosine[10].abs() < 1e-12);
        assert!(cosine.windows(2).skip(3).all(|pair| pair[1] <= pair[0]));
        // No warm-up, and nothing but warm-up.
        assert_eq!(learning_rate(0, 1, 0, 1.0, Decay::Linear), 1.0);
        assert_eq!(learning_rate(1, 2, 2, 3.0, Decay::Cosine), 2.0);
    }
}
