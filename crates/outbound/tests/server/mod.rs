//! Servers on loopback that the tests talk to: a SOCKS5 proxy with true reply codes, an HTTP proxy, echo
//! servers, and servers that follow a script.
#![allow(dead_code, reason = "each test file uses some of it")]

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use oneway_egress::Egress;
use oneway_outbound::{Outbound, OutboundConfig, SystemResolver, Timeouts};
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;

pub const V4: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
pub const V6: SocketAddr = SocketAddr::new(IpAddr::V6(Ipv6Addr::LOCALHOST), 0);

pub fn egress() -> Arc<Egress> {
    Arc::new(Egress::unprotected_for_loopback_tests())
}

pub fn outbound(url: &str) -> Outbound {
    outbound_within(url, Timeouts::default())
}

pub fn outbound_within(url: &str, timeouts: Timeouts) -> Outbound {
    let config = OutboundConfig::from_url(url).unwrap();
    Outbound::new(&config, timeouts, Arc::new(SystemResolver))
}

pub fn short() -> Timeouts {
    Timeouts { connect: Duration::from_millis(300), handshake: Duration::from_millis(300) }
}

/// For proxies that do not answer some questions, beside others that are to be answered on a busy machine too.
pub fn unhurried() -> Timeouts {
    Timeouts { connect: Duration::from_secs(2), handshake: Duration::from_secs(2) }
}

/// Polls until `done`, or panics after five seconds.
pub async fn until(what: &str, done: impl Fn() -> bool) {
    for _ in 0..5000 {
        if done() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    panic!("{what} did not come about");
}

/// An address that nobody listens on.
pub async fn closed_port() -> SocketAddr {
    TcpListener::bind(V4).await.unwrap().local_addr().unwrap()
}

pub async fn tcp_echo(at: SocketAddr) -> SocketAddr {
    let listener = TcpListener::bind(at).await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut read, mut write) = stream.split();
                tokio::io::copy(&mut read, &mut write).await
            });
        }
    });
    addr
}

pub async fn udp_echo(at: SocketAddr) -> SocketAddr {
    let socket = UdpSocket::bind(at).await.unwrap();
    let addr = socket.local_addr().unwrap();
    tokio::spawn(async move {
        let mut buf = vec![0; 65_536];
        while let Ok((len, from)) = socket.recv_from(&mut buf).await {
            let _ = socket.send_to(&buf[..len], from).await;
        }
    });
    addr
}

/// Accepts connections, answers each so many bytes with the next piece, and then stays silent.
pub async fn script(steps: Vec<(usize, Vec<u8>)>) -> SocketAddr {
    let listener = TcpListener::bind(V4).await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let steps = steps.clone();
            tokio::spawn(async move {
                for (expect, say) in steps {
                    let mut heard = vec![0; expect];
                    stream.read_exact(&mut heard).await?;
                    stream.write_all(&say).await?;
                }
                std::future::pending::<()>().await;
                io::Result::Ok(())
            });
        }
    });
    addr
}

/// How a [`Socks5Server`] differs from a plain one.
#[derive(Clone, Default)]
pub struct Options {
    pub login: Option<(&'static str, &'static str)>,
    /// BND.ADDR in replies to UDP ASSOCIATE, in place of the true one.
    pub bound: Option<IpAddr>,
    /// Answer datagrams with this name as their source.
    pub source_name: Option<&'static str>,
}

pub struct Socks5Server {
    pub addr: SocketAddr,
    options: Options,
    /// Control connections of associations that live.
    pub associations: AtomicUsize,
    /// Associations there ever were.
    pub associated: AtomicUsize,
    /// Ends all associations when told.
    pub end: Notify,
    /// The last relay, for tests that speak to the client in its name or not.
    pub relay: watch::Sender<Option<SocketAddr>>,
    /// The last client of a relay.
    pub client: watch::Sender<Option<SocketAddr>>,
    /// Datagrams to send from the relay to its client as they are.
    pub inject: watch::Sender<Vec<u8>>,
}

impl Socks5Server {
    pub async fn start(at: SocketAddr, options: Options) -> Arc<Self> {
        Self::start_with_handle(at, options).await.0
    }

    pub async fn start_with_handle(at: SocketAddr, options: Options) -> (Arc<Self>, JoinHandle<()>) {
        let listener = TcpListener::bind(at).await.unwrap();
        let server = Arc::new(Self {
            addr: listener.local_addr().unwrap(),
            options,
            associations: AtomicUsize::new(0),
            associated: AtomicUsize::new(0),
            end: Notify::new(),
            relay: watch::channel(None).0,
            client: watch::channel(None).0,
            inject: watch::channel(Vec::new()).0,
        });
        let serving = Arc::clone(&server);
        let handle = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let server = Arc::clone(&serving);
                tokio::spawn(async move { server.serve(stream).await });
            }
        });
        (server, handle)
    }

    pub fn url(&self) -> String {
        match self.options.login {
            Some((user, password)) => format!("socks5://{user}:{password}@{}", self.addr),
            None => format!("socks5://{}", self.addr),
        }
    }

    async fn serve(&self, mut stream: TcpStream) -> io::Result<()> {
        let mut head = [0; 2];
        stream.read_exact(&mut head).await?;
        let mut methods = vec![0; head[1].into()];
        stream.read_exact(&mut methods).await?;
        match self.options.login {
            None => stream.write_all(&[5, 0]).await?,
            Some(_) if !methods.contains(&2) => return stream.write_all(&[5, 0xff]).await,
            Some((user, password)) => {
                stream.write_all(&[5, 2]).await?;
                stream.read_u8().await?;
                let given = (short_string(&mut stream).await?, short_string(&mut stream).await?);
                if given != (user.to_owned(), password.to_owned()) {
                    return stream.write_all(&[1, 1]).await;
                }
                stream.write_all(&[1, 0]).await?;
            }
        }
        let mut request = [0; 4];
        stream.read_exact(&mut request).await?;
        let dst = match request[3] {
            1 => SocketAddr::from((stream.read_u32().await?.to_be_bytes(), stream.read_u16().await?)),
            4 => SocketAddr::from((Ipv6Addr::from(stream.read_u128().await?), stream.read_u16().await?)),
            _ => {
                let name = short_string(&mut stream).await?;
                let port = stream.read_u16().await?;
                match tokio::net::lookup_host((name, port)).await.ok().and_then(|mut addrs| addrs.next()) {
                    Some(addr) => addr,
                    None => return stream.write_all(&reply(4, V4)).await,
                }
            }
        };
        match request[1] {
            1 => connect(stream, dst).await,
            3 => self.associate(stream).await,
            _ => stream.write_all(&reply(7, V4)).await,
        }
    }

    async fn associate(&self, mut stream: TcpStream) -> io::Result<()> {
        let relay = UdpSocket::bind(SocketAddr::new(self.addr.ip(), 0)).await?;
        let outside = UdpSocket::bind(V4).await?;
        let addr = relay.local_addr()?;
        self.relay.send_replace(Some(addr));
        self.associated.fetch_add(1, SeqCst);
        self.associations.fetch_add(1, SeqCst);
        let said = SocketAddr::new(self.options.bound.unwrap_or(addr.ip()), addr.port());
        stream.write_all(&reply(0, said)).await?;
        let mut end = [0];
        tokio::select! {
            _ = stream.read(&mut end) => {}
            () = self.end.notified() => {}
            done = self.relay(&relay, &outside) => done?,
        }
        self.associations.fetch_sub(1, SeqCst);
        Ok(())
    }

    async fn relay(&self, relay: &UdpSocket, outside: &UdpSocket) -> io::Result<()> {
        let (mut inward, mut outward) = (vec![0; 65_536], vec![0; 65_536]);
        let mut client = None;
        let mut inject = self.inject.subscribe();
        loop {
            tokio::select! {
                received = relay.recv_from(&mut outward) => {
                    let (len, from) = received?;
                    client = Some(from);
                    self.client.send_replace(client);
                    let header = oneway_outbound::decode_datagram_header(&outward[..len]).unwrap();
                    let dst = match header.source {
                        oneway_outbound::Source::Ip(addr) => addr,
                        oneway_outbound::Source::Name(_, port) => SocketAddr::new(V4.ip(), port),
                    };
                    outside.send_to(&outward[header.len..len], dst).await?;
                }
                received = outside.recv_from(&mut inward) => {
                    // An ICMP error about something sent before.
                    let Ok((len, from)) = received else { continue };
                    let mut datagram = match self.options.source_name {
                        None => [&[0, 0, 0][..], &reply(0, from)[3..]].concat(),
                        Some(name) => {
                            [&[0, 0, 0, 3, name.len() as u8], name.as_bytes(), &from.port().to_be_bytes()].concat()
                        }
                    };
                    datagram.extend_from_slice(&inward[..len]);
                    if let Some(client) = client {
                        relay.send_to(&datagram, client).await?;
                    }
                }
                _ = inject.changed() => {
                    let datagram = inject.borrow_and_update().clone();
                    if let Some(client) = client {
                        relay.send_to(&datagram, client).await?;
                    }
                }
            }
        }
    }
}

async fn connect(mut stream: TcpStream, dst: SocketAddr) -> io::Result<()> {
    match TcpStream::connect(dst).await {
        Ok(mut upstream) => {
            stream.write_all(&reply(0, upstream.local_addr()?)).await?;
            copy_bidirectional(&mut stream, &mut upstream).await.map(drop)
        }
        Err(error) => {
            let code = match error.kind() {
                io::ErrorKind::ConnectionRefused => 5,
                io::ErrorKind::HostUnreachable => 4,
                io::ErrorKind::NetworkUnreachable => 3,
                _ => 1,
            };
            stream.write_all(&reply(code, V4)).await
        }
    }
}

async fn short_string(stream: &mut TcpStream) -> io::Result<String> {
    let mut text = vec![0; stream.read_u8().await?.into()];
    stream.read_exact(&mut text).await?;
    String::from_utf8(text).map_err(io::Error::other)
}

pub fn reply(code: u8, bound: SocketAddr) -> Vec<u8> {
    let mut reply = vec![5, code, 0];
    match bound.ip() {
        IpAddr::V4(v4) => {
            reply.push(1);
            reply.extend(v4.octets());
        }
        IpAddr::V6(v6) => {
            reply.push(4);
            reply.extend(v6.octets());
        }
    }
    reply.extend(bound.port().to_be_bytes());
    reply
}

/// An HTTP proxy that connects, with true status codes.
pub async fn http_proxy() -> SocketAddr {
    let listener = TcpListener::bind(V4).await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve_http(stream));
        }
    });
    addr
}

async fn serve_http(mut stream: TcpStream) -> io::Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await?);
    }
    let head = String::from_utf8(head).map_err(io::Error::other)?;
    let authority = head.split(' ').nth(1).unwrap_or_default();
    match TcpStream::connect(authority).await {
        Ok(mut upstream) => {
            stream.write_all(b"HTTP/1.1 200 Connection established\r\nVia: x\r\n\r\n").await?;
            copy_bidirectional(&mut stream, &mut upstream).await.map(drop)
        }
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            stream.write_all(b"HTTP/1.1 502 Bad Gateway\r\n\r\n").await
        }
        Err(_) => stream.write_all(b"HTTP/1.1 503 Service Unavailable\r\n\r\n").await,
    }
}
