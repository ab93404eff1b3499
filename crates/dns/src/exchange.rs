//! One question to one server.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use hickory_proto::op::Message;
use oneway_egress::{Egress, EgressError, lacking_descriptors};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

use crate::Upstream;
use crate::carrier::{Carried, Carrier};
use crate::message::{Unfit, accept};
use crate::plain::{Plain, refuses_edns, without_edns};

/// When a datagram is taken for lost and sent again. Most resolvers answer from their cache within a tenth. It may also have been
/// dropped for its EDNS: from then on it goes without as well.
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
    /// Servers that are asked without EDNS.
    pub(crate) plain: &'a Plain,
}

/// Asks one server, over TCP after UDP if the answer is too long, and without EDNS if it does not know that.
pub(crate) async fn ask(
    by: By<'_>,
    upstream: &Upstream,
    query: Message,
    until: Instant,
    dropped: &Dropped,
) -> Result<Message, ExchangeError> {
    let plain = without_edns(&query);
    let server = upstream.addr();
    if server.is_some_and(|server| by.plain.has(server)) {
        return once(by, upstream, &plain, None, until, dropped).await;
    }
    let answer = once(by, upstream, &query, Some(&plain), until, dropped).await?;
    if !refuses_edns(answer.metadata.response_code) {
        return Ok(answer);
    }
    let answer = once(by, upstream, &plain, None, until, dropped).await?;
    // It may be the question that it does not understand.
    if let Some(server) = server.filter(|_| !refuses_edns(answer.metadata.response_code)) {
        by.plain.add(server);
    }
    Ok(answer)
}

/// `plain` is the question without EDNS, as long as nothing is known of the server.
async fn once(
    By { egress, carrier, others, plain: servers }: By<'_>,
    upstream: &Upstream,
    query: &Message,
    plain: Option<&Message>,
    until: Instant,
    dropped: &Dropped,
) -> Result<Message, ExchangeError> {
    let clear = match upstream {
        Upstream::Udp(server) | Upstream::Tcp(server) => Some(*server),
        Upstream::Secure(_) => None,
    };
    // A server on this host is no matter of any outbound.
    if let (Some(carrier), Some(server)) = (carrier, clear.filter(|server| !server.ip().is_loopback())) {
        let carried = timeout_at(until, carrier.connect(server)).await;
        if let Some(Carried { mut stream, early }) = carried.map_err(|_| ExchangeError::Silent)?? {
            let talk = talk(&mut stream, &early, query, dropped);
            return timeout_at(until, talk).await.unwrap_or(Err(ExchangeError::Silent));
        }
    }
    let timed = match upstream {
        Upstream::Secure(server) => {
            let bytes = encoded(query)?;
            timeout_at(until, server.ask(egress, others, query, &bytes, dropped)).await
        }
        Upstream::Tcp(server) => timeout_at(until, tcp(egress, *server, query, dropped)).await,
        Upstream::Udp(server) => {
            let queries: Vec<_> = [query].into_iter().chain(plain).collect();
            let received = timeout_at(until, udp(egress, *server, &queries, dropped)).await;
            let (asked, answer) = received.unwrap_or(Err(ExchangeError::Silent))?;
            let is_refused =
                answer.as_ref().is_some_and(|answer| refuses_edns(answer.metadata.response_code));
            if asked > 0 && !is_refused {
                servers.add(*server);
            }
            if let Some(answer) = answer {
                return Ok(answer);
            }
            let query = queries.get(asked).copied().unwrap_or(query);
            timeout_at(until, tcp(egress, *server, query, dropped)).await
        }
    };
    timed.unwrap_or(Err(ExchangeError::Silent))
}

fn encoded(query: &Message) -> io::Result<Vec<u8>> {
    query.to_vec().map_err(|error| io::Error::other(error.to_string()))
}

/// Sends the first query, and after a while all of them. Which of them is answered, and how: None if the answer does not fit,
/// or somebody guesses. Each question has a socket of its own, whose port nobody can guess (RFC 5452, 9.2), and which takes
/// nothing from others than the server.
async fn udp(
    egress: &Egress,
    server: SocketAddr,
    queries: &[&Message],
    dropped: &Dropped,
) -> Result<(usize, Option<Message>), ExchangeError> {
    let socket = egress.udp_for(server)?;
    let mut buffer = vec![0; BUFFER];
    let mut unfit = 0;
    let mut sent = queries.len().min(1);
    loop {
        for query in queries.iter().take(sent) {
            socket.send(&encoded(query)?).await?;
        }
        let resend = Instant::now() + RESEND;
        while let Ok(received) = timeout_at(resend, socket.recv(&mut buffer)).await {
            let bytes = buffer.get(..received?).unwrap_or_default();
            let mut why = Unfit::Foreign;
            for (asked, query) in queries.iter().enumerate().take(sent) {
                match accept(query, bytes) {
                    Ok(answer) => return Ok((asked, Some(answer))),
                    Err(Unfit::Truncated) => return Ok((asked, None)),
                    Err(Unfit::Foreign) => {}
                    Err(Unfit::Malformed) => why = Unfit::Malformed,
                }
            }
            // The right answer may still come.
            match why {
                Unfit::Malformed => dropped.malformed.fetch_add(1, Relaxed),
                Unfit::Foreign | Unfit::Truncated => dropped.foreign.fetch_add(1, Relaxed),
            };
            unfit += 1;
            if unfit == MOST_UNFIT {
                return Ok((0, None));
            }
        }
        sent = queries.len();
    }
}

/// RFC 1035, 4.2.2.
async fn tcp(
    egress: &Egress,
    server: SocketAddr,
    query: &Message,
    dropped: &Dropped,
) -> Result<Message, ExchangeError> {
    let mut stream = egress.connect_tcp(server).await?;
    talk(&mut stream, &[], query, dropped).await
}

/// `early` comes before what the stream holds.
async fn talk(
    stream: &mut TcpStream,
    early: &[u8],
    query: &Message,
    dropped: &Dropped,
) -> Result<Message, ExchangeError> {
    let bytes = encoded(query)?;
    let mut framed = u16::try_from(bytes.len()).map_err(io::Error::other)?.to_be_bytes().to_vec();
    framed.extend_from_slice(&bytes);
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
