//! Whose a listening Unix socket is, by `NETLINK_SOCK_DIAG` (sock_diag(7)): without a connection, which nobody may accept.

use super::netlink::{Message, Netlink, attributes, raw_request};
use crate::error::RouteError;

const SOCK_DIAG_BY_FAMILY: u16 = 20;
const NLM_F_REQUEST_DUMP: u16 = 0x301;
const AF_UNIX: u8 = 1;
/// A bit by the number of `TCP_LISTEN` (`include/net/tcp_states.h`), which Unix sockets have, too.
const LISTEN: u32 = 1 << 10;
/// `UDIAG_SHOW_NAME`, `UDIAG_SHOW_UID` (Linux 5.3) of `include/uapi/linux/unix_diag.h`.
const SHOW: u32 = 0x01 | 0x40;
const UNIX_DIAG_NAME: u16 = 0;
const UNIX_DIAG_UID: u16 = 7;
/// `struct unix_diag_msg`
const ANSWER: usize = 16;

/// The user who listens at an abstract name in the calling thread's network namespace; `None` where nobody does, or the kernel
/// does not tell.
pub(super) fn owner(name: &[u8]) -> Result<Option<u32>, RouteError> {
    let found = Netlink::sock_diag()?
        .dump_bytes("list the listening Unix sockets", request, |message| Ok(uid(&message, name)));
    match found {
        Ok(found) => Ok(found.first().copied()),
        Err(RouteError::Refused { .. }) => Ok(None),
        Err(e) => Err(e),
    }
}

/// The user of a socket with this abstract name.
pub(super) fn uid(message: &Message<'_>, name: &[u8]) -> Option<u32> {
    let rest = message.payload.get(ANSWER..)?;
    let attribute = |wanted| attributes(rest).find(|(kind, _)| *kind == wanted).map(|(_, value)| value);
    if attribute(UNIX_DIAG_NAME)?.strip_prefix(&[0])? != name {
        return None;
    }
    attribute(UNIX_DIAG_UID)?.first_chunk().map(|uid| u32::from_ne_bytes(*uid))
}

/// A `struct unix_diag_req` for all that listen.
fn request(sequence: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend([AF_UNIX, 0, 0, 0]);
    bytes.extend(LISTEN.to_ne_bytes());
    bytes.extend(0_u32.to_ne_bytes());
    bytes.extend(SHOW.to_ne_bytes());
    // Whatever its cookie.
    bytes.extend([0xff; 8]);
    raw_request(SOCK_DIAG_BY_FAMILY, NLM_F_REQUEST_DUMP, sequence, &bytes)
}
