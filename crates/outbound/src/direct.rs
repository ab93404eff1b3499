//! Without a proxy.

use std::net::SocketAddr;

use oneway_egress::Egress;

use crate::{Connected, DialError};

/// Connects to the address itself. There is no time limit: the client's own clock decides, and when it gives
/// up the future is dropped.
pub(crate) async fn connect(egress: &Egress, dst: SocketAddr) -> Result<Connected, DialError> {
    match egress.connect_tcp(dst).await {
        Ok(stream) => Ok(Connected { stream, early: Vec::new() }),
        Err(source) => Err(DialError::Direct { dst, source }),
    }
}
