//! Whose the changes to the host are, and in which state.

use std::net::IpAddr;

use oneway_route::{Applied, Captured, Prepared, RefuseTable, RouteError, Verified, no_hook};

use crate::error::EngineError;

/// The host's routing, changed by us or made ready by somebody else.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "there is one in a process")]
pub(super) enum Host<State> {
    /// The plan is applied, up to a state.
    Ours(Applied<State>),
    /// The TUN was handed over with its routes, and there is no right to change anything.
    Theirs,
}

impl<State> Host<State> {
    /// Undoes what was changed.
    pub(super) fn undo(self) -> Result<(), RouteError> {
        match self {
            Self::Ours(applied) => applied.undo(&mut no_hook),
            Self::Theirs => Ok(()),
        }
    }
}

/// Changes of a start that is not over. It may fail anywhere, also by a panic: dropped, they are undone.
#[derive(Debug)]
pub(super) struct Pending<State>(Option<Host<State>>);

impl<State> From<Host<State>> for Pending<State> {
    fn from(host: Host<State>) -> Self {
        Self(Some(host))
    }
}

impl<State> Pending<State> {
    /// Undoes what was changed, because of `error`, which is returned.
    pub(super) fn undo_because(mut self, error: EngineError) -> EngineError {
        match self.undo() {
            Ok(()) => error,
            Err(undo) => EngineError::NotUndone { because: Some(Box::new(error)), undo },
        }
    }

    /// Goes on with what was made meanwhile; or undoes what was changed, as that could not be made.
    pub(super) fn with<T>(self, made: Result<T, EngineError>) -> Result<(Self, T), EngineError> {
        match made {
            Ok(made) => Ok((self, made)),
            Err(error) => Err(self.undo_because(error)),
        }
    }

    /// What was changed so far.
    pub(super) fn made(&self) -> Option<&Host<State>> {
        self.0.as_ref()
    }

    /// Hands it over to whoever undoes it from now on.
    pub(super) fn hand_over(mut self) -> Option<Host<State>> {
        self.0.take()
    }

    /// Goes on to another state. What fails is undone.
    fn on<Next>(
        mut self,
        next: impl FnOnce(Applied<State>) -> Result<Applied<Next>, RouteError>,
    ) -> Result<Pending<Next>, EngineError> {
        Ok(Pending(match self.0.take() {
            Some(Host::Ours(applied)) => Some(Host::Ours(next(applied)?)),
            Some(Host::Theirs) => Some(Host::Theirs),
            None => None,
        }))
    }

    fn undo(&mut self) -> Result<(), RouteError> {
        self.0.take().map_or(Ok(()), Host::undo)
    }
}

impl<State> Drop for Pending<State> {
    fn drop(&mut self) {
        if let Err(error) = self.undo() {
            tracing::error!(%error, "not everything could be undone; run `oneway recover`");
        }
    }
}

impl Pending<Prepared> {
    /// Rehearses the capture.
    pub(super) fn verify(self, destinations: &[IpAddr]) -> Result<Pending<Verified>, EngineError> {
        self.on(|applied| applied.verify(destinations, &mut no_hook))
    }
}

impl Pending<Verified> {
    /// Begins the capture.
    pub(super) fn capture(self, destinations: &[IpAddr]) -> Result<Pending<Captured>, EngineError> {
        self.on(|applied| applied.capture(destinations, &mut no_hook))
    }
}

impl Host<Captured> {
    /// Addresses that are captured, one or more of each family.
    pub(super) fn samples(&self) -> Vec<IpAddr> {
        match self {
            Self::Ours(applied) => applied.plan().samples.clone(),
            Self::Theirs => Vec::new(),
        }
    }

    /// What is refused instead of let out.
    pub(super) fn refusals(&self) -> Option<RefuseTable> {
        match self {
            Self::Ours(applied) => applied.plan().refusals().cloned(),
            Self::Theirs => None,
        }
    }

    /// What is done about this host's resolver settings.
    pub(super) fn resolver(&self) -> Option<String> {
        match self {
            Self::Ours(applied) => applied.plan().resolver_words(),
            Self::Theirs => None,
        }
    }

    /// How many destinations the kernel was asked about, if it was.
    pub(super) fn checks(&self) -> Option<usize> {
        match self {
            Self::Ours(applied) => Some(applied.proof().checks.len()),
            Self::Theirs => None,
        }
    }
}
