//! Threads that parse and render, with a stack whose use is bounded by the limits on nesting.

use std::sync::mpsc::{Sender, channel};
use std::sync::{Mutex, PoisonError};
use std::thread;

use crate::error::{Error, Result};

/// The stack of a worker. Some 1200 levels of evaluation (see `jinja::machine`) take at most a quarter of it; only what is
/// used is committed.
const STACK: usize = 16 << 20;

/// How many idle workers are kept. One is enough for a caller that renders one text after another.
const IDLE: usize = 4;

type Job = Box<dyn FnOnce() + Send>;

static WORKERS: Mutex<Vec<Sender<Job>>> = Mutex::new(Vec::new());

/// Runs `work` on a worker that is idle, or on a new one.
///
/// # Errors
/// [`Error::TemplateFailed`] when there is no memory for a thread, or `work` panics.
pub(super) fn on_worker<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
    let failed = |reason: &str| Error::TemplateFailed { reason: reason.to_owned() };
    let idle = || WORKERS.lock().unwrap_or_else(PoisonError::into_inner);
    let (done, outcome) = channel();
    let job: Job = Box::new(move || _ = done.send(work()));
    let kept = idle().pop();
    let worker = match kept {
        Some(worker) => worker,
        None => started().ok_or_else(|| failed("no memory for the renderer's thread"))?,
    };
    worker.send(job).map_err(|_| failed("the renderer's thread has ended"))?;
    let outcome = outcome.recv().map_err(|_| failed("the renderer panicked"))?;
    let mut workers = idle();
    if workers.len() < IDLE {
        workers.push(worker);
    }
    Ok(outcome)
}

/// A new worker. It ends when it is no longer kept.
fn started() -> Option<Sender<Job>> {
    let (worker, jobs) = channel::<Job>();
    let run = move || jobs.iter().for_each(|job| job());
    thread::Builder::new().name("chat template".to_owned()).stack_size(STACK).spawn(run).ok()?;
    Some(worker)
}
