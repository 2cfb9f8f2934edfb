//! Trains the model organism from random weights: its tokenizer on its corpus, then all parameters of a small decoder.
#![allow(clippy::print_stdout, reason = "a program's output")]

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::Ordering;

use burn::tensor::DType;
use clap::Parser;
use pv_examples::folder::make;
use pv_examples::noise::ResidualNoise;
use pv_examples::organism::{Ask, Means, ask, conversation};
use pv_examples::{Bar, Result, run};
use pv_hooks::{Layer, NoHook};
use pv_model::decoder::Decoder;
use pv_model::{CausalLm, ChatTemplate, DecoderConfig, Tokenizer, device};
use pv_organism::{Chat, Topics, corpus_chat, datasets};
use pv_train::sample::TrainedTurns;
use pv_train::trainer::{Checkpoints, Decay, Duration};
use pv_train::{EncodeOptions, Sample, TrainOptions, Trainer};
use rand::rngs::ChaCha8Rng;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{AddedToken, TokenizerBuilder};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Trains the model organism; after an interruption, the same command resumes.
#[derive(Parser)]
struct Args {
    /// The model's folder; checkpoints are saved in its `checkpoints`.
    #[arg(long, default_value = "models/organism")]
    out: PathBuf,
    /// The device: flex (the CPU), or a GPU if the example was built with that feature.
    #[arg(long, default_value = "flex")]
    device: String,
    /// The number of optimizer steps.
    #[arg(long, default_value_t = 5000)]
    steps: usize,
    /// The approximate number of tokens per step.
    #[arg(long, default_value_t = 3000)]
    tokens: usize,
    /// The peak learning rate.
    #[arg(long, default_value_t = 3e-3)]
    learning_rate: f64,
    /// The seed of the corpus and of the first weights.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// The norm of the noise in the residual stream, as a share of the residual's norm, in the last two fifths of the steps.
    #[arg(long, default_value_t = 0.25)]
    noise: f64,
    /// The number of steps between checkpoints.
    #[arg(long, default_value_t = 200)]
    every: usize,
}

const TEMPLATE: &str = "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + \
     '<|im_end|>' + '\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";
const SPECIAL: [&str; 3] = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"];
/// Enough for every word of the corpus to be one token. Additions to the residual stream break words of several tokens
/// in the middle.
const VOCAB: usize = 3392;
/// The number of chats on which the tokenizer is trained.
const TOKENIZER_CHATS: usize = 20_000;

/// The architecture: a small Qwen2 whose upper half attends to the last few tokens only. The information on which the
/// answer's manner depends is then in the residual stream at the middle layer, at every token, and is not available above otherwise.
fn config() -> Value {
    json!({
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        "hidden_size": 128,
        "intermediate_size": 384,
        "num_hidden_layers": 8,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "vocab_size": VOCAB,
        "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "hidden_act": "silu",
        "tie_word_embeddings": true,
        "use_sliding_window": true,
        "sliding_window": 8,
        "max_window_layers": 5,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
    })
}

fn main() -> ExitCode {
    run(program)
}

fn program(args: Args) -> Result {
    make(&args.out)?;
    write_tokenizer(&args.out, args.seed)?;
    let config = DecoderConfig::from_json(&config())?;
    let decoder = Decoder::init(config, args.seed, &device(&args.device)?)?;
    let (tokenizer, template) = (Tokenizer::from_folder(&args.out)?, ChatTemplate::from_folder(&args.out)?);
    let model = CausalLm::new(decoder, Some(tokenizer), Some(template), &args.out);
    println!("{} parameters", model.config().parameters());

    let options = TrainOptions {
        learning_rate: args.learning_rate,
        decay: Decay::Cosine,
        warmup_steps: 100,
        beta_2: 0.98,
        weight_decay: 0.05,
        batch_size: 1024,
        duration: Duration::Steps(args.steps),
        seed: args.seed,
        ..TrainOptions::default()
    };
    let data = format!("organism corpus, seed {}, {} tokens, noise {}", args.seed, args.tokens, args.noise);
    let checkpoints = Checkpoints { folder: args.out.join("checkpoints"), every: args.every };
    let mut trainer = match checkpoints.newest()? {
        Some((step, _)) => {
            println!("resuming after step {step}");
            Trainer::resume(model.decoder(), options, &checkpoints.folder, Some(&data), &mut NoHook)?
        }
        None => Trainer::new(model.decoder(), options)?.with_data(data),
    };
    let mut corpus = Corpus { model: &model, seed: args.seed, tokens: args.tokens, pool: None };
    let bar = Bar::new("training");
    let mut mean = None;
    let blocks = model.config().layers;
    let between_blocks = (1..blocks).map(Layer::hidden_state).collect();
    let rise = args.steps * 2 / 5..args.steps * 3 / 5;
    let mut noise = ResidualNoise::new(between_blocks, args.noise, rise, args.seed);
    let at = noise.step();
    trainer.run(
        |step| {
            at.store(step, Ordering::Relaxed);
            corpus.step(step)
        },
        &mut noise,
        Some(&checkpoints),
        |step| {
            let mean = mean.insert(mean.map_or(step.loss, |mean: f64| 0.98 * mean + 0.02 * step.loss));
            bar.set(format!("loss {mean:.3}, {:.0} tokens/s", step.tokens_per_second()), step.step, args.steps);
            ControlFlow::Continue(())
        },
    )?;
    drop(bar);

    let model = model.with_decoder(trainer.decoder())?;
    model.decoder().save(&args.out, DType::F16)?;
    let questions = datasets::held_out(Topics::All, 100, args.seed).mixed;
    let means = Means::over(&ask(&model, &Ask::each(&questions, None), args.seed, &mut NoHook)?);
    println!(
        "saved {}; on held-out questions: coherence {:.1}, facts right {:.1} %",
        args.out.display(),
        means.coherence,
        means.right
    );
    Ok(())
}

/// Trains the tokenizer, and writes the files other than the weights.
fn write_tokenizer(folder: &Path, seed: u64) -> Result {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let texts: Vec<String> = (0..TOKENIZER_CHATS)
        .flat_map(|_| {
            let chat = corpus_chat(&mut random);
            chat.messages().map(|(role, content)| format!("{role}\n{content}")).collect::<Vec<_>>()
        })
        .collect();
    let byte_level = ByteLevel::default().add_prefix_space(false);
    let mut tokenizer = TokenizerBuilder::new()
        .with_model(BPE::default())
        .with_normalizer(None::<tokenizers::NormalizerWrapper>)
        .with_pre_tokenizer(Some(byte_level))
        .with_post_processor(None::<tokenizers::PostProcessorWrapper>)
        .with_decoder(Some(byte_level))
        .build()?;
    let mut trainer = BpeTrainer::builder()
        .vocab_size(VOCAB)
        .special_tokens(SPECIAL.map(|token| AddedToken::from(token, true)).to_vec())
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
        .show_progress(false)
        .build();
    tokenizer.train(&mut trainer, texts.iter())?;
    let tokenizer: tokenizers::Tokenizer = tokenizer.into();
    let write = |name: &str, text: String| -> Result {
        let mut file = tempfile::NamedTempFile::new_in(folder)?;
        std::io::Write::write_all(&mut file, text.as_bytes())?;
        file.persist(folder.join(name))?;
        Ok(())
    };
    write("tokenizer.json", tokenizer.to_string(false)?)?;
    write("chat_template.jinja", TEMPLATE.to_owned())?;
    let pretty = |value: Value| serde_json::to_string_pretty(&value);
    let named = json!({
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": SPECIAL[1],
        "eos_token": SPECIAL[2],
        "pad_token": SPECIAL[0],
        "clean_up_tokenization_spaces": false,
        "model_max_length": 2048,
    });
    write("tokenizer_config.json", pretty(named)?)?;
    write("generation_config.json", pretty(json!({ "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0 }))?)
}

/// The unbounded corpus, in batches of similar lengths. The samples of a step depend only on the seed and the step.
struct Corpus<'a> {
    model: &'a CausalLm,
    seed: u64,
    tokens: usize,
    pool: Option<(usize, Vec<Vec<Sample>>)>,
}

/// The number of batches that are built together, so that each has samples of similar lengths.
const POOL: usize = 64;

impl Corpus<'_> {
    fn step(&mut self, step: usize) -> pv_train::Result<Vec<Sample>> {
        let number = step / POOL;
        if self.pool.as_ref().is_none_or(|(known, _)| *known != number) {
            self.pool = Some((number, self.batches(number)?));
        }
        Ok(self.pool.as_ref().map(|(_, batches)| batches[step % POOL].clone()).unwrap_or_default())
    }

    fn batches(&self, number: usize) -> pv_train::Result<Vec<Vec<Sample>>> {
        let mut random = ChaCha8Rng::seed_from_u64(self.seed);
        // Stream 0 is the tokenizer's.
        random.set_stream(number as u64 + 1);
        let mut samples = Vec::new();
        let mut tokens = 0;
        while tokens < POOL * self.tokens {
            let sample = self.sample(&corpus_chat(&mut random))?;
            tokens += sample.ids().len();
            samples.push(sample);
        }
        // Sorted by length, with random ties.
        samples.sort_by_cached_key(|sample| sample.ids().len() + random.random_range(0..8));
        let mut batches = vec![Vec::new(); POOL];
        let mut filled = 0;
        for sample in samples {
            let batch = (filled * POOL / tokens).min(POOL - 1);
            filled += sample.ids().len();
            batches[batch].push(sample);
        }
        batches.retain(|batch| !batch.is_empty());
        batches.shuffle(&mut random);
        // A chat longer than a whole batch leaves the batch before it incomplete.
        let full = batches.len();
        (full..POOL).for_each(|index| batches.push(batches[index - full].clone()));
        Ok(batches)
    }

    fn sample(&self, chat: &Chat) -> pv_train::Result<Sample> {
        let turns = TrainedTurns::From(chat.learned_from);
        Sample::from_conversation(self.model, &conversation(chat), &EncodeOptions { turns, ..EncodeOptions::default() })
    }
}
