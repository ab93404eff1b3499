//! The one thing that rules need of YAML: the list of strings under a key at the top, each with its place.

use std::borrow::Cow;

use saphyr_parser::{Event, Marker, Parser, ScalarStyle, ScanError};

use crate::MAX_ENTRIES;
use crate::error::ParseError;

/// An entry of the list.
pub(crate) struct Item<'a> {
    pub(crate) text: Cow<'a, str>,
    pub(crate) line: usize,
    /// Characters of the line before the text.
    pub(crate) before: usize,
}

/// Under which keys the list may stand, as in mihomo.
const KEYS: [&str; 2] = ["payload", "rules"];

/// Calls `each` with the entries of the list, in order.
pub(crate) fn list<'a>(text: &'a str, mut each: impl FnMut(Item<'a>)) -> Result<(), ParseError> {
    let mut parser = Parser::new_from_str(text.strip_prefix('\u{feff}').unwrap_or(text));
    let mut place = Place::Before;
    let mut count = 0usize;
    let mut found = false;
    let mut depth = 0usize;
    while let Some(next) = parser.next_event() {
        let (event, span) = next.map_err(|error| broken(&error))?;
        let mark = span.start;
        place = match (place, event) {
            (Place::Before, Event::MappingStart(..)) => Place::Key,
            (Place::Before, Event::SequenceStart(..) | Event::Scalar(..) | Event::Alias(_)) => {
                return Err(error(&mark, "the list is expected under the key payload"));
            }
            (Place::Key, Event::Scalar(key, ..)) => {
                if KEYS.contains(&&*key) {
                    Place::Value
                } else {
                    Place::Skip
                }
            }
            (Place::Key, Event::MappingEnd) => Place::Before,
            (Place::Key, _) => return Err(error(&mark, "a key is expected here")),
            (Place::Value, Event::SequenceStart(..)) => {
                found = true;
                Place::List
            }
            // `payload:` with nothing behind it is an empty list.
            (Place::Value, Event::Scalar(value, ScalarStyle::Plain, ..)) if is_null(&value) => {
                found = true;
                Place::Key
            }
            (Place::Value, _) => return Err(error(&mark, "a list is expected here")),
            (Place::List, Event::SequenceEnd) => Place::Key,
            (Place::List, Event::Scalar(text, style, ..)) => {
                count += 1;
                if count > MAX_ENTRIES {
                    return Err(error(&mark, &format!("the list has more than {MAX_ENTRIES} entries")));
                }
                let quote =
                    usize::from(matches!(style, ScalarStyle::SingleQuoted | ScalarStyle::DoubleQuoted));
                if !text.trim().is_empty() {
                    each(Item { text, line: mark.line(), before: mark.col() + quote });
                }
                Place::List
            }
            (Place::List, _) => return Err(error(&mark, "a string is expected here")),
            (Place::Skip, Event::SequenceStart(..) | Event::MappingStart(..)) => {
                depth += 1;
                Place::Skip
            }
            (Place::Skip, Event::SequenceEnd | Event::MappingEnd) => {
                depth = depth.saturating_sub(1);
                if depth == 0 { Place::Key } else { Place::Skip }
            }
            (Place::Skip, Event::Scalar(..) | Event::Alias(_)) if depth == 0 => Place::Key,
            (place, _) => place,
        };
    }
    if found {
        return Ok(());
    }
    Err(ParseError {
        line: 1,
        column: 1,
        message: "there is no key payload with a list in this file".to_owned(),
    })
}

/// Where in the document an event is.
#[derive(Clone, Copy)]
enum Place {
    Before,
    Key,
    Value,
    List,
    /// In the value of another key.
    Skip,
}

fn is_null(value: &str) -> bool {
    matches!(value, "" | "~" | "null" | "Null" | "NULL")
}

fn error(mark: &Marker, message: &str) -> ParseError {
    ParseError { line: mark.line(), column: mark.col() + 1, message: message.to_owned() }
}

fn broken(scan: &ScanError) -> ParseError {
    error(scan.marker(), &format!("this is no YAML: {}", scan.info()))
}
