//! Shows answers with tokens coloured by their projection on a trait's vector, and raises alarms before and during an
//! answer.

use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::path::PathBuf;

use pv_model::generate::Event;
use pv_model::{Message, Request};
use pv_steer::monitor::{
    AlarmRule, Alarms, At, Calibration, CusumOptions, Drift, HeldOut, Kind, Monitor, Reading, Side, Threshold,
};
use serde_json::{Value, json};

use super::{KINDS, WatchArgs, Watched};
use crate::Result;
use crate::program::{colours, question, say, say_piece};

/// The arguments of `persona monitor chat`.
#[derive(clap::Args, Debug)]
pub(in crate::commands) struct Args {
    #[command(flatten)]
    watch: WatchArgs,
    /// A question. May be given several times: all are asked in one conversation.
    #[arg(long, value_parser = question)]
    question: Vec<String>,
    /// The system prompt of the conversation.
    #[arg(long)]
    system: Option<String>,
    /// The calibration file. If it does not exist, the calibration is measured and saved there. It is specific to a
    /// vector, so --vector is required.
    #[arg(long, requires = "vector")]
    calibration: Option<PathBuf>,
}

pub(super) fn run(args: &Args) -> Result<Value> {
    let watched = args.watch.load()?;
    let (watches, layer, alarm, each) = (&watched.watches, watched.layer, watched.alarm, watched.each);
    let calibration = match &args.calibration {
        Some(path) if path.is_file() => {
            let calibration = Calibration::load(path, watches, &watched.model.identity()?)?;
            calibration.check_render(&watched.render)?;
            calibration
        }
        path => {
            let calibration = args.watch.calibration(&watched)?;
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
    let alarms = Alarms::new(watches, &KINDS.map(|(kind, _)| rule(kind)), Some(&calibration))
        .map_err(|error| format!("{error}; a higher --alarm-rate needs fewer answers, and --ordinary provides more"))?;
    let answers = calibration.answers(0, Kind::ResponseMean).unwrap_or_default();
    say!("{} at {layer}, compared with {answers} ordinary answers", watches[0].trait_name);
    say!("alarms for at most {:.1} % of ordinary answers; false alarms among held-out ones (95 %):", 100.0 * alarm);
    for (kind, place) in KINDS {
        say!("  {place}: {}", false_alarms(&calibration, kind, each));
    }
    let session = Session { watched: &watched, calibration: &calibration, alarms: &alarms };
    let mut conversations = Vec::new();
    if args.question.is_empty() {
        let question = watched.questions.first().ok_or("there is no question to ask")?;
        let mut systems = vec![args.system.clone()];
        systems.extend(args.system.is_none().then(|| watched.named.eliciting()));
        for system in systems {
            conversations.push(session.converse(system.as_deref(), std::slice::from_ref(question))?);
        }
    } else {
        conversations.push(session.converse(args.system.as_deref(), &args.question)?);
    }
    Ok(json!({
        "trait": watches[0].trait_name,
        "model": watched.model.name(),
        "layer": layer.index(),
        "alarm_rate": alarm,
        "ordinary_answers": answers,
        "conversations": conversations,
    }))
}

/// The rate of false alarms for a kind of reading among held-out ordinary answers.
fn false_alarms(calibration: &Calibration, kind: Kind, rate: f64) -> String {
    let wanted = |found: &&HeldOut| (found.kind, found.side) == (kind, Side::Above) && (found.rate - rate).abs() < 1e-9;
    let Some(HeldOut { found, .. }) = calibration.held_out(0).iter().find(wanted) else {
        return "unknown: the calibration has too few answers, or was measured for another --alarm-rate".to_owned();
    };
    let (pv_statistics::Interval { low, high }, part) = (found.interval(), found.rate().unwrap_or(f64::NAN));
    format!(
        "{:.1} % ({:.1} to {:.1}), {} of {}; the target is at most {:.1} %",
        100.0 * part,
        100.0 * low,
        100.0 * high,
        found.raised,
        found.answers,
        100.0 * rate
    )
}

struct Session<'a> {
    watched: &'a Watched,
    calibration: &'a Calibration,
    alarms: &'a Alarms,
}

impl Session<'_> {
    /// Asks the questions one after the other in one conversation.
    fn converse(&self, system: Option<&str>, questions: &[String]) -> Result<Value> {
        let Watched { model, watches, options, render, .. } = self.watched;
        let mut answered = Vec::new();
        let mut conversation: Vec<Message> = system.iter().map(|text| Message::system(*text)).collect();
        let mut drift = Drift::new(watches, self.calibration, CusumOptions::default())?;
        if let Some(system) = system {
            say!("\n[{system}]");
        }
        for (turn, question) in questions.iter().enumerate() {
            say!("\n> {question}");
            conversation.push(Message::user(question));
            let mut monitor = Monitor::new(watches.iter().cloned())?;
            let readings = monitor.readings();
            let request = Request::new(model.prompt_with(&conversation, render)?, turn as u64);
            // A token's projection is known only when the next token arrives: texts wait for their colours.
            let mut waiting: VecDeque<String> = VecDeque::new();
            let (mut failed, mut raised, mut before) = (None, Vec::new(), None);
            let answers = model.generate(&[request], options, &mut monitor, |event| {
                if let Event::Token { text, .. } = event {
                    waiting.push_back(text.to_owned());
                }
                match readings.news() {
                    Ok(news) => {
                        for reading in &news {
                            if reading.at == At::PromptLast {
                                before = reading.values.first().copied();
                                say!("before the answer: {}", self.place(reading));
                                raised.extend(self.warn(reading));
                            } else if let Some(text) = waiting.pop_front() {
                                say_piece(&coloured(&text, self.calibration.ranks(reading)[0]));
                            }
                        }
                    }
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
            say!("");
            let Some(answer) = readings.take(0)? else { return Err("the monitor recorded no reading".into()) };
            let mut mean = None;
            for reading in answer.readings(0).filter(|reading| reading.at == At::ResponseMean) {
                say!("the answer's mean: {}", self.place(&reading));
                mean = reading.values.first().copied();
                raised.extend(self.warn(&reading));
            }
            let mut drifted = Vec::new();
            for alarm in drift.push(&answer)? {
                say!("DRIFT: the cumulative sum of {} is {:.1}, above {}", alarm.trait_name, alarm.sum, alarm.limit);
                drifted.push(json!({ "trait": alarm.trait_name, "sum": alarm.sum, "limit": alarm.limit }));
            }
            let text = answers.first().map_or("", |answer| answer.text.as_str());
            answered.push(json!({
                "question": question,
                "answer": text,
                "projection_before": before,
                "mean_projection": mean,
                "alarms": raised,
                "drift": drifted,
            }));
            conversation.push(Message::assistant(text));
        }
        Ok(json!({ "system": system, "answers": answered }))
    }

    /// Prints the alarms that a reading raises and returns them.
    fn warn(&self, reading: &Reading) -> Vec<String> {
        let alarms: Vec<String> = self.alarms.check(reading).iter().map(ToString::to_string).collect();
        alarms.iter().for_each(|alarm| say!("ALARM: {alarm}"));
        alarms
    }

    /// A projection and its place among ordinary ones.
    fn place(&self, reading: &Reading) -> String {
        let (z, rank) = (self.calibration.z(reading)[0], self.calibration.ranks(reading)[0]);
        let shown = |what: Option<f64>, scale: f64, digits: usize| {
            what.map_or_else(|| "unknown".to_owned(), |what| format!("{:.digits$}", scale * what))
        };
        format!("{:.3} (z {}, quantile {} %)", reading.values[0], shown(z, 1.0, 1), shown(rank, 100.0, 1))
    }
}

/// On a terminal with colours, the text in red if its projection is above the ordinary range, in blue if below; the
/// fewer ordinary tokens project that far, the stronger the colour.
fn coloured(text: &str, rank: Option<f64>) -> String {
    // Of the 256 colours: shades of red, no colour, and shades of blue.
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
