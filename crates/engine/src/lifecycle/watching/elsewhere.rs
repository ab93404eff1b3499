//! Watching the network namespace that our own sockets are made in: its links, addresses and routes are what they meet.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use oneway_egress::Namespace;
use oneway_route::{Monitor, Snapshot, Waker};

use crate::error::EngineError;
use crate::lifecycle::protection;

/// So often the thread looks whether it is to end.
const TICK: Duration = Duration::from_secs(1);
/// When the kernel could not be listened to.
const RETRY: Duration = Duration::from_millis(500);

/// The namespace, and the thread that listens there for as long as this lives.
#[derive(Debug)]
pub(super) struct Elsewhere {
    pub(super) namespace: Arc<Namespace>,
    stop: Arc<AtomicBool>,
    waker: Waker,
}

impl Elsewhere {
    /// Wakes `alarm` whenever something changes there.
    pub(super) fn watch(namespace: Arc<Namespace>, alarm: Waker) -> Result<Self, EngineError> {
        // A netlink socket stays in the namespace that it was made in, too.
        let mut monitor = namespace.run(Monitor::open)??;
        let (waker, stop) = (monitor.waker(), Arc::new(AtomicBool::new(false)));
        let ended = Arc::clone(&stop);
        thread::Builder::new()
            .name("oneway-guard-ns".to_owned())
            .spawn(move || {
                while !ended.load(Ordering::Acquire) {
                    match monitor.wait(TICK) {
                        Ok(changes) if changes.any() => alarm.wake(),
                        Ok(_) => {}
                        Err(error) => {
                            tracing::debug!(%error, "cannot hear of changes to the namespace of our sockets");
                            alarm.wake();
                            thread::sleep(RETRY);
                        }
                    }
                }
            })
            .map_err(EngineError::Worker)?;
        Ok(Self { namespace, stop, waker })
    }

    /// What it looks like now.
    pub(super) fn look(&self) -> Result<Snapshot, EngineError> {
        protection::look(&self.namespace)
    }
}

impl Drop for Elsewhere {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        self.waker.wake();
    }
}
