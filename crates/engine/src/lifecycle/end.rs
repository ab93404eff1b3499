//! What ends a running engine by itself: the first thing that goes wrong in one of its threads.

use std::cell::RefCell;
use std::io;
use std::panic::{self, AssertUnwindSafe, PanicHookInfo, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, Once, PoisonError};
use std::thread::{self, JoinHandle};

use crate::error::EngineError;

/// Whether the engine is to go on, and what is against it.
#[derive(Debug, Default)]
pub(super) struct End {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    stopped: bool,
    failed: Option<Arc<EngineError>>,
}

impl End {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The engine cannot go on. What comes after the first reason follows from it, and is not kept.
    pub(super) fn fail(&self, why: EngineError) {
        let mut state = self.lock();
        if state.failed.is_none() {
            state.failed = Some(Arc::new(why));
            self.changed.notify_all();
        }
    }

    /// Whether there was a reason to end, told or not.
    pub(super) fn has_failed(&self) -> bool {
        self.lock().failed.is_some()
    }

    /// It was stopped.
    pub(super) fn stop(&self) {
        self.lock().stopped = true;
        self.changed.notify_all();
    }

    /// Why it carries nothing any more, if it does not.
    pub(super) fn over(&self) -> Option<String> {
        let state = self.lock();
        match &state.failed {
            Some(why) => Some(format!("it has failed: {why}")),
            None => state.stopped.then(|| "it was stopped".to_owned()),
        }
    }

    /// Blocks until there is a reason to end, or until it was stopped: `None`.
    pub(super) fn wait(&self) -> Option<Arc<EngineError>> {
        let mut state = self.lock();
        loop {
            if let Some(why) = &state.failed {
                return Some(Arc::clone(why));
            }
            if state.stopped {
                return None;
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

thread_local! {
    /// What a panic on this thread ends, and the thread's name.
    static ENDS: RefCell<Option<(Arc<End>, String)>> = const { RefCell::new(None) };
}

/// Starts a thread that the engine cannot do without. Whatever it fails by ends the engine: an error, a panic, and a panic
/// of a task on it, which the runtime catches and nobody would hear of.
///
/// # Errors
/// Those of [`thread::Builder::spawn`].
pub(super) fn spawn(
    name: String,
    end: Arc<End>,
    work: impl FnOnce() -> Result<(), EngineError> + Send + 'static,
) -> io::Result<JoinHandle<()>> {
    report_panics();
    thread::Builder::new().name(name.clone()).spawn(move || {
        oneway_flow::block_sigpipe();
        ENDS.set(Some((Arc::clone(&end), name.clone())));
        match catch_unwind(AssertUnwindSafe(work)) {
            Ok(Ok(())) => {}
            Ok(Err(why)) => end.fail(why),
            // The hook has told, unless the program has set another one since.
            Err(_) => end.fail(EngineError::Panicked { thread: name, why: "see the log".to_owned() }),
        }
    })
}

/// Has panics on these threads end their engine. Those on others go where they went before.
fn report_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            before(info);
            // Another panic may be what ends the thread, so late that this is gone.
            let _ = ENDS.try_with(|ends| {
                if let Ok(ends) = ends.try_borrow()
                    && let Some((end, thread)) = &*ends
                {
                    end.fail(EngineError::Panicked { thread: thread.clone(), why: told_by(info) });
                }
            });
        }));
    });
}

/// What a panic says, and where.
fn told_by(info: &PanicHookInfo<'_>) -> String {
    let message = info.payload_as_str().unwrap_or("it gives no reason");
    match info.location() {
        Some(at) => format!("{message} ({at})"),
        None => message.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;

    /// What a thread that does this ends its engine by.
    fn ended_by(work: impl FnOnce() -> Result<(), EngineError> + Send + 'static) -> Arc<EngineError> {
        let end = Arc::new(End::default());
        let thread = spawn("worker-7".to_owned(), Arc::clone(&end), work).unwrap();
        let why = end.wait().unwrap();
        thread.join().unwrap();
        end.stop();
        assert!(Arc::ptr_eq(&end.wait().unwrap(), &why), "whoever asks is told, and the first reason");
        assert!(end.over().unwrap().contains(&why.to_string()));
        why
    }

    #[test]
    fn a_panic_ends_the_engine_and_is_named() {
        let why = ended_by(|| panic!("on purpose, {}", 1 + 1));
        assert_eq!(why.exit_code(), 1);
        let text = why.to_string();
        assert!(text.contains("worker-7") && text.contains("on purpose, 2"), "{text}");
        assert!(text.contains("end.rs:"), "where: {text}");
    }

    #[test]
    fn a_panic_of_a_task_that_its_runtime_catches_ends_the_engine() {
        let why = ended_by(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            tokio::task::LocalSet::new().block_on(&runtime, async {
                assert!(tokio::task::spawn_local(async { panic!("in a task") }).await.is_err());
                assert!(tokio::spawn(async { panic!("in another") }).await.is_err());
            });
            Ok(())
        });
        assert!(why.to_string().contains("in a task"), "{why}");
    }

    #[test]
    fn an_error_ends_the_engine_as_what_it_is() {
        let why = ended_by(|| Err(EngineError::Worker(io::Error::other("no runtime"))));
        assert!(matches!(*why, EngineError::Worker(_)), "{why}");
    }

    #[test]
    fn a_closed_socket_ends_no_program() {
        /// Bit 12 is signal 13.
        const SIGPIPE: u64 = 1 << 12;
        let end = Arc::new(End::default());
        let (tell, told) = channel();
        let look = move || {
            tell.send(std::fs::read_to_string("/proc/thread-self/status")).unwrap();
            Ok(())
        };
        spawn("worker-9".to_owned(), end, look).unwrap().join().unwrap();
        let status = told.recv().unwrap().unwrap();
        let blocked = status.lines().find_map(|line| line.strip_prefix("SigBlk:")).unwrap();
        assert_ne!(u64::from_str_radix(blocked.trim(), 16).unwrap() & SIGPIPE, 0, "{blocked}");
    }

    #[test]
    fn a_thread_that_ends_in_order_ends_nothing() {
        let end = Arc::new(End::default());
        spawn("worker-8".to_owned(), Arc::clone(&end), || Ok(())).unwrap().join().unwrap();
        // Nor does a panic of somebody else's thread.
        let (asked, told) = channel::<()>();
        drop(asked);
        assert!(thread::spawn(move || told.recv().expect("nobody's")).join().is_err());
        assert!(end.over().is_none());
        end.stop();
        assert!(end.wait().is_none());
        assert!(end.over().is_some());
    }
}
