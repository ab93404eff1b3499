//! A bus that sends whatever a fuzz target wants.

use std::io::Write;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use super::{Bus, Values};

/// More than any input takes.
const LIMIT: Duration = Duration::from_secs(60);

/// Takes what a bus says after a call until it has said an answer, and that apart, once as each thing that is asked for.
/// Says whether there was an answer.
pub fn answer(said: &[u8]) -> bool {
    let Ok((stream, mut bus)) = UnixStream::pair() else { return false };
    if bus.write_all(said).is_err() {
        return false;
    }
    drop(bus);
    let mut bus = Bus { stream, deadline: Instant::now() + LIMIT, serial: 1 };
    while let Ok(message) = bus.message() {
        let Some(answer) = message else { continue };
        if let Ok(values) = answer {
            take_apart(&values);
        }
        return true;
    }
    false
}

fn take_apart(values: &Values) {
    let again = || Values { bytes: values.bytes.clone(), at: 0, is_big: values.is_big };
    drop(again().string());
    drop(again().u32());
    let mut servers = again();
    drop(servers.signature());
    drop(servers.array(8, |server| Ok((server.u32()?, server.bytes()?))));
    let mut domains = again();
    drop(domains.signature());
    drop(domains.array(8, |domain| Ok((domain.string()?, domain.u32()?))));
    drop(again().array(1, |_| Ok(())));
}
