//! Every row of a batch with its own mixture.

use ndarray::{Array2, ArrayView1, Axis, array, s};
use pv_hooks::{HookError, Layer, NoHook};
use pv_model::{Error, Request};
use pv_steer::error::SteeringError;
use pv_steer::{Coefficient, Mixture, Positions, Steerer};
use pv_tests::compare;
use pv_vectors::Direction;

use super::{
    BLOCKS, Ran, Run, WIDTH, around, bits, direction, every, everything, generate, generating, ids, load, rollouts,
};

/// Three directions at two layers; those of one layer are not adjacent.
fn directions() -> [Direction; 3] {
    [direction(3, 1, 0.8), direction(1, 2, 0.5), direction(3, 3, 0.6)]
}

/// Rows for four sequences or requests; the third is all zeros.
fn rows() -> Array2<Coefficient> {
    let raw = array![[1.0, -0.5, 0.25], [0.0, 2.0, 0.0], [0.0, -0.0, 0.0], [-1.5, 0.0, 1.0]];
    let mut rows = raw.mapv(Coefficient::Raw);
    rows[[3, 1]] = Coefficient::ResidualNorms(0.2);
    rows
}

fn alone(row: ArrayView1<'_, Coefficient>, positions: Positions) -> Steerer {
    let add = |s: Steerer, (d, c): (&Direction, &Coefficient)| s.add(d, *c, positions).expect("a direction");
    directions().iter().zip(row).fold(Steerer::new(), add)
}

const POSITIONS: [Positions; 4] = [Positions::Response, Positions::Prompt, Positions::All, Positions::ResponseFrom(1)];

fn same(what: &str, ours: &Ran, reference: &Ran) {
    for layer in 0..=BLOCKS {
        let found = compare(format!("{what} at layer {layer}"), &ours.residuals[layer], &reference.residuals[layer]);
        assert!(found.max_abs <= 1e-5, "{found}");
    }
}

#[test]
fn each_row_equals_a_separately_steered_one() {
    every(|model| {
        for positions in POSITIONS {
            let mut mixture = Mixture::new(&directions(), rows().view(), positions).expect("a mixture");
            let (_, mixed) = around(model, Run::Full, &mut mixture);
            let (_, plain) = around(model, Run::Full, &mut NoHook);
            for (sequence, row) in rows().outer_iter().enumerate() {
                // The same batch, entirely steered like this row.
                let (_, reference) = around(model, Run::Full, &mut alone(row, positions));
                same(&format!("{positions:?}, row {sequence}"), &mixed[sequence], &reference[sequence]);
                let moved = mixed[sequence].residuals[BLOCKS] != plain[sequence].residuals[BLOCKS];
                assert_eq!(moved, sequence != 2, "{positions:?}, row {sequence}");
            }
            for (mixed, plain) in mixed[2].residuals.iter().zip(&plain[2].residuals) {
                assert_eq!(bits(mixed), bits(plain), "{positions:?}: a row of zeros");
            }
        }
    });
}

#[test]
fn a_generation_of_many_mixtures_equals_many_generations() {
    every(|model| {
        for positions in POSITIONS.into_iter().filter(|positions| *positions != Positions::ResponseFrom(1)) {
            let requests = rollouts();
            let mixture =
                || Mixture::for_requests(&directions(), rows().view(), &requests, positions).expect("a mixture");
            assert_eq!(mixture().check(&requests).map_err(|error| error.to_string()), Ok(()));
            let mut reference = Vec::new();
            for (request, row) in requests.iter().zip(rows().outer_iter()) {
                for seed in &request.seeds {
                    let request = [Request::new(request.prompt.clone(), *seed)];
                    reference.extend(generate(model, &request, &generating(1), &mut alone(row, positions)));
                }
            }
            let zero = generate(model, &requests[2..3], &generating(1), &mut NoHook);
            assert_eq!(reference[4..6], zero, "a row of zeros");
            for batch_size in [1, 3, 16] {
                let found = generate(model, &requests, &generating(batch_size), &mut mixture());
                assert_eq!(found, reference, "{positions:?}, batch {batch_size}");
            }
            let plain = generate(model, &requests, &generating(16), &mut NoHook);
            assert_ne!(plain, reference, "mixtures make no difference");
        }
    });
}

#[test]
fn rollouts_of_one_prompt_may_differ_from_the_first_generated_token_on() {
    every(|model| {
        let from = Positions::ResponseFrom(0);
        let shared = [Request::rollouts(ids(4, 9), 4, 20)];
        let options = || pv_model::GenerateOptions { stop_tokens: Some(vec![]), ..generating(3) };
        let mixture = || Mixture::new(&directions(), rows().view(), from).expect("a mixture");
        mixture().check(&shared).expect("no conflict");
        let mut recorder = everything();
        let found = generate(model, &shared, &options(), &mut (mixture(), &mut recorder));
        let mixed = super::read(&recorder, &[(9, 8); 4]);
        for (sequence, row) in rows().outer_iter().enumerate() {
            let mut recorder = everything();
            let request = [Request::new(ids(4, 9), 20 + sequence as u64)];
            let answer = generate(model, &request, &options(), &mut (alone(row, from), &mut recorder));
            assert_eq!(found[sequence], answer[0], "sequence {sequence}");
            same(&format!("sequence {sequence}"), &mixed[sequence], &super::read(&recorder, &[(9, 8)])[0]);
        }
        // The prompt's last token is shared by the rollouts, so there it is refused.
        for positions in [Positions::Response, Positions::Prompt, Positions::All] {
            let mixture = || Mixture::new(&directions(), rows().view(), positions).expect("a mixture");
            let early = mixture().check(&shared);
            assert!(
                matches!(
                    early,
                    Err(pv_steer::Error::Steering(SteeringError::SharedPrompt { request: 0, first: 0, second: 1 }))
                ),
                "{early:?}"
            );
            let late = model.generate(&shared, &options(), &mut mixture(), |_| std::ops::ControlFlow::Continue(()));
            assert!(matches!(late, Err(Error::Hook(HookError::SharedTokens { first: 0, second: 1, .. }))), "{late:?}");
            // Separate requests are possible.
            let separate: Vec<_> = (0..4).map(|i| Request::new(ids(4, 9), 20 + i)).collect();
            mixture().check(&separate).expect("no conflict");
            let found = generate(model, &separate, &options(), &mut mixture());
            for (sequence, row) in rows().outer_iter().enumerate() {
                let request = &separate[sequence..=sequence];
                assert_eq!(found[sequence], generate(model, request, &options(), &mut alone(row, positions))[0]);
            }
        }
    });
}

/// At layer 0 the residual is an embedding in any batch, so that only the mixture's sums can differ.
#[test]
fn a_row_s_mixture_does_not_depend_on_its_batch() {
    every(|model| {
        let directions: Vec<_> = (0..7).map(|seed| direction(0, seed, 0.3)).collect();
        let rows = Array2::from_shape_fn((4, 7), |(i, k)| Coefficient::Raw(((i * 7 + k) as f32).sin()));
        let mut mixture = Mixture::new(&directions, rows.view(), Positions::All).expect("a mixture");
        let (_, together) = around(model, Run::Full, &mut mixture);
        for sequence in 0..4 {
            let same = rows.select(Axis(0), &[sequence; 4]);
            let mut mixture = Mixture::new(&directions, same.view(), Positions::All).expect("a mixture");
            let (_, uniform) = around(model, Run::Full, &mut mixture);
            assert_eq!(bits(&together[sequence].residuals[0]), bits(&uniform[sequence].residuals[0]));
            let request = [Request::new(ids(sequence as u32, super::PROMPTS[sequence]), 0)];
            let mut one = Mixture::new(&directions, same.slice(s![..1, ..]), Positions::All).expect("a mixture");
            let mut recorder = everything();
            generate(model, &request, &generating(1), &mut (&mut one, &mut recorder));
            let tokens = super::PROMPTS[sequence] * WIDTH;
            let alone =
                pv_model::decoder::to_f32(recorder.tokens(0, Layer::EMBEDDINGS).expect("recorded")).expect("numbers");
            assert_eq!(bits(&alone[..tokens]), bits(&together[sequence].residuals[0][..tokens]));
        }
    });
}

#[test]
fn invalid_mixtures_are_refused() {
    let model = load("llama", &burn::tensor::Device::flex());
    let [v, w, _] = directions();
    let raw = |row: &[f32]| Array2::from_shape_fn((1, row.len()), |(_, k)| Coefficient::Raw(row[k]));
    let new = |directions: &[Direction], rows: Array2<Coefficient>| {
        Mixture::new(directions, rows.view(), Positions::All).map(drop).expect_err("refused")
    };
    use pv_steer::Error as Bad;
    assert!(matches!(new(&[], raw(&[])), Bad::Steering(SteeringError::BadMatrix { directions: 0, .. })));
    let none = Array2::from_elem((0, 1), Coefficient::Raw(1.0));
    assert!(matches!(new(std::slice::from_ref(&v), none), Bad::Steering(SteeringError::BadMatrix { rows: 0, .. })));
    let both = [v.clone(), w.clone()];
    assert!(matches!(
        new(&both, raw(&[1.0])),
        Bad::Steering(SteeringError::BadMatrix { rows: 1, columns: 1, directions: 2 })
    ));
    assert!(matches!(new(&both, raw(&[1.0, f32::NAN])), Bad::Steering(SteeringError::BadCoefficient { .. })));
    let narrow = Direction { values: vec![1.0; 47], ..w.clone() };
    let mixed = new(&[v.clone(), narrow.clone()], raw(&[1.0, 1.0]));
    assert!(matches!(mixed, Bad::Steering(SteeringError::OtherWidth { index: 1, expected: 48, found: 47 })));
    let unknown = Direction { mean_residual_norm: None, ..w.clone() };
    assert!(matches!(
        new(&[unknown], array![[Coefficient::ResidualNorms(1.0)]]),
        Bad::Steering(SteeringError::NoResidualNorm { .. })
    ));
    let hole = Direction { values: vec![f32::NAN; 48], ..w };
    assert!(matches!(new(&[hole], raw(&[1.0])), Bad::Steering(SteeringError::Degenerate { .. })));

    let requests = rollouts();
    let few = Mixture::for_requests(std::slice::from_ref(&v), raw(&[1.0]).view(), &requests, Positions::All);
    assert!(matches!(few.map(drop), Err(Bad::Steering(SteeringError::TooFewRows { rows: 1, needed: 4 }))));
    let refused = |mixture: Mixture, ran: bool| {
        let mut mixture = mixture;
        let mut passes = 0;
        let result = model.generate(&requests, &generating(3), &mut mixture, |_| {
            passes += 1;
            std::ops::ControlFlow::Continue(())
        });
        assert_eq!(passes > 0, ran);
        match result {
            Err(Error::Hook(error)) => error,
            other => panic!("{other:?}"),
        }
    };
    let of = |v: &Direction, c: f32, n: usize| {
        Mixture::new(
            std::slice::from_ref(v),
            Array2::from_elem((n, 1), Coefficient::Raw(c)).view(),
            Positions::Response,
        )
        .expect("a mixture")
    };
    let few = of(&v, 1.0, 7);
    assert!(matches!(few.check(&requests), Err(Bad::Steering(SteeringError::TooFewRows { rows: 7, needed: 8 }))));
    let late = refused(few, true);
    assert!(matches!(late, HookError::UnknownSequence { known: 7, sequence: 7, .. }), "{late}");
    assert!(matches!(refused(of(&narrow, 1.0, 8), false), HookError::WidthMismatch { .. }));
    assert!(matches!(refused(of(&v, 1e20, 8), false), HookError::BadVector { .. }));
    let high = Direction { layer: Layer::hidden_state(BLOCKS + 1), ..v.clone() };
    assert!(matches!(refused(of(&high, 1.0, 8), false), HookError::LayerOutOfRange { .. }));
    let eight = Array2::from_elem((8, 1), Coefficient::Raw(1.0));
    let idle = Mixture::new(&[v], eight.view(), Positions::ResponseFrom(99)).expect("a mixture");
    assert!(matches!(refused(idle, true), HookError::NeverFired { .. }));
}
