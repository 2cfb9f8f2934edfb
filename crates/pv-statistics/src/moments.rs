//! Means and sums of squares.

/// The mean; `None` without values.
pub fn mean(values: &[f64]) -> Option<f64> {
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

/// The sum of squared deviations from the mean; 0 without values.
pub fn squared_deviations(values: &[f64]) -> f64 {
    let middle = mean(values).unwrap_or_default();
    values.iter().map(|value| (value - middle).powi(2)).sum()
}

/// The unbiased variance, with `n − 1`; `None` with fewer than two values.
pub fn variance(values: &[f64]) -> Option<f64> {
    (values.len() > 1).then(|| squared_deviations(values) / (values.len() - 1) as f64)
}

/// The standard error of the mean; `None` with fewer than two values.
pub fn standard_error(values: &[f64]) -> Option<f64> {
    variance(values).map(|variance| (variance / values.len() as f64).sqrt())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_those_of_the_definition() {
        let values = [2.0, 4.0, 4.0, 4.0, 5.0, 5.0, 7.0, 9.0];
        assert_eq!((mean(&values), squared_deviations(&values)), (Some(5.0), 32.0));
        assert_eq!(variance(&values), Some(32.0 / 7.0));
        assert_eq!(standard_error(&values), Some((32.0f64 / 7.0 / 8.0).sqrt()));
        assert_eq!((mean(&[]), variance(&[1.0]), standard_error(&[])), (None, None, None));
    }
}
