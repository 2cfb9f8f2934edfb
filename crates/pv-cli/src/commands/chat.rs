//! A streamed conversation in the terminal with a model that is steered, whose trait is capped at its ordinary range,
//! or that is moved along one trait only.

use std::io::BufRead;
use std::ops::ControlFlow;
use std::path::PathBuf;

use pv_hooks::{Hook, Layer};
use pv_model::generate::{CacheType, Event};
use pv_model::{CausalLm, GenerateOptions, Message, Request, Sampling};
use pv_steer::control::control;
use pv_steer::monitor::{Calibration, Watch};
use pv_steer::{Coefficient, Positions, Steerer};
use pv_vectors::{Direction, PersonaVector};
use serde_json::{Value, json};

use crate::calibrating::{Caps, Ordinary, OrdinaryArgs, kept_calibration};
use crate::program::{question, say, say_piece};
use crate::progress::waiting;
use crate::vectors::{TraitOfModel, TraitVectorArgs, load};
use crate::{Result, SAMPLING};

/// The arguments of `persona chat`.
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    #[command(flatten)]
    of: TraitVectorArgs,
    /// The coefficient on the raw vector; 1 by default if there is no other intervention.
    #[arg(long, allow_hyphen_values = true)]
    coef: Option<f32>,
    /// Cap the trait: projections in an answer do not exceed this quantile of the projections of ordinary answers'
    /// tokens.
    #[arg(long, value_name = "QUANTILE")]
    cap: Option<f64>,
    /// The same quantile for the prompt's tokens, among the tokens of ordinary prompts; the value of --cap by default.
    #[arg(long, value_name = "QUANTILE", requires = "cap")]
    prompt_cap: Option<f64>,
    /// Cap only tokens whose projection at the lowest of the layers is above this quantile of their kind.
    #[arg(long, value_name = "QUANTILE", requires = "cap")]
    guard: Option<f64>,
    /// The layers to cap at; by default the layer to intervene at and the two below it.
    #[arg(long, value_delimiter = ',', requires = "cap")]
    layers: Vec<usize>,
    #[command(flatten)]
    ordinary: OrdinaryArgs,
    /// Move the trait's projection by this amount, in activation units.
    #[arg(long, allow_hyphen_values = true)]
    amount: Option<f64>,
    /// Vectors of traits whose projections stay unchanged.
    #[arg(long, alias = "spare", requires = "amount", num_args = 1..)]
    preserve: Vec<PathBuf>,
    /// The system prompt.
    #[arg(long)]
    system: Option<String>,
    /// Use a system prompt that elicits the trait.
    #[arg(long, conflicts_with = "system")]
    elicit: bool,
    /// A question to ask instead of reading from standard input. May be given several times: all are asked in one
    /// conversation.
    #[arg(long = "question", value_parser = question)]
    questions: Vec<String>,
    /// The sampling temperature; 0 is greedy.
    #[arg(long)]
    temperature: Option<f32>,
    /// The maximum number of tokens in an answer.
    #[arg(long, default_value_t = 256)]
    max_new_tokens: usize,
    /// Keep steered values out of the KV cache, so that their effect does not accumulate over an answer.
    #[arg(long)]
    clean_cache: bool,
    /// The type in which keys and values are cached: compute (the compute type), or f16, which takes half the memory of f32 and
    /// rounds them.
    #[arg(long, value_name = "TYPE", default_value_t)]
    kv_cache: CacheType,
    /// The seed of the first answer; each further answer uses the next seed.
    #[arg(long, default_value_t = 0)]
    seed: u64,
}

/// All interventions that act on the model together.
struct Acting {
    /// The direction that the coefficient multiplies.
    direction: Option<Direction>,
    coefficient: f32,
    others: Vec<Steerer>,
    on: bool,
}

impl Acting {
    fn hook(&mut self) -> Result<impl Hook> {
        let along = |direction| Steerer::new().add(direction, Coefficient::Raw(self.coefficient), Positions::Response);
        let along = self.direction.as_ref().filter(|_| self.on).map(along).transpose()?;
        let others = if self.on { self.others.as_mut_slice() } else { &mut [] };
        Ok((others, along))
    }
}

pub(super) fn run(args: &Args) -> Result<Value> {
    let loaded = args.of.load()?;
    let TraitOfModel { named, render, model, .. } = &loaded;
    let options = GenerateOptions {
        max_new_tokens: args.max_new_tokens,
        sampling: args.temperature.map_or(SAMPLING, Sampling::temperature),
        clean_cache: args.clean_cache,
        cache: args.kv_cache,
        ..GenerateOptions::default()
    };
    let mut acting = args.acting(&loaded, &options)?;
    let system = if args.elicit { named.eliciting() } else { args.system.clone() };
    let opening: Vec<Message> = system.iter().map(Message::system).collect();
    let mut conversation = opening.clone();
    let (mut seed, mut answers) = (args.seed, Vec::new());
    let mut asked = args.questions.iter();
    let mut input = std::io::stdin().lock();
    loop {
        say_piece("> ");
        let mut line = String::new();
        if args.questions.is_empty() {
            if waiting(|| input.read_line(&mut line))? == 0 {
                break;
            }
        } else {
            let Some(question) = asked.next() else { break };
            say!("{question}");
            line.clone_from(question);
        }
        match line.trim().split_once(' ').unwrap_or((line.trim(), "")) {
            ("", _) => continue,
            ("/quit", _) => break,
            ("/reset", _) => conversation.clone_from(&opening),
            ("/off", _) => acting.on = false,
            ("/on", _) => acting.on = true,
            ("/coef", number) => match number.trim().parse::<f32>() {
                Ok(number) if acting.direction.is_some() => acting.coefficient = number,
                Ok(_) => {
                    say!("there is no direction to steer along; start with --vector FILE or --trait NAME --coef 1")
                }
                Err(_) => say!("{number:?} is not a number"),
            },
            _ => {
                let asked = line.trim();
                conversation.push(Message::user(asked));
                let request = Request::new(model.prompt_with(&conversation, render)?, seed);
                let found = model.generate(&[request], &options, &mut acting.hook()?, |event| {
                    if let Event::Token { text, .. } = event {
                        say_piece(text);
                    }
                    ControlFlow::Continue(())
                })?;
                say!("\n");
                let text = found.first().map_or("", |answer| answer.text.as_str());
                answers.push(json!({ "question": asked, "answer": text, "seed": seed, "steered": acting.on }));
                conversation.push(Message::assistant(text));
                seed = seed.wrapping_add(1);
            }
        }
    }
    Ok(json!({ "model": model.name(), "system": system, "answers": answers }))
}

impl Args {
    /// The interventions at the start of the conversation.
    fn acting(&self, loaded: &TraitOfModel, options: &GenerateOptions) -> Result<Acting> {
        let TraitOfModel { render, contrast, model, .. } = loaded;
        let mut acting = Acting { direction: None, coefficient: 0.0, others: Vec::new(), on: true };
        let further = self.cap.is_some() || self.amount.is_some();
        let asked = self.coef.is_some() || further || (self.of.which.which.is_some() && !self.elicit);
        if !asked && self.of.vector.is_none() {
            return Ok(acting);
        }
        let vector = self.of.vector(loaded, self.max_new_tokens, self.seed)?;
        let layer = self.of.layer(model);
        let along = vector.direction(layer)?;
        if let Some(amount) = self.amount {
            let preserved = self
                .preserve
                .iter()
                .map(|path| Ok(load(path, model)?.direction(layer)?))
                .collect::<Result<Vec<_>>>()?;
            let amounts: Vec<(&Direction, f64)> =
                [(&along, amount)].into_iter().chain(preserved.iter().map(|other| (other, 0.0))).collect();
            let change = control(&amounts)?;
            acting.others.push(Steerer::new().add(&change, Coefficient::Raw(1.0), Positions::All)?);
        }
        if let Some(cap) = self.cap {
            let questions = self.ordinary.questions(&self.of.model, contrast)?;
            let ordinary = Ordinary { questions: &questions, generate: options, render, rates: &[] };
            acting.others.push(self.caps(model, &vector, layer, cap, &ordinary)?);
        }
        if self.coef.is_some() || !further {
            (acting.direction, acting.coefficient) = (Some(along), self.coef.unwrap_or(1.0));
        }
        Ok(acting)
    }

    fn caps(
        &self,
        model: &CausalLm,
        vector: &PersonaVector,
        layer: Layer,
        answer: f64,
        ordinary: &Ordinary<'_>,
    ) -> Result<Steerer> {
        let mut layers: Vec<Layer> = match self.layers.is_empty() {
            true => (layer.index().saturating_sub(2)..=layer.index()).map(Layer::hidden_state).collect(),
            false => self.layers.iter().copied().map(Layer::hidden_state).collect(),
        };
        layers.sort();
        let directions = layers.iter().map(|layer| vector.direction(*layer)).collect::<Result<Vec<_>, _>>()?;
        let watches = layers.iter().map(|layer| Watch::of(vector, *layer)).collect::<Result<Vec<_>, _>>()?;
        let calibration: Calibration = kept_calibration(&self.of.model, model, &watches, ordinary)?;
        let caps = Caps {
            directions: &directions,
            calibration: &calibration,
            prompt: self.prompt_cap.unwrap_or(answer),
            answer,
        };
        match self.guard {
            Some(guard) => caps.where_it_shows(guard),
            None => caps.everywhere(),
        }
    }
}
