//! Makes the calling process a program that is not captured.

use std::time::{Duration, Instant};

use oneway_route::{Cgroup, CgroupError, RouteError, instance_runs};

use crate::error::EngineError;

/// How long a running instance may take to leave a new control group out.
const PATIENCE: Duration = Duration::from_secs(5);

/// Moves the calling process into the control group of programs that are not captured in this network namespace, and waits
/// until a running instance, if there is one, leaves that out. An instance that starts later does so from its start.
///
/// Sockets that the process has made before are captured as before.
///
/// # Errors
/// [`EngineError::Route`] for want of rights or of control groups, [`EngineError::NotExcluded`] when the running instance
/// does not leave the group out.
pub fn exclude_this_process() -> Result<(), EngineError> {
    let group = enter().map_err(RouteError::from)?;
    let end = Instant::now() + PATIENCE;
    while instance_runs() && !group.is_excluded()? {
        if Instant::now() >= end {
            return Err(EngineError::NotExcluded { group: group.path });
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

/// An instance that stops removes the group when it is empty, perhaps between our making and our entering it.
fn enter() -> Result<Cgroup, CgroupError> {
    let mut tries = 0;
    loop {
        let group = Cgroup::make_ours()?;
        match group.enter() {
            Err(CgroupError::Step { source, .. })
                if matches!(source.kind(), std::io::ErrorKind::NotFound) && tries < 10 =>
            {
                tries += 1;
            }
            outcome => return outcome.map(|()| group),
        }
    }
}
