//! `SO_BINDTODEVICE` on Linux: needs no privilege on an unbound socket since 5.7 (net/core/sock.c).

use std::io;

use oneway_route::IfIndex;
use socket2::Socket;

use crate::EgressError;

const MECHANISM: &str = "SO_BINDTODEVICE";

/// Always: Linux has it since 2.1.
pub(crate) fn usable() -> Result<(), EgressError> {
    Ok(())
}

/// Binds to the device.
pub(crate) fn set(socket: &Socket, name: &str) -> Result<(), EgressError> {
    socket.bind_device(Some(name.as_bytes())).map_err(|source| failed("bind to", name, source))
}

/// Reads the device back. A name that has come to mean another device (deleted and created
/// anew) is refused: the routes that were checked belong to the old one.
pub(crate) fn read_back(socket: &Socket, index: IfIndex, name: &str) -> Result<(), EgressError> {
    let found = socket.device().map_err(|source| failed("read back", name, source))?;
    if found.as_deref() != Some(name.as_bytes()) {
        let found =
            found.map_or_else(|| "none".to_owned(), |found| String::from_utf8_lossy(&found).into_owned());
        return Err(refused(format!("bound to {name} but it reads back as {found}")));
    }
    let now = rustix::net::netdevice::name_to_index(socket, name)
        .map_err(|errno| failed("find the index of", name, errno.into()))?;
    if now != index.0 {
        return Err(refused(format!(
            "{name} was interface {} and is {now} now; the uplink must be chosen again",
            index.0
        )));
    }
    Ok(())
}

fn refused(why: String) -> EgressError {
    EgressError::Protect { mechanism: MECHANISM, why, source: None }
}

fn failed(step: &str, name: &str, source: io::Error) -> EgressError {
    let why = format!("cannot {step} {name}: {source}; see whether the interface exists");
    EgressError::Protect { mechanism: MECHANISM, why, source: Some(source) }
}
