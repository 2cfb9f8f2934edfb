use std::ops::ControlFlow;
use std::pin::pin;
use std::thread;

use futures_util::future::{Either, select};
use tokio::sync::oneshot;

use super::HttpError;

/// Runs a future in a runtime on a thread of its own, where it disturbs no other runtime, while `watch` runs here. The
/// future is dropped, and the outcome `None`, once `watch` breaks off.
pub(crate) fn on_own_thread<T: Send>(
    work: impl Future<Output = T> + Send,
    watch: impl FnOnce() -> ControlFlow<()>,
) -> std::result::Result<Option<T>, HttpError> {
    let unavailable = |error: std::io::Error| HttpError::Unavailable { reason: error.to_string() };
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
            // A name server that does not answer must not hold up the return.
            runtime.shutdown_background();
            Ok(outcome)
        };
        let worker = thread::Builder::new().name("http-judge".into()).spawn_scoped(scope, work).map_err(unavailable)?;
        if watch().is_break() {
            // It fails only if the work has ended by itself.
            let _ = stop.send(());
            let _ = worker.join();
            return Ok(None);
        }
        let outcome = worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        // Until here it is the wish to stop if this is dropped, by a panic of `watch` for example.
        drop(stop);
        outcome
    })
}
