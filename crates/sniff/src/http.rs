//! HTTP: the `Host` of a request (RFC 9112, 3.2).

use crate::{MOST, Sniffed, host};

/// The longest name of a method that is known, and some more: `VERSION-CONTROL`.
const LONGEST_METHOD: usize = 20;

/// A stream that begins with an upper-case letter.
pub(crate) fn request(bytes: &[u8]) -> Sniffed {
    let unless_full = if bytes.len() >= MOST { Sniffed::Nothing } else { Sniffed::More };
    let method = bytes.iter().take(LONGEST_METHOD).position(|byte| !is_method(*byte));
    match method.and_then(|at| bytes.get(at)) {
        Some(b' ') => {}
        Some(_) => return Sniffed::Nothing,
        None if bytes.len() < LONGEST_METHOD => return Sniffed::More,
        None => return Sniffed::Nothing,
    }
    let mut lines = Lines(bytes);
    match lines.next() {
        Some(line) if is_request_line(line) => {}
        Some(_) => return Sniffed::Nothing,
        None => return unless_full,
    }
    while let Some(line) = lines.next() {
        // The end of the fields.
        if line.is_empty() {
            return Sniffed::Nothing;
        }
        let Some(colon) = line.iter().position(|byte| *byte == b':') else { return Sniffed::Nothing };
        let (field, value) = line.split_at(colon);
        if field.eq_ignore_ascii_case(b"host") {
            let value = value.get(1..).unwrap_or_default().trim_ascii();
            return host::name(without_port(value)).map_or(Sniffed::Nothing, Sniffed::Name);
        }
    }
    unless_full
}

fn is_method(byte: u8) -> bool {
    byte.is_ascii_uppercase() || byte == b'-'
}

/// `GET /path HTTP/1.1`; other versions do not look like this.
fn is_request_line(line: &[u8]) -> bool {
    line.len() > b" HTTP/1.1".len()
        && line.strip_suffix(b"0").or(line.strip_suffix(b"1")).is_some_and(|l| l.ends_with(b" HTTP/1."))
}

fn without_port(value: &[u8]) -> &[u8] {
    let Some(colon) = value.iter().rposition(|byte| *byte == b':') else { return value };
    let (name, port) = value.split_at(colon);
    if port.iter().skip(1).all(u8::is_ascii_digit) { name } else { value }
}

/// The lines whose ends have come.
struct Lines<'a>(&'a [u8]);

impl<'a> Lines<'a> {
    fn next(&mut self) -> Option<&'a [u8]> {
        let end = self.0.iter().position(|byte| *byte == b'\n')?;
        let (line, rest) = self.0.split_at(end);
        self.0 = rest.get(1..).unwrap_or_default();
        Some(line.strip_suffix(b"\r").unwrap_or(line))
    }
}
