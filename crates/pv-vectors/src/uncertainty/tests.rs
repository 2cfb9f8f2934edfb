use pv_hooks::Layer;
use pv_statistics::bootstrap::random;
use rand::RngExt;
use serde_json::Value;

use super::*;
use crate::activations::mean_difference;

pub(crate) fn reference() -> Value {
    let path = "../../tests/golden/statistics.json";
    serde_json::from_str(&std::fs::read_to_string(path).expect("the reference")).expect("JSON")
}

pub(crate) fn floats(value: &Value) -> Vec<f64> {
    serde_json::from_value(value.clone()).expect("numbers")
}

pub(crate) fn cases(reference: &Value, name: &str) -> Vec<Value> {
    let cases = reference[name].as_array().expect("cases").clone();
    assert!(cases.len() >= 2, "{name}");
    cases
}

fn bootstrap(resamples: usize, level: f64, seed: u64) -> BootstrapOptions {
    BootstrapOptions { resamples, level, seed }
}

/// A standard normal number.
fn normal(random: &mut impl rand::Rng) -> f64 {
    let (u, v): (f64, f64) = (random.random(), random.random());
    (-2.0 * (1.0 - u).ln()).sqrt() * (std::f64::consts::TAU * v).cos()
}

/// Clouds around ±gap/2 along the first axis, with a standard deviation of one. Each question shifts its answers
/// randomly, with a standard deviation of `question`.
pub(crate) struct Clouds {
    pos: Vec<f32>,
    neg: Vec<f32>,
    questions: Vec<usize>,
    d: usize,
}

impl Clouds {
    pub(crate) fn new(questions: usize, rollouts: usize, d: usize, gap: f64, question: f64, seed: u64) -> Self {
        let mut random = random(seed, 0);
        let mut side = |sign: f64, shifts: &mut dyn FnMut(usize, usize) -> f64| -> Vec<f32> {
            let mut values = Vec::new();
            for q in 0..questions {
                for _ in 0..rollouts {
                    for i in 0..d {
                        let centre = if i == 0 { sign * gap / 2.0 } else { 0.0 };
                        values.push((centre + shifts(q, i) + normal(&mut random)) as f32);
                    }
                }
            }
            values
        };
        let mut shifts = pv_statistics::bootstrap::random(seed, 1);
        let mut draw = || -> Vec<f64> { (0..questions * d).map(|_| question * normal(&mut shifts)).collect() };
        let (p, n) = (draw(), draw());
        let pos = side(1.0, &mut |q, i| p[q * d + i]);
        let neg = side(-1.0, &mut |q, i| n[q * d + i]);
        let questions = (0..questions).flat_map(|q| std::iter::repeat_n(q * 7, rollouts)).collect();
        Self { pos, neg, questions, d }
    }

    pub(crate) fn sides(&self) -> (Activations<'_>, Activations<'_>) {
        let side = |values| Activations::of_rows(Layer::hidden_state(3), values, self.d).expect("rows");
        (side(&self.pos), side(&self.neg))
    }

    pub(crate) fn by_question(&self) -> (Activations<'_>, Activations<'_>) {
        let (pos, neg) = self.sides();
        (pos.by_question(&self.questions).expect("one per row"), neg.by_question(&self.questions).expect("one per row"))
    }
}

#[test]
fn the_fixed_interval_is_the_normal_one() {
    // Along a long direction in few dimensions, the gap is a difference of two means: its variance is 1/n + 1/m.
    let clouds = Clouds::new(1500, 1, 4, 6.0, 0.0, 1);
    let (pos, neg) = clouds.sides();
    let gap = bootstrap_gap(&pos, &neg, &bootstrap(4000, 0.95, 7)).expect("a bootstrap");
    let half = 1.959964 * (2.0f64 / 1500.0).sqrt();
    assert!((gap.gap - 6.0).abs() < 2.0 * half, "{gap:?}");
    for (end, expected) in [(gap.fixed.low, gap.gap - half), (gap.fixed.high, gap.gap + half)] {
        assert!((end - expected).abs() < 0.12 * half, "{gap:?}: {end} against {expected}");
    }
    // A fraction q = e^-1 of the rows is left out, without replacement: their mean has (1 − q)/q times the variance.
    let width = gap.held_out_interval.high - gap.held_out_interval.low;
    let expected = 2.0 * half * (std::f64::consts::E - 1.0).sqrt();
    assert!((width / expected - 1.0).abs() < 0.08, "{gap:?}: {width} against {expected}");
    assert!((gap.held_out - gap.gap).abs() < 0.1 * half, "{gap:?}");
}

/// Compares with resamples that are built row by row, by the definition: the same draws, with questions repeated as
/// often as they were drawn.
#[test]
fn the_gap_is_that_of_resampled_rows() {
    let clouds = Clouds::new(6, 3, 4, 2.0, 0.7, 8);
    let (pos, neg) = clouds.by_question();
    let options = bootstrap(200, 0.9, 21);
    let found = bootstrap_gap(&pos, &neg, &options).expect("a bootstrap");
    let difference = |weight: &dyn Fn(usize) -> usize| -> Vec<f64> {
        let mean = |values: &[f32]| -> Vec<f64> {
            let rows = values.chunks(4).enumerate().flat_map(|(row, values)| vec![values; weight(row / 3)]);
            let rows: Vec<&[f32]> = rows.collect();
            (0..4).map(|i| rows.iter().map(|row| f64::from(row[i])).sum::<f64>() / rows.len() as f64).collect()
        };
        mean(&clouds.pos).iter().zip(mean(&clouds.neg)).map(|(p, n)| p - n).collect()
    };
    let all = difference(&|_| 1);
    let norm = |v: &[f64]| dot(v, v).sqrt();
    let (mut fixed, mut held_out) = (Vec::new(), Vec::new());
    for stream in 0..200 {
        let mut random = pv_statistics::bootstrap::random(21, stream);
        let drawn = loop {
            let mut times = [0; 6];
            (0..6).for_each(|_| times[random.random_range(0..6)] += 1);
            // With six questions, a draw may leave none out.
            if times.contains(&0) {
                break times;
            }
        };
        let (inside, outside) = (difference(&|q| drawn[q]), difference(&|q| usize::from(drawn[q] == 0)));
        fixed.push(dot(&inside, &all) / norm(&all));
        held_out.push(dot(&outside, &inside) / norm(&inside));
    }
    let ends = |mut values: Vec<f64>| {
        values.sort_by(f64::total_cmp);
        [0.05, 0.95].map(|share| pv_statistics::intervals::quantile(&values, share).expect("values"))
    };
    let close = |a: f64, b: f64| assert!((a - b).abs() < 1e-6, "{a} and {b}");
    close(found.gap, norm(&all));
    close(found.held_out, held_out.iter().sum::<f64>() / 200.0);
    for (interval, ends) in [(found.fixed, ends(fixed)), (found.held_out_interval, ends(held_out))] {
        close(interval.low, ends[0]);
        close(interval.high, ends[1]);
    }
}

#[test]
fn questions_widen_the_interval() {
    let clouds = Clouds::new(40, 10, 4, 6.0, 1.0, 2);
    let width = |(pos, neg): (Activations<'_>, Activations<'_>)| {
        let Interval { low, high } = bootstrap_gap(&pos, &neg, &bootstrap(2000, 0.95, 7)).expect("a bootstrap").fixed;
        high - low
    };
    // The mean of 40 questions with standard deviation 1, of 10 answers each with standard deviation 1.
    let expected = 2.0 * 1.96 * (2.0 * (1.0 + 0.1) / 40.0f64).sqrt();
    let (by_question, by_rollout) = (width(clouds.by_question()), width(clouds.sides()));
    assert!((by_question / expected - 1.0).abs() < 0.25, "{by_question} against {expected}");
    assert!(by_rollout < 0.6 * by_question, "{by_rollout}, {by_question}");
}

#[test]
fn noise_has_a_gap_in_sample_and_none_held_out() {
    let clouds = Clouds::new(20, 2, 300, 0.0, 0.0, 3);
    let (pos, neg) = clouds.by_question();
    let found = stability(&pos, &neg, &StabilityOptions::default()).expect("figures");
    // ‖v‖² is about d·2/n.
    assert!((found.gap.gap - (300.0 * 2.0 / 40.0f64).sqrt()).abs() < 0.5, "{found:?}");
    assert!(found.gap.fixed.low > 2.0, "{found:?}");
    assert!(found.gap.held_out_interval.contains(0.0) && found.gap.held_out.abs() < 0.5, "{found:?}");
    assert!(found.split_half.mean.abs() < 0.15, "{found:?}");
    assert!((found.held_out_auc - 0.5).abs() < 0.2 && found.held_out_cohens_d.abs() < 0.7, "{found:?}");
}

#[test]
fn a_planted_direction_is_found_again() {
    let clouds = Clouds::new(30, 4, 60, 8.0, 0.3, 4);
    let (pos, neg) = clouds.by_question();
    let unit = mean_difference(&pos, &neg).and_then(|v| v.unit()).expect("a direction");
    assert!(unit.values()[0] > 0.98, "{}", unit.values()[0]);
    assert_eq!(unit.layer(), Layer::hidden_state(3));
    let found = stability(&pos, &neg, &StabilityOptions::default()).expect("figures");
    assert!(found.split_half.mean > 0.9 && found.split_half.least <= found.split_half.mean, "{found:?}");
    assert!(found.gap.held_out_interval.contains(8.0) && found.gap.held_out < found.gap.gap, "{found:?}");
    assert!(found.held_out_auc > 0.999 && found.held_out_cohens_d > 5.0, "{found:?}");
    // Split halves: each half's vector is gap·e₁ plus noise of variance σ² in each dimension.
    let variance: f64 = 2.0 * (0.3f64.powi(2) + 0.25) / 15.0;
    let expected = 64.0 / (64.0 + 60.0 * variance);
    assert!((found.split_half.mean - expected).abs() < 0.03, "{found:?} against {expected}");
    assert_eq!(stability(&pos, &neg, &StabilityOptions::default()).expect("figures"), found, "one seed, one answer");
    let other = StabilityOptions { seed: 1, ..StabilityOptions::default() };
    assert_ne!(stability(&pos, &neg, &other).expect("figures").gap, found.gap);
}

#[test]
fn held_out_projections_are_those_of_the_other_folds() {
    // Three questions, three folds: each is left out in turn, whatever the seed.
    let clouds = Clouds::new(3, 2, 5, 1.0, 1.0, 5);
    let (pos, neg) = clouds.by_question();
    let (p, n) = held_out_projections(&pos, &neg, 3, 11).expect("projections");
    for question in 0..3 {
        let others = |values: &[f32]| -> Vec<f32> {
            values
                .chunks(5)
                .enumerate()
                .filter(|(row, _)| row / 2 != question)
                .flat_map(|(_, row)| row.to_vec())
                .collect()
        };
        let (a, b) = (others(&clouds.pos), others(&clouds.neg));
        let side = |values| Activations::of_rows(Layer::hidden_state(3), values, 5).expect("rows");
        let unit = mean_difference(&side(&a), &side(&b)).and_then(|v| v.unit()).expect("a direction");
        for row in 2 * question..2 * question + 2 {
            for (found, values) in [(p[row], &clouds.pos), (n[row], &clouds.neg)] {
                let expected = unit.projection(&values[row * 5..][..5]).expect("one width");
                assert!((found - expected).abs() < 1e-5, "{found} against {expected}");
            }
        }
    }
}

#[test]
fn common_parts_do_not_matter() {
    let clouds = Clouds::new(10, 3, 8, 2.0, 0.5, 6);
    let mut moved = Clouds::new(10, 3, 8, 2.0, 0.5, 6);
    let shift = |values: &mut Vec<f32>| values.chunks_mut(8).for_each(|row| row[1] += 4096.0);
    shift(&mut moved.pos);
    shift(&mut moved.neg);
    let run = |(pos, neg): (Activations<'_>, Activations<'_>)| {
        stability(&pos, &neg, &StabilityOptions::default()).expect("figures")
    };
    let (a, b) = (run(clouds.by_question()), run(moved.by_question()));
    let close = |a: f64, b: f64| assert!((a - b).abs() < 2e-3, "{a} and {b}");
    close(a.gap.fixed.low, b.gap.fixed.low);
    close(a.gap.held_out_interval.high, b.gap.held_out_interval.high);
    close(a.split_half.mean, b.split_half.mean);
}

#[test]
fn what_cannot_be_measured_is_refused() {
    let layer = Layer::hidden_state(1);
    for (values, d) in [(&[][..], 2), (&[1.0, 2.0, 3.0], 2), (&[1.0], 0), (&[1.0, f32::NAN], 2), (&[f32::INFINITY], 1)]
    {
        let error = Activations::of_rows(layer, values, d).expect_err("refused");
        assert!(matches!(error, Error::BadActivations(_)), "{error}");
    }
    let rows = |values| Activations::of_rows(layer, values, 2).expect("rows");
    let (a, b) = (rows(&[1.0, 2.0, 3.0, 4.0]), rows(&[0.0, 2.0, 3.0, 1.0]));
    assert!(matches!(a.by_question(&[1]), Err(Error::BadActivations(_))));
    let elsewhere = Activations::of_rows(Layer::hidden_state(2), &[1.0, 2.0], 2).expect("rows");
    let narrow = Activations::of_rows(layer, &[1.0, 2.0], 1).expect("rows");
    let known = b.by_question(&[1, 2]).expect("one per row");
    let options = StabilityOptions::default();
    for other in [&elsewhere, &narrow, &known] {
        assert!(matches!(stability(&a, other, &options), Err(Error::Unlike { .. })));
        assert!(matches!(split_half_cosine(&a, other, 2, 0), Err(Error::Unlike { .. })));
        assert!(matches!(bootstrap_gap(&a, other, &bootstrap(2, 0.9, 0)), Err(Error::Unlike { .. })));
        assert!(matches!(held_out_projections(&a, other, 2, 0), Err(Error::Unlike { .. })));
    }
    // One rollout, or one question, cannot be halved.
    let one = rows(&[1.0, 2.0]);
    let few = |result: Result<Stability>| assert!(matches!(result, Err(Error::TooFewUnits { .. })), "{result:?}");
    few(stability(&one, &b, &options));
    let same = a.by_question(&[4, 4]).expect("one per row");
    few(stability(&same, &b.by_question(&[4, 4]).expect("one per row"), &options));
    // A side on which all answers belong to one question.
    few(stability(&same, &b.by_question(&[4, 5]).expect("one per row"), &options));
    assert!(matches!(split_half_cosine(&a, &b, 0, 0), Err(Error::Setting(_))));
    for (resamples, level) in [(0, 0.9), (10, 0.0), (10, 1.0), (10, f64::NAN)] {
        let refused = bootstrap_gap(&a, &b, &bootstrap(resamples, level, 0));
        assert!(matches!(refused, Err(Error::Statistics(_))), "{refused:?}");
    }
    for folds in [0, 1] {
        assert!(matches!(held_out_projections(&a, &b, folds, 0), Err(Error::Setting(_))));
    }
    assert!(matches!(held_out_projections(&a, &b, 5, 0), Err(Error::TooFewUnits { .. })));
    assert!(matches!(stability(&a, &a, &options), Err(Error::NoDirection { .. })));
    assert!(matches!(mean_difference(&a, &a), Err(Error::NoDirection { .. })));
}

/// Without noise and with known effects of questions and pairs, the variance of the drawn gap is known: for each
/// effect, its variance over its number, on both sides.
#[test]
fn questions_and_pairs_are_drawn_independently() {
    let (questions, pairs, gap) = (20, 8, 3.0);
    let effects = |count: usize, size: f64| -> Vec<f64> {
        (0..count).map(|i| size * ((i * 7 % count) as f64 / (count - 1) as f64 - 0.5)).collect()
    };
    let (of_question, of_pair) = (effects(questions, 0.6), effects(pairs, 0.9));
    let cells: Vec<(usize, usize)> = (0..questions).flat_map(|q| (0..pairs).map(move |p| (q, p))).collect();
    let side = |sign: f64| -> Vec<f32> {
        cells.iter().flat_map(|&(q, p)| [(sign * (gap / 2.0 + of_question[q] + of_pair[p])) as f32, 0.5]).collect()
    };
    let (pos, neg) = (side(1.0), side(-1.0));
    let (q, p): (Vec<usize>, Vec<usize>) = cells.iter().map(|&(q, p)| (3 * q, 10 - p)).unzip();
    let rows = |values| Activations::of_rows(Layer::hidden_state(3), values, 2).expect("rows");
    let run =
        |a: Activations<'_>, b: Activations<'_>| bootstrap_gap(&a, &b, &bootstrap(4000, 0.95, 5)).expect("a bootstrap");
    let by_both = run(
        rows(&pos).by_question_and_pair(&q, &p).expect("one per row"),
        rows(&neg).by_question_and_pair(&q, &p).expect("one per row"),
    );
    let by_question =
        run(rows(&pos).by_question(&q).expect("one per row"), rows(&neg).by_question(&q).expect("one per row"));
    let units = [by_both.resampled, by_question.resampled, run(rows(&pos), rows(&neg)).resampled];
    assert_eq!(units, [ResampledUnit::QuestionAndPair, ResampledUnit::Question, ResampledUnit::Rollout]);

    let variance = |effects: &[f64]| effects.iter().map(|e| e * e).sum::<f64>() / (effects.len() as f64).powi(2);
    let width = |found: Interval| found.high - found.low;
    let expected = |variance: f64| 2.0 * 1.96 * 2.0 * variance.sqrt();
    for (found, expected) in [
        (by_both.fixed, expected(variance(&of_question) + variance(&of_pair))),
        (by_question.fixed, expected(variance(&of_question))),
    ] {
        assert!((width(found) / expected - 1.0).abs() < 0.1, "{} against {expected}", width(found));
    }
    // The few pairs cause most of the uncertainty, and the held-out data share neither questions nor pairs.
    assert!(width(by_both.held_out_interval) > 1.5 * width(by_question.held_out_interval));
    assert!((by_both.held_out - gap).abs() < 0.05, "{}", by_both.held_out);

    // If a side has one pair only, questions are drawn.
    let alone: Vec<usize> = cells.iter().map(|_| 4).collect();
    let one = run(
        rows(&pos).by_question_and_pair(&q, &alone).expect("one per row"),
        rows(&neg).by_question_and_pair(&q, &p).expect("one per row"),
    );
    assert_eq!(one, by_question);
    assert!(matches!(rows(&pos).by_question_and_pair(&q, &p[1..]), Err(Error::BadActivations(_))));
}
