//! Calling a start off.

use tokio::sync::watch;

/// Ends a start that has not captured yet: looking up a proxy's name takes half a minute where nobody answers.
#[derive(Debug, Default)]
pub struct Cancel(watch::Sender<bool>);

impl Cancel {
    /// Calls it off, from any thread. Once it has captured that changes nothing.
    pub fn cancel(&self) {
        self.0.send_replace(true);
    }

    /// Whether it was called off.
    pub fn is_cancelled(&self) -> bool {
        *self.0.borrow()
    }

    /// Waits until it is.
    pub(crate) async fn cancelled(&self) {
        // The sender lives as long as this.
        let _ = self.0.subscribe().wait_for(|cancelled| *cancelled).await;
    }
}
