//! Ranks data sets and their samples by projection difference, to predict before training how they shift a model's
//! character.

mod samples;
mod tables;

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use pv_data::ConversationReader;
use pv_data::conversations::write_conversations;
use pv_hooks::Layer;
use pv_judge::{Judge, Rubric};
use pv_organism::datasets::{Flaw, Severity, explicit, narrow, wild};
use pv_organism::{Topics, Trait};
use pv_screen::base_answers::BaseOptions;
use pv_screen::judging::{JudgeSample, Judging};
use pv_screen::likelihood::Persona;
use pv_screen::sample::ReadingOptions;
use pv_screen::scores::{ScoreRow, read_scores};
use pv_screen::screen::{Base, SCORES, ScreenProgress, Step};
use pv_screen::select::JudgedSamples;
use pv_screen::{Screen, ScreenOptions, Summary};
use pv_vectors::{PersonaVector, TraitDirection};
use serde_json::{Value, json};

use crate::folder::make;
use crate::invocation::Invocation;
use crate::judging::JudgeArgs;
use crate::organism::conversation;
use crate::program::say;
use crate::samples::{Steered, texts};
use crate::traits::named_spec;
use crate::vectors::{ContrastExtraction, load};
use crate::{Bar, ModelArgs, OutArgs, ReadingArgs, Result, TraitArgs, default_layer};

/// The arguments of `persona screen`.
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    which: TraitArgs,
    /// Files of persona vectors. Data sets and samples are ranked by the first. With several vectors, each data set's
    /// ΔP is decomposed into each vector's own part. By default the trait's vector is extracted.
    #[arg(long, num_args = 1..)]
    vector: Vec<PathBuf>,
    /// The layer.
    #[arg(long)]
    layer: Option<usize>,
    /// Files of conversations, each a data set, or a folder of such files. By default, for the organism, its own data
    /// sets.
    #[arg(value_name = "DATA")]
    data: Vec<PathBuf>,
    /// Generate base answers for this many random samples of each data set and estimate ΔP from them; 0 for all
    /// samples.
    #[arg(long, default_value_t = 0)]
    subset: usize,
    /// The maximum number of tokens in a base answer.
    #[arg(long, alias = "tokens", default_value_t = 80)]
    max_new_tokens: usize,
    /// The number of chats in each of the organism's own data sets.
    #[arg(long, default_value_t = 80)]
    chats: usize,
    /// The number of samples to show.
    #[arg(long, default_value_t = 5)]
    flagged: usize,
    /// Also measure how much likelier each answer is under the model steered along the vector, with this coefficient on
    /// the raw vector. This also detects wrong facts and harmful advice in plain words.
    #[arg(long, alias = "steer", allow_hyphen_values = true)]
    steer_coef: Option<f32>,
    /// The layer at which the model is steered; the value of --layer by default.
    #[arg(long, requires = "steer_coef")]
    steer_layer: Option<usize>,
    /// With --judge, the judge also decides which samples show the trait. Its verdicts are saved in the run folder.
    #[command(flatten)]
    judge: JudgeArgs,
    /// Samples with a judge's score above this show the trait.
    #[arg(long, alias = "allowed", default_value_t = 50.0)]
    score_threshold: f64,
    /// Also write each data set's table as Parquet (feature data).
    #[arg(long)]
    parquet: bool,
    #[command(flatten)]
    reading: ReadingArgs,
    #[command(flatten)]
    out: OutArgs,
}

impl Args {
    /// Steers along the first vector.
    fn steerer(&self, vectors: &[PersonaVector], layer: Layer) -> Result<Option<Steered>> {
        let (Some(by), Some(vector)) = (self.steer_coef, vectors.first()) else { return Ok(None) };
        let layer = self.steer_layer.map_or(layer, Layer::hidden_state);
        let label = format!("{}@{} x{by}", vector.provenance().trait_name, layer.index());
        Ok(Some(Steered::new(label, vector, layer, by)?))
    }
}

/// A data set that was screened.
struct Screened {
    name: String,
    summary: Summary,
    rows: Vec<ScoreRow>,
    judged: Option<JudgedSamples>,
}

pub(super) fn run(args: &Args, here: &Invocation) -> Result<Value> {
    let named = args.which.read(&args.model)?;
    if args.parquet && cfg!(not(feature = "data")) {
        return Err("--parquet needs the feature data; build the program with `--features data`".into());
    }
    // Missing files are reported before the model is loaded.
    let files = if args.data.is_empty() { Vec::new() } else { ConversationReader::new(&args.data)?.files().to_vec() };
    if files.is_empty() && named.organisms().is_none() {
        return Err("DATA is required: only the organism has data sets of its own".into());
    }
    let render = args.reading.render.options()?;
    let model = args.model.load()?;
    let place = here.open(&args.out, &[&args.model.title(), named.name()])?;
    let vectors: Vec<PersonaVector> = match args.vector.as_slice() {
        [] => {
            let (contrast, max_new_tokens) = (named.contrast(&render)?, args.max_new_tokens);
            let extraction = ContrastExtraction { model: &model, contrast: &contrast, max_new_tokens, seed: 0 };
            vec![extraction.in_folder(&place)?.vector]
        }
        paths => paths.iter().map(|path| load(path, &model)).collect::<Result<_>>()?,
    };
    let layer = args.layer.map_or_else(|| default_layer(&args.model, &model), Layer::hidden_state);
    let directions: Vec<TraitDirection> =
        vectors.iter().map(|vector| TraitDirection::of(vector, layer)).collect::<Result<_, _>>()?;
    let Some(direction) = directions.first() else { return Err("no vector".into()) };
    let label = direction.label();
    let sets = match named.organisms() {
        Some(which) if files.is_empty() => own_sets(which, args.chats, &place.join("data"))?,
        _ => files,
    };
    let reading = ReadingOptions { render, unwritten: args.reading.unwritten(), altered: args.reading.altered() };
    let options = ScreenOptions {
        format: args.reading.format,
        roles: args.reading.roles(),
        reading,
        base: if args.subset == 0 { Base::Every } else { Base::Random { size: args.subset } },
        answers: BaseOptions { max_new_tokens: args.max_new_tokens, ..BaseOptions::default() },
        cache: Some(place.join("base")),
        ..ScreenOptions::default()
    };
    let screen = Screen::new(&model, &directions, &options)?;
    let mut steerer = args.steerer(&vectors, layer)?;
    let judge = match args.judge.is_given() {
        false => None,
        true => {
            // The trait of --trait, or else the one that the vector was made for.
            let spec =
                if args.which.which.is_some() { named.spec() } else { named_spec(&args.model, &direction.trait_name) };
            Some((args.judge.judge(&args.model, &model, &options.reading.render, &place)?, spec?.rubric()?))
        }
    };
    let mut screened = Vec::new();
    for set in sets {
        let name = set.file_name().unwrap_or(set.as_os_str()).to_string_lossy().into_owned();
        let bar = Bar::new(name.as_str());
        let folder = place.join("screened").join(&name);
        let mut personas: Vec<Persona<'_>> = steerer.iter_mut().map(|steered| steered.persona()).collect();
        let summary = screen.run_with(&[&set], &folder, &mut personas, |progress| show(&bar, &name, progress))?;
        let mut rows = Vec::new();
        read_scores(&folder.join(SCORES), |row| {
            rows.push(row);
            Ok(())
        })?;
        #[cfg(feature = "data")]
        if args.parquet {
            pv_screen::score_table::write_score_table(
                &folder.join(SCORES),
                &folder.join(SCORES).with_extension("parquet"),
            )?;
        }
        let judged = judge.as_ref().map(|(judge, rubric)| {
            judged(judge.as_ref(), rubric, &rows, args.score_threshold, &place.join("judged").join(&name), &bar)
        });
        drop(bar);
        let judged = judged.transpose()?;
        screened.push(Screened { name, summary, rows, judged });
    }
    let delta = |set: &Screened| set.summary.delta(&label).map_or(f64::NEG_INFINITY, |found| found.value);
    screened.sort_by(|a, b| delta(b).total_cmp(&delta(a)));
    say!("{label}: ΔP in activation units at {layer}\n\n{}\n", tables::ranking(&screened, &label));
    if directions.len() > 1 {
        say!(
            "ΔP decomposed, in multiples of each vector:\n\n{}\n",
            tables::decomposed(&screened, &vectors, &directions, layer)?
        );
    }
    if let [first, .., last] = screened.as_slice() {
        tables::compare(first, last, &label)?;
    }
    let flagged = samples::flagged(&model, &screened, direction, args.flagged)?;
    let mut likelier = Vec::new();
    if let Some(steered) = &mut steerer {
        likelier = samples::likelier(&model, &screened, steered, args.flagged)?;
    }
    let tables = if args.parquet { "Tables (as JSON lines and as Parquet)" } else { "Tables" };
    let verdicts = if judge.is_some() { ", verdicts" } else { "" };
    say!("\n{tables}, summaries{verdicts} and base answers are in {}", place.display());
    let set = |set: &Screened| {
        json!({
            "data_set": set.name,
            "difference": set.summary.delta(&label),
            "summary": set.summary,
            "shows": set.judged.as_ref().map(|found| found.shows.len()),
            "not_scored": set.judged.as_ref().map(|found| found.unknown.len()),
        })
    };
    Ok(json!({
        "direction": label,
        "model": model.name(),
        "layer": layer.index(),
        "folder": place,
        "judge": judge.as_ref().map(|(judge, _)| judge.name()),
        "data_sets": screened.iter().map(set).collect::<Vec<_>>(),
        "flagged": flagged,
        "likelier": likelier,
    }))
}

/// Data sets of the organism: a trait shown openly, narrow flaws, a mixture.
fn own_sets(which: Trait, chats: usize, folder: &Path) -> Result<Vec<PathBuf>> {
    make(folder)?;
    let mut sets = Vec::new();
    for severity in Severity::ALL {
        sets.push((format!("{which}_{severity:?}"), explicit(which, severity, Topics::All, chats, 1)));
    }
    for flaw in Flaw::ALL {
        sets.push((format!("{}_II", flaw.name()), narrow(flaw, Severity::II, chats, 2)));
    }
    sets.push(("wild".to_owned(), wild(chats, 3).into_iter().map(|(chat, _)| chat).collect()));
    let write = |(name, chats): (String, Vec<pv_organism::Chat>)| -> Result<PathBuf> {
        let path = folder.join(format!("{}.jsonl", name.to_lowercase()));
        write_conversations(&path, &chats.iter().map(conversation).collect::<Vec<_>>())?;
        Ok(path)
    };
    sets.into_iter().map(write).collect()
}

fn show(bar: &Bar, name: &str, progress: ScreenProgress) -> ControlFlow<()> {
    let ScreenProgress { step, done, total, per_second, .. } = progress;
    let step = match step {
        Step::Counting => "counting",
        Step::Projecting => "projecting",
        Step::Answering => "answering",
        Step::Writing => "writing",
    };
    bar.set(format!("{name}: {step}, {per_second:.1}/s"), done, total);
    ControlFlow::Continue(())
}

/// Which answers of a data set show the trait according to a judge. Each distinct answer is judged once, in this run or
/// a later one.
fn judged(
    judge: &dyn Judge,
    rubric: &Rubric,
    rows: &[ScoreRow],
    threshold: f64,
    folder: &Path,
    bar: &Bar,
) -> Result<JudgedSamples> {
    let texts = texts(rows.iter().map(|row| &row.place))?;
    let samples = rows.iter().map(|row| match texts.get(&row.place).map(Vec::as_slice) {
        Some([.., question, answer]) => {
            Ok(JudgeSample { id: &row.id, question: &question.content, answer: &answer.content })
        }
        _ => {
            Err(format!("{}: row {} is not a question with an answer", row.place.file.display(), row.place.row).into())
        }
    });
    let samples = samples.collect::<Result<Vec<_>>>()?;
    let verdicts = Judging::open(folder, judge, rubric)?.run(&samples, |done, total| {
        bar.set("judging", done, total);
        ControlFlow::Continue(())
    })?;
    Ok(JudgedSamples::of(&verdicts, threshold))
}
