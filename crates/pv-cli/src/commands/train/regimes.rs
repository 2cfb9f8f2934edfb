//! Mitigations in training, and the shifts measured during it.

use std::path::PathBuf;
use std::str::FromStr;

use pv_hooks::{Layer, LayerSet};
use pv_judge::TraitSpec;
use pv_model::{CausalLm, Message, RenderOptions};
use pv_organism::Topics;
use pv_organism::datasets::held_out;
use pv_steer::Coefficient;
use pv_train::regime::{ClosedLoop, Schedule};
use pv_train::run::Probes;
use pv_train::{Preventative, Regime};
use pv_vectors::{PersonaVector, TraitDirection};

use crate::program::lines;
use crate::vectors::load;
use crate::{ModelArgs, Result};

/// Mitigations, and the shifts measured during training.
#[derive(clap::Args, Debug)]
pub(super) struct RegimeArgs {
    /// Preventative steering at a layer: VECTOR.safetensors@LAYER:COEFFICIENT.
    #[arg(long, allow_hyphen_values = true)]
    prevent: Vec<Spec>,
    /// Preventative steering at all layers by increments: VECTOR.safetensors:COEFFICIENT.
    #[arg(long, allow_hyphen_values = true)]
    prevent_everywhere: Vec<Spec>,
    /// Adjust the coefficient of --prevent to the shift on the probe prompts.
    #[arg(long)]
    closed_loop: bool,
    /// Ablate a direction in training: VECTOR.safetensors@LAYER.
    #[arg(long)]
    ablate: Vec<Spec>,
    /// Penalise changes of a projection: VECTOR.safetensors@LAYER:WEIGHT.
    #[arg(long)]
    penalty: Vec<Spec>,
    /// A system prompt before every conversation, in training only (inoculation).
    #[arg(long)]
    inoculate: Option<String>,
    /// Measure the shift along a vector during training: VECTOR.safetensors@LAYER, or all its layers without @LAYER.
    #[arg(long)]
    probe: Vec<Spec>,
    /// A file with the probe prompts, one per line; held-out questions by default.
    #[arg(long)]
    probe_prompts: Option<PathBuf>,
}

/// `FILE@LAYER:NUMBER`, where layer and number are optional.
#[derive(Clone, Debug)]
pub(super) struct Spec {
    file: PathBuf,
    layer: Option<usize>,
    number: Option<f64>,
}

impl FromStr for Spec {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (rest, number) = match text.rsplit_once(':').map(|(rest, number)| (rest, number.parse::<f64>())) {
            Some((rest, Ok(number))) => (rest, Some(number)),
            _ => (text, None),
        };
        let (file, layer) = match rest.rsplit_once('@') {
            Some((file, layer)) => (file, Some(layer.parse().map_err(|_| format!("{layer:?} is not a layer"))?)),
            None => (rest, None),
        };
        Ok(Self { file: file.into(), layer, number })
    }
}

impl Spec {
    fn vector(&self, model: &CausalLm) -> Result<PersonaVector> {
        load(&self.file, model)
    }

    fn layer(&self) -> Result<Layer> {
        let layer = self.layer.ok_or_else(|| format!("{} needs a layer: FILE@LAYER", self.file.display()))?;
        Ok(Layer::hidden_state(layer))
    }

    fn number(&self) -> Result<f64> {
        Ok(self.number.ok_or_else(|| format!("{} needs a number: FILE@LAYER:NUMBER", self.file.display()))?)
    }
}

impl RegimeArgs {
    pub(super) fn regimes(&self, model: &CausalLm, prompts: &[Vec<u32>]) -> Result<Vec<Regime>> {
        let mut regimes = Vec::new();
        for spec in &self.prevent {
            let direction = spec.vector(model)?.direction(spec.layer()?)?;
            let schedule = match self.closed_loop {
                true => Schedule::ClosedLoop(ClosedLoop {
                    probes: prompts.to_vec(),
                    along: direction.clone(),
                    every: 2,
                    gain: 0.5,
                    most: 3.0,
                }),
                false => Schedule::Constant,
            };
            let coefficient = Coefficient::Raw(spec.number()? as f32);
            regimes.push(Regime::Preventative(Preventative { directions: vec![direction], coefficient, schedule }));
        }
        for spec in &self.prevent_everywhere {
            let coefficient = Coefficient::Raw(spec.number()? as f32);
            regimes.push(Regime::preventative_everywhere(&spec.vector(model)?, coefficient)?);
        }
        for spec in &self.ablate {
            regimes.push(Regime::Ablated { directions: vec![spec.vector(model)?.direction(spec.layer()?)?] });
        }
        for spec in &self.penalty {
            let direction = spec.vector(model)?.direction(spec.layer()?)?;
            regimes.push(Regime::Regularised { direction, weight: spec.number()? });
        }
        regimes.extend(self.inoculate.iter().map(|system| Regime::Inoculated { system: system.clone() }));
        Ok(regimes)
    }

    /// The prompts on which shifts are measured.
    pub(super) fn prompts(&self, model: &CausalLm, args: &ModelArgs, render: &RenderOptions) -> Result<Vec<Vec<u32>>> {
        let questions: Vec<String> = match &self.probe_prompts {
            Some(file) => lines(file)?,
            None if args.is_organism() => {
                held_out(Topics::Odd, 24, 99).mixed.iter().map(|question| question.text()).collect()
            }
            None => TraitSpec::builtin("evil")?.evaluation,
        };
        let prompt = |question: &String| model.prompt_with(&[Message::user(question)], render);
        Ok(questions.iter().map(prompt).collect::<Result<_, _>>()?)
    }

    pub(super) fn probes(&self, model: &CausalLm, prompts: Vec<Vec<u32>>) -> Result<Option<Probes>> {
        let mut directions = Vec::new();
        for spec in &self.probe {
            let layers = spec.layer.map_or(LayerSet::All, |layer| Layer::hidden_state(layer).into());
            directions.extend(TraitDirection::of_vector(&spec.vector(model)?, &layers)?);
        }
        Ok(if directions.is_empty() { None } else { Some(Probes::new(prompts, directions)?) })
    }
}
