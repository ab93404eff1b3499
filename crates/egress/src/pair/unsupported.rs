//! Systems without `socketpair(2)`.

use tokio::net::{TcpStream, UdpSocket};

use crate::EgressError;

pub(super) fn pair() -> Result<(TcpStream, TcpStream), EgressError> {
    Err(unsupported())
}

pub(super) fn datagram_pair() -> Result<(UdpSocket, UdpSocket), EgressError> {
    Err(unsupported())
}

fn unsupported() -> EgressError {
    EgressError::Unsupported {
        what: "answering a connection inside the program".to_owned(),
        instead: "switch the DNS server off by --dns off, and use proxies without TLS",
    }
}
