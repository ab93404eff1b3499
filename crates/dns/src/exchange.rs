//! One question to one server.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use hickory_proto::op::{Message, ResponseCode};
use oneway_egress::{Egress, EgressError, lacking_descriptors};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

use crate::Upstream;
use crate::carrier::{Carried, Carrier};
use crate::message::{Unfit, accept};

/// When a datagram is taken for lost and sent again. Most resolvers answer from their cache within a tenth.
const RESEND: Duration = Duration::from_secs(1);

/// Room for an answer over UDP: more than we say that we take, for servers that do not look.
const BUFFER: usize = 4096;

/// Datagrams that are no answer, on the socket of one question. Who knows its port needs 65536 to guess the number, which a
/// second is enough for: after some of them the question goes over TCP, where nobody else can answer (RFC 5452, 9.3).
const MOST_UNFIT: usize = 32;

/// Why a server gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum ExchangeError {
    /// No protected socket could be made or connected.
    #[error("{0}")]
    Egress(#[from] EgressError),
    /// The socket failed. An ICMP error is one of these.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// It said nothing in time.
    #[error("no answer in time")]
    Silent,
    /// What it said cannot be parsed.
    #[error("a malformed answer")]
    Malformed,
}

impl ExchangeError {
    /// The same for somebody else who waited.
    pub(crate) fn again(&self) -> Self {
        let io = |error: &io::Error| match error.raw_os_error() {
            Some(number) => io::Error::from_raw_os_error(number),
            None => io::Error::new(error.kind(), error.to_string()),
        };
        match self {
            Self::Egress(error) => match lacking_descriptors(error) {
                Some(number) => Self::Io(io::Error::from_raw_os_error(number)),
                None => Self::Io(io::Error::other(error.to_string())),
            },
            Self::Io(error) => Self::Io(io(error)),
            Self::Silent => Self::Silent,
            Self::Malformed => Self::Malformed,
        }
    }
}

/// Messages that were dropped.
#[derive(Debug, Default)]
pub(crate) struct Dropped {
    /// To another question, or with another number: guesses.
    pub(crate) foreign: AtomicU64,
    /// Could not be parsed.
    pub(crate) malformed: AtomicU64,
}

/// By what a server is asked.
#[derive(Clone, Copy)]
pub(crate) struct By<'a> {
    /// Our own sockets.
    pub(crate) egress: &'a Arc<Egress>,
    /// What comes before them, for servers that are asked in the clear.
    pub(crate) carrier: Option<&'a dyn Carrier>,
    /// They are asked for a server's name, if it is given by one.
    pub(crate) others: &'a Arc<[Upstream]>,
}

/// Asks one server, over TCP after UDP if the answer is too long, and without EDNS if it does not know that.
pub(crate) async fn ask(
    by: By<'_>,
    upstream: &Upstream,
    query: Message,
    until: Instant,
    dropped: &Dropped,
) -> Result<Message, ExchangeError> {
    let answer = once(by, upstream, &query, until, dropped).await?;
    if answer.metadata.response_code != ResponseCode::FormErr || query.edns.is_none() {
        return Ok(answer);
    }
    // RFC 6891, 7: what servers say that were made before it.
    let mut plain = Message::query();
    plain.metadata.recursion_desired = query.metadata.recursion_desired;
    plain.queries = query.queries;
    once(by, upstream, &plain, until, dropped).await
}

async fn once(
    By { egress, carrier, others }: By<'_>,
    upstream: &Upstream,
    query: &Message,
    until: Instant,
    dropped: &Dropped,
) -> Result<Message, ExchangeError> {
    let bytes = query.to_vec().map_err(|error| io::Error::other(error.to_string()))?;
    let clear = match upstream {
        Upstream::Udp(server) | Upstream::Tcp(server) => Some(*server),
        Upstream::Secure(_) => None,
    };
    // A server on this host is no matter of any outbound.
    if let (Some(carrier), Some(server)) = (carrier, clear.filter(|server| !server.ip().is_loopback())) {
        let carried = timeout_at(until, carrier.connect(server)).await;
        if let Some(Carried { mut stream, early }) = carried.map_err(|_| ExchangeError::Silent)?? {
            let talk = talk(&mut stream, &early, query, &bytes, dropped);
            return timeout_at(until, talk).await.unwrap_or(Err(ExchangeError::Silent));
        }
    }
    let timed = match upstream {
        Upstream::Secure(server) => {
            timeout_at(until, server.ask(egress, others, query, &bytes, dropped)).await
        }
        Upstream::Tcp(server) => timeout_at(until, tcp(egress, *server, query, &bytes, dropped)).await,
        Upstream::Udp(server) => {
            match timeout_at(until, udp(egress, *server, query, &bytes, dropped)).await {
                Ok(Ok(None)) => timeout_at(until, tcp(egress, *server, query, &bytes, dropped)).await,
                Ok(Ok(Some(answer))) => return Ok(answer),
                Ok(Err(error)) => return Err(error),
                Err(elapsed) => Err(elapsed),
            }
        }
    };
    timed.unwrap_or(Err(ExchangeError::Silent))
}

/// None if the answer does not fit, or somebody guesses. Each question has a socket of its own, whose port nobody can
/// guess (RFC 5452, 9.2), and which takes nothing from others than the server.
async fn udp(
    egress: &Egress,
    server: SocketAddr,
    query: &Message,
    bytes: &[u8],
    dropped: &Dropped,
) -> Result<Option<Message>, ExchangeError> {
    let socket = egress.udp_for(server)?;
    let mut buffer = vec![0; BUFFER];
    let mut unfit = 0;
    loop {
        socket.send(bytes).await?;
        let resend = Instant::now() + RESEND;
        while let Ok(received) = timeout_at(resend, socket.recv(&mut buffer)).await {
            match accept(query, buffer.get(..received?).unwrap_or_default()) {
                Ok(answer) => return Ok(Some(answer)),
                Err(Unfit::Truncated) => return Ok(None),
                // The right answer may still come.
                Err(Unfit::Foreign) => dropped.foreign.fetch_add(1, Relaxed),
                Err(Unfit::Malformed) => dropped.malformed.fetch_add(1, Relaxed),
            };
            unfit += 1;
            if unfit == MOST_UNFIT {
                return Ok(None);
            }
        }
    }
}

/// RFC 1035, 4.2.2.
async fn tcp(
    egress: &Egress,
    server: SocketAddr,
    query: &Message,
    bytes: &[u8],
    dropped: &Dropped,
) -> Result<Message, ExchangeError> {
    let mut stream = egress.connect_tcp(server).await?;
    talk(&mut stream, &[], query, bytes, dropped).await
}

/// `early` comes before what the stream holds.
async fn talk(
    stream: &mut TcpStream,
    early: &[u8],
    query: &Message,
    bytes: &[u8],
    dropped: &Dropped,
) -> Result<Message, ExchangeError> {
    let mut framed = u16::try_from(bytes.len()).map_err(io::Error::other)?.to_be_bytes().to_vec();
    framed.extend_from_slice(bytes);
    stream.write_all(&framed).await?;
    let mut answer = early.chain(stream);
    let len = answer.read_u16().await?;
    let mut buffer = vec![0; usize::from(len)];
    answer.read_exact(&mut buffer).await?;
    judge(accept(query, &buffer), dropped)
}

/// Where only one answer can come, a wrong one is all that there is.
pub(crate) fn judge(accepted: Result<Message, Unfit>, dropped: &Dropped) -> Result<Message, ExchangeError> {
    accepted.map_err(|unfit| {
        match unfit {
            Unfit::Foreign => dropped.foreign.fetch_add(1, Relaxed),
            Unfit::Malformed | Unfit::Truncated => dropped.malformed.fetch_add(1, Relaxed),
        };
        ExchangeError::Malformed
    })
}
