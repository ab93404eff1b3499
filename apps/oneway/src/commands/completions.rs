//! `oneway completions`.

use std::process::ExitCode;

use clap::{Command, CommandFactory};
use clap_complete::Shell;

use crate::args::Cli;
use crate::failure::Failure;
use crate::output::Output;

/// Prints the completion script for a shell.
pub(crate) fn completions(shell: Shell, output: Output) -> Result<ExitCode, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut offered(&Cli::command()), "oneway", &mut script);
    let script = String::from_utf8_lossy(&script);
    let script = script.trim_end();
    output.print(script, &serde_json::json!({ "shell": shell.to_string(), "script": script }))?;
    Ok(ExitCode::SUCCESS)
}

/// The command with what its help shows alone: `clap_complete` offers what is hidden too, and clap lets nothing be taken out.
fn offered(command: &Command) -> Command {
    let mut shown = Command::new(command.get_name().to_owned())
        .args(command.get_arguments().filter(|argument| !argument.is_hide_set()))
        .subcommands(command.get_subcommands().filter(|command| !command.is_hide_set()).map(offered));
    if let Some(about) = command.get_about() {
        shown = shown.about(about.clone());
    }
    if let Some(version) = command.get_version() {
        shown = shown.version(version.to_owned());
    }
    shown
}
