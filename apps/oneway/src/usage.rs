//! Parses the command line and says in one line what is wrong with it.

use std::ffi::OsString;
use std::process::ExitCode;

use clap::Parser;
use clap::error::ErrorKind;

use crate::args::Cli;
use crate::failure::Failure;
use crate::output::Output;

/// Why the program ends without executing a command.
#[derive(Debug)]
pub(crate) enum End {
    /// Something was asked that clap itself answers.
    Answer {
        /// What was asked for, as the key of the JSON document.
        what: &'static str,
        /// The answer.
        text: String,
        /// Where it goes.
        output: Output,
    },
    /// The command line is wrong.
    Wrong(Failure, Output),
}

impl End {
    /// Prints it and says how to exit.
    pub(crate) fn report(self) -> ExitCode {
        match self {
            Self::Answer { what, text, output } => {
                match output.print(text.trim_end(), &serde_json::json!({ what: text.trim_end() })) {
                    Ok(_) => ExitCode::SUCCESS,
                    Err(failure) => failure.report(output),
                }
            }
            Self::Wrong(failure, output) => failure.report(output),
        }
    }
}

/// Parses the command line, its first word being the program.
pub(crate) fn parse(words: impl IntoIterator<Item = OsString>) -> Result<Cli, End> {
    let words: Vec<OsString> = words.into_iter().collect();
    Cli::try_parse_from(&words).map_err(|error| {
        // Where parsing failed the option may not have been reached.
        let ours = words.iter().take_while(|word| *word != "--");
        let output = Output::new(ours.into_iter().any(|word| word == "--json"));
        match error.kind() {
            ErrorKind::DisplayHelp => End::Answer { what: "help", text: error.to_string(), output },
            ErrorKind::DisplayVersion => End::Answer { what: "version", text: error.to_string(), output },
            _ => End::Wrong(Failure::usage(one_line(&error)), output),
        }
    })
}

/// What clap says in several lines, without the usage that follows.
fn one_line(error: &clap::Error) -> String {
    if matches!(
        error.kind(),
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand | ErrorKind::MissingSubcommand
    ) {
        return "no command is given; `oneway help` lists them".to_owned();
    }
    let text = error.to_string();
    let mut line = String::new();
    for part in text.lines().map(str::trim).take_while(|part| !part.starts_with("Usage:")) {
        let part = part.strip_prefix("error: ").unwrap_or(part);
        // Which words there are stands in the help, and behind a wrong one.
        let is_list = part.starts_with("[possible values: ") && line.ends_with("but none was supplied");
        if part.is_empty() || part.starts_with("For more information") || is_list {
            continue;
        }
        if !line.is_empty() {
            line.push_str(if part.starts_with("tip:") { "; " } else { " " });
        }
        line.push_str(part);
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wrong(words: &[&str]) -> String {
        let words = std::iter::once("oneway").chain(words.iter().copied()).map(OsString::from);
        match parse(words) {
            Err(End::Wrong(failure, _)) => failure.to_string(),
            other => panic!("{other:?} is no usage error"),
        }
    }

    #[test]
    fn the_definition_is_consistent() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }

    #[test]
    fn every_option_is_in_the_readme() {
        use clap::CommandFactory;
        let mut cli = Cli::command();
        cli.build();
        let commands = cli.get_subcommands().filter(|command| !command.is_hide_set());
        for argument in commands.flat_map(clap::Command::get_arguments).filter(|a| !a.is_hide_set()) {
            let Some(long) = argument.get_long() else { continue };
            let option = match long {
                // The table has those that say how much is logged by their letters.
                "verbose" => "`-v`".to_owned(),
                "quiet" => "`-q`".to_owned(),
                "help" | "version" => continue,
                long => format!("--{long}"),
            };
            assert!(include_str!("../../../README.md").contains(&option), "{option}");
        }
    }

    #[test]
    fn errors_are_one_line() {
        assert_eq!(wrong(&[]), "no command is given; `oneway help` lists them");
        assert_eq!(
            wrong(&["run", "--stacks", "user"]),
            "unexpected argument '--stacks' found; tip: a similar argument exists: '--stack'"
        );
        assert_eq!(
            wrong(&["run", "--capture", "tunn"]),
            "invalid value 'tunn' for '--capture <tun|redirect|tproxy>': \
             \"tunn\" is no capture mode; use tun, redirect or tproxy"
        );
        assert_eq!(wrong(&["completions"]), "the following required arguments were not provided: <SHELL>");
        assert_eq!(
            wrong(&["runn"]),
            "unrecognized subcommand 'runn'; tip: a similar subcommand exists: 'run'"
        );
        assert_eq!(
            wrong(&["completions", "tcsh"]),
            "invalid value 'tcsh' for '<SHELL>' [possible values: bash, elvish, fish, powershell, zsh]; \
             tip: a similar value exists: 'zsh'"
        );
    }
}
