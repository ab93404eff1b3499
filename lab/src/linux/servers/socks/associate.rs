//! UDP ASSOCIATE: RFC 1928, section 7.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::io::AsyncReadExt;
use tokio::net::{TcpStream, UdpSocket};

use super::super::datagrams;
use super::serve::{Host, answer5, append_address};
use super::{BindAnswer, Shared, SocksOptions, reply, send};

/// Counts an association as open while it exists.
struct Open<'a>(&'a AtomicU64);

impl<'a> Open<'a> {
    fn new(counter: &'a AtomicU64) -> Self {
        counter.fetch_add(1, Ordering::Relaxed);
        Self(counter)
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The sockets of one association. Anybody may answer to the outer ones: the mapping does not depend on the target.
struct Association {
    inner: UdpSocket,
    v4: UdpSocket,
    v6: Option<UdpSocket>,
    /// Where the client sends from; known from its first datagram on.
    client: Option<SocketAddr>,
    client_ip: IpAddr,
}

/// Carries datagrams until the client closes `stream`, or the association is killed.
pub(super) async fn associate(
    mut stream: TcpStream,
    client: SocketAddr,
    shared: &Arc<Shared>,
    options: &SocksOptions,
) -> io::Result<()> {
    let mut killed = shared.kill_associations.subscribe();
    let any =
        |ipv4: bool, unspecified: IpAddr| SocketAddr::new(shared.exit.source(ipv4).unwrap_or(unspecified), 0);
    let mut association = Association {
        inner: datagrams(SocketAddr::new(stream.local_addr()?.ip(), 0))?,
        v4: datagrams(any(true, Ipv4Addr::UNSPECIFIED.into()))?,
        v6: datagrams(any(false, Ipv6Addr::UNSPECIFIED.into())).ok().filter(|_| options.ipv6),
        client: None,
        client_ip: client.ip(),
    };
    let relay = association.inner.local_addr()?;
    let counts = &shared.counts;
    counts.associations.fetch_add(1, Ordering::Relaxed);
    let _open = Open::new(&counts.associations_open);
    answer(&mut stream, relay, options).await?;

    let (mut inner, mut v4, mut v6) = (vec![0; 65_536], vec![0; 65_536], vec![0; 65_536]);
    let mut control = [0; 64];
    loop {
        tokio::select! {
            _ = killed.changed() => return Ok(()),
            read = stream.read(&mut control) => if read? == 0 { return Ok(()) },
            Ok((length, from)) = association.inner.recv_from(&mut inner) => {
                let sent = association.outwards(&inner[..length], from, options).await;
                let counter = if sent { &counts.datagrams_out } else { &counts.datagrams_dropped };
                counter.fetch_add(1, Ordering::Relaxed);
            }
            Ok((length, from)) = association.v4.recv_from(&mut v4) => {
                association.inwards(&v4[..length], from, &counts.datagrams_in).await;
            }
            Ok((length, from)) = receive(association.v6.as_ref(), &mut v6) => {
                association.inwards(&v6[..length], from, &counts.datagrams_in).await;
            }
        }
    }
}

async fn receive(socket: Option<&UdpSocket>, buffer: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
    match socket {
        Some(socket) => socket.recv_from(buffer).await,
        None => std::future::pending().await,
    }
}

async fn answer(stream: &mut TcpStream, relay: SocketAddr, options: &SocksOptions) -> io::Result<()> {
    let ipv4 = relay.is_ipv4();
    let said: IpAddr = match &options.bind_answer {
        BindAnswer::True => relay.ip(),
        BindAnswer::Unspecified if ipv4 => Ipv4Addr::UNSPECIFIED.into(),
        BindAnswer::Unspecified => Ipv6Addr::UNSPECIFIED.into(),
        BindAnswer::Loopback if ipv4 => Ipv4Addr::LOCALHOST.into(),
        BindAnswer::Loopback => Ipv6Addr::LOCALHOST.into(),
        BindAnswer::Domain(name) => {
            tokio::time::sleep(options.delay).await;
            let name = &name.as_bytes()[..name.len().min(255)];
            let mut out = vec![5, reply::SUCCEEDED, 0, 3, u8::try_from(name.len()).unwrap_or(u8::MAX)];
            out.extend_from_slice(name);
            out.extend_from_slice(&relay.port().to_be_bytes());
            return send(stream, &out, options.split).await;
        }
    };
    answer5(stream, reply::SUCCEEDED, Some(SocketAddr::new(said, relay.port())), options).await
}

impl Association {
    async fn outwards(&mut self, datagram: &[u8], from: SocketAddr, options: &SocksOptions) -> bool {
        if from.ip() != self.client_ip {
            return false;
        }
        self.client = Some(from);
        let Some((host, port, payload)) = parse(datagram) else { return false };
        for address in host.addresses(options) {
            let socket = if address.is_ipv4() { Some(&self.v4) } else { self.v6.as_ref() };
            let Some(socket) = socket else { continue };
            if socket.send_to(payload, SocketAddr::new(address, port)).await.is_ok() {
                return true;
            }
        }
        false
    }

    async fn inwards(&self, payload: &[u8], from: SocketAddr, counter: &AtomicU64) {
        let Some(client) = self.client else { return };
        let mut out = vec![0, 0, 0];
        append_address(&mut out, from);
        out.extend_from_slice(payload);
        if self.inner.send_to(&out, client).await.is_ok() {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Target and payload; `None` when malformed, or a fragment, which a server need not support.
fn parse(datagram: &[u8]) -> Option<(Host, u16, &[u8])> {
    let (head, rest) = datagram.split_at_checked(4)?;
    if head[2] != 0 {
        return None;
    }
    let (host, rest) = match head[3] {
        1 => {
            let (bytes, rest) = rest.split_first_chunk::<4>()?;
            (Host::Address(Ipv4Addr::from(*bytes).into()), rest)
        }
        3 => {
            let (length, rest) = rest.split_first()?;
            let (bytes, rest) = rest.split_at_checked(usize::from(*length))?;
            (Host::Name(String::from_utf8_lossy(bytes).into_owned()), rest)
        }
        4 => {
            let (bytes, rest) = rest.split_first_chunk::<16>()?;
            (Host::Address(Ipv6Addr::from(*bytes).into()), rest)
        }
        _ => return None,
    };
    let (port, payload) = rest.split_first_chunk::<2>()?;
    Some((host, u16::from_be_bytes(*port), payload))
}
