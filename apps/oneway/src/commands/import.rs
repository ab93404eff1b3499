//! `oneway import`.

use std::path::Path;
use std::process::ExitCode;

use oneway_file::limit;

use crate::failure::{Failure, USAGE};
use crate::logging;
use crate::output::{Output, printable};

/// Prints what a configuration of Clash amounts to. What it lacks goes to stderr, too.
pub(crate) fn import(file: &Path, output: Output) -> Result<ExitCode, Failure> {
    let text = oneway_file::read_named_text(file, limit::CONFIGURATION).map_err(|e| {
        Failure::new(
            USAGE,
            format!("cannot read {file:?}: {e}; check the path, its permissions and that it is a text"),
        )
    })?;
    let imported = oneway::import::clash(file, &text)?;
    for (word, notes) in [("warning", &imported.warnings), ("note", &imported.notes)] {
        for note in notes {
            logging::say(format_args!("{word}: {}", printable(&note.to_string())));
        }
    }
    let document = serde_json::json!({
        "toml": imported.toml, "warnings": imported.warnings, "notes": imported.notes,
    });
    output.print(imported.toml.trim_end(), &document)?;
    Ok(ExitCode::SUCCESS)
}
