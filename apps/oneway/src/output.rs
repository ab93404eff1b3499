//! What goes to stdout. Never panics: with the reader gone there is nobody to tell, and a captured host
//! must still be put back. What a disk has no room for is a failure.

use std::fmt;
use std::io::{self, IsTerminal, Write};

use serde::Serialize;

use crate::failure::{FAILED, Failure};

/// The form of what a command prints to stdout.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Output {
    json: bool,
}

impl Output {
    pub(crate) fn new(json: bool) -> Self {
        Self { json }
    }

    /// Prints the text or, if JSON is asked for, the document. `false` if nobody reads any more.
    ///
    /// # Errors
    /// What was not written although somebody would read it.
    pub(crate) fn print(self, text: impl fmt::Display, document: &impl Serialize) -> Result<bool, Failure> {
        if self.json { self.document(document) } else { line(text) }
    }

    /// Prints the document if JSON is asked for. `false` if nobody reads any more.
    ///
    /// # Errors
    /// As [`Self::print`].
    pub(crate) fn document(self, document: &impl Serialize) -> Result<bool, Failure> {
        match serde_json::to_string(document) {
            _ if !self.json => Ok(true),
            Ok(document) => line(document),
            Err(e) => Err(Failure::new(FAILED, format_args!("cannot print the answer as JSON: {e}"))),
        }
    }

    /// Whether one JSON document is asked for.
    pub(crate) fn is_json(self) -> bool {
        self.json
    }

    /// Whether the screen may be cleared between two answers.
    pub(crate) fn is_screen(self) -> bool {
        !self.is_json() && io::stdout().is_terminal()
    }
}

fn line(text: impl fmt::Display) -> Result<bool, Failure> {
    let mut stdout = io::stdout().lock();
    match writeln!(stdout, "{text}").and_then(|()| stdout.flush()) {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        Err(e) => Err(Failure::new(
            FAILED,
            format_args!("cannot write the answer to stdout: {e}; check where it leads, and its disk"),
        )),
    }
}

/// A text from the network, safe to show on a terminal.
pub(crate) fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c }).collect()
}

/// A number of bytes for people: `1.5 MiB`.
pub(crate) fn bytes(count: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if count < 1024 {
        return format!("{count} B");
    }
    let exponent = (count.ilog2() / 10) as usize;
    format!("{:.1} {}", count as f64 / (1u64 << (10 * exponent)) as f64, UNITS[exponent - 1])
}

/// Seconds for people: `1d 2h`, `3h 4m`, `5m 6s`, `7s`.
pub(crate) fn seconds(count: u64) -> String {
    let (days, hours, minutes, seconds) = (count / 86_400, count / 3600 % 24, count / 60 % 60, count % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, _) => format!("{minutes}m {seconds}s"),
        (0, _, _) => format!("{hours}h {minutes}m"),
        _ => format!("{days}d {hours}h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_for_people() {
        assert_eq!(
            [0, 1023, 1024, 1536, u64::MAX].map(bytes),
            ["0 B", "1023 B", "1.0 KiB", "1.5 KiB", "16.0 EiB"]
        );
        assert_eq!([0, 59, 60, 3_600, 90_061].map(seconds), ["0s", "59s", "1m 0s", "1h 0m", "1d 1h"]);
    }

    #[test]
    fn control_characters_do_not_reach_the_terminal() {
        assert_eq!(printable("a\u{1b}[2Jb\n"), "a\u{fffd}[2Jb\u{fffd}");
    }
}
