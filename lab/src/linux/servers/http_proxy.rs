//! An HTTP proxy that knows CONNECT.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use base64::Engine as _;
use parking_lot::Mutex;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::sync::watch;

use super::relay::relay;
use super::socks::{Exit, outgoing};
use super::{ServerThread, Zone, listen};
use crate::error::LabError;
use crate::ns::NetNs;

/// What the proxy asks for and how it behaves.
#[derive(Debug, Clone)]
pub struct HttpProxyOptions {
    /// User name and password that it demands (Basic).
    pub user: Option<(String, String)>,
    /// How it resolves names.
    pub zone: Zone,
    /// Sends its answers byte by byte, each in a segment of its own.
    pub split: bool,
    /// How long it tries to connect.
    pub connect_timeout: Duration,
}

impl Default for HttpProxyOptions {
    fn default() -> Self {
        Self { user: None, zone: Zone::new(), split: false, connect_timeout: Duration::from_secs(3) }
    }
}

/// A request that came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpConnect {
    /// Who asked.
    pub client: SocketAddr,
    /// The authority, `host:port`, as it was written.
    pub target: String,
    /// The status code of the answer.
    pub status: u16,
}

#[derive(Debug)]
struct Shared {
    options: HttpProxyOptions,
    exit: Exit,
    requests: Mutex<Vec<HttpConnect>>,
    carried: Arc<AtomicU64>,
    killed: watch::Sender<u64>,
}

/// The HTTP proxy, running.
#[derive(Debug)]
pub struct HttpProxy {
    shared: Arc<Shared>,
    _thread: ServerThread,
}

impl HttpProxy {
    /// Starts it on each of `addresses`.
    ///
    /// # Errors
    /// [`LabError::Server`] when an address cannot be bound.
    pub fn start(
        namespace: &NetNs,
        addresses: &[SocketAddr],
        options: HttpProxyOptions,
    ) -> Result<Self, LabError> {
        let shared = Arc::new(Shared {
            options,
            exit: outgoing(addresses),
            requests: Mutex::default(),
            carried: Arc::default(),
            killed: watch::Sender::new(0),
        });
        let (inside, addresses) = (shared.clone(), addresses.to_vec());
        let thread = ServerThread::start(namespace, "http-proxy", move || async move {
            for address in addresses {
                let listener = listen(address, None)?;
                let inside = inside.clone();
                tokio::spawn(async move {
                    while let Ok((stream, client)) = listener.accept().await {
                        tokio::spawn(serve(stream, client, inside.clone()));
                    }
                });
            }
            Ok(())
        })?;
        Ok(Self { shared, _thread: thread })
    }

    /// The requests that came so far.
    pub fn requests(&self) -> Vec<HttpConnect> {
        self.shared.requests.lock().clone()
    }

    /// Bytes carried in both directions.
    pub fn carried(&self) -> u64 {
        self.shared.carried.load(Ordering::Relaxed)
    }

    /// Resets every connection that it carries now.
    pub fn kill_connections(&self) {
        self.shared.killed.send_modify(|generation| *generation += 1);
    }
}

async fn serve(mut stream: TcpStream, client: SocketAddr, shared: Arc<Shared>) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut head = Vec::new();
    // One byte at a time: what follows the head belongs to the target.
    while !head.ends_with(b"\r\n\r\n") && head.len() < 16 * 1024 {
        head.push(stream.read_u8().await?);
    }
    let text = String::from_utf8_lossy(&head).into_owned();
    let target =
        text.strip_prefix("CONNECT ").and_then(|rest| rest.split(' ').next()).unwrap_or("").to_owned();
    let (status, far) = match decide(&text, &target, &shared).await {
        Ok(far) => (200, Some(far)),
        Err(status) => (status, None),
    };
    shared.requests.lock().push(HttpConnect { client, target, status });
    let answer = match status {
        200 => "HTTP/1.1 200 Connection established\r\n\r\n".to_owned(),
        407 => "HTTP/1.1 407 Proxy Authentication Required\r\nProxy-Authenticate: Basic realm=\"lab\"\r\n\
                Content-Length: 0\r\nConnection: close\r\n\r\n"
            .to_owned(),
        _ => format!("HTTP/1.1 {status} Failed\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"),
    };
    super::socks::send(&mut stream, answer.as_bytes(), shared.options.split).await?;
    if let Some(far) = far {
        relay(stream, far, shared.carried.clone(), shared.killed.subscribe()).await;
    }
    Ok(())
}

async fn decide(head: &str, target: &str, shared: &Shared) -> Result<TcpStream, u16> {
    let (host, port) = target.rsplit_once(':').ok_or(400_u16)?;
    let port: u16 = port.parse().map_err(|_| 400_u16)?;
    if let Some((user, password)) = &shared.options.user {
        let token = base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}"));
        let shown = head.split("\r\n").any(|line| {
            line.split_once(':').is_some_and(|(name, value)| {
                name.eq_ignore_ascii_case("proxy-authorization") && value.trim() == format!("Basic {token}")
            })
        });
        if !shown {
            return Err(407);
        }
    }
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let addresses =
        bare.parse::<IpAddr>().map_or_else(|_| shared.options.zone.addresses(bare), |ip| vec![ip]);
    if addresses.is_empty() {
        return Err(502);
    }
    let mut status = 502;
    for address in addresses {
        let dial = shared.exit.connect(SocketAddr::new(address, port), shared.options.connect_timeout);
        match dial.await {
            Ok(stream) => return Ok(stream),
            Err(error) if error.kind() == io::ErrorKind::TimedOut => status = 504,
            Err(_) => status = 502,
        }
    }
    Err(status)
}
