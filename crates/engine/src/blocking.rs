//! Waiting for what is asynchronous, on whatever thread this crate is called.

use std::panic::resume_unwind;
use std::thread;

use crate::error::EngineError;

/// Runs a future to its end, on a thread of its own: the caller's may be one of a runtime, and tokio panics where another one is
/// waited for there. A panic of the future passes through.
///
/// # Errors
/// [`EngineError::Worker`] if there can be no further thread or runtime.
pub(crate) fn wait_for<T: Send>(future: impl AsyncFnOnce() -> T + Send) -> Result<T, EngineError> {
    let ended = thread::scope(|scope| {
        let waiting = thread::Builder::new().name("oneway-ask".to_owned()).spawn_scoped(scope, || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let outcome = runtime.block_on(future());
            // What it has given up waiting for may keep a thread of its own for long: the system's resolver does.
            runtime.shutdown_background();
            Ok(outcome)
        });
        waiting.map(|thread| thread.join())
    });
    match ended.map_err(EngineError::Worker)? {
        Ok(outcome) => outcome.map_err(EngineError::Worker),
        Err(panic) => resume_unwind(panic),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_runtimes_own_thread_may_wait() {
        let text = String::from("borrowed");
        let wait = || {
            wait_for(async || {
                tokio::time::sleep(Duration::from_millis(1)).await;
                text.len()
            })
        };
        assert_eq!(wait().unwrap(), 8);
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        assert_eq!(runtime.block_on(async { wait().unwrap() }), 8);
    }

    #[test]
    fn a_panic_passes_through() {
        let panic = std::panic::catch_unwind(|| wait_for(async || panic!("on purpose")));
        assert_eq!(panic.unwrap_err().downcast_ref(), Some(&"on purpose"));
    }
}
