//! Questions that leave as the flows of programs do, by an outbound, instead of by our own sockets.

use std::fmt::Debug;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;

use oneway_egress::Protected;
use tokio::net::TcpStream;

/// A connection to a server by way of an outbound.
#[derive(Debug)]
pub struct Carried {
    /// The connection.
    pub stream: Protected<TcpStream>,
    /// The server's first bytes, which come before what the stream holds.
    pub early: Vec<u8>,
}

/// What [`Carrier::connect`] becomes.
pub type Connecting<'a> = Pin<Box<dyn Future<Output = io::Result<Option<Carried>>> + Send + 'a>>;

/// Connects to servers as the rules say for programs.
pub trait Carrier: Debug + Send + Sync {
    /// A connection to a server; none where the rules send it out directly, so that our own sockets can ask.
    fn connect(&self, server: SocketAddr) -> Connecting<'_>;
}
