//! `oneway check`.

use std::process::ExitCode;

use oneway::config::{Config, ConfigError};
use serde::Serialize;

use crate::args::{CaptureArgs, Global};
use crate::failure::{Failure, PROBLEM};
use crate::output::Output;

#[derive(Serialize)]
struct Report<'a> {
    ok: bool,
    errors: &'a [ConfigError],
    warnings: &'a [ConfigError],
}

/// Reports everything that is wrong with the configuration.
pub(crate) fn check(global: &Global, args: CaptureArgs, output: Output) -> Result<ExitCode, Failure> {
    let file = args.config.clone();
    let loaded = match args.options(global) {
        Ok(options) => Config::load(file.as_deref(), options),
        Err(error) => Err(error.into()),
    };
    let (errors, warnings) = match &loaded {
        Ok(loaded) => (&[][..], &loaded.warnings[..]),
        Err(errors) => (errors.as_slice(), &[][..]),
    };
    // A file that cannot be read was not checked.
    if let [ConfigError { origin: None, .. }] = errors {
        return Err(Failure::usage(&errors[0]));
    }
    let mut lines: Vec<String> = errors.iter().map(|error| format!("error: {error}")).collect();
    lines.extend(warnings.iter().map(|warning| format!("warning: {warning}")));
    lines.push(match errors.len() {
        0 => "ok".to_owned(),
        1 => "1 error".to_owned(),
        n => format!("{n} errors"),
    });
    output.print(lines.join("\n"), &Report { ok: errors.is_empty(), errors, warnings });
    Ok(if errors.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(PROBLEM) })
}
