//! `SO_MARK` on Linux: needs `CAP_NET_ADMIN`, or `CAP_NET_RAW` since 5.17 (net/core/sock.c).

use std::io;

use oneway_route::Mark;
use socket2::Socket;

use crate::EgressError;

const MECHANISM: &str = "SO_MARK";

/// Mark 0 is what every other socket has.
pub(crate) fn usable(mark: Mark) -> Result<(), EgressError> {
    if mark.0 == 0 {
        let why = "mark 0 is what every other socket has; choose another".to_owned();
        return Err(EgressError::Protect { mechanism: MECHANISM, why, source: None });
    }
    Ok(())
}

/// Sets the mark.
pub(crate) fn set(socket: &Socket, mark: Mark) -> Result<(), EgressError> {
    socket.set_mark(mark.0).map_err(|source| failed("set", source))
}

/// Reads the mark back and compares.
pub(crate) fn read_back(socket: &Socket, mark: Mark) -> Result<(), EgressError> {
    let found = socket.mark().map_err(|source| failed("read back", source))?;
    if found != mark.0 {
        let why = format!("set {:#x} but it reads back as {found:#x}", mark.0);
        return Err(EgressError::Protect { mechanism: MECHANISM, why, source: None });
    }
    Ok(())
}

fn failed(step: &str, source: io::Error) -> EgressError {
    let advice = match source.kind() {
        io::ErrorKind::PermissionDenied => "; grant CAP_NET_ADMIN or use --protect bind",
        _ => "",
    };
    EgressError::Protect {
        mechanism: MECHANISM,
        why: format!("cannot {step}: {source}{advice}"),
        source: Some(source),
    }
}
