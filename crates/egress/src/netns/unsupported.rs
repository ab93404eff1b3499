//! Network namespaces do not exist here.

use std::io;

use socket2::{Domain, Protocol, Socket, Type};

use crate::EgressError;

/// A network namespace, of which there are none.
pub struct Namespace(std::convert::Infallible);

impl Namespace {
    /// There is none.
    ///
    /// # Errors
    /// Always [`EgressError::Unsupported`].
    pub fn open(_name: &str) -> Result<Self, EgressError> {
        Err(EgressError::Unsupported {
            what: "protection by a network namespace".to_owned(),
            instead: "no protected egress exists for this system in this version",
        })
    }

    /// As it was given.
    pub fn name(&self) -> &str {
        match self.0 {}
    }

    pub(crate) fn identity(&self) -> u64 {
        match self.0 {}
    }

    /// Whether the name still leads to it.
    pub fn is_current(&self) -> bool {
        match self.0 {}
    }

    /// Does something on a thread in it.
    ///
    /// # Errors
    /// There is none.
    pub fn run<T: Send + 'static>(
        &self,
        _work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, EgressError> {
        match self.0 {}
    }

    pub(crate) fn socket(&self, _: Domain, _: Type, _: Protocol) -> io::Result<Socket> {
        match self.0 {}
    }

    pub(crate) fn check(&self, _: &Socket) -> Result<(), EgressError> {
        match self.0 {}
    }
}
