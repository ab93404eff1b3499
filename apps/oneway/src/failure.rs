//! How a command fails: what is said and the exit code.

use std::fmt;
use std::process::ExitCode;

use oneway::config::{ConfigError, ConfigErrors};
use oneway::control::{ControlError, StateError};

use crate::logging;
use crate::output::{Output, printable};

/// The command failed.
pub(crate) const FAILED: u8 = 1;
/// Usage or configuration is wrong, and nothing was changed.
pub(crate) const USAGE: u8 = 2;
/// `check` found a problem.
pub(crate) const PROBLEM: u8 = 3;

/// Why a command failed, in one line that says what was done, what failed and what to do.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    message: String,
    code: u8,
}

impl Failure {
    /// A failure with an exit code.
    pub(crate) fn new(code: u8, message: impl fmt::Display) -> Self {
        let message = message.to_string();
        // Also what comes from a file, a server or whoever answers at the control socket.
        let lines = message.lines().map(|line| printable(line.trim())).filter(|line| !line.is_empty());
        let message = lines.collect::<Vec<_>>().join(", ");
        Self { message, code }
    }

    /// Wrong usage.
    pub(crate) fn usage(message: impl fmt::Display) -> Self {
        Self::new(USAGE, message)
    }

    /// The exit code.
    pub(crate) fn code(&self) -> u8 {
        self.code
    }

    /// Prints it and says how to exit.
    pub(crate) fn report(&self, output: Output) -> ExitCode {
        logging::say(format_args!("error: {self}"));
        // It stands on stderr, wherever stdout leads.
        let _ = output.document(&serde_json::json!({ "error": self.message, "exit_code": self.code }));
        ExitCode::from(self.code)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl From<ConfigErrors> for Failure {
    fn from(errors: ConfigErrors) -> Self {
        Self::new(USAGE, errors)
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        Self::new(USAGE, error)
    }
}

impl From<StateError> for Failure {
    fn from(error: StateError) -> Self {
        Self::new(FAILED, error)
    }
}

impl From<ControlError> for Failure {
    fn from(error: ControlError) -> Self {
        Self::new(if error.is_wrong_request() { USAGE } else { FAILED }, error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_one_line_that_does_nothing_to_a_terminal() {
        let error = ControlError::Refused("no\u{1b}[2J\n  and why\n\n".to_owned());
        assert_eq!(Failure::from(error).to_string(), "no\u{fffd}[2J, and why");
    }

    #[test]
    fn the_unit_starts_again_what_a_restart_may_mend() {
        let unit = include_str!("../../../docs/oneway.service");
        let says = |line: &str| assert!(unit.lines().any(|found| found == line), "{line}");
        says(&format!("RestartPreventExitStatus={USAGE}"));
        says("StartLimitIntervalSec=0");
        says("After=network-online.target nss-lookup.target");
        says("Wants=network-online.target");
    }
}
