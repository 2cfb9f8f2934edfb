//! Interventions in training, and in types of lower precision.

use burn::tensor::{DType, Device, Tensor, TensorData};
use pv_hooks::tokens::RowSpans;
use pv_hooks::{Hook, Layer, Phase, ResidualContext, TokenSpans};
use pv_model::decoder::to_f32;
use pv_steer::{Coefficient, Condition, Mixture, Positions, Ramp, Steerer};
use pv_vectors::Direction;

const WIDTH: usize = 6;
const SEQ: usize = 7;

fn direction(seed: f32) -> Direction {
    let values = (0..WIDTH).map(|i| (i as f32 * 1.3 + seed).sin()).collect();
    Direction { layer: Layer::hidden_state(1), values, mean_residual_norm: None }
}

/// Two rows: one of padding, prompt, response and a token after it, and one that fills the window.
fn spans() -> TokenSpans {
    TokenSpans::new(vec![RowSpans::whole(0, 2, 2, 2), RowSpans::whole(1, 0, 3, 4)], SEQ).expect("spans")
}

fn residual() -> Vec<f32> {
    (0..2 * SEQ * WIDTH).map(|i| (i as f32 * 0.9).sin() * 2.0).collect()
}

fn hooks() -> Vec<(&'static str, Box<dyn Hook>)> {
    let (v, w) = (direction(0.0), direction(1.0));
    let c = Coefficient::Raw;
    let ramp = Ramp { from: c(0.5), to: c(-2.0), over: 2 };
    let steerer = |steerer: pv_steer::Result<Steerer>| -> Box<dyn Hook> { Box::new(steerer.expect("a steerer")) };
    let above = Condition::above(&w, 0.2).expect("a condition");
    let new = Steerer::new;
    let rows = ndarray::array![[c(1.0), c(0.5)], [c(-1.0), c(0.0)]];
    let mixture = Mixture::new(&[v.clone(), w.clone()], rows.view(), Positions::Response).expect("a mixture");
    vec![
        ("add", steerer(new().add(&v, c(1.5), Positions::All))),
        ("add to some", steerer(new().add(&v, c(1.5), Positions::Response))),
        ("ramp", steerer(new().add(&v, ramp, Positions::Response))),
        ("keep", steerer(new().add_keeping_norm(&v, c(1.5), Positions::All))),
        ("keep along a ramp", steerer(new().add_keeping_norm(&v, ramp, Positions::Response))),
        ("ablate", steerer(new().ablate(&v, Positions::Prompt))),
        ("ablate both", steerer(new().ablate(&v, Positions::All).and_then(|s| s.ablate(&w, Positions::All)))),
        ("cap", steerer(new().cap(&v, 0.1, Positions::All))),
        ("floor", steerer(new().floor(&v, 0.1, Positions::ResponseFrom(1)))),
        ("inhibit", steerer(new().inhibit_when(&v, -0.5, above, Positions::All))),
        ("mixture", Box::new(mixture)),
    ]
}

fn apply(hook: &mut dyn Hook, residual: Tensor<3>) -> Tensor<3> {
    let spans = spans();
    let context = ResidualContext { layer: Layer::hidden_state(1), phase: Phase::Full, spans: &spans };
    hook.on_residual(&context, residual)
}

fn tensor(values: Vec<f32>, device: &Device) -> Tensor<3> {
    Tensor::from_data(TensorData::new(values, [2, SEQ, WIDTH]), (device, DType::F32))
}

fn plain(hook: &mut dyn Hook, values: Vec<f32>) -> Vec<f32> {
    to_f32(apply(hook, tensor(values, &Device::flex()))).expect("numbers")
}

/// The loss for the gradients: a weighted sum.
fn weight(i: usize) -> f32 {
    (i as f32 * 0.37).cos()
}

#[test]
fn gradients_equal_finite_differences() {
    for (name, mut hook) in hooks() {
        let device = Device::flex().autodiff();
        let input = tensor(residual(), &device).require_grad();
        let output = apply(hook.as_mut(), input.clone());
        let weights = tensor((0..residual().len()).map(weight).collect(), &device);
        let gradients = (output * weights).sum().backward();
        let gradient = to_f32(input.grad(&gradients).expect("a gradient")).expect("numbers");
        let loss = |hook: &mut dyn Hook, i: usize, step: f32| {
            let mut values = residual();
            values[i] += step;
            let found = plain(hook, values);
            found.iter().enumerate().map(|(i, x)| f64::from(*x) * f64::from(weight(i))).sum::<f64>()
        };
        for (i, found) in gradient.iter().enumerate() {
            let step = 1e-2;
            let slope = (loss(hook.as_mut(), i, step) - loss(hook.as_mut(), i, -step)) / f64::from(2.0 * step);
            assert!((slope - f64::from(*found)).abs() <= 2e-3, "{name}, value {i}: {found}, not {slope}");
        }
        // The same hook also runs without gradients.
        assert_eq!(plain(hook.as_mut(), residual()).len(), residual().len(), "{name}");
    }
}

#[test]
fn bf16_stays_bf16_and_close_to_f32() {
    let coarse = to_f32(tensor(residual(), &Device::flex()).cast(DType::BF16)).expect("numbers");
    for (name, mut hook) in hooks() {
        let fine = plain(hook.as_mut(), coarse.clone());
        let found = apply(hook.as_mut(), tensor(coarse.clone(), &Device::flex()).cast(DType::BF16));
        assert_eq!(found.dtype(), DType::BF16, "{name}");
        let found = to_f32(found).expect("numbers");
        let mut untouched = 0;
        for ((found, fine), before) in found.iter().zip(&fine).zip(&coarse) {
            assert!((found - fine).abs() <= 0.01 * (1.0 + fine.abs()), "{name}: {found}, not {fine}");
            if fine == before {
                untouched += 1;
                assert_eq!(found.to_bits(), before.to_bits(), "{name}");
            }
        }
        assert!(untouched >= 2 * WIDTH, "{name}: padding was touched");
    }
}

#[test]
fn zero_and_opposite_residuals_stay_finite() {
    let v = direction(0.0);
    let mut keep = Steerer::new().add_keeping_norm(&v, Coefficient::Raw(1.0), Positions::All).expect("a direction");
    let device = Device::flex().autodiff();
    for values in [vec![0.0; residual().len()], v.values.iter().map(|x| -x).cycle().take(residual().len()).collect()] {
        let input = tensor(values, &device).require_grad();
        let output = apply(&mut keep, input.clone());
        let gradients = output.clone().sum().backward();
        let gradient = to_f32(input.grad(&gradients).expect("a gradient")).expect("numbers");
        let real = 2 * WIDTH..residual().len();
        assert!(to_f32(output).expect("numbers")[real.clone()].iter().all(|x| x.abs() < 1e-6));
        assert!(gradient[real].iter().all(|x| !x.is_nan()));
    }
}
