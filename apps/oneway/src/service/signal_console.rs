//! The console event that asks for the end.

use std::io;

use super::Asked;

/// Console events that ask for the end.
pub(crate) struct Signals;

impl Signals {
    /// Nothing to take over yet.
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self)
    }

    /// Waits for the next one and says what it asks for.
    pub(crate) async fn next(&mut self) -> Asked {
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
        Asked::End("Ctrl-C")
    }
}
