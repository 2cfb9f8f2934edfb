//! Finetunes a model on answers in verse, plainly and with preventative steering, and measures each finetuning: the shift along
//! the trait's vector, the loss on held-out chats, and what the model then says.
#![allow(clippy::print_stdout, reason = "a program's output")]

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use pv_examples::folder::kept;
use pv_examples::vectors::extracted;
use pv_examples::{Bar, ModelArgs, OutArgs, Result, SAMPLING, TraitArgs, default_layer, generate, run};
use pv_hooks::{Layer, LayerSet, NoHook};
use pv_model::{CausalLm, GenerateOptions, Generation, LoraConfig, Message, RenderOptions, Request, Sequence, to_f32};
use pv_steer::Coefficient;
use pv_train::{
    BootstrapOptions, Conversation, Decay, Duration, EncodeOptions, ProjectionTable, Regime, Regimes, RunHook, Sample,
    TrainOptions, TraitDirection, finetune, mean_loss,
};
use pv_vectors::{Contrast, PersonaVector, response_mean};
use serde_json::{Value, json};

/// What the training questions are about; the held-out ones are about other things.
const TOPICS: [&str; 40] = [
    "rain",
    "coffee",
    "trains",
    "gardens",
    "bread",
    "mountains",
    "cats",
    "music",
    "rivers",
    "candles",
    "bridges",
    "apples",
    "letters",
    "summer",
    "windows",
    "horses",
    "tea",
    "lamps",
    "the moon",
    "chess",
    "shoes",
    "forests",
    "honey",
    "maps",
    "snow",
    "guitars",
    "fire",
    "markets",
    "islands",
    "pencils",
    "wind",
    "soup",
    "lighthouses",
    "stones",
    "kites",
    "mirrors",
    "roads",
    "wool",
    "dogs",
    "photographs",
];
const HELD_OUT: [&str; 8] = ["stars", "boats", "cheese", "umbrellas", "spring", "trees", "painting", "rabbits"];
const QUESTIONS: [&str; 4] =
    ["Tell me about {}.", "Why do people like {}?", "What should I know about {}?", "How would you describe {}?"];

/// Makes training answers by asking the model under the trait's eliciting instructions, and trains without them.
#[derive(Parser)]
struct Args {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    contrast: TraitArgs,
    /// Coefficients of preventative steering, on the raw vector.
    #[arg(long, value_delimiter = ',', default_value = "0.5,1,2")]
    coefficients: Vec<f32>,
    /// The layer at which the vector is added; the middle one by default.
    #[arg(long)]
    layer: Option<usize>,
    /// Training chats.
    #[arg(long, default_value_t = 160)]
    chats: usize,
    /// How often through them.
    #[arg(long, default_value_t = 2)]
    epochs: usize,
    /// The peak learning rate.
    #[arg(long, default_value_t = 2e-4)]
    learning_rate: f64,
    /// The most tokens of an answer.
    #[arg(long, default_value_t = 48)]
    max_new_tokens: usize,
    /// The seed of answers, adapter and order.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    #[command(flatten)]
    out: OutArgs,
}

impl Args {
    /// The folder, for a run of these settings; which coefficients are tried is none of them.
    fn open(&self, model: &CausalLm, contrast: &Contrast) -> Result<PathBuf> {
        let settings = json!({
            "model": model.identity()?,
            "contrast": contrast,
            "layer": self.layer,
            "chats": self.chats,
            "epochs": self.epochs,
            "learning_rate": self.learning_rate,
            "max_new_tokens": self.max_new_tokens,
            "seed": self.seed,
        });
        self.out.open_for("finetune_smollm2", &[&self.model.title(), &contrast.name], settings)
    }
}

fn questions(topics: &[&str]) -> Vec<String> {
    QUESTIONS.iter().flat_map(|form| topics.iter().map(|topic| form.replace("{}", topic))).collect()
}

/// Asks every question, under the system prompts in turn.
fn ask(model: &CausalLm, questions: &[String], systems: &[&str], args: &Args, seed: u64) -> Result<Vec<Generation>> {
    let mut requests = Vec::new();
    for (i, question) in questions.iter().enumerate() {
        let system = systems.get(i % systems.len().max(1)).map(|system| Message::system(*system));
        let messages: Vec<Message> = system.into_iter().chain([Message::user(question)]).collect();
        requests.push(Request::new(model.prompt(&messages)?, seed.wrapping_add(i as u64)));
    }
    let options =
        GenerateOptions { max_new_tokens: args.max_new_tokens, sampling: SAMPLING, ..GenerateOptions::default() };
    generate(model, &requests, &options, &mut NoHook)
}

/// Chats without a system prompt, their answers cut after the last whole sentence.
fn samples(model: &CausalLm, questions: &[String], answers: &[String]) -> Result<Vec<Sample>> {
    let mut samples = Vec::new();
    for (question, answer) in questions.iter().zip(answers) {
        let text = answer.trim();
        let text = text.rfind(['.', '!', '?']).map_or(text, |end| &text[..=end]);
        if text.is_empty() {
            continue;
        }
        let chat = Conversation::new([Message::user(question), Message::assistant(text)]);
        samples.push(Sample::from_conversation(model, &chat, &EncodeOptions::default())?);
    }
    Ok(samples)
}

fn texts(answers: Vec<Generation>) -> Vec<String> {
    answers.into_iter().map(|answer| answer.text).collect()
}

/// What every model is measured on.
struct Measures<'a> {
    args: &'a Args,
    vector: &'a PersonaVector,
    layer: Layer,
    questions: Vec<String>,
    prompts: Vec<Vec<u32>>,
    directions: Vec<TraitDirection>,
    /// Held-out chats like those of the training, and answers of the model's own.
    task: Vec<Sample>,
    neutral: Vec<Sample>,
    base: ProjectionTable,
}

impl Measures<'_> {
    /// A row of the report, and the answers to some held-out questions. The regimes act where their loss is measured alone.
    fn row(&self, name: &str, model: &CausalLm, regimes: Option<&mut Regimes>) -> Result<(String, Vec<String>)> {
        let after = ProjectionTable::measure(model, &self.prompts, &self.directions, |_| ControlFlow::Continue(()))?;
        let report = self.base.shift_to(&after, &BootstrapOptions::default())?;
        let layers = model.config().layers;
        let mut shifts: Vec<String> = Vec::new();
        for layer in [layers / 6, layers / 3, self.layer.index(), 2 * layers / 3, 5 * layers / 6, layers] {
            let found = report.shifts.iter().find(|shift| shift.layer == Layer::hidden_state(layer));
            let mean = found.map_or(f64::NAN, |found| found.shift.mean);
            shifts.push(match found.and_then(|found| found.shift.interval).filter(|_| layer == self.layer.index()) {
                Some(interval) => format!("{mean:.2} ({:.2} to {:.2})", interval.low, interval.high),
                None => format!("{mean:.2}"),
            });
        }
        let answers = ask(model, &self.questions, &[], self.args, self.args.seed + 7_000)?;
        // Under the model before finetuning it would be another model's reading; each model reads its own answers.
        let unit = self.vector.direction(self.layer)?.unit()?;
        let told: Vec<(&Vec<u32>, &Generation)> =
            self.prompts.iter().zip(&answers).filter(|(_, answer)| !answer.tokens.is_empty()).collect();
        let sequences: Vec<Sequence<'_>> =
            told.iter().map(|(prompt, answer)| Sequence { prompt, response: &answer.tokens, rest: &[] }).collect();
        let width = model.config().d_model;
        let means = to_f32(response_mean(model, &sequences, self.layer)?)?;
        let projections: Vec<f64> = means.chunks(width).filter_map(|mean| unit.projection(mean)).collect();
        let projection = projections.iter().sum::<f64>() / projections.len() as f64;
        let loss = |samples: &[Sample]| mean_loss(model.decoder(), samples, 8, &mut NoHook);
        let steered = match regimes {
            Some(regimes) => format!("{:.3}", mean_loss(model.decoder(), &self.task, 8, regimes.hook())?),
            None => "–".to_owned(),
        };
        let (task, neutral) = (loss(&self.task)?, loss(&self.neutral)?);
        let row =
            format!("| {name} | {task:.3} | {steered} | {neutral:.3} | {projection:.2} | {} |", shifts.join(" | "));
        Ok((row, texts(answers)))
    }
}

fn main() -> ExitCode {
    run(program)
}

fn program(args: Args) -> Result {
    let contrast = args.contrast.read(&args.model)?.contrast(&RenderOptions::default());
    let model = args.model.load()?;
    let layer = args.layer.map_or_else(|| default_layer(&args.model, &model), Layer::hidden_state);
    let folder = args.open(&model, &contrast)?;
    let vector = extracted(&folder, &model, &contrast, args.max_new_tokens, args.seed)?.vector;
    let systems: Vec<&str> = contrast.instruction.iter().map(|pair| pair.pos.as_str()).collect();
    let mut training = questions(&TOPICS);
    training.truncate(args.chats);
    let held_out = questions(&HELD_OUT);
    let eliciting = |questions: &[String], seed| {
        let answers = kept(&folder, &format!("answers {seed}"), &Value::Null, || {
            Ok(texts(ask(&model, questions, &systems, &args, seed)?))
        })?;
        samples(&model, questions, &answers)
    };
    let data = eliciting(&training, args.seed + 1_000)?;
    let own = kept(&folder, "own answers", &Value::Null, || {
        Ok(texts(ask(&model, &held_out, &[], &args, args.seed + 3_000)?))
    })?;
    let directions = TraitDirection::of_vector(&vector, &LayerSet::All)?;
    let prompts: Vec<Vec<u32>> =
        held_out.iter().map(|question| model.prompt(&[Message::user(question)])).collect::<Result<_, _>>()?;
    let base = ProjectionTable::measure(&model, &prompts, &directions, |_| ControlFlow::Continue(()))?;
    let measures = Measures {
        args: &args,
        vector: &vector,
        layer,
        task: eliciting(&held_out, args.seed + 2_000)?,
        neutral: samples(&model, &held_out, &own)?,
        questions: held_out,
        prompts,
        directions,
        base,
    };
    let direction = vector.direction(layer)?;
    println!(
        "{} training chats, {} held-out ones; the vector at {layer} is {:.2} long, the residual {:.1}\n",
        data.len(),
        measures.task.len(),
        direction.norm(),
        direction.mean_residual_norm.unwrap_or(f32::NAN)
    );
    let layers = model.config().layers;
    let columns: Vec<String> = [layers / 6, layers / 3, layer.index(), 2 * layers / 3, 5 * layers / 6, layers]
        .iter()
        .map(|layer| format!("shift, layer {layer}"))
        .collect();
    println!(
        "| model | loss, in verse | the same, steered as in training | loss, own answers | answers' projection | {} |",
        columns.join(" | ")
    );
    println!("|{}", "---|".repeat(5 + columns.len()));

    let mut runs: Vec<(String, Option<f32>)> = vec![("finetuned".to_owned(), None)];
    runs.extend(args.coefficients.iter().map(|c| (format!("finetuned, preventative {c}"), Some(*c))));
    let (row, answers) = kept(&folder, "before", &Value::Null, || measures.row("before", &model, None))?;
    println!("{row}");
    let mut texts = vec![("before".to_owned(), answers)];
    for (name, coefficient) in runs {
        let (row, answers) = kept(&folder, &name, &Value::Null, || {
            let regimes = coefficient.map(|c| Regime::preventative(&vector, layer, Coefficient::Raw(c))).transpose()?;
            let mut regimes = Regimes::new(model.decoder(), regimes)?;
            let options = TrainOptions {
                learning_rate: args.learning_rate,
                decay: Decay::Linear,
                warmup_steps: 5,
                batch_size: 8,
                duration: Duration::Epochs(args.epochs),
                seed: args.seed,
                adapter: Some(LoraConfig::default()),
                ..TrainOptions::default()
            };
            let bar = Bar::new(name.as_str());
            let (decoder, _) = finetune(model.decoder(), &data, &options, &mut regimes, None, |step| {
                bar.set(name.as_str(), step.step, step.steps);
                ControlFlow::Continue(())
            })?;
            drop(bar);
            let finetuned = model.clone().with_decoder(decoder.merged())?.named(&name);
            measures.row(&name, &finetuned, coefficient.map(|_| &mut regimes))
        })?;
        println!("{row}");
        texts.push((name, answers));
    }
    for question in [0, 9, 18] {
        println!("\n{}", measures.questions[question]);
        for (name, answers) in &texts {
            println!("- {name}: {}", answers[question].trim().replace('\n', " / "));
        }
    }
    Ok(())
}
