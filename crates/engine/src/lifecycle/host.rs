//! Whose the changes to the host are, and in which state.

use std::net::IpAddr;

use oneway_route::{Applied, Captured, Prepared, RefuseTable, Verified, no_hook};

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
    pub(super) fn undo(self) -> Result<(), EngineError> {
        match self {
            Self::Ours(applied) => Ok(applied.undo(&mut no_hook)?),
            Self::Theirs => Ok(()),
        }
    }

    /// Undoes what was changed, because of `error`, which is returned.
    pub(super) fn undo_because(self, error: EngineError) -> EngineError {
        if let Err(undo) = self.undo() {
            tracing::error!(error = %undo, "what was changed could not be undone; run `oneway recover`");
        }
        error
    }
}

impl Host<Prepared> {
    /// Rehearses the capture.
    pub(super) fn verify(self, destinations: &[IpAddr]) -> Result<Host<Verified>, EngineError> {
        Ok(match self {
            Self::Ours(applied) => Host::Ours(applied.verify(destinations, &mut no_hook)?),
            Self::Theirs => Host::Theirs,
        })
    }
}

impl Host<Verified> {
    /// Begins the capture.
    pub(super) fn capture(self, destinations: &[IpAddr]) -> Result<Host<Captured>, EngineError> {
        Ok(match self {
            Self::Ours(applied) => Host::Ours(applied.capture(destinations, &mut no_hook)?),
            Self::Theirs => Host::Theirs,
        })
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
