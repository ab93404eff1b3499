//! `oneway completions`.

use std::process::ExitCode;

use clap::CommandFactory;
use clap_complete::Shell;

use crate::args::Cli;
use crate::failure::Failure;
use crate::output::Output;

/// Prints the completion script for a shell.
pub(crate) fn completions(shell: Shell, output: Output) -> Result<ExitCode, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "oneway", &mut script);
    let script = String::from_utf8_lossy(&script);
    let script = script.trim_end();
    output.print(script, &serde_json::json!({ "shell": shell.to_string(), "script": script }))?;
    Ok(ExitCode::SUCCESS)
}
