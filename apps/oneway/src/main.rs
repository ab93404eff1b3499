//! `oneway`: captures the traffic of this machine and sends it out through proxies, without ever capturing its own.

#![forbid(unsafe_code)]

mod args;
mod commands;
mod demo;
mod engine;
mod exec;
mod failure;
mod lab;
mod logging;
mod output;
mod program;
mod service;
mod usage;

use std::process::ExitCode;

use args::Command;
use failure::Failure;
use output::Output;

fn main() -> ExitCode {
    let _end = logging::AtEnd;
    let cli = match usage::parse(std::env::args_os()) {
        Ok(cli) => cli,
        Err(end) => return end.report(),
    };
    let output = Output::new(cli.global.json);
    match execute(cli, output) {
        Ok(code) => code,
        Err(failure) => failure.report(output),
    }
}

fn execute(cli: args::Cli, output: Output) -> Result<ExitCode, Failure> {
    let global = cli.global;
    match cli.command {
        Command::Run(capture) => commands::run::run(&global, capture, output),
        Command::Plan(capture) => commands::plan::plan(&global, capture, output),
        Command::Check(capture) => commands::check::check(&global, capture, output),
        Command::Doctor(capture) => commands::doctor::doctor(&global, capture, output),
        Command::Why(args) => commands::why::why(&global, args, output),
        Command::Status => commands::status::status(&global, output),
        Command::Flows { watch } => commands::flows::flows(&global, watch, output),
        Command::Stop => commands::stop::stop(&global, output),
        Command::Reload => commands::reload::reload(&global, output),
        Command::Select { group, member } => commands::select::select(&global, group, member, output),
        Command::Confirm => commands::confirm::confirm(&global, output),
        Command::Recover => commands::recover::recover(output),
        Command::Exec { capture, command } => exec::exec(&global, capture, &command),
        Command::ExecInside { channel, command } => exec::inside(channel, &command),
        Command::Exclude { command } => commands::exclude::exclude(&command),
        Command::Demo => demo::demo(output),
        Command::Import { file } => commands::import::import(&file, output),
        Command::Completions { shell } => commands::completions::completions(shell, output),
        Command::Lab(args) => lab::lab(&args, output),
        Command::LabPart { listen } => lab::part(&listen),
    }
}
