//! The signals that ask for the end, and for the configuration to be read again.

use std::io::{self, IsTerminal};

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::Asked;

/// Signals that ask for something, and those that mean nothing here. From [`Signals::new`] on none kills the process.
pub(crate) struct Signals {
    interrupt: Signal,
    terminate: Signal,
    quit: Signal,
    hangup: Signal,
    others: [Signal; 2],
    had_terminal: bool,
}

impl Signals {
    /// Takes the signals over. To be called within a runtime.
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            quit: signal(SignalKind::quit())?,
            // A closed terminal would otherwise kill the process and leave the host captured by nobody.
            hangup: signal(SignalKind::hangup())?,
            // Sent by who takes this for another program, to open its log again for one, and would kill it as well.
            others: [signal(SignalKind::user_defined1())?, signal(SignalKind::user_defined2())?],
            had_terminal: has_terminal(),
        })
    }

    /// Waits for the next one and says what it asks for.
    pub(crate) async fn next(&mut self) -> Asked {
        let [user1, user2] = &mut self.others;
        loop {
            return tokio::select! {
                _ = self.interrupt.recv() => Asked::End("SIGINT"),
                _ = self.terminate.recv() => Asked::End("SIGTERM"),
                _ = self.quit.recv() => Asked::End("SIGQUIT"),
                // A terminal that was closed is none any more: `__tty_hangup` (drivers/tty/tty_io.c) sees to that before
                // it sends the signal.
                _ = self.hangup.recv() => match self.had_terminal && !has_terminal() {
                    true => Asked::End("SIGHUP"),
                    false => Asked::Reload,
                },
                _ = user1.recv() => continue,
                _ = user2.recv() => continue,
            };
        }
    }
}

fn has_terminal() -> bool {
    io::stdin().is_terminal() || io::stdout().is_terminal() || io::stderr().is_terminal()
}
