//! Signals of the process outside, passed on to the program.

use std::os::fd::AsFd;
use std::process::{Child, ExitStatus};
use std::sync::Arc;

use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, WaitId, WaitIdOptions};
use tokio::runtime::Runtime;
use tokio::signal::unix::{Signal as Stream, SignalKind, signal};

use crate::failure::{FAILED, Failure};

/// What is passed on. The terminal's stop and continue come to the whole process group, and do their work without us.
const PASSED: [(Signal, fn() -> SignalKind); 7] = [
    (Signal::TERM, SignalKind::terminate),
    (Signal::HUP, SignalKind::hangup),
    (Signal::INT, SignalKind::interrupt),
    (Signal::QUIT, SignalKind::quit),
    (Signal::USR1, SignalKind::user_defined1),
    (Signal::USR2, SignalKind::user_defined2),
    (Signal::WINCH, SignalKind::window_change),
];

/// From now on, signals do not end this process.
pub(super) struct Signals {
    runtime: Runtime,
    streams: Vec<(Signal, Stream)>,
}

impl Signals {
    pub(super) fn take() -> Result<Self, Failure> {
        let failed =
            |e: std::io::Error| Failure::new(FAILED, format!("cannot take over signals: {e}; try again"));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
        let entered = runtime.enter();
        let streams = PASSED.iter().map(|(which, kind)| Ok((*which, signal(kind())?)));
        let streams = streams.collect::<std::io::Result<Vec<_>>>().map_err(failed)?;
        drop(entered);
        Ok(Self { runtime, streams })
    }

    /// Waits until the program ends.
    pub(super) fn wait(self, child: &mut Child) -> Result<ExitStatus, Failure> {
        let Self { runtime, streams } = self;
        let failed = |e: std::io::Error| Failure::new(FAILED, format!("cannot wait for the program: {e}"));
        // By a descriptor: the number may be another process's once the program has ended.
        let program = rustix::process::pidfd_open(Pid::from_child(child), PidfdFlags::empty())
            .map_err(|e| failed(e.into()))?;
        let program = Arc::new(program);
        for (which, mut stream) in streams {
            let program = Arc::clone(&program);
            runtime.spawn(async move {
                while stream.recv().await.is_some() {
                    if !comes_from_terminal(which) {
                        // It has ended: there is nobody to tell.
                        let _ = rustix::process::pidfd_send_signal(&*program, which);
                    }
                }
            });
        }
        // The child stays to be waited for below, so that its number is nobody else's.
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
        let ended = runtime.spawn_blocking(move || {
            while let Err(Errno::INTR) = rustix::process::waitid(WaitId::PidFd(program.as_fd()), options) {}
        });
        runtime.block_on(ended).map_err(|e| failed(e.into()))?;
        child.wait().map_err(failed)
    }
}

/// Whether the program has this signal from the terminal itself: those go to the whole process group in front.
fn comes_from_terminal(which: Signal) -> bool {
    if ![Signal::INT, Signal::QUIT, Signal::WINCH].contains(&which) {
        return false;
    }
    let Ok(terminal) = std::fs::File::open("/dev/tty") else { return false };
    rustix::termios::tcgetpgrp(terminal).is_ok_and(|front| front == rustix::process::getpgrp())
}
