//! Answers whose tokens are coloured by how much of a trait they hold, with alarms before and while they are written.
#![allow(clippy::print_stdout, reason = "a program's output")]

use std::collections::VecDeque;
use std::io::Write;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use pv_examples::calibrating::{Ordinary, OrdinaryArgs, kept_calibration};
use pv_examples::program::{colours, question};
use pv_examples::vectors::VectorArgs;
use pv_examples::{ModelArgs, RenderArgs, Result, SAMPLING, TraitArgs, run};
use pv_model::{CausalLm, Event, GenerateOptions, Message, RenderOptions, Request};
use pv_steer::monitor::{
    AlarmRule, Alarms, At, Calibration, CusumOptions, Drift, HeldOut, Kind, Monitor, Reading, Side, Threshold, Watch,
};

/// Answers questions and watches a trait meanwhile. Without arguments, the organism answers one question plainly and then
/// under a system prompt that elicits the trait.
#[derive(Parser)]
struct Args {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    render: RenderArgs,
    #[command(flatten)]
    which: TraitArgs,
    #[command(flatten)]
    vector: VectorArgs,
    /// A question; several are asked in one conversation.
    #[arg(long, value_parser = question)]
    question: Vec<String>,
    /// The system prompt of the conversation.
    #[arg(long)]
    system: Option<String>,
    /// The calibration: read from this file, or made and written there. It belongs to a vector, so give that too.
    #[arg(long, requires = "vector")]
    calibration: Option<PathBuf>,
    #[command(flatten)]
    ordinary: OrdinaryArgs,
    /// The part of ordinary answers that may raise an alarm, half of it before the answer and half by its mean; by default 0.05, or more where there
    /// are too few ordinary questions for that.
    #[arg(long, value_name = "RATE", value_parser = rate)]
    alarm: Option<f64>,
    /// The most tokens of an answer.
    #[arg(long, default_value_t = 80)]
    max_new_tokens: usize,
}

/// The readings that may raise an alarm.
const KINDS: [(Kind, &str); 2] =
    [(Kind::PromptLast, "before the answer"), (Kind::ResponseMean, "by the answer's mean")];

fn main() -> ExitCode {
    run(program)
}

fn program(args: Args) -> Result {
    let named = args.which.read(&args.model)?;
    let render = args.render.options()?;
    let contrast = named.contrast(&render);
    let model = args.model.load()?;
    let vector = args.vector.read(&args.model, &model, &contrast, args.max_new_tokens, 0)?;
    let layer = args.vector.layer(&args.model, &model);
    let watches = [Watch::of(&vector, layer)?];
    let options = GenerateOptions {
        max_new_tokens: args.max_new_tokens,
        sampling: SAMPLING,
        feed_last_token: true,
        ..GenerateOptions::default()
    };
    let questions = args.ordinary.questions(&args.model, &contrast)?;
    // Each half of the ordinary answers must be enough for the other half's alarms to be measured.
    let least = KINDS.len() as f64 / (questions.len() / 2 + 1) as f64;
    let alarm = args.alarm.unwrap_or(least.clamp(0.05, 0.5));
    let each = alarm / KINDS.len() as f64;
    let ordinary = Ordinary { questions: &questions, generate: &options, render: &render, rates: &[each] };
    let calibration = match &args.calibration {
        Some(path) if path.is_file() => {
            let calibration = Calibration::load(path, &watches, &model.identity()?)?;
            calibration.check_render(&render)?;
            calibration
        }
        path => {
            let calibration = kept_calibration(&args.model, &model, &watches, &ordinary)?;
            if let Some(path) = path {
                calibration.save(path)?;
            }
            calibration
        }
    };
    let rule = |kind| AlarmRule {
        trait_name: watches[0].trait_name.clone(),
        layer: Some(layer),
        kind,
        side: Side::Above,
        threshold: Threshold::FalseAlarms(each),
    };
    let alarms = Alarms::new(&watches, &KINDS.map(|(kind, _)| rule(kind)), Some(&calibration))
        .map_err(|error| format!("{error}; a greater --alarm takes fewer, and --ordinary gives more"))?;
    let answers = calibration.answers(0, Kind::ResponseMean).unwrap_or_default();
    println!("{} at {layer}, against {answers} ordinary answers", watches[0].trait_name);
    println!("alarms for at most {:.1} % of ordinary answers; of held-out ones, false alarms (95 %):", 100.0 * alarm);
    for (kind, place) in KINDS {
        println!("  {place}: {}", false_alarms(&calibration, kind, each));
    }
    let session =
        Session { model: &model, watches: &watches, calibration: &calibration, alarms: &alarms, options, render };

    if args.question.is_empty() {
        let question = questions.first().ok_or("there is no question to ask")?;
        session.converse(args.system.as_deref(), std::slice::from_ref(question))?;
        if args.system.is_none() {
            session.converse(named.eliciting().as_deref(), std::slice::from_ref(question))?;
        }
        return Ok(());
    }
    session.converse(args.system.as_deref(), &args.question)
}

/// A rate of alarms.
fn rate(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(rate) if rate > 0.0 && rate < 1.0 => Ok(rate),
        _ => Err(format!("a rate is between 0 and 1, and {text:?} is not")),
    }
}

/// How often alarms on a kind of reading were false among ordinary answers that the threshold was not made of.
fn false_alarms(calibration: &Calibration, kind: Kind, rate: f64) -> String {
    let wanted = |found: &&HeldOut| (found.kind, found.side) == (kind, Side::Above) && (found.rate - rate).abs() < 1e-9;
    let Some(HeldOut { found, .. }) = calibration.held_out(0).iter().find(wanted) else {
        return "unknown: the calibration has too few answers, or was made for another --alarm".to_owned();
    };
    let ((low, high), part) = (found.interval(), found.rate().unwrap_or(f64::NAN));
    format!(
        "{:.1} % ({:.1} to {:.1}), {} of {}; at most {:.1} % meant",
        100.0 * part,
        100.0 * low,
        100.0 * high,
        found.raised,
        found.answers,
        100.0 * rate
    )
}

struct Session<'a> {
    model: &'a CausalLm,
    watches: &'a [Watch],
    calibration: &'a Calibration,
    alarms: &'a Alarms,
    options: GenerateOptions,
    render: RenderOptions,
}

impl Session<'_> {
    /// Asks the questions one after the other, in one conversation.
    fn converse(&self, system: Option<&str>, questions: &[String]) -> Result {
        let mut conversation: Vec<Message> = system.iter().map(|text| Message::system(*text)).collect();
        let mut drift = Drift::new(self.watches, self.calibration, CusumOptions::default())?;
        if let Some(system) = system {
            println!("\n[{system}]");
        }
        for (turn, question) in questions.iter().enumerate() {
            println!("\n> {question}");
            conversation.push(Message::user(question));
            let mut monitor = Monitor::new(self.watches.iter().cloned())?;
            let readings = monitor.readings();
            let request = Request::new(self.model.prompt_with(&conversation, &self.render)?, turn as u64);
            // A token's projection is known when the next token is: texts wait for their colours.
            let mut waiting: VecDeque<String> = VecDeque::new();
            let mut failed = None;
            let answers = self.model.generate(&[request], &self.options, &mut monitor, |event| {
                if let Event::Token { text, .. } = event {
                    waiting.push_back(text.to_owned());
                }
                match readings.news() {
                    Ok(news) => news.iter().for_each(|reading| self.show(reading, &mut waiting)),
                    Err(error) => {
                        failed = Some(error);
                        return ControlFlow::Break(());
                    }
                }
                ControlFlow::Continue(())
            })?;
            if let Some(error) = failed {
                return Err(error.into());
            }
            println!();
            let Some(answer) = readings.take(0)? else { return Err("the monitor saw nothing".into()) };
            for reading in answer.readings(0).filter(|reading| reading.at == At::ResponseMean) {
                println!("the answer's mean: {}", self.place(&reading));
                self.warn(&reading);
            }
            for alarm in drift.push(&answer)? {
                println!("DRIFT: {} sums up to {:.1}, above {}", alarm.trait_name, alarm.sum, alarm.limit);
            }
            conversation.push(Message::assistant(answers[0].text.as_str()));
        }
        Ok(())
    }

    fn show(&self, reading: &Reading, waiting: &mut VecDeque<String>) {
        if reading.at == At::PromptLast {
            println!("before the answer: {}", self.place(reading));
            self.warn(reading);
        } else if let Some(text) = waiting.pop_front() {
            print!("{}", coloured(&text, self.calibration.ranks(reading)[0]));
            // A terminal that is gone is noticed at the next line.
            let _ = std::io::stdout().flush();
        }
    }

    fn warn(&self, reading: &Reading) {
        self.alarms.check(reading).iter().for_each(|alarm| println!("ALARM: {alarm}"));
    }

    /// A projection and where it stands among ordinary ones.
    fn place(&self, reading: &Reading) -> String {
        let (z, rank) = (self.calibration.z(reading)[0], self.calibration.ranks(reading)[0]);
        let told = |what: Option<f64>, scale: f64, digits: usize| {
            what.map_or_else(|| "unknown".to_owned(), |what| format!("{:.digits$}", scale * what))
        };
        format!("{:.3} (z {}, quantile {} %)", reading.values[0], told(z, 1.0, 1), told(rank, 100.0, 1))
    }
}

/// The text in red above the ordinary, in blue below it, the stronger the fewer ordinary tokens go so far, where the output is
/// a terminal that shows colours.
fn coloured(text: &str, rank: Option<f64>) -> String {
    // Of the 256 colours: shades of red, none, and shades of blue.
    let colour = match rank {
        Some(rank) if rank >= 0.999 => 196,
        Some(rank) if rank >= 0.99 => 203,
        Some(rank) if rank >= 0.95 => 217,
        Some(rank) if rank <= 0.01 => 33,
        Some(rank) if rank <= 0.05 => 117,
        _ => return text.to_owned(),
    };
    if colours() { format!("\x1b[38;5;{colour}m{text}\x1b[0m") } else { text.to_owned() }
}
