//! DNS over dedicated QUIC connections (RFC 9250): each question on a stream of its own.

mod socket;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use oneway_egress::Protected;
use oneway_tls::QuicClient;
use quinn::{
    ClientConfig, Connection, ConnectionError, Endpoint, IdleTimeout, ReadToEndError, RecvStream,
    TokioRuntime, TransportConfig, VarInt,
};
use tokio::net::UdpSocket;

use socket::Socket;

/// A connection that nothing has been asked on for so long is given up (RFC 9250, 5.5.1).
const IDLE: Duration = Duration::from_secs(60);

/// The longest message, behind its length.
const MOST: usize = 2 + 65_535;

/// What a server may send before it is read: the longest answers to sixteen questions.
const WINDOW: u32 = 1 << 20;

/// RFC 9250, 4.3.
const NO_ERROR: VarInt = VarInt::from_u32(0);
const PROTOCOL_ERROR: VarInt = VarInt::from_u32(2);
const REQUEST_CANCELLED: VarInt = VarInt::from_u32(3);

/// A connection. Cheap to clone.
#[derive(Clone)]
pub(super) struct Pipe(Connection);

impl Pipe {
    /// `socket` is connected to `server`.
    pub(super) async fn new(
        socket: Protected<UdpSocket>,
        server: SocketAddr,
        client: &QuicClient,
    ) -> io::Result<Self> {
        let socket = Arc::new(Socket::new(socket, server));
        let endpoint = Endpoint::new_with_abstract_socket(
            client.endpoint(),
            None,
            Arc::clone(&socket) as _,
            Arc::new(TokioRuntime),
        )?;
        let mut config = ClientConfig::new(client.crypto());
        config.transport_config(Arc::new(transport()?));
        // The name that counts is the client's own.
        let connecting = endpoint.connect_with(config, server, "server").map_err(io::Error::other)?;
        let connection = tokio::select! {
            made = connecting => made.map_err(failed)?,
            error = socket.error() => return Err(error),
        };
        Ok(Self(connection))
    }

    pub(super) fn is_open(&self) -> bool {
        self.0.close_reason().is_none()
    }

    pub(super) fn is(&self, other: &Self) -> bool {
        self.0.stable_id() == other.0.stable_id()
    }

    pub(super) async fn ask(&self, bytes: &[u8]) -> io::Result<Vec<u8>> {
        let len = u16::try_from(bytes.len()).map_err(io::Error::other)?;
        let Some((id, rest)) = bytes.split_first_chunk::<2>() else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        // The number is the stream's matter (RFC 9250, 4.2.1).
        let framed = [&len.to_be_bytes(), &[0, 0], rest].concat();
        let (mut send, receive) = self.0.open_bi().await.map_err(failed)?;
        let mut waiting = Waiting(receive);
        send.write_all(&framed).await.map_err(io::Error::other)?;
        // Whoever asks says that this is all (RFC 9250, 4.2).
        send.finish().map_err(io::Error::other)?;
        let answer = match waiting.0.read_to_end(MOST).await {
            Ok(answer) => answer,
            Err(ReadToEndError::TooLong) => return Err(self.give_up("a stream with more than one answer")),
            Err(ReadToEndError::Read(error)) => return Err(io::Error::other(error)),
        };
        let Some((len, answer)) = answer.split_first_chunk::<2>() else {
            return Err(self.give_up("a stream that ends before its answer"));
        };
        match answer.split_first_chunk::<2>() {
            Some((&[0, 0], rest)) if answer.len() == usize::from(u16::from_be_bytes(*len)) => {
                Ok([id.as_slice(), rest].concat())
            }
            _ => Err(self.give_up("an answer of another length or with a number")),
        }
    }

    /// RFC 9250, 4.3.3.
    fn give_up(&self, why: &str) -> io::Error {
        self.0.close(PROTOCOL_ERROR, why.as_bytes());
        io::Error::new(io::ErrorKind::InvalidData, format!("it sends {why}"))
    }
}

/// The answer's side of a stream. The server is told when nobody waits any more (RFC 9250, 4.3.1).
struct Waiting(RecvStream);

impl Drop for Waiting {
    fn drop(&mut self) {
        // One that has been read to its end is gone already.
        let _ = self.0.stop(REQUEST_CANCELLED);
    }
}

fn transport() -> io::Result<TransportConfig> {
    let mut transport = TransportConfig::default();
    transport
        .max_idle_timeout(Some(IdleTimeout::try_from(IDLE).map_err(io::Error::other)?))
        // Servers open none (RFC 9250, 4.2).
        .max_concurrent_bidi_streams(VarInt::from_u32(0))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .receive_window(VarInt::from_u32(WINDOW))
        .datagram_receive_buffer_size(None)
        // So that nobody learns the lengths of names (RFC 9250, 5.4).
        .pad_to_mtu(true);
    Ok(transport)
}

fn failed(error: ConnectionError) -> io::Error {
    match error {
        ConnectionError::TimedOut => io::ErrorKind::TimedOut.into(),
        ConnectionError::ApplicationClosed(close) if close.error_code == NO_ERROR => {
            io::Error::new(io::ErrorKind::ConnectionAborted, "the server has closed the connection")
        }
        error => io::Error::other(error),
    }
}

#[cfg(test)]
mod tests;
