//! The network namespace that an engine was started in. Whoever calls it later may be in another one.

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::panic::resume_unwind;
use std::thread;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::control::StateError;
use crate::error::EngineError;

/// Not that of `/proc/self`, which is the main thread's.
const HERE: &str = "/proc/thread-self/ns/net";

/// The namespace, kept for as long as this lives, so that its number is nobody else's.
#[derive(Debug)]
pub(crate) struct Home(File);

impl Home {
    /// That of the calling thread.
    pub(super) fn here() -> Result<Self, EngineError> {
        Ok(Self(File::open(HERE).map_err(StateError::Namespace)?))
    }

    /// Does something there: on the calling thread if that is there, else on one that moves.
    ///
    /// # Errors
    /// [`EngineError::Elsewhere`] if it may not (`CAP_SYS_ADMIN`).
    pub(crate) fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T, EngineError> {
        if self.is_here() {
            return Ok(work());
        }
        let done = thread::scope(|scope| {
            let there = thread::Builder::new().name("oneway-home".to_owned()).spawn_scoped(scope, || {
                move_into_link_name_space(self.0.as_fd(), Some(LinkNameSpaceType::Network))?;
                Ok(work())
            });
            there.map(|thread| thread.join())
        });
        match done.map_err(EngineError::Worker)? {
            Ok(done) => done.map_err(|source: rustix::io::Errno| EngineError::Elsewhere(source.into())),
            Err(panic) => resume_unwind(panic),
        }
    }

    fn is_here(&self) -> bool {
        match (fs::metadata(HERE), self.0.metadata()) {
            (Ok(here), Ok(home)) => (here.dev(), here.ino()) == (home.dev(), home.ino()),
            _ => false,
        }
    }
}
