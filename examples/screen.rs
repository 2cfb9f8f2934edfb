//! Which data sets, and which of their samples, would move a model's character: ranked by projection difference before anybody
//! trains on them.
#![allow(clippy::print_stdout, reason = "a program's output")]

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;
use comfy_table::{Table, presets};
use pv_data::ConversationReader;
use pv_data::conversations::write_conversations;
use pv_examples::folder::make;
use pv_examples::judging::JudgeArgs;
use pv_examples::organism::conversation;
use pv_examples::samples::{Steered, described, texts};
use pv_examples::traits::named_spec;
use pv_examples::vectors::{extracted, load};
use pv_examples::{Bar, ModelArgs, OutArgs, ReadingArgs, Result, TraitArgs, default_layer, run};
use pv_hooks::Layer;
use pv_judge::{Judge, Rubric};
use pv_model::CausalLm;
use pv_organism::datasets::{Flaw, Severity, explicit, narrow, wild};
use pv_organism::{Topics, Trait};
use pv_screen::{
    Base, BaseOptions, Contributions, JudgeSample, JudgedSamples, Judging, Persona, ReadOptions, ReadingOptions, Rows,
    SCORES, ScoreRow, Screen, ScreenOptions, ScreenProgress, Step, Summary, TraitDirection, auc, histograms,
    likelihood, read_scores, tokens,
};
use pv_steer::decompose_projections;
use pv_vectors::PersonaVector;

/// Ranks data sets by ΔP, and shows their most suspicious samples.
#[derive(Parser)]
struct Args {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    which: TraitArgs,
    /// Files of persona vectors: the first is what sets and samples are ranked by, and with more, the part of each in a set's ΔP is
    /// told apart from the others'. By default the trait's vector is extracted.
    #[arg(long, num_args = 1..)]
    vector: Vec<PathBuf>,
    /// The layer.
    #[arg(long)]
    layer: Option<usize>,
    /// Files of conversations, each a data set, or a folder of such files. By default, for the organism, sets of its own.
    #[arg(long, num_args = 1..)]
    data: Vec<PathBuf>,
    /// Base answers for this many random samples of each set, from which ΔP is estimated; 0 for all samples.
    #[arg(long, default_value_t = 0)]
    subset: usize,
    /// The most tokens of a base answer.
    #[arg(long, default_value_t = 80)]
    tokens: usize,
    /// Chats in each of the organism's own sets.
    #[arg(long, default_value_t = 80)]
    chats: usize,
    /// How many samples to show.
    #[arg(long, default_value_t = 5)]
    flagged: usize,
    /// Also measure how much likelier every answer is to the model steered along the vector by so many times its length: this sees
    /// wrong facts and harmful advice in plain words too.
    #[arg(long)]
    steer: Option<f32>,
    /// The layer at which the model is steered; --layer by default.
    #[arg(long, requires = "steer")]
    steer_layer: Option<usize>,
    /// With --judge, the judge is also asked which samples show the trait; its verdicts are kept with the rest.
    #[command(flatten)]
    judge: JudgeArgs,
    /// Samples that the judge scores above this show the trait.
    #[arg(long, default_value_t = 50.0)]
    allowed: f64,
    /// Write each set's table as Parquet too (feature data).
    #[arg(long)]
    parquet: bool,
    #[command(flatten)]
    reading: ReadingArgs,
    #[command(flatten)]
    out: OutArgs,
}

impl Args {
    /// Along the first vector.
    fn steerer(&self, vectors: &[PersonaVector], layer: Layer) -> Result<Option<Steered>> {
        let (Some(by), Some(vector)) = (self.steer, vectors.first()) else { return Ok(None) };
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

fn main() -> ExitCode {
    run(program)
}

fn program(args: Args) -> Result {
    let named = args.which.read(&args.model)?;
    if args.parquet && cfg!(not(feature = "data")) {
        return Err("--parquet is the feature data; build the program with `--features data`".into());
    }
    // Files that are missing are reported before the model is loaded.
    let files = if args.data.is_empty() { Vec::new() } else { ConversationReader::new(&args.data)?.files().to_vec() };
    if files.is_empty() && named.organisms().is_none() {
        return Err("--data names the data sets to screen; only the organism has sets of its own".into());
    }
    let render = args.reading.render.options()?;
    let model = args.model.load()?;
    let place = args.out.open("screen", &[&args.model.title(), named.name()])?;
    let vectors: Vec<PersonaVector> = match args.vector.as_slice() {
        [] => vec![extracted(&place, &model, &named.contrast(&render), args.tokens, 0)?.vector],
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
        answers: BaseOptions { max_new_tokens: args.tokens, ..BaseOptions::default() },
        cache: Some(place.join("base")),
        ..ScreenOptions::default()
    };
    let screen = Screen::new(&model, &directions, &options)?;
    let mut steerer = args.steerer(&vectors, layer)?;
    let judge = match args.judge.is_given() {
        false => None,
        true => {
            // Of the trait that was named, or of the one that the vector was made for.
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
            pv_screen::write_score_table(&folder.join(SCORES), &folder.join(SCORES).with_extension("parquet"))?;
        }
        let judged = judge.as_ref().map(|(judge, rubric)| {
            judged(judge.as_ref(), rubric, &rows, args.allowed, &place.join("judged").join(&name), &bar)
        });
        drop(bar);
        let judged = judged.transpose()?;
        screened.push(Screened { name, summary, rows, judged });
    }
    let delta = |set: &Screened| set.summary.delta(&label).map_or(f64::NEG_INFINITY, |found| found.value);
    screened.sort_by(|a, b| delta(b).total_cmp(&delta(a)));
    println!("{label}: ΔP in units of the residual at {layer}\n\n{}\n", ranking(&screened, &label));
    if directions.len() > 1 {
        println!("In multiples of each vector, told apart:\n\n{}\n", apart(&screened, &vectors, &directions, layer)?);
    }
    if let [first, .., last] = screened.as_slice() {
        compare(first, last, &label)?;
    }
    flagged(&model, &screened, direction, args.flagged)?;
    if let Some(steered) = &mut steerer {
        likelier(&model, &screened, steered, args.flagged)?;
    }
    let tables = if args.parquet { "Tables (as JSON lines and as Parquet)" } else { "Tables" };
    let verdicts = if judge.is_some() { ", verdicts" } else { "" };
    println!("\n{tables}, summaries{verdicts} and base answers are in {}", place.display());
    Ok(())
}

/// Sets of the organism's: a trait shown openly, narrow flaws, a mixture.
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

/// Which answers of a set show the trait in the eyes of a judge. Each distinct one is asked about once, in this run or a later one.
fn judged(
    judge: &dyn Judge,
    rubric: &Rubric,
    rows: &[ScoreRow],
    allowed: f64,
    folder: &Path,
    bar: &Bar,
) -> Result<JudgedSamples> {
    let texts = texts(rows.iter().map(|row| &row.place))?;
    let samples = rows.iter().map(|row| match texts.get(&row.place).map(Vec::as_slice) {
        Some([.., question, answer]) => {
            Ok(JudgeSample { id: &row.id, question: &question.content, answer: &answer.content })
        }
        _ => Err(format!("{}: row {} is no question and answer", row.place.file.display(), row.place.row).into()),
    });
    let samples = samples.collect::<Result<Vec<_>>>()?;
    let verdicts = Judging::open(folder, judge, rubric)?.run(&samples, |done, total| {
        bar.set("judging", done, total);
        ControlFlow::Continue(())
    })?;
    Ok(JudgedSamples::of(&verdicts, allowed))
}

/// The part of each vector in each set's ΔP: vectors that resemble one another are all projected on by the same change.
fn apart(
    screened: &[Screened],
    vectors: &[PersonaVector],
    directions: &[TraitDirection],
    layer: Layer,
) -> Result<Table> {
    let whole: Vec<_> = vectors.iter().map(|vector| vector.direction(layer)).collect::<Result<_, _>>()?;
    let mut table = Table::new();
    let names = vectors.iter().map(|vector| vector.provenance().trait_name.clone());
    table.load_preset(presets::UTF8_HORIZONTAL_ONLY).set_header(std::iter::once("data set".to_owned()).chain(names));
    for set in screened {
        let deltas: Option<Vec<f64>> =
            directions.iter().map(|named| Some(set.summary.delta(&named.label())?.value)).collect();
        let cells = match deltas {
            Some(deltas) => decompose_projections(&deltas, &whole.iter().collect::<Vec<_>>())?
                .into_iter()
                .map(|part| format!("{part:.2}"))
                .collect(),
            None => vec!["–".to_owned(); vectors.len()],
        };
        table.add_row(std::iter::once(set.name.clone()).chain(cells));
    }
    Ok(table)
}

fn ranking(screened: &[Screened], label: &str) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::UTF8_HORIZONTAL_ONLY);
    let mut header = vec!["data set", "ΔP", "95 %", "answers", "base answers (cut)", "skipped"];
    header.extend(screened.iter().any(|set| set.summary.likelihood.is_some()).then_some("gain (nats)"));
    header.extend(screened.iter().any(|set| set.judged.is_some()).then_some("show it (not scored)"));
    table.set_header(header);
    for Screened { name, summary, judged, .. } in screened {
        let sample = summary.directions.get(label).and_then(|found| found.as_sample);
        let found = sample.or(summary.delta(label).copied());
        let interval = found.map_or_else(String::new, |e| format!("{:.2} to {:.2}", e.interval.low, e.interval.high));
        let judged = judged.as_ref().map(|found| format!("{} ({})", found.shows.len(), found.unknown.len()));
        let cells = [
            name.clone(),
            found.map_or_else(|| "–".to_owned(), |found| format!("{:.2}", found.value)),
            interval,
            summary.answers.to_string(),
            format!("{} ({})", summary.with_base - summary.empty_base, summary.cut_base.unwrap_or_default()),
            summary.skipped.values().sum::<usize>().to_string(),
        ];
        let gain = summary.likelihood.as_ref().and_then(|found| found.gains.values().next());
        table.add_row(cells.into_iter().chain(gain.map(|gain| format!("{gain:+.2}"))).chain(judged));
    }
    table
}

fn values(rows: &[ScoreRow], label: &str) -> Vec<f64> {
    rows.iter().filter_map(|row| row.scores.get(label)?.delta).collect()
}

/// The samples of two sets in one histogram.
fn compare(first: &Screened, last: &Screened, label: &str) -> Result {
    let (high, low) = (values(&first.rows, label), values(&last.rows, label));
    if high.is_empty() || low.is_empty() {
        return Ok(());
    }
    let found = histograms(&high, &low, 16)?;
    let most = found.left.iter().chain(&found.right).copied().max().unwrap_or(1).max(1);
    println!("{:>8}  {:<30}  {}", "ΔP", first.name, last.name);
    for (bin, edge) in found.edges.iter().take(found.left.len()).enumerate() {
        let bar = |count: usize| "█".repeat((count * 30).div_ceil(most));
        println!("{edge:>8.2}  {:<30}  {}", bar(found.left[bin]), bar(found.right[bin]));
    }
    let area = auc(&high, &low, 0.95)?;
    let (value, interval) = (area.value, area.interval);
    println!("\nROC-AUC of their samples: {value:.3} ({:.3} to {:.3})\n", interval.low, interval.high);
    Ok(())
}

/// The samples with the greatest ΔP of all sets, with the words that push it marked.
fn flagged(model: &CausalLm, screened: &[Screened], direction: &TraitDirection, most: usize) -> Result {
    let label = direction.label();
    let mut found: Vec<(f64, f64, &ScoreRow, &str)> = screened
        .iter()
        .flat_map(|set| set.rows.iter().map(move |row| (row, set.name.as_str())))
        .filter(|(row, _)| !row.duplicate)
        .filter_map(|(row, name)| {
            let score = row.scores.get(&label)?;
            Some((score.delta?, score.base?, row, name))
        })
        .collect();
    found.sort_by(|a, b| b.0.total_cmp(&a.0));
    found.truncate(most);
    let texts = texts(found.iter().map(|(_, _, row, _)| &row.place))?;
    for (delta, base, row, name) in found {
        let Some(messages) = texts.get(&row.place) else { continue };
        let sample = tokens(model, messages).map_err(|skip| skip.to_string())?;
        let shares = Contributions::of(model, &sample.prompt, &sample.answer, &direction.direction, base)?;
        println!("{}", described(&format!("ΔP {delta:.2}"), name, row, messages, &shares));
    }
    Ok(())
}

/// The samples that the steered model makes likelier by most, with the words that it does so for marked.
fn likelier(model: &CausalLm, screened: &[Screened], steered: &mut Steered, most: usize) -> Result {
    let gain = |row: &ScoreRow| row.likelihood.as_ref()?.gains.get(&steered.label).copied();
    let rows = screened.iter().flat_map(|set| set.rows.iter().map(move |row| (row, set.name.as_str())));
    let mut found: Vec<(f64, &ScoreRow, &str)> =
        rows.filter(|(row, _)| !row.duplicate).filter_map(|(row, name)| Some((gain(row)?, row, name))).collect();
    found.sort_by(|a, b| b.0.total_cmp(&a.0));
    found.truncate(most);
    let texts = texts(found.iter().map(|(_, row, _)| &row.place))?;
    println!("Likelier to the model steered by {}, in nats:\n", steered.label);
    for (gain, row, name) in found {
        let Some(messages) = texts.get(&row.place) else { continue };
        let sample = tokens(model, messages).map_err(|skip| skip.to_string())?;
        let (prompts, answers) = ([sample.prompt.as_slice()], [sample.answer.as_slice()]);
        let rows = Rows { prompts: &prompts, answers: &answers, base: &[] };
        let columns = likelihood(model, &rows, &mut [steered.persona()], &ReadOptions::default())?;
        let Some(Some(found)) = columns.first().and_then(|column| column.first()) else { continue };
        let shares = Contributions::of_gains(model, &sample.answer, found)?;
        println!("{}", described(&format!("{gain:+.2}"), name, row, messages, &shares));
    }
    Ok(())
}
