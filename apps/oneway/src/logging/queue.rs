//! Lines for a reader who may have stopped reading. Whoever has a line leaves it here and goes on; one thread writes.

use std::collections::VecDeque;
use std::io::Write;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Bytes that may wait: a few thousand lines.
const LIMIT: usize = 512 << 10;

#[derive(Debug, Default)]
pub(super) struct Queue {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    waiting: VecDeque<Vec<u8>>,
    bytes: usize,
    /// Lines that found no room since the last ones were taken.
    lost: u64,
    /// Whether lines were taken that are not written yet.
    writing: bool,
}

impl Queue {
    /// Leaves a line if there is room. Once one was lost the later ones are, too, so that all that is missing is missing in one
    /// place.
    pub(super) fn offer(&self, line: &[u8]) {
        let mut state = self.lock();
        if state.lost > 0 || state.bytes + line.len() > LIMIT {
            state.lost += 1;
        } else {
            self.add(state, line);
        }
    }

    /// Leaves a line that has room in any case: the few by which a command ends.
    pub(super) fn insist(&self, line: &[u8]) {
        self.add(self.lock(), line);
    }

    fn add(&self, mut state: MutexGuard<'_, State>, line: &[u8]) {
        state.bytes += line.len();
        state.waiting.push_back(line.to_vec());
        drop(state);
        self.changed.notify_all();
    }

    /// Writes what comes, for ever. `lost` is told how many lines are missing behind those that are written next.
    pub(super) fn write_to(&self, mut stderr: impl Write, lost: impl Fn(u64)) {
        loop {
            let state = self.lock();
            let mut state = self
                .changed
                .wait_while(state, |state| state.waiting.is_empty())
                .unwrap_or_else(PoisonError::into_inner);
            let lines = std::mem::take(&mut state.waiting);
            let missing = std::mem::take(&mut state.lost);
            state.bytes = 0;
            state.writing = true;
            drop(state);
            if missing > 0 {
                lost(missing);
            }
            for line in lines {
                // Nobody to tell that nobody listens.
                let _ = stderr.write_all(&line);
            }
            self.lock().writing = false;
            self.changed.notify_all();
        }
    }

    /// Waits until everything is written, but not longer than that. Whether it is.
    pub(super) fn flush(&self, patience: Duration) -> bool {
        let end = Instant::now() + patience;
        let mut state = self.lock();
        while state.writing || !state.waiting.is_empty() {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            state = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }

    /// Nothing that could panic is done with the lock held.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::Arc;
    use std::sync::mpsc::{Receiver, Sender, channel};
    use std::thread;

    use super::*;

    /// Takes a line for each permission.
    struct Slow {
        may: Receiver<()>,
        took: Sender<String>,
    }

    impl Write for Slow {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            if self.may.recv().is_err() {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
            self.took.send(String::from_utf8_lossy(bytes).into_owned()).unwrap();
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_reader_that_is_stuck_stops_nobody_and_is_told_what_it_missed() {
        const PATIENCE: Duration = Duration::from_secs(10);
        let queue = Arc::new(Queue::default());
        let (may, permission) = channel();
        let (took, taken) = channel();
        let (told, missing) = channel();
        let writing = Arc::clone(&queue);
        // It waits for ever when the test is over.
        drop(thread::spawn(move || {
            writing.write_to(Slow { may: permission, took }, |lost| told.send(lost).unwrap());
        }));
        let take = || {
            may.send(()).unwrap();
            taken.recv_timeout(PATIENCE).unwrap()
        };
        queue.offer(b"first");
        assert_eq!(take(), "first");
        assert!(queue.flush(PATIENCE));
        // From here on nobody reads.
        queue.offer(b"stuck");
        while !queue.lock().writing {
            thread::yield_now();
        }
        queue.offer(&vec![b'x'; LIMIT - 1]);
        queue.offer(b"too much");
        queue.offer(b"y");
        queue.insist(b"error");
        assert!(!queue.flush(Duration::from_millis(1)));
        assert_eq!(take(), "stuck");
        assert_eq!(missing.recv_timeout(PATIENCE), Ok(2));
        assert_eq!(take().len(), LIMIT - 1);
        assert_eq!(take(), "error");
        assert!(queue.flush(PATIENCE));
    }

    #[test]
    fn what_nobody_can_read_is_let_go() {
        let queue = Arc::new(Queue::default());
        let (_, permission) = channel();
        let (took, _taken) = channel();
        let writing = Arc::clone(&queue);
        drop(thread::spawn(move || writing.write_to(Slow { may: permission, took }, drop)));
        queue.offer(b"gone");
        assert!(queue.flush(Duration::from_secs(10)));
    }
}
