//! Operating systems without Unix sockets.

use std::future::Future;
use std::path::{Path, PathBuf};

use super::{ControlError, ControlReply, ControlRequest};

/// The listening end of the control socket.
#[derive(Debug)]
pub struct ControlServer(std::convert::Infallible);

impl ControlServer {
    /// Not available here.
    ///
    /// # Errors
    /// Always [`ControlError::Unsupported`].
    pub fn bind(_: &Path) -> Result<Self, ControlError> {
        Err(ControlError::Unsupported)
    }

    /// Never called, as there is no server.
    pub async fn serve<H, F>(&self, _: H)
    where
        H: Fn(ControlRequest) -> F + Send + Sync + 'static,
        F: Future<Output = ControlReply> + Send + 'static,
    {
        match self.0 {}
    }

    /// Never called, as there is no server.
    pub async fn answered(&self) {
        match self.0 {}
    }

    /// Nothing to remove.
    pub fn remove_abandoned(_: &Path) {}

    /// Never called, as there is no server.
    pub fn remove(&self) {
        match self.0 {}
    }
}

/// The asking end of the control socket.
#[derive(Debug)]
pub struct ControlClient(std::convert::Infallible);

impl ControlClient {
    /// Not available here.
    ///
    /// # Errors
    /// Always [`ControlError::Unsupported`].
    pub fn connect(_: &[PathBuf]) -> Result<Self, ControlError> {
        Err(ControlError::Unsupported)
    }

    /// Never called, as there is no client.
    pub fn server(&self) -> (Option<u32>, &Path) {
        match self.0 {}
    }

    /// Never called, as there is no client.
    ///
    /// # Errors
    /// None.
    pub fn request(&mut self, _: &ControlRequest) -> Result<ControlReply, ControlError> {
        match self.0 {}
    }
}
