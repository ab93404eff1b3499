//! `oneway run`.

use std::process::ExitCode;

use oneway::config::Loaded;
use oneway::control::{InstanceLock, StateError, StatePaths};

use super::load;
use crate::args::{CaptureArgs, Global};
use crate::failure::Failure;
use crate::output::Output;
use crate::service::{self, privilege};
use crate::{engine, logging};

/// Captures and forwards until it is told to stop, then undoes every change.
pub(crate) fn run(global: &Global, args: CaptureArgs, output: Output) -> Result<ExitCode, Failure> {
    let Loaded { config, warnings, .. } = load(global, args.clone())?;
    logging::start(config.log);
    for warning in &warnings {
        tracing::warn!("{warning}");
    }
    if config.tun.fd.is_none() {
        privilege::require_net_admin()?;
    }
    let paths = StatePaths::here()?.with_control(config.control.clone());
    paths.check()?;
    if let Some(warning) = paths.warning() {
        tracing::warn!("{warning}");
    }
    // The engine takes the lock; seen from here first, its holder's control socket is not even tried.
    if let Ok(Some(pid)) = InstanceLock::held_by(&paths) {
        return Err(StateError::AlreadyRunning { pid }.into());
    }
    let confirm = config.confirm;
    let global = global.clone();
    let again = move || {
        let Loaded { config, warnings, .. } = load(&global, args.clone())?;
        for warning in &warnings {
            tracing::warn!("{warning}");
        }
        Ok(config)
    };
    service::serve(&paths, output, confirm, |cancel| engine::start(config, cancel), again)?;
    Ok(ExitCode::SUCCESS)
}
