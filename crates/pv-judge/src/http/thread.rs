use std::ops::ControlFlow;
use std::pin::pin;
use std::thread;

use futures_util::future::{Either, select};
use tokio::sync::oneshot;

use super::HttpError;

/// Runs a future in a runtime on its own thread, where it does not interfere with other runtimes, while `watch` runs on
/// this thread. If `watch` breaks, the future is dropped and the outcome is `None`.
pub(crate) fn on_own_thread<T: Send>(
    work: impl Future<Output = T> + Send,
    watch: impl FnOnce() -> ControlFlow<()>,
) -> std::result::Result<Option<T>, HttpError> {
    let unavailable = |source| HttpError::Thread { source };
    thread::scope(|scope| {
        let (stop, stopped) = oneshot::channel::<()>();
        let work = move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(unavailable)?;
            let outcome = runtime.block_on(async {
                match select(pin!(work), stopped).await {
                    Either::Left((outcome, _)) => Some(outcome),
                    Either::Right(_) => None,
                }
            });
            // A name server that does not answer must not delay the return.
            runtime.shutdown_background();
            Ok(outcome)
        };
        let worker = thread::Builder::new().name("http-judge".into()).spawn_scoped(scope, work).map_err(unavailable)?;
        if watch().is_break() {
            // Fails only if the work ended by itself.
            let _ = stop.send(());
            let _ = worker.join();
            return Ok(None);
        }
        let outcome = worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        // Until here, dropping this stops the work, for example if `watch` panics.
        drop(stop);
        outcome
    })
}
