//! Systems without `socketpair(2)`.

use tokio::net::TcpStream;

use crate::EgressError;

pub(super) fn pair() -> Result<(TcpStream, TcpStream), EgressError> {
    Err(EgressError::Unsupported {
        what: "answering a connection inside the program".to_owned(),
        instead: "switch the DNS server off by --dns off",
    })
}
