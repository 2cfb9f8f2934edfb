//! How far long work has come: a bar on a terminal; elsewhere, such as in a log, a line now and then.
#![allow(clippy::print_stderr, reason = "progress of a program")]

use std::io::IsTerminal;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use pv_hooks::Hook;
use pv_model::{CausalLm, Event, GenerateOptions, Generation, Request};
use pv_vectors::Progress;

use crate::Result;

/// How often progress is printed without a terminal.
const EVERY: Duration = Duration::from_secs(30);

static BARS: LazyLock<MultiProgress> = LazyLock::new(MultiProgress::new);
static QUIET: AtomicBool = AtomicBool::new(false);

/// Shows no progress from here on.
pub(crate) fn be_quiet() {
    QUIET.store(true, Ordering::Relaxed);
}

pub(crate) fn is_quiet() -> bool {
    QUIET.load(Ordering::Relaxed)
}

/// Does something, such as to print, while no bar is drawn.
pub fn suspend<T>(act: impl FnOnce() -> T) -> T {
    BARS.suspend(act)
}

/// Work that takes a while. It is shown until this is dropped.
#[derive(Debug)]
pub struct Bar {
    bar: ProgressBar,
    counts: Style,
    state: Arc<Mutex<State>>,
    teller: Option<Teller>,
}

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Style {
    Things,
    Bytes,
}

impl Style {
    fn template(self, counted: bool) -> &'static str {
        match (self, counted) {
            (_, false) => "{msg} {spinner} [{elapsed} gone]",
            (Self::Things, true) => "{msg} {bar:40} {pos}/{len} [{elapsed} gone, {eta} left]",
            (Self::Bytes, true) => "{msg} {bar:40} {bytes}/{total_bytes} [{elapsed} gone, {eta} left]",
        }
    }
}

#[derive(Clone, Debug, Default)]
struct State {
    what: String,
    done: u64,
    total: u64,
}

impl State {
    fn line(&self, counts: Style, gone: Duration) -> String {
        let Self { what, done, total } = self;
        let counted = match (total, counts) {
            (0, _) => String::new(),
            (_, Style::Things) => format!(" {done}/{total}"),
            (_, Style::Bytes) => format!(" {}/{} MB", done / 1_000_000, total / 1_000_000),
        };
        format!("{what}{counted} [{} s gone]", gone.as_secs())
    }
}

/// A thread that tells of the state until it is hung up on.
#[derive(Debug)]
struct Teller {
    end: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Teller {
    fn new(state: Arc<Mutex<State>>, counts: Style, every: Duration, tell: impl Fn(String) + Send + 'static) -> Self {
        let (end, ended) = channel::<()>();
        let begun = Instant::now();
        let work = move || {
            while let Err(RecvTimeoutError::Timeout) = ended.recv_timeout(every) {
                tell(locked(&state).line(counts, begun.elapsed()));
            }
        };
        // Without a thread to be had, work goes on in silence.
        Self { end: Some(end), thread: std::thread::Builder::new().spawn(work).ok() }
    }
}

impl Drop for Teller {
    fn drop(&mut self) {
        drop(self.end.take());
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

fn locked(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Bar {
    /// Work of which no more is known yet than what it is called.
    pub fn new(what: impl Into<String>) -> Self {
        Self::counting(what.into(), Style::Things)
    }

    /// Bytes that come from elsewhere.
    pub fn of_bytes(what: impl Into<String>) -> Self {
        Self::counting(what.into(), Style::Bytes)
    }

    fn counting(what: String, counts: Style) -> Self {
        let state = Arc::new(Mutex::new(State { what: what.clone(), ..State::default() }));
        let terminal = std::io::stderr().is_terminal();
        let bar = match terminal && !is_quiet() {
            true => BARS.add(ProgressBar::new_spinner()),
            false => ProgressBar::hidden(),
        };
        styled(&bar, counts.template(false));
        bar.set_message(what);
        if !bar.is_hidden() {
            bar.enable_steady_tick(Duration::from_millis(200));
        }
        let teller = (!terminal && !is_quiet())
            .then(|| Teller::new(Arc::clone(&state), counts, EVERY, |line| eprintln!("{line}")));
        Self { bar, counts, state, teller }
    }

    /// Says what is being done, and how much of it is done.
    pub fn set(&self, what: impl Into<String>, done: usize, total: usize) {
        self.set_counts(&what.into(), done as u64, total as u64);
    }

    /// As [`set`](Self::set), where there may be more than memory holds.
    pub fn set_counts(&self, what: &str, done: u64, total: u64) {
        self.bar.set_message(what.to_owned());
        let mut state = locked(&self.state);
        what.clone_into(&mut state.what);
        if state.total == 0 && total > 0 {
            styled(&self.bar, self.counts.template(true));
            self.bar.reset_eta();
        }
        (state.done, state.total) = (done, total);
        self.bar.set_length(total);
        self.bar.set_position(done);
    }

    /// Says how far an extraction, a sweep or an evaluation is.
    pub fn show(&self, of: &str, progress: Progress) {
        let (what, done, total) = match progress {
            Progress::Answering { done, total } => ("answering", done, total),
            Progress::Judging { done, total } => ("judging", done, total),
            Progress::Reading { done, total } => ("reading", done, total),
            _ => return,
        };
        self.set(if of.is_empty() { what.to_owned() } else { format!("{of}: {what}") }, done, total);
    }

    /// Whether a terminal shows it as a bar.
    pub fn is_shown(&self) -> bool {
        !self.bar.is_hidden()
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.teller = None;
        self.bar.finish_and_clear();
        BARS.remove(&self.bar);
    }
}

fn styled(bar: &ProgressBar, template: &str) {
    // The templates are this module's own.
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
}

/// Answers requests under a progress bar.
///
/// # Errors
/// Those of [`CausalLm::generate`].
pub fn generate(
    model: &CausalLm,
    requests: &[Request],
    options: &GenerateOptions,
    hook: &mut (impl Hook + ?Sized),
) -> Result<Vec<Generation>> {
    let total = requests.iter().map(|request| request.seeds.len()).sum();
    let (bar, mut done) = (Bar::new("answering"), 0);
    Ok(model.generate(requests, options, hook, |event| {
        if let Event::Finished { .. } = event {
            done += 1;
            bar.set("answering", done, total);
        }
        ControlFlow::Continue(())
    })?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_terminal_lines_tell_how_far_work_is() {
        let state = Arc::new(Mutex::new(State { what: "judging".into(), done: 3, total: 12 }));
        let (said, heard) = channel();
        let teller = Teller::new(Arc::clone(&state), Style::Things, Duration::from_millis(1), move |line| {
            let _ = said.send(line);
        });
        assert_eq!(heard.recv().expect("a line"), "judging 3/12 [0 s gone]");
        locked(&state).done = 4;
        assert!(heard.iter().any(|line| line == "judging 4/12 [0 s gone]"));
        drop(teller);
        assert!(heard.iter().count() < 1000, "the thread has ended");
    }

    #[test]
    fn bytes_are_told_in_megabytes() {
        let state = State { what: "model.safetensors".into(), done: 5_400_000, total: 12_000_000 };
        assert_eq!(state.line(Style::Bytes, Duration::from_secs(61)), "model.safetensors 5/12 MB [61 s gone]");
    }
}
