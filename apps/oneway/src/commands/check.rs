//! `oneway check`.

use std::process::ExitCode;

use oneway::config::{Config, ConfigError};
use serde::Serialize;

use crate::args::{CaptureArgs, Global};
use crate::engine;
use crate::failure::{Failure, PROBLEM};
use crate::output::Output;

#[derive(Serialize)]
struct Report {
    ok: bool,
    errors: Vec<ConfigError>,
    warnings: Vec<ConfigError>,
}

/// Reports everything that is wrong with the configuration, and every loop that it would make on this host.
pub(crate) fn check(global: &Global, args: CaptureArgs, output: Output) -> Result<ExitCode, Failure> {
    let file = args.config.clone();
    let loaded = match args.options(global) {
        Ok(options) => Config::load(file.as_deref(), options),
        Err(error) => Err(error.into()),
    };
    let (errors, warnings) = match loaded {
        Ok(mut loaded) => {
            let (errors, about_rules) = engine::check(&loaded);
            loaded.warnings.extend(about_rules);
            (errors, loaded.warnings)
        }
        Err(errors) => match errors.as_slice() {
            // A file that cannot be read was not checked.
            [unread @ ConfigError { origin: None, .. }] => return Err(Failure::usage(unread)),
            all => (all.to_vec(), Vec::new()),
        },
    };
    let mut lines: Vec<String> = errors.iter().map(|error| format!("error: {error}")).collect();
    lines.extend(warnings.iter().map(|warning| format!("warning: {warning}")));
    lines.push(match errors.len() {
        0 => "ok".to_owned(),
        1 => "1 error".to_owned(),
        n => format!("{n} errors"),
    });
    let ok = errors.is_empty();
    output.print(lines.join("\n"), &Report { ok, errors, warnings })?;
    Ok(if ok { ExitCode::SUCCESS } else { ExitCode::from(PROBLEM) })
}
