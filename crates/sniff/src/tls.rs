//! TLS: the server's name in a ClientHello (RFC 8446, 4.1.2; RFC 6066, 3).

use crate::reader::{Reader, Stop};
use crate::{MOST, Sniffed, host};

/// The content type of a record with handshake messages (RFC 8446, 5.1).
pub(crate) const HANDSHAKE: u8 = 22;
/// The longest fragment of a record that is not encrypted.
const LONGEST_FRAGMENT: usize = 1 << 14;
const CLIENT_HELLO: usize = 1;
const SERVER_NAME: usize = 0;
const HOST_NAME: usize = 0;

/// A stream that begins with a record of handshake messages. The message may be spread over several (RFC 8446, 5.1).
pub(crate) fn records(bytes: &[u8]) -> Sniffed {
    let mut reader = Reader::growing(bytes);
    let mut message = Vec::new();
    let stopped = loop {
        match fragment(&mut reader) {
            Ok(fragment) => message.extend_from_slice(fragment),
            Err(stop) => break stop,
        }
    };
    match (client_hello(&message), stopped) {
        // Nothing that follows can complete it.
        (Sniffed::More, Stop::Wrong) => Sniffed::Nothing,
        (Sniffed::More, _) if bytes.len() >= MOST => Sniffed::Nothing,
        (found, _) => found,
    }
}

/// The next fragment, as far as it has come.
fn fragment<'a>(reader: &mut Reader<'a>) -> Result<&'a [u8], Stop> {
    if reader.number(1)? != usize::from(HANDSHAKE) {
        return Err(Stop::Wrong);
    }
    // 3.1 in the first record of many clients, 3.3 in others.
    if reader.number(1)? != 3 {
        return Err(Stop::Wrong);
    }
    reader.number(1)?;
    let mut lookahead = *reader;
    let len = lookahead.number(2)?;
    if len == 0 || len > LONGEST_FRAGMENT {
        return Err(Stop::Wrong);
    }
    let fragment = reader.vector(2)?.rest();
    if fragment.is_empty() { Err(Stop::More) } else { Ok(fragment) }
}

/// A handshake message that begins here, as far as it has come.
pub(crate) fn client_hello(message: &[u8]) -> Sniffed {
    match server_name(message) {
        Ok(Some(name)) => Sniffed::Name(name),
        Ok(None) | Err(Stop::Wrong) => Sniffed::Nothing,
        Err(Stop::More) => Sniffed::More,
    }
}

fn server_name(message: &[u8]) -> Result<Option<String>, Stop> {
    let mut reader = Reader::growing(message);
    if reader.number(1)? != CLIENT_HELLO {
        return Err(Stop::Wrong);
    }
    let mut hello = reader.vector(3)?;
    let _legacy_version = hello.take(2)?;
    let _random = hello.take(32)?;
    skip(&mut hello, 1)?;
    skip(&mut hello, 2)?;
    skip(&mut hello, 1)?;
    if hello.is_empty() {
        // Before TLS 1.2 there need not be any extensions; what has not come yet may be some.
        return if hello.number(1) == Err(Stop::More) { Err(Stop::More) } else { Ok(None) };
    }
    let mut extensions = hello.vector(2)?;
    loop {
        // GREASE (RFC 8701) and all else that is not known is passed over.
        let kind = match extensions.number(2) {
            Ok(kind) => kind,
            Err(Stop::Wrong) if extensions.is_empty() => return Ok(None),
            Err(stop) => return Err(stop),
        };
        if kind != SERVER_NAME {
            skip(&mut extensions, 2)?;
            continue;
        }
        let mut list = extensions.vector(2)?.vector(2)?;
        if list.number(1)? != HOST_NAME {
            return Ok(None);
        }
        let mut name = list.vector(2)?;
        let mut whole = name;
        // Its end may be missing.
        while !whole.is_empty() {
            whole.take(1)?;
        }
        if whole.take(1) == Err(Stop::More) {
            return Err(Stop::More);
        }
        let len = name.rest().len();
        return Ok(host::name(name.take(len)?));
    }
}

/// Passes over a vector, all of it.
fn skip(reader: &mut Reader<'_>, bytes: usize) -> Result<(), Stop> {
    let len = reader.number(bytes)?;
    reader.take(len).map(drop)
}
