use std::cell::RefCell;

use proptest::prelude::*;

use super::*;

const WIDTH: usize = 3;

fn config(count: usize, per_token: usize, normalised: bool) -> ExpertConfig {
    ExpertConfig { count, per_token, d_ff: 1, normalised, dense_blocks: Vec::new() }
}

fn tensor(values: &[f32], columns: usize, device: &Device) -> Tensor<2> {
    Tensor::from_data(TensorData::new(values.to_vec(), [values.len() / columns, columns]), (device, DType::F32))
}

/// The CPU without and with gradients, and the portable operations.
fn devices() -> [Device; 3] {
    [Device::flex(), Device::flex().autodiff(), Device::flex().autodiff().gradient_checkpointing()]
}

/// Expert e maps x to (e + 1)·x + e.
fn expert(number: usize, x: Tensor<2>) -> Tensor<2> {
    x * (number as f64 + 1.0) + number as f64
}

/// The result by its definition, in f64, with the experts in the order of their logits.
fn expected(logits: &[f32], x: &[f32], config: &ExpertConfig) -> Vec<f64> {
    let rows = logits.chunks(config.count).zip(x.chunks(WIDTH));
    let row = |(logits, x): (&[f32], &[f32])| -> Vec<f64> {
        let exponentials: Vec<f64> = logits.iter().map(|logit| f64::from(*logit).exp()).collect();
        let mut order: Vec<usize> = (0..logits.len()).collect();
        order.sort_by(|a, b| exponentials[*b].partial_cmp(&exponentials[*a]).expect("numbers"));
        order.truncate(config.per_token);
        let divided = if config.normalised { order.clone() } else { (0..logits.len()).collect() };
        let divisor: f64 = divided.iter().map(|number| exponentials[*number]).sum();
        let term =
            |number: &usize, x: f64| exponentials[*number] / divisor * ((*number as f64 + 1.0) * x + *number as f64);
        x.iter().map(|x| order.iter().map(|number| term(number, f64::from(*x))).sum()).collect()
    };
    rows.flat_map(row).collect()
}

/// Numbers of experts and of chosen ones, and for some tokens logits and inputs.
fn cases() -> impl Strategy<Value = (ExpertConfig, Vec<f32>, Vec<f32>)> {
    (1usize..9, any::<bool>(), 1usize..12).prop_flat_map(|(count, normalised, tokens)| {
        let chosen = (1..=count).prop_map(move |per_token| config(count, per_token, normalised));
        // Logits on a grid, so that some are equal.
        let logits = proptest::collection::vec((-8i8..8).prop_map(|n| f32::from(n) * 0.5), tokens * count);
        (chosen, logits, proptest::collection::vec(-2.0f32..2.0, tokens * WIDTH))
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn results_are_the_weighted_sums_of_the_chosen_experts((config, logits, x) in cases()) {
        let expected = expected(&logits, &x, &config);
        let mut chosen = vec![false; config.count];
        for row in logits.chunks(config.count) {
            greatest(row, config.per_token).into_iter().for_each(|number| chosen[number] = true);
        }
        for device in devices() {
            let called = RefCell::new(Vec::new());
            let routing = Routing::of(tensor(&logits, config.count, &device), &config);
            let sum = routing.sum(tensor(&x, WIDTH, &device), |number, x| {
                called.borrow_mut().push(number);
                expert(number, x)
            });
            for (found, expected) in to_f32(sum).expect("values").into_iter().zip(&expected) {
                prop_assert!((f64::from(found) - expected).abs() < 1e-4, "{found} for {expected}");
            }
            // Once each, in ascending order, and no expert without a token.
            let wanted: Vec<usize> = (0..config.count).filter(|number| chosen[*number]).collect();
            prop_assert_eq!(called.into_inner(), wanted);
        }
    }

    #[test]
    fn a_token_does_not_depend_on_the_others((config, logits, x) in cases()) {
        for device in devices() {
            let sum = |logits: &[f32], x: &[f32]| {
                let routing = Routing::of(tensor(logits, config.count, &device), &config);
                to_f32(routing.sum(tensor(x, WIDTH, &device), expert)).expect("values")
            };
            let together = sum(&logits, &x);
            let tokens = logits.chunks(config.count).zip(x.chunks(WIDTH));
            let alone: Vec<f32> = tokens.flat_map(|(logits, x)| sum(logits, x)).collect();
            prop_assert_eq!(together, alone);
        }
    }

    #[test]
    fn gradients_are_those_of_all_experts_with_a_mask((config, logits, x) in cases()) {
        let tokens = logits.len() / config.count;
        let upstream: Vec<f32> = (0..tokens * WIDTH).map(|i| (i as f32 * 0.7).sin()).collect();
        let run = |masked: bool| {
            let device = Device::flex().autodiff();
            let logits_tensor = tensor(&logits, config.count, &device).require_grad();
            let x = tensor(&x, WIDTH, &device).require_grad();
            let sum = match masked {
                false => Routing::of(logits_tensor.clone(), &config).sum(x.clone(), expert),
                true => {
                    let mut mask = vec![0.0; logits.len()];
                    for (row, logits) in mask.chunks_mut(config.count).zip(logits.chunks(config.count)) {
                        greatest(logits, config.per_token).into_iter().for_each(|number| row[number] = 1.0);
                    }
                    let weights = softmax(logits_tensor.clone(), 1) * tensor(&mask, config.count, &device);
                    let weights = if config.normalised { weights.clone() / weights.sum_dim(1) } else { weights };
                    let term = |number| {
                        expert(number, x.clone()) * weights.clone().slice([0..tokens, number..number + 1])
                    };
                    (1..config.count).fold(term(0), |sum, number| sum + term(number))
                }
            };
            let mut gradients = (sum * tensor(&upstream, WIDTH, &device)).sum().backward();
            [logits_tensor, x].map(|leaf| to_f32(leaf.grad_remove(&mut gradients).expect("a gradient")).expect("values"))
        };
        let (ours, reference) = (run(false), run(true));
        for (found, expected) in ours.iter().flatten().zip(reference.iter().flatten()) {
            prop_assert!((found - expected).abs() < 1e-3, "{found} for {expected}");
        }
    }
}

/// Products have the number of rows that selects the method of the pass, however tokens are distributed.
#[test]
fn an_experts_method_depends_on_the_number_of_tokens_only() {
    let config = config(4, 1, true);
    for (tokens, rule) in [(4 * ROWS_IN_PLACE, Rows::Few), (4 * ROWS_IN_PLACE + 1, Rows::Many)] {
        assert_eq!(Rows::of(tokens, &config), rule);
        for first in [1, 7, 32, 33, 40, tokens - 3, tokens] {
            // The first tokens choose expert 2, the others one after another the other three.
            let chosen: Vec<Vec<usize>> =
                (0..tokens).map(|token| vec![if token < first { 2 } else { [0, 1, 3][token % 3] }]).collect();
            let (products, rows) = assigned(&chosen, &config, rule);
            let allowed = |rows: usize| (rows <= ROWS_IN_PLACE) == (rule == Rows::Few);
            assert!(products.iter().all(|(_, own)| allowed(own.len())), "{products:?}");
            // Every token's row is one of its expert's with this token.
            let all: Vec<(usize, usize)> =
                products.iter().flat_map(|(number, own)| own.iter().map(|token| (*number, *token))).collect();
            let found: Vec<(usize, usize)> = rows[0].iter().map(|row| all[*row]).collect();
            assert_eq!(found, (0..tokens).map(|token| (chosen[token][0], token)).collect::<Vec<_>>());
            assert!(products.is_sorted_by_key(|(number, _)| *number));
        }
    }
}

#[test]
fn of_equal_logits_the_lower_numbers_are_chosen() {
    assert_eq!(greatest(&[1.0, 3.0, 3.0, 2.0, 3.0], 2), [1, 2]);
    assert_eq!(greatest(&[0.0; 5], 3), [0, 1, 2]);
    assert_eq!(greatest(&[1.0, 2.0], 2), [0, 1]);
    // Logits that are no numbers choose experts, too.
    assert_eq!(greatest(&[f32::NAN; 4], 2).len(), 2);
}
