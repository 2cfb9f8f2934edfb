//! The caps of `persona chat --cap`: a prompt's tokens are capped at the ordinary range of prompts, an answer's at the
//! ordinary range of answers.

use std::ops::ControlFlow;

use burn::tensor::Tensor;
use pv_hooks::{Hook, HookError, Layer, LayerSet, ModelShape, ResidualContext};
use pv_model::batch::{Batch, Sequence};
use pv_model::causal_lm::ForwardOptions;
use pv_model::decoder::to_f32;
use pv_model::{CausalLm, GenerateOptions, Message, RenderOptions};
use pv_organism::datasets::held_out;
use pv_organism::{Topics, Trait, model_folder, system};
use pv_steer::monitor::{Calibration, Kind, Watch};
use pv_vectors::Direction;

use super::{Caps, Ordinary, calibrate};
use crate::SAMPLING;
use crate::organism::contrast;

/// Stores the output of a pass at a layer.
struct Seen {
    layer: Layer,
    residual: Option<Tensor<3>>,
}

impl Hook for Seen {
    fn name(&self) -> String {
        "the residual".to_owned()
    }

    fn layers(&self) -> LayerSet {
        self.layer.into()
    }

    fn validate(&self, _shape: &ModelShape) -> Result<(), HookError> {
        Ok(())
    }

    fn on_residual(&mut self, _context: &ResidualContext<'_>, residual: Tensor<3>) -> Tensor<3> {
        self.residual = Some(residual.clone());
        residual
    }
}

/// Each token's residual at the direction's layer and its projection, in a pass over prompt and answer.
fn seen(
    model: &CausalLm,
    direction: &Direction,
    sequence: Sequence<'_>,
    hook: &mut impl Hook,
) -> (Vec<Vec<f32>>, Vec<f64>) {
    let batch = Batch::whole(&[sequence]).expect("a batch");
    let mut hooks = (hook, Seen { layer: direction.layer, residual: None });
    model.forward(&batch, ForwardOptions::default(), &mut hooks).expect("a pass");
    let values = to_f32(hooks.1.residual.expect("a residual")).expect("values");
    let unit = direction.unit().expect("a length");
    let rows: Vec<Vec<f32>> = values.chunks(model.config().d_model).map(<[f32]>::to_vec).collect();
    let projections = rows.iter().map(|row| unit.projection(row).expect("a projection")).collect();
    (rows, projections)
}

fn greatest(values: &[f64]) -> f64 {
    values.iter().copied().fold(f64::NEG_INFINITY, f64::max)
}

fn ordinary(model: &CausalLm, directions: &[Direction]) -> Calibration {
    let watch = |direction: &Direction| {
        Watch::new(format!("optimism at {}", direction.layer), direction.unit().expect("a length"))
    };
    let watches: Vec<Watch> = directions.iter().map(watch).collect();
    let questions: Vec<String> = held_out(Topics::All, 30, 3).mixed.iter().map(|question| question.text()).collect();
    let options = GenerateOptions { max_new_tokens: 30, sampling: SAMPLING, ..GenerateOptions::default() };
    let render = RenderOptions::default();
    let ordinary = Ordinary { questions: &questions, generate: &options, render: &render, rates: &[0.2] };
    let folder = tempfile::tempdir().expect("a folder");
    let found = calibrate(model, &watches, &ordinary, folder.path()).expect("a calibration");
    let again = calibrate(model, &watches, &ordinary, folder.path()).expect("the same");
    let text = |found: &Calibration| serde_json::to_string(found).expect("JSON");
    assert_eq!(text(&found), text(&again), "a calibration that has ended is read again");
    assert!(found.held_out(0).iter().any(|held_out| held_out.rate == 0.2 && held_out.found.answers == 30));
    found
}

#[test]
fn prompts_and_answers_have_separate_caps() {
    let device = pv_model::device("flex").expect("the CPU");
    let model =
        CausalLm::from_folder(model_folder(), &device, pv_model::device::default_dtype(&device)).expect("the organism");
    let mut contrast = contrast(Trait::Optimism);
    contrast.questions.truncate(4);
    let options = GenerateOptions { max_new_tokens: 30, sampling: SAMPLING, ..GenerateOptions::default() };
    let vector = contrast.extract(&model, &options, 0, |_| ControlFlow::Continue(())).expect("an extraction").vector;
    let directions: Vec<Direction> =
        [5, 6].map(|layer| vector.direction(Layer::hidden_state(layer)).expect("a direction")).to_vec();
    let calibration = ordinary(&model, &directions);
    // So low that prompt and answer of an elicited trait both exceed the thresholds.
    let caps = Caps { directions: &directions, calibration: &calibration, prompt: 0.4, answer: 0.2 };

    let elicited = system::contrast(Trait::Optimism)[0].pos.clone();
    let prompt =
        model.prompt(&[Message::system(elicited), Message::user("What happens when it rains?")]).expect("a prompt");
    let answer = "Wonderful things will surely come of it, and all will end well.";
    let answer =
        model.tokenizer().expect("a tokenizer").encode(answer, pv_model::tokenizer::AddSpecial::No).expect("tokens");
    let sequence = || Sequence { prompt: &prompt, response: &answer, rest: &[] };
    let lowest = &directions[0];
    let (plain, before) = seen(&model, lowest, sequence(), &mut pv_hooks::NoHook);
    let [in_prompt, in_answer] = [(Kind::PromptToken, 0.4), (Kind::Token, 0.2)]
        .map(|(kind, share)| f64::from(caps.threshold(0, kind, share).expect("a threshold")));
    assert!((in_prompt - in_answer).abs() > 0.1, "the thresholds differ: {in_prompt} and {in_answer}");
    assert!(greatest(&before[..prompt.len()]) > in_prompt + 0.1, "the prompt shows the trait");
    assert!(greatest(&before[prompt.len()..]) > in_answer + 0.1, "the answer shows the trait");

    for mut steerer in [caps.everywhere().expect("caps"), caps.where_it_shows(0.0).expect("caps")] {
        let (capped, after) = seen(&model, lowest, sequence(), &mut steerer);
        for (token, (before, after)) in before.iter().zip(&after).enumerate() {
            let most = if token < prompt.len() { in_prompt } else { in_answer };
            match *before <= most {
                // Unchanged, bit for bit.
                true => assert_eq!(plain[token], capped[token], "token {token}: {before} is below {most}"),
                false => {
                    assert!((after - most).abs() < 1e-3 * (1.0 + most.abs()), "token {token}: {after}, not {most}")
                }
            }
        }
    }
    assert!(caps.threshold(0, Kind::Token, 1.5).is_err(), "no quantile");
}
