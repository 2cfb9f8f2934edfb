//! Progress of long work: a bar on a terminal, otherwise a line at regular intervals.
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
use pv_model::generate::{Event, Generation};
use pv_model::{CausalLm, GenerateOptions, Request};
use pv_vectors::contrast::Progress;

use crate::Result;

static BARS: LazyLock<MultiProgress> = LazyLock::new(MultiProgress::new);
static QUIET: AtomicBool = AtomicBool::new(false);
/// Whether the program is waiting for user input.
static WAITING: AtomicBool = AtomicBool::new(false);
/// The work in progress, the latest last.
static OPEN: Mutex<Vec<Arc<Mutex<Work>>>> = Mutex::new(Vec::new());

/// Disables progress from now on.
pub(crate) fn be_quiet() {
    QUIET.store(true, Ordering::Relaxed);
}

pub(crate) fn is_quiet() -> bool {
    QUIET.load(Ordering::Relaxed)
}

/// Runs an action, such as printing, while no bar is drawn.
pub fn suspend<T>(act: impl FnOnce() -> T) -> T {
    BARS.suspend(act)
}

/// The progress bar of a piece of work. It is shown until this value is dropped.
#[derive(Debug)]
pub struct Bar {
    bar: ProgressBar,
    work: Arc<Mutex<Work>>,
}

/// The unit that is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unit {
    Things,
    Bytes,
}

impl Unit {
    fn template(self, counted: bool) -> &'static str {
        match (self, counted) {
            (_, false) => "{msg} {spinner} [{elapsed}]",
            (Self::Things, true) => "{msg} {bar:40} {pos}/{len} [{elapsed}, {eta} left]",
            (Self::Bytes, true) => "{msg} {bar:40} {bytes}/{total_bytes} [{elapsed}, {eta} left]",
        }
    }
}

/// The state of a piece of work.
#[derive(Clone, Debug)]
struct Work {
    what: String,
    unit: Unit,
    done: u64,
    total: u64,
    begun: Instant,
    /// When counting started, and how much was done by then.
    counted: Option<(Instant, u64)>,
}

impl Work {
    fn new(what: String, unit: Unit) -> Self {
        Self { what, unit, done: 0, total: 0, begun: Instant::now(), counted: None }
    }

    /// The time left at the current pace.
    fn left(&self, now: Instant) -> Option<Duration> {
        let (since, before) = self.counted?;
        let done = self.done.checked_sub(before).filter(|done| *done > 0)?;
        let rest = self.total.saturating_sub(self.done);
        Duration::try_from_secs_f64((now - since).as_secs_f64() * rest as f64 / done as f64).ok()
    }

    fn line(&self, now: Instant) -> String {
        let Self { what, unit, done, total, begun, .. } = self;
        let counted = match (total, unit) {
            (0, _) => String::new(),
            (_, Unit::Things) => format!(" {done}/{total}"),
            (_, Unit::Bytes) => format!(" {}/{} MB", done / 1_000_000, total / 1_000_000),
        };
        let left = self.left(now).map_or_else(String::new, |left| format!(", about {} s left", left.as_secs()));
        format!("{what}{counted} [{} s{left}]", (now - *begun).as_secs())
    }
}

/// A thread that reports progress at regular intervals until this value is dropped.
#[derive(Debug)]
pub(crate) struct Heartbeat {
    end: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Heartbeat {
    fn new(every: Duration, say: impl Fn(String) + Send + 'static) -> Self {
        let (end, ended) = channel::<()>();
        let begun = Instant::now();
        let work = move || {
            while let Err(RecvTimeoutError::Timeout) = ended.recv_timeout(every) {
                if WAITING.load(Ordering::Relaxed) {
                    continue;
                }
                let now = Instant::now();
                // The latest work in progress; between two pieces of work, only that the program is working.
                let line = locked(&OPEN).last().map(|work| locked(work).line(now));
                say(line.unwrap_or_else(|| format!("working [{} s]", (now - begun).as_secs())));
            }
        };
        // If no thread can be started, work continues without reports.
        Self { end: Some(end), thread: std::thread::Builder::new().spawn(work).ok() }
    }
}

impl Drop for Heartbeat {
    fn drop(&mut self) {
        drop(self.end.take());
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// Reports progress in lines, at least once in every interval, if no terminal shows bars.
pub(crate) fn heartbeat(every: Duration) -> Option<Heartbeat> {
    (!std::io::stderr().is_terminal() && !is_quiet()).then(|| Heartbeat::new(every, |line| eprintln!("{line}")))
}

/// Runs an action that waits for user input; no progress is reported meanwhile.
pub(crate) fn waiting<T>(wait: impl FnOnce() -> T) -> T {
    WAITING.store(true, Ordering::Relaxed);
    let done = wait();
    WAITING.store(false, Ordering::Relaxed);
    done
}

fn locked<T>(state: &Mutex<T>) -> MutexGuard<'_, T> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Bar {
    /// Work of which only the name is known so far.
    pub fn new(what: impl Into<String>) -> Self {
        Self::counting(what.into(), Unit::Things)
    }

    /// A transfer of bytes, such as a download.
    pub fn of_bytes(what: impl Into<String>) -> Self {
        Self::counting(what.into(), Unit::Bytes)
    }

    fn counting(what: String, unit: Unit) -> Self {
        let bar = match std::io::stderr().is_terminal() && !is_quiet() {
            true => BARS.add(ProgressBar::new_spinner()),
            false => ProgressBar::hidden(),
        };
        styled(&bar, unit.template(false));
        bar.set_message(what.clone());
        if !bar.is_hidden() {
            bar.enable_steady_tick(Duration::from_millis(200));
        }
        let work = Arc::new(Mutex::new(Work::new(what, unit)));
        locked(&OPEN).push(Arc::clone(&work));
        Self { bar, work }
    }

    /// Sets the description of the work, and how much of it is done.
    pub fn set(&self, what: impl Into<String>, done: usize, total: usize) {
        self.set_counts(&what.into(), done as u64, total as u64);
    }

    /// Like [`set`](Self::set), for counts that may exceed `usize`.
    pub fn set_counts(&self, what: &str, done: u64, total: u64) {
        self.bar.set_message(what.to_owned());
        let mut work = locked(&self.work);
        what.clone_into(&mut work.what);
        if work.total == 0 && total > 0 {
            styled(&self.bar, work.unit.template(true));
            self.bar.reset_eta();
        }
        // A new part of the work is counted from its own start.
        if total > 0 && (work.total != total || done < work.done) {
            work.counted = Some((Instant::now(), done));
        }
        (work.done, work.total) = (done, total);
        self.bar.set_length(total);
        self.bar.set_position(done);
    }

    /// Shows the progress of an extraction, a sweep or an evaluation.
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
        locked(&OPEN).retain(|work| !Arc::ptr_eq(work, &self.work));
        self.bar.finish_and_clear();
        BARS.remove(&self.bar);
    }
}

fn styled(bar: &ProgressBar, template: &str) {
    // The templates are constants of this module, so this does not fail.
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
    fn without_a_terminal_lines_report_the_progress() {
        let (send, lines) = channel();
        let heartbeat = Heartbeat::new(Duration::from_millis(1), move |line| {
            let _ = send.send(line);
        });
        let wait = |wanted: &str| lines.iter().take(2000).any(|line: String| line.starts_with(wanted));
        // Other tests of this process may also have work in progress.
        let bar = Bar::new("testing the heartbeat");
        assert!(wait("testing the heartbeat ["), "before the first step");
        bar.set("testing the heartbeat", 3, 12);
        assert!(wait("testing the heartbeat 3/12 ["), "while a step takes long");
        bar.set("testing the heartbeat", 4, 12);
        assert!(wait("testing the heartbeat 4/12 ["));
        drop(bar);
        drop(heartbeat);
        assert!(lines.iter().count() < 1000, "the thread has ended");
    }

    #[test]
    fn a_line_has_the_elapsed_and_the_remaining_time() {
        let begun = Instant::now();
        let at = |seconds| begun + Duration::from_secs(seconds);
        let mut work = Work { begun, ..Work::new("judging".to_owned(), Unit::Things) };
        assert_eq!(work.line(at(0)), "judging [0 s]");
        // A resumed run: what was done before does not count for the pace.
        (work.done, work.total, work.counted) = (30, 50, Some((at(10), 20)));
        assert_eq!(work.line(at(20)), "judging 30/50 [20 s, about 20 s left]");
        let bytes = Work { done: 5_400_000, total: 12_000_000, begun, ..Work::new("weights".to_owned(), Unit::Bytes) };
        assert_eq!(bytes.line(at(61)), "weights 5/12 MB [61 s]");
    }
}
