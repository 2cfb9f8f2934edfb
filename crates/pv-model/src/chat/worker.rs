//! Threads for parsing and rendering, whose stack suffices for the limits on nesting.

use std::sync::mpsc::{Sender, channel};
use std::sync::{Mutex, PoisonError};
use std::{io, thread};

use super::TemplateError;

/// The stack of a worker. Some 1200 levels of evaluation (see `jinja::machine`) take at most a quarter of it; only what
/// is used is committed.
const STACK: usize = 16 << 20;

/// How many idle workers are kept. One is enough for a caller that renders one text after another.
const IDLE: usize = 4;

type Job = Box<dyn FnOnce() + Send>;

static WORKERS: Mutex<Vec<Sender<Job>>> = Mutex::new(Vec::new());

/// Runs `work` on an idle worker, or on a new one.
///
/// # Errors
/// [`TemplateError::Thread`] if no thread can be started, [`TemplateError::Panicked`] if `work` panics.
pub(super) fn on_worker<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, TemplateError> {
    let idle = || WORKERS.lock().unwrap_or_else(PoisonError::into_inner);
    let (done, outcome) = channel();
    let job: Job = Box::new(move || _ = done.send(work()));
    let kept = idle().pop();
    let worker = match kept {
        Some(worker) => worker,
        None => started().map_err(|source| TemplateError::Thread { source })?,
    };
    worker.send(job).map_err(|_| TemplateError::Panicked)?;
    let outcome = outcome.recv().map_err(|_| TemplateError::Panicked)?;
    let mut workers = idle();
    if workers.len() < IDLE {
        workers.push(worker);
    }
    Ok(outcome)
}

/// Starts a worker. It ends when its sender is dropped.
fn started() -> io::Result<Sender<Job>> {
    let (worker, jobs) = channel::<Job>();
    let run = move || jobs.iter().for_each(|job| job());
    thread::Builder::new().name("chat template".to_owned()).stack_size(STACK).spawn(run)?;
    Ok(worker)
}
