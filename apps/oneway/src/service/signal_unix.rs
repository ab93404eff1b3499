//! The signals that ask for the end, and for the configuration to be read again.

use std::future::poll_fn;
use std::io::{self, IsTerminal};
use std::task::{Context, Poll};

use rustix::process::Signal as Number;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::Asked;
use super::signal_more;

/// Those that ask for the end. Of a soft limit on processor time (`RLIMIT_CPU`) the kernel tells once a second, until the
/// hard one kills.
const END: [(Number, &str); 4] = [
    (Number::INT, "SIGINT"),
    (Number::TERM, "SIGTERM"),
    (Number::QUIT, "SIGQUIT"),
    (Number::XCPU, "SIGXCPU"),
];

/// Those that mean nothing here and would kill the process: sent by who takes this for another program, to open its log again
/// for one; left by who started this, as a timer of alarm(2), which goes on after execve(2); or, of a file at its limit
/// (`RLIMIT_FSIZE`), sent besides the error that writing to it returns.
const STRAY: [Number; 7] =
    [Number::USR1, Number::USR2, Number::ALARM, Number::VTALARM, Number::PROF, Number::IO, Number::XFSZ];

/// Signals that ask for something, and those that mean nothing here. From [`Signals::new`] on none kills the process.
pub(crate) struct Signals {
    end: Vec<(Signal, &'static str)>,
    hangup: Signal,
    had_terminal: bool,
}

impl Signals {
    /// Takes the signals over. To be called within a runtime.
    pub(crate) fn new() -> io::Result<Self> {
        let take = |number: Number| signal(SignalKind::from_raw(number.as_raw()));
        let end = END.iter().chain(signal_more::END).map(|(number, name)| Ok((take(*number)?, *name)));
        // Once taken over, a signal stays so until the process ends: nobody has to listen.
        for number in STRAY.iter().chain(signal_more::STRAY) {
            drop(take(*number)?);
        }
        for number in signal_more::REAL_TIME {
            // Which of them there are is the C library's choice: musl keeps one more for itself.
            let _ = signal(SignalKind::from_raw(number));
        }
        Ok(Self {
            end: end.collect::<io::Result<_>>()?,
            // A closed terminal would otherwise kill the process and leave the host captured by nobody.
            hangup: signal(SignalKind::hangup())?,
            had_terminal: has_terminal(),
        })
    }

    /// Waits for the next one and says what it asks for.
    pub(crate) async fn next(&mut self) -> Asked {
        poll_fn(|cx| self.poll(cx)).await
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Asked> {
        for (signal, name) in &mut self.end {
            if signal.poll_recv(cx).is_ready() {
                return Poll::Ready(Asked::End(name));
            }
        }
        if self.hangup.poll_recv(cx).is_ready() {
            // A terminal that was closed is none any more: `__tty_hangup` (drivers/tty/tty_io.c) sees to that before it sends
            // the signal.
            return Poll::Ready(match self.had_terminal && !has_terminal() {
                true => Asked::End("SIGHUP"),
                false => Asked::Reload,
            });
        }
        Poll::Pending
    }
}

fn has_terminal() -> bool {
    io::stdin().is_terminal() || io::stdout().is_terminal() || io::stderr().is_terminal()
}
