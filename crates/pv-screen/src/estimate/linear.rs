//! Least squares on up to two features.

/// `value ≈ mean + slopes·(features − their means)`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fit {
    mean: f64,
    middle: [f64; 2],
    slopes: [f64; 2],
    /// The sum of squares of the first feature around its mean.
    squares: f64,
}

impl Fit {
    /// Fits points (features, value, weight). A feature that does not vary, or that is collinear with the other, has a
    /// slope of 0.
    pub(super) fn new(points: &[([f64; 2], f64, f64)]) -> Self {
        let n = points.iter().map(|(.., weight)| weight).sum::<f64>().max(f64::MIN_POSITIVE);
        let mean = points.iter().map(|(_, value, weight)| weight * value).sum::<f64>() / n;
        let middle = [0, 1].map(|i| points.iter().map(|(features, _, weight)| weight * features[i]).sum::<f64>() / n);
        let product = |f: &dyn Fn(&[f64; 2], f64) -> f64| -> f64 {
            points.iter().map(|(x, value, w)| w * f(&[x[0] - middle[0], x[1] - middle[1]], value - mean)).sum()
        };
        let (xx, yy, xy) = (product(&|x, _| x[0] * x[0]), product(&|x, _| x[1] * x[1]), product(&|x, _| x[0] * x[1]));
        let (xv, yv) = (product(&|x, v| x[0] * v), product(&|x, v| x[1] * v));
        let determinant = xx * yy - xy * xy;
        let slopes = if determinant > 1e-9 * xx * yy {
            [(yy * xv - xy * yv) / determinant, (xx * yv - xy * xv) / determinant]
        } else if xx > 0.0 {
            [xv / xx, 0.0]
        } else if yy > 0.0 {
            [0.0, yv / yy]
        } else {
            [0.0; 2]
        };
        Self { mean, middle, slopes, squares: xx }
    }

    pub(super) fn at(&self, features: [f64; 2]) -> f64 {
        self.sum(1.0, features)
    }

    /// The sum of the fitted values over `count` points whose features add up to `sums`.
    pub(super) fn sum(&self, count: f64, sums: [f64; 2]) -> f64 {
        let slope = |i: usize| self.slopes[i] * (sums[i] - count * self.middle[i]);
        count * self.mean + slope(0) + slope(1)
    }

    /// The variance that the first slope's uncertainty adds at a point, relative to the variance of the points.
    pub(super) fn lever(&self, at: f64) -> f64 {
        if self.squares > 0.0 { (at - self.middle[0]).powi(2) / self.squares } else { 0.0 }
    }
}
