//! Thread pools for callers that compute at the same time.
//!
//! In one pool for all callers, a thread that waits for a part of one caller's work may take the whole work of another
//! caller first, so that short work waits for long work again and again. Here each caller has a pool for as long as it
//! computes, and those that compute at the same time share the processor's threads.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use rayon::{ThreadPool, ThreadPoolBuilder};

/// The number of callers in [`in_pool`].
static CALLERS: AtomicUsize = AtomicUsize::new(0);

/// The pools that no caller uses.
static IDLE: Mutex<Vec<ThreadPool>> = Mutex::new(Vec::new());

/// Runs `body` inside a thread pool, where parallel kernels share their work with the thread that calls them. In a rayon
/// pool of the caller's own (`ThreadPool::install`), `body` runs there. Otherwise it has a pool of rayon's number of threads
/// (`RAYON_NUM_THREADS`, or that of the global pool), divided by the number of callers that compute at this moment.
/// Results do not depend on the number of threads.
pub fn in_pool<R: Send>(body: impl FnOnce() -> R + Send) -> R {
    if rayon::current_thread_index().is_some() {
        return body();
    }
    let caller = Caller::new();
    match caller.pool() {
        Some(pool) => {
            let result = pool.install(body);
            idle().push(pool);
            result
        }
        // No thread can be started: the global pool may have some.
        None => rayon::scope(|_| body()),
    }
}

fn idle() -> std::sync::MutexGuard<'static, Vec<ThreadPool>> {
    IDLE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A caller in [`in_pool`].
struct Caller {
    /// The number of callers, this one included, when it came.
    callers: usize,
}

impl Caller {
    fn new() -> Self {
        Self { callers: CALLERS.fetch_add(1, Ordering::Relaxed) + 1 }
    }

    /// An idle pool with this caller's share of the threads, or a new one.
    fn pool(&self) -> Option<ThreadPool> {
        let threads = (rayon::current_num_threads() / self.callers).max(1);
        let mut idle = idle();
        if let Some(found) = idle.iter().position(|pool| pool.current_num_threads() == threads) {
            return Some(idle.swap_remove(found));
        }
        drop(idle);
        let name = |number| format!("pv-kernels {number}");
        ThreadPoolBuilder::new().num_threads(threads).thread_name(name).build().ok()
    }
}

impl Drop for Caller {
    fn drop(&mut self) {
        CALLERS.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;

    use super::*;

    #[test]
    fn callers_at_the_same_time_share_the_threads() {
        let all = rayon::current_num_threads();
        let (meet, part) = (Barrier::new(2), Barrier::new(2));
        let threads = |first: bool| {
            if !first {
                meet.wait();
            }
            let found = in_pool(|| {
                if first {
                    meet.wait();
                }
                part.wait();
                // A pass in a step stays in the step's pool.
                in_pool(|| (rayon::current_num_threads(), rayon::current_thread_index().is_some()))
            });
            assert!(found.1);
            found.0
        };
        let [first, second] = std::thread::scope(|scope| {
            [true, false].map(|first| scope.spawn(move || threads(first))).map(|thread| thread.join().expect("threads"))
        });
        // Other tests may compute now too.
        assert!((1..=all).contains(&first), "{first} of {all}");
        assert!((1..=(all / 2).max(1)).contains(&second), "{second} of {all}");
    }

    #[test]
    fn a_panic_reaches_the_caller_and_ends_its_share() {
        let result = std::panic::catch_unwind(|| in_pool(|| panic!("as expected")));
        assert!(result.is_err());
        assert_eq!(in_pool(|| 3), 3);
    }

    #[test]
    fn a_callers_own_pool_is_kept() {
        let own = ThreadPoolBuilder::new().num_threads(3).build().expect("threads");
        assert_eq!(own.install(|| in_pool(rayon::current_num_threads)), 3);
    }
}
