//! Counts of the process, from CubeCL's observer of launches and the log of wgpu.

use std::collections::BTreeMap;
use std::ops::Sub;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use cubecl_runtime::logging::{LaunchObservation, LaunchObserver};

/// What was done since the process began, or between two times.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Counts {
    /// Kernels.
    pub(crate) launches: usize,
    /// Writes of buffers from the host; those of a kernel's sizes are among them, unless an equal launch wrote them before.
    pub(crate) writes: usize,
    /// Buffers mapped for the host to read.
    pub(crate) readbacks: usize,
    /// Submissions to the queue.
    pub(crate) submits: usize,
}

impl Counts {
    /// The median of each count.
    pub(crate) fn median(all: &[Self]) -> Self {
        let of = |which: fn(&Self) -> usize| {
            let mut values: Vec<usize> = all.iter().map(which).collect();
            values.sort_unstable();
            values[values.len() / 2]
        };
        Self {
            launches: of(|counts| counts.launches),
            writes: of(|counts| counts.writes),
            readbacks: of(|counts| counts.readbacks),
            submits: of(|counts| counts.submits),
        }
    }
}

impl Sub for Counts {
    type Output = Self;

    fn sub(self, before: Self) -> Self {
        Self {
            launches: self.launches - before.launches,
            writes: self.writes - before.writes,
            readbacks: self.readbacks - before.readbacks,
            submits: self.submits - before.submits,
        }
    }
}

/// The launches of each kernel.
#[derive(Default)]
struct Launches(Mutex<Kernels>);

impl LaunchObserver for Launches {
    fn launched(&self, kernel: &'static str) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(kernel).or_default() += 1;
    }
}

/// The number of launches by the name of the kernel.
pub(crate) type Kernels = BTreeMap<&'static str, usize>;

static WRITES: AtomicUsize = AtomicUsize::new(0);
static READBACKS: AtomicUsize = AtomicUsize::new(0);
static SUBMITS: AtomicUsize = AtomicUsize::new(0);

/// Counts the calls that wgpu logs.
struct Calls;

impl log::Log for Calls {
    fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
        metadata.target().starts_with("wgpu_core")
    }

    fn log(&self, record: &log::Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let text = record.args().to_string();
        let count = match text.split(' ').next() {
            Some("Queue::write_buffer" | "Queue::write_staging_buffer") => &WRITES,
            Some("Buffer::map_async") => &READBACKS,
            Some("Queue::submit") => &SUBMITS,
            _ => return,
        };
        count.fetch_add(1, Ordering::SeqCst);
    }

    fn flush(&self) {}
}

/// Counts as long as it exists.
pub(crate) struct Watch {
    launches: Arc<Launches>,
    _observation: LaunchObservation,
}

impl Watch {
    pub(crate) fn start() -> Self {
        log::set_logger(&Calls).expect("no other logger");
        log::set_max_level(log::LevelFilter::Trace);
        let launches = Arc::new(Launches::default());
        let observation = LaunchObservation::new(launches.clone());
        Self { launches, _observation: observation }
    }

    /// The kernels so far.
    pub(crate) fn kernels(&self) -> Kernels {
        self.launches.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// So far. What is still waiting to be submitted is not counted.
    pub(crate) fn counts(&self) -> Counts {
        let of = |count: &AtomicUsize| count.load(Ordering::SeqCst);
        Counts {
            launches: self.kernels().values().sum(),
            writes: of(&WRITES),
            readbacks: of(&READBACKS),
            submits: of(&SUBMITS),
        }
    }
}
