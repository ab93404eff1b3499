//! How many files the engine may open.

use rustix::io::Errno;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::error::EngineError;
use crate::limits::Limits;

/// Those of a program that has nothing but an engine inside. `Limits` knows of them.
const OWN: u64 = 32;

/// How many descriptors there are for the engine: the limit, raised to the hard one, without those that are open already.
pub(super) fn descriptors() -> Result<u64, EngineError> {
    const LEAST: u64 = Limits::LEAST_DESCRIPTORS;
    let limit = getrlimit(Resource::Nofile);
    // Where it cannot be raised, the lower limit is what counts.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
    let there = getrlimit(Resource::Nofile).current.unwrap_or(1 << 20);
    if there < LEAST {
        return Err(EngineError::FewDescriptors { there, open: None, least: LEAST });
    }
    let open = match std::fs::read_dir("/proc/self/fd") {
        Ok(open) => u64::try_from(open.count()).unwrap_or(there),
        // There is not even one to look with.
        Err(error) if error.raw_os_error() == Some(Errno::MFILE.raw_os_error()) => there,
        Err(_) => 0,
    };
    let left = there.saturating_sub(open.saturating_sub(OWN));
    if left < LEAST {
        return Err(EngineError::FewDescriptors { there, open: Some(open), least: LEAST - OWN });
    }
    Ok(left)
}
