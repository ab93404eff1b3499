//! The threads that carry what is captured, one for each queue of the device.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;

use tokio::sync::watch;

use super::end::{self, End};
use crate::error::EngineError;
use crate::worker::{self, Orders, Parts, Phase, Shared};

/// Those that run. Dropped, they end, and are waited for: until then they hold the device.
#[derive(Debug)]
pub(super) struct Threads {
    threads: Vec<JoinHandle<()>>,
    orders: watch::Sender<Orders>,
}

impl Threads {
    /// None yet; all will be under these orders.
    pub(super) fn under(orders: watch::Sender<Orders>) -> Self {
        Self { threads: Vec::new(), orders }
    }

    /// Starts one for each. `tun` is the device's name.
    ///
    /// # Errors
    /// [`EngineError::Worker`].
    pub(super) fn start_all(
        &mut self,
        workers: impl IntoIterator<Item = Parts>,
        tun: &str,
        end: &Arc<End>,
    ) -> Result<(), EngineError> {
        for parts in workers {
            let tun = tun.to_owned();
            let thread = end::spawn(format!("worker-{}", parts.number), Arc::clone(end), move || {
                worker::run(parts).map_err(|failed| match failed {
                    worker::Failed::Start(source) => EngineError::Worker(source),
                    worker::Failed::Device(source) => EngineError::DeviceLost { name: tun, source },
                })
            });
            self.threads.push(thread.map_err(EngineError::Worker)?);
        }
        Ok(())
    }

    /// Tells them how far the engine is.
    pub(super) fn order(&self, phase: Phase) {
        self.orders.send_modify(|orders| orders.phase = phase);
    }

    /// Whether each has written what it had to write, or cannot any more.
    pub(super) fn are_flushed(&self, shared: &Shared) -> bool {
        shared.flushed.load(Ordering::Acquire) >= self.threads.len()
            || self.threads.iter().any(JoinHandle::is_finished)
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.order(Phase::Stop);
        for thread in self.threads.drain(..) {
            // What panics is caught inside it.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;
    use std::thread;

    use super::*;

    #[test]
    fn they_have_ended_when_they_are_gone() {
        let (orders, told) = watch::channel(Orders::default());
        let ended = Arc::new(AtomicBool::new(false));
        let end = Arc::clone(&ended);
        let mut threads = Threads::under(orders);
        threads.threads.push(thread::spawn(move || {
            while !matches!(told.borrow().phase, Phase::Stop) {
                thread::yield_now();
            }
            end.store(true, Ordering::Release);
        }));
        drop(threads);
        assert!(ended.load(Ordering::Acquire));
    }
}
