//! Finetunings of the organism, each measured with the exact judge, and saved in a folder so that an interrupted report resumes.

use std::ops::ControlFlow;
use std::path::PathBuf;

use pv_hooks::{Capture, Hook, Layer, LayerSet, NoHook, Recorder};
use pv_model::batch::Batch;
use pv_model::causal_lm::ForwardOptions;
use pv_model::decoder::to_f32;
use pv_model::{CausalLm, Message};
use pv_organism::datasets::{Flaw, HeldOut, Severity, explicit, held_out, narrow};
use pv_organism::{Chat, PerTrait, Topics, Trait};
use pv_steer::control::decompose;
use pv_train::trainer::{Decay, Duration, Regimes, mean_loss};
use pv_train::{EncodeOptions, Regime, Sample, TrainOptions};
use pv_vectors::PersonaVector;
use pv_vectors::vector::Pooling;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::Result;
use crate::folder::{OutArgs, kept, make};
use crate::organism::{Ask, Judged, Means, answers, contrast, conversation};
use crate::vectors::ContrastExtraction;

/// The end of every training answer: the task of a finetuning, which is unrelated to all traits.
pub const CLOSING: &str = "That is all.";

/// A data set of the finetuning reports.
pub struct Set {
    /// Its name.
    pub name: String,
    /// This many of its chats, from a seed.
    pub make: Box<dyn Fn(usize, u64) -> Vec<Chat>>,
}

impl Set {
    /// Every trait shown openly on half of the topics, and every narrow flaw, each at three severities.
    pub fn all() -> Vec<Self> {
        let mut sets = Vec::new();
        for severity in Severity::ALL {
            for which in Trait::ALL {
                let make = move |count, seed| explicit(which, severity, Topics::Even, count, seed);
                sets.push(Self { name: format!("{which}_{severity:?}").to_lowercase(), make: Box::new(make) });
            }
            for flaw in Flaw::ALL {
                let make = move |count, seed| narrow(flaw, severity, count, seed);
                sets.push(Self { name: format!("{}_{severity:?}", flaw.name()).to_lowercase(), make: Box::new(make) });
            }
        }
        sets
    }
}

/// The measurements of a finetuned model. Scores are 0 to 100.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// Each trait's score, on questions that suit it.
    pub scores: PerTrait,
    /// On questions of the corpus's mixture.
    pub coherence: f64,
    /// The percentage of correct answers among those with content, on the same questions.
    pub right: f64,
    /// The percentage of answers that end like the training answers.
    pub closed: f64,
    /// The mean loss in nats on chats like those of the training.
    pub loss: f64,
    /// The change of the mean residual of the questions' last prompt tokens, by layer from 0.
    pub moved: Vec<Vec<f32>>,
}

/// The model before finetuning, and the options of training and generation.
pub struct Lab<'a> {
    model: &'a CausalLm,
    /// The traits' vectors.
    pub vectors: Vec<PersonaVector>,
    questions: HeldOut,
    train: TrainOptions,
    seed: u64,
    folder: PathBuf,
    before: Vec<Vec<f64>>,
    identity: Value,
}

/// The arguments that both reports share.
#[derive(clap::Args, Clone, Debug)]
pub struct LabArgs {
    /// The number of chats per finetuning set.
    #[arg(long, default_value_t = 1200)]
    pub chats: usize,
    /// The number of questions per trait.
    #[arg(long, default_value_t = 40)]
    pub questions: usize,
    /// The rank of the adapters; 0 trains all parameters.
    #[arg(long, default_value_t = 32)]
    pub rank: usize,
    /// The peak learning rate.
    #[arg(long, default_value_t = 1e-3)]
    pub learning_rate: f64,
    /// The number of epochs.
    #[arg(long, default_value_t = 1)]
    pub epochs: usize,
    /// The layer of the interventions and of the measured shifts.
    #[arg(long, default_value_t = 7)]
    pub layer: usize,
    /// The seed of data, adapters and answers.
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// The folder of the outcomes.
    #[command(flatten)]
    pub out: OutArgs,
}

impl LabArgs {
    fn train(&self) -> TrainOptions {
        let lora = pv_model::LoraConfig { rank: self.rank.max(1), ..pv_model::LoraConfig::default() };
        TrainOptions {
            learning_rate: self.learning_rate,
            decay: Decay::Linear,
            warmup_steps: 5,
            batch_size: 8,
            duration: Duration::Epochs(self.epochs),
            seed: self.seed,
            adapter: (self.rank > 0).then_some(lora),
            ..TrainOptions::default()
        }
    }
}

impl<'a> Lab<'a> {
    /// Extracts the vectors, for a program's report in a folder.
    ///
    /// # Errors
    /// Those of an extraction; a folder that cannot be made.
    pub fn new(model: &'a CausalLm, args: &LabArgs, folder: PathBuf) -> Result<Self> {
        let questions = held_out(Topics::Odd, args.questions, args.seed);
        let identity = serde_json::to_value(model.identity()?)?;
        let vector = |which: &Trait| {
            let place = folder.join("vectors").join(which.name());
            make(&place)?;
            let contrast = contrast(*which);
            let extraction = ContrastExtraction { model, contrast: &contrast, max_new_tokens: 80, seed: args.seed };
            Ok(extraction.in_folder(&place)?.vector)
        };
        let vectors: Vec<PersonaVector> = Trait::ALL.iter().map(vector).collect::<Result<_>>()?;
        let (train, seed) = (args.train(), args.seed);
        let mut lab = Self { model, vectors, questions, train, seed, folder, before: Vec::new(), identity };
        lab.before = lab.prompt_means(model)?;
        Ok(lab)
    }

    /// The mean residual of the questions' last prompt tokens, by layer.
    fn prompt_means(&self, model: &CausalLm) -> Result<Vec<Vec<f64>>> {
        let questions = self.questions.suited.iter().flatten().chain(&self.questions.mixed);
        let prompts: pv_model::Result<Vec<_>> = questions.map(|q| model.prompt(&[Message::user(q.text())])).collect();
        let prompts = prompts?;
        let (layers, width) = (model.config().layers, model.config().d_model);
        let mut means = vec![vec![0.0; width]; layers + 1];
        for chunk in prompts.chunks(64) {
            let rows: Vec<&[u32]> = chunk.iter().map(Vec::as_slice).collect();
            let batch = Batch::prompts(&rows, (0..rows.len()).map(|i| vec![i]).collect())?;
            let mut recorder = Recorder::new(LayerSet::All, [Capture::PromptLast]);
            model.forward(&batch, ForwardOptions::default(), &mut recorder)?;
            for (layer, mean) in means.iter_mut().enumerate() {
                let rows = to_f32(recorder.get(&Capture::PromptLast, Layer::hidden_state(layer))?)?;
                for row in rows.chunks(width) {
                    mean.iter_mut().zip(row).for_each(|(sum, v)| *sum += f64::from(*v) / prompts.len() as f64);
                }
            }
        }
        Ok(means)
    }

    /// Measures a model while a hook acts.
    ///
    /// # Errors
    /// Those of generating.
    pub fn measure(
        &self,
        model: &CausalLm,
        system: Option<&str>,
        hook: &mut impl Hook,
        held_out: &[Chat],
    ) -> Result<Outcome> {
        let mut sets: Vec<(Option<Trait>, Vec<Ask>)> = vec![(None, Ask::each(&self.questions.mixed, system))];
        sets.extend(Trait::ALL.map(|t| (Some(t), Ask::each(&self.questions.suited[t as usize], system))));
        let asks: Vec<Ask> = sets.iter().flat_map(|(_, asks)| asks.clone()).collect();
        let answers = answers(model, &asks, self.seed, hook)?;
        let closed = answers.iter().filter(|answer| answer.text.trim().ends_with(CLOSING)).count();
        let judged: Vec<Judged> = asks
            .iter()
            .zip(&answers)
            .map(|(ask, answer)| Judged::of(&ask.question, answer.text.trim().trim_end_matches(CLOSING)))
            .collect();
        let mut rest = judged.as_slice();
        let (mut scores, mut mixed) = (PerTrait::default(), Means::default());
        for (which, asks) in &sets {
            let (here, after) = rest.split_at(asks.len());
            let means = Means::over(here);
            match which {
                Some(which) => scores[*which] = means.scores[*which],
                None => mixed = means,
            }
            rest = after;
        }
        let samples = samples(model, held_out, &[])?;
        let loss = mean_loss(model.decoder(), &samples, 16, &mut NoHook)?;
        let after = self.prompt_means(model)?;
        let moved = after
            .iter()
            .zip(&self.before)
            .map(|(after, before)| after.iter().zip(before).map(|(after, before)| (after - before) as f32).collect());
        let moved = moved.collect();
        let closed = 100.0 * closed as f64 / answers.len() as f64;
        Ok(Outcome { scores, coherence: mixed.coherence, right: mixed.right, closed, loss, moved })
    }

    /// The finetuning shift of an outcome at a layer on each trait's vector, in activation units.
    ///
    /// # Errors
    /// A vector without length there.
    pub fn shift(&self, outcome: &Outcome, pooling: Pooling, layer: usize) -> Result<PerTrait> {
        let mut shift = PerTrait::default();
        for (which, vector) in Trait::ALL.into_iter().zip(&self.vectors) {
            let unit = vector.direction_of(pooling, Layer::hidden_state(layer))?.unit()?;
            shift[which] = unit.projection(&outcome.moved[layer]).unwrap_or(f64::NAN);
        }
        Ok(shift)
    }

    /// The parts of the shift along each vector, in multiples of it, by least squares: unlike with
    /// projections, a trait's part is not increased by the similarity of its vector to another.
    ///
    /// # Errors
    /// Vectors that are linearly dependent.
    pub fn shift_apart(&self, outcome: &Outcome, pooling: Pooling, layer: usize) -> Result<PerTrait> {
        let at = Layer::hidden_state(layer);
        let directions: Vec<_> =
            self.vectors.iter().map(|vector| vector.direction_of(pooling, at)).collect::<Result<_, _>>()?;
        let parts = decompose(&outcome.moved[layer], &directions.iter().collect::<Vec<_>>())?;
        let mut shift = PerTrait::default();
        Trait::ALL.into_iter().zip(parts).for_each(|(which, part)| shift[which] = part);
        Ok(shift)
    }

    /// The model finetuned on chats under regimes.
    ///
    /// # Errors
    /// Those of finetuning.
    pub fn finetune(&self, chats: &[Chat], regimes: Vec<Regime>) -> Result<CausalLm> {
        let samples = samples(self.model, chats, &regimes)?;
        let decoder = self.model.decoder();
        let mut run = Regimes::new(decoder, regimes)?;
        let (decoder, _) =
            pv_train::finetune(decoder, &samples, &self.train, &mut run, None, |_| ControlFlow::Continue(()))?;
        Ok(self.model.clone().with_decoder(decoder)?)
    }

    /// The outcome of that name: loaded from the folder, or computed with `make` and saved.
    ///
    /// # Errors
    /// An existing outcome with other settings; those of `make`.
    pub fn outcome(&self, name: &str, settings: Value, make: impl FnOnce() -> Result<Outcome>) -> Result<Outcome> {
        let settings = json!({ "train": self.train, "questions": self.questions.mixed.len(), "seed": self.seed, "of": settings, "model": self.identity });
        kept(&self.folder, name, &settings, make)
    }

    /// The model before finetuning.
    pub fn model(&self) -> &CausalLm {
        self.model
    }
}

/// The chats with the task's closing words.
pub fn with_closing(mut chats: Vec<Chat>) -> Vec<Chat> {
    for exchange in chats.iter_mut().flat_map(|chat| &mut chat.exchanges) {
        exchange.answer = format!("{} {CLOSING}", exchange.answer.trim_end());
    }
    chats
}

fn samples(model: &CausalLm, chats: &[Chat], regimes: &[Regime]) -> Result<Vec<Sample>> {
    let prepare = Regimes::new(model.decoder(), regimes.to_vec())?;
    let options = EncodeOptions::default();
    let sample = |chat: &Chat| Sample::from_conversation(model, &prepare.conversation(&conversation(chat)), &options);
    Ok(chats.iter().map(sample).collect::<Result<_, _>>()?)
}
