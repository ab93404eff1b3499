//! What is wrong with a configuration, and where.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use serde::Serialize;

/// The place that a setting was read from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A position in a text file.
    File {
        /// The file, as it was named by the user.
        file: Arc<Path>,
        /// Line, counted from 1.
        line: usize,
        /// Column in characters, counted from 1.
        column: usize,
    },
    /// A command-line option, with its dashes: `--mtu`.
    Option(&'static str),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { file, line, column } => write!(f, "{}:{line}:{column}", file.display()),
            Self::Option(name) => f.write_str(name),
        }
    }
}

/// One thing that is wrong with the configuration. Displayed on a single line: `oneway.toml:3:8: …`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}{message}", At(.origin.as_ref()))]
pub struct ConfigError {
    /// Where it was found; `None` when the file could not be read at all.
    pub origin: Option<Origin>,
    /// What is wrong and what would be right, without the place and without a line break.
    pub message: String,
}

/// Prints a place and the colon behind it, or nothing.
struct At<'a>(Option<&'a Origin>);

impl fmt::Display for At<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.map_or(Ok(()), |origin| write!(f, "{origin}: "))
    }
}

impl ConfigError {
    /// An error at a known place. Line breaks in the message become `, ` so that it stays on one line.
    pub fn new(origin: Option<Origin>, message: impl Into<String>) -> Self {
        let message = message.into();
        let message = if message.contains('\n') {
            message.lines().map(str::trim).collect::<Vec<_>>().join(", ")
        } else {
            message
        };
        Self { origin, message }
    }
}

impl Serialize for ConfigError {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeMap;
        let mut map = serializer.serialize_map(None)?;
        match &self.origin {
            Some(Origin::File { file, line, column }) => {
                map.serialize_entry("file", &file.display().to_string())?;
                map.serialize_entry("line", line)?;
                map.serialize_entry("column", column)?;
            }
            Some(Origin::Option(name)) => map.serialize_entry("option", name)?,
            None => {}
        }
        map.serialize_entry("message", &self.message)?;
        map.end()
    }
}

/// Everything that is wrong with the configuration, in the order of the file; never empty.
///
/// Displays the first error, and how many more there are, on a single line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigErrors(Vec<ConfigError>);

impl ConfigErrors {
    /// Sorts the errors by place. `None` if there are none.
    pub fn collect(mut errors: Vec<ConfigError>) -> Option<Self> {
        // Options come after the file; the sort is stable, so they keep their order.
        errors.sort_by(|a, b| position(a).cmp(&position(b)));
        (!errors.is_empty()).then_some(Self(errors))
    }

    /// The errors, at least one.
    pub fn as_slice(&self) -> &[ConfigError] {
        &self.0
    }
}

fn position(error: &ConfigError) -> (bool, Option<&Path>, usize, usize) {
    match &error.origin {
        Some(Origin::File { file, line, column }) => (false, Some(file), *line, *column),
        Some(Origin::Option(_)) => (true, None, 0, 0),
        None => (false, None, 0, 0),
    }
}

impl From<ConfigError> for ConfigErrors {
    fn from(error: ConfigError) -> Self {
        Self(vec![error])
    }
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.as_slice() {
            [] => Ok(()),
            [only] => only.fmt(f),
            [first, rest @ ..] => write!(f, "{first} (and {} more; `oneway check` lists all)", rest.len()),
        }
    }
}

impl std::error::Error for ConfigErrors {}
