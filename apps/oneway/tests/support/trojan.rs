//! A Trojan server: <https://trojan-gfw.github.io/trojan/protocol>.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex};

use oneway_lab::NetNs;
use oneway_lab::harness::Failed;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio_rustls::server::TlsStream;

use super::tls::{Identity, TlsServer, splice};

/// What `printf password | sha224sum` prints.
const PASSWORD_SHA224: &str = "d63dc919e201d7bc4c825630d2cf25fdc93d4b2f0d46706d29038d01";

/// The server, running. Its password is `password`.
pub struct Trojan {
    tls: TlsServer,
    requests: Arc<Mutex<Vec<String>>>,
}

impl Trojan {
    /// Starts it. Names are all those of `named`.
    pub fn start(
        namespace: &NetNs,
        addresses: &[SocketAddr],
        identity: &Identity,
        named: IpAddr,
    ) -> Result<Self, Failed> {
        let requests = Arc::<Mutex<Vec<String>>>::default();
        let seen = Arc::clone(&requests);
        let tls = TlsServer::start(namespace, addresses, identity, move |stream| {
            serve(stream, Arc::clone(&seen), named)
        })?;
        Ok(Self { tls, requests })
    }

    /// What was asked for, as `tcp HOST:PORT` and `udp HOST:PORT` for each datagram.
    pub fn requests(&self) -> Vec<String> {
        self.requests.lock().map(|requests| requests.clone()).unwrap_or_default()
    }

    /// Connections with TLS so far.
    pub fn accepted(&self) -> usize {
        self.tls.accepted()
    }
}

#[allow(clippy::disallowed_methods, reason = "the server of the test is another program")]
async fn serve(
    mut stream: TlsStream<TcpStream>,
    requests: Arc<Mutex<Vec<String>>>,
    named: IpAddr,
) -> io::Result<()> {
    let note = |text: String| {
        if let Ok(mut requests) = requests.lock() {
            requests.push(text);
        }
    };
    let mut head = [0; 59];
    stream.read_exact(&mut head).await?;
    if head[..56] != *PASSWORD_SHA224.as_bytes() || head[56..58] != *b"\r\n" {
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    let (host, port) = address(&mut stream).await?;
    if stream.read_u16().await? != 0x0d0a {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let resolve = |host: &str| host.parse().unwrap_or(named);
    if head[58] == 1 {
        note(format!("tcp {host}:{port}"));
        // What cannot be reached is told by the end of the connection alone.
        return splice(stream, SocketAddr::new(resolve(&host), port)).await;
    }
    let v4 = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).await?;
    let v6 = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0)).await?;
    let (mut read, mut write) = tokio::io::split(stream);
    let up = async {
        loop {
            let (host, port) = address(&mut read).await?;
            let len = read.read_u16().await?;
            if read.read_u16().await? != 0x0d0a {
                return Err::<(), _>(io::ErrorKind::InvalidData.into());
            }
            let mut payload = vec![0; len.into()];
            read.read_exact(&mut payload).await?;
            note(format!("udp {host}:{port}"));
            let to = SocketAddr::new(resolve(&host), port);
            let _ = if to.is_ipv4() { &v4 } else { &v6 }.send_to(&payload, to).await;
        }
    };
    let down = async {
        let (mut one, mut other) = (vec![0; 65_536], vec![0; 65_536]);
        loop {
            let (payload, from) = tokio::select! {
                received = v4.recv_from(&mut one) => received.map(|(len, from)| (&one[..len], from))?,
                received = v6.recv_from(&mut other) => received.map(|(len, from)| (&other[..len], from))?,
            };
            let mut framed = match from.ip() {
                IpAddr::V4(v4) => [&[1], &v4.octets()[..]].concat(),
                IpAddr::V6(v6) => [&[4], &v6.octets()[..]].concat(),
            };
            framed.extend(from.port().to_be_bytes());
            framed.extend(u16::try_from(payload.len()).map_err(io::Error::other)?.to_be_bytes());
            framed.extend(b"\r\n");
            framed.extend(payload);
            write.write_all(&framed).await?;
            write.flush().await?;
        }
    };
    tokio::select! {
        ended = up => ended,
        ended = down => ended,
    }
}

async fn address(stream: &mut (impl AsyncReadExt + Unpin)) -> io::Result<(String, u16)> {
    let host = match stream.read_u8().await? {
        1 => Ipv4Addr::from(stream.read_u32().await?).to_string(),
        4 => Ipv6Addr::from(stream.read_u128().await?).to_string(),
        3 => {
            let mut name = vec![0; stream.read_u8().await?.into()];
            stream.read_exact(&mut name).await?;
            String::from_utf8(name).map_err(io::Error::other)?
        }
        _ => return Err(io::ErrorKind::InvalidData.into()),
    };
    Ok((host, stream.read_u16().await?))
}
