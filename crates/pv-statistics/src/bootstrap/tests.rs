use super::*;

#[test]
fn options_without_meaning_are_refused() {
    let options = BootstrapOptions::default();
    for level in [0.0, 1.0, -1.0, f64::NAN] {
        let bad = BootstrapOptions { level, ..options };
        assert!(matches!(bootstrap_mean(&[1.0, 2.0], &bad), Err(Error::Level { .. })), "{level}");
        assert!(percentile_interval(&mut [1.0], level).is_err());
    }
    for resamples in [0, MOST + 1] {
        let bad = BootstrapOptions { resamples, ..options };
        assert!(matches!(studentized_reach(&[1.0, 2.0], &bad), Err(Error::Resamples { .. })));
        assert!(matches!(resample(&Draws::units(3), &bad, |_| Some(())), Err(Error::Resamples { .. })));
    }
    for values in [&[][..], &[1.0]] {
        assert!(matches!(bootstrap_mean(values, &options), Err(Error::TooFew { needed: 2, .. })));
        assert!(matches!(studentized_reach(values, &options), Err(Error::TooFew { .. })));
    }
    assert!(matches!(bootstrap_mean(&[1.0, f64::INFINITY], &options), Err(Error::NotFinite { index: 1, .. })));
    assert!(matches!(resample::<()>(&Draws::units(3), &options, |_| None), Err(Error::TooFew { .. })));
}

/// The variance of the mean of drawn values is known: the variance of the values divided by their number.
#[test]
fn the_interval_of_a_mean_is_as_wide_as_its_variance_says() {
    let values: Vec<f64> = (0..60).map(|i| (f64::from(i) * 0.7).sin() * 3.0).collect();
    let options = BootstrapOptions { resamples: 4000, ..BootstrapOptions::default() };
    let found = bootstrap_mean(&values, &options).unwrap();
    let error = (crate::moments::squared_deviations(&values) / 60.0 / 60.0).sqrt();
    assert!((found.width() / error / (2.0 * 1.96) - 1.0).abs() < 0.08, "{found:?} with {error}");
    assert!(found.contains(mean(&values).unwrap()));
    // With units drawn as weights, the mean is the same except for rounding.
    let mut means = resample(&Draws::units(60), &options, |resample| {
        let sum: f64 = resample.drawn.iter().zip(&values).map(|(weight, value)| weight * value).sum();
        Some(sum / resample.drawn.iter().sum::<f64>())
    })
    .unwrap();
    let same = percentile_interval(&mut means, 0.95).unwrap();
    assert!((same.low - found.low).abs() < 1e-12 && (same.high - found.high).abs() < 1e-12, "{same:?} {found:?}");
    // Symmetric values: the studentized ends are those of Student's distribution.
    let reach = studentized_reach(&values, &options).unwrap();
    assert!((reach.low + 2.0).abs() < 0.2 && (reach.high - 2.0).abs() < 0.2, "{reach:?}");
}

#[test]
fn strata_are_drawn_among_themselves() {
    let draws = Draws::strata(vec![vec![0, 2], vec![1, 3, 4]]);
    assert_eq!((draws.len(), draws.factors()), (5, None));
    for stream in 0..50 {
        let Resample { drawn, held_out } = draws.draw(&mut random(3, stream));
        assert_eq!((drawn[0] + drawn[2], drawn[1] + drawn[3] + drawn[4]), (2.0, 3.0));
        assert_eq!(held_out, others(&drawn));
    }
}

#[test]
fn a_cell_counts_as_often_as_both_of_its_values() {
    let (first, second) = ([7, 7, 9, 9, 9], [1, 2, 1, 2, 2]);
    let draws = Draws::crossed(&first, &second).unwrap();
    assert_eq!((draws.len(), draws.factors()), (5, Some([2, 2])));
    for stream in 0..50 {
        let Resample { drawn, held_out } = draws.draw(&mut random(3, stream));
        // Two values of each factor are drawn: the weights of a full table add up to four.
        assert_eq!(drawn[0] + drawn[1] + drawn[2] + drawn[3], 4.0);
        assert_eq!(drawn[3], drawn[4]);
        for (drawn, left) in drawn.iter().zip(held_out) {
            assert!(left == 0.0 || *drawn == 0.0);
        }
    }
    assert_eq!(Draws::crossed(&[1], &[1, 2]), None);
}

/// Equal to the bit: the streams are numbered, the values are drawn one by one, and the ends are interpolated.
#[test]
fn the_interval_of_a_mean_is_that_of_the_plain_loop() {
    let values: Vec<f64> = (0..17).map(|i| f64::from(i * i % 11) + 0.1).collect();
    let options = BootstrapOptions { resamples: 300, level: 0.8, seed: 5 };
    let mut means: Vec<f64> = (0..300)
        .map(|stream| {
            let mut random = ChaCha8Rng::seed_from_u64(5);
            random.set_stream(stream);
            (0..17).map(|_| values[random.random_range(0..17)]).sum::<f64>() / 17.0
        })
        .collect();
    means.sort_by(f64::total_cmp);
    let at = |p: f64| {
        let at = p * 299.0;
        means[at as usize] + (means[at as usize + 1] - means[at as usize]) * at.fract()
    };
    let found = bootstrap_mean(&values, &options).unwrap();
    assert!((found.low - at(0.1)).abs() < 1e-12 && (found.high - at(0.9)).abs() < 1e-12, "{found:?}");
}
