//! Files with one entry a line.

use crate::error::ParseError;

/// The lines that are no comments and not empty, with their numbers from 1.
pub(crate) fn lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    text.lines().enumerate().filter_map(|(index, line)| {
        let trimmed = line.trim_start();
        let skip = trimmed.is_empty() || trimmed.starts_with('#') || trimmed.starts_with("//");
        (!skip).then_some((index + 1, line))
    })
}

/// The text of a file.
///
/// # Errors
/// Where it stops being one.
pub fn utf8(bytes: &[u8]) -> Result<&str, ParseError> {
    std::str::from_utf8(bytes).map_err(|error| {
        let before = bytes.get(..error.valid_up_to()).unwrap_or_default();
        let line_start = before.iter().rposition(|byte| *byte == b'\n').map_or(0, |newline| newline + 1);
        let line = 1 + before.iter().filter(|byte| **byte == b'\n').count();
        let column = before.get(line_start..).map_or(0, |part| String::from_utf8_lossy(part).chars().count());
        ParseError { line, column: column + 1, message: "this is not UTF-8; is the file a text?".to_owned() }
    })
}
