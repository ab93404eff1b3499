//! The conversation with one client.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

use super::super::relay::relay;
use super::{Shared, SocksCommand, SocksOptions, SocksRequest, associate, reply, send};

/// A target as a client writes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Host {
    Address(IpAddr),
    Name(String),
}

impl Host {
    pub(super) fn with_port(&self, port: u16) -> String {
        match self {
            Self::Address(address) => SocketAddr::new(*address, port).to_string(),
            Self::Name(name) => format!("{name}:{port}"),
        }
    }

    pub(super) fn addresses(&self, options: &SocksOptions) -> Vec<IpAddr> {
        match self {
            Self::Address(address) => vec![*address],
            Self::Name(name) => match name.parse() {
                Ok(address) => vec![address],
                Err(_) => options.zone.addresses(name),
            },
        }
    }
}

pub(super) async fn serve(mut stream: TcpStream, client: SocketAddr, shared: Arc<Shared>) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let options = shared.options.lock().clone();
    match stream.read_u8().await? {
        5 => version5(stream, client, &shared, &options).await,
        4 => version4(stream, client, &shared, &options).await,
        _ => Ok(()),
    }
}

async fn version5(
    mut stream: TcpStream,
    client: SocketAddr,
    shared: &Arc<Shared>,
    options: &SocksOptions,
) -> io::Result<()> {
    if !agree(&mut stream, options).await? {
        return Ok(());
    }
    let mut head = [0; 4];
    stream.read_exact(&mut head).await?;
    let [_, command, _, kind] = head;
    let command = match command {
        1 => SocksCommand::Connect,
        3 => SocksCommand::UdpAssociate,
        other => SocksCommand::Other(other),
    };
    let note = |target: String, reply: u8| {
        shared.requests.lock().push(SocksRequest { version: 5, client, command, target, reply });
    };
    let Some(host) = read_host(&mut stream, kind).await? else {
        note(String::new(), reply::ADDRESS_NOT_SUPPORTED);
        return answer5(&mut stream, reply::ADDRESS_NOT_SUPPORTED, None, options).await;
    };
    let port = stream.read_u16().await?;
    let target = host.with_port(port);
    match command {
        SocksCommand::Connect => match dial(&host, port, shared, options).await {
            Ok(far) => {
                note(target, reply::SUCCEEDED);
                let bound = far.local_addr()?;
                answer5(&mut stream, reply::SUCCEEDED, Some(bound), options).await?;
                relay(stream, far, shared.counts.carried.clone(), shared.kill_connections.subscribe()).await;
                Ok(())
            }
            Err(code) => {
                note(target, code);
                answer5(&mut stream, code, None, options).await
            }
        },
        SocksCommand::UdpAssociate if options.udp => {
            note(target, reply::SUCCEEDED);
            associate::associate(stream, client, shared, options).await
        }
        SocksCommand::UdpAssociate if options.hangs_up => {
            note(target, reply::COMMAND_NOT_SUPPORTED);
            Ok(())
        }
        _ => {
            note(target, reply::COMMAND_NOT_SUPPORTED);
            answer5(&mut stream, reply::COMMAND_NOT_SUPPORTED, None, options).await
        }
    }
}

/// RFC 1928, section 3, and RFC 1929.
async fn agree(stream: &mut TcpStream, options: &SocksOptions) -> io::Result<bool> {
    let mut methods = vec![0; usize::from(stream.read_u8().await?)];
    stream.read_exact(&mut methods).await?;
    let wanted = if options.user.is_some() { 2 } else { 0 };
    if !methods.contains(&wanted) {
        send(stream, &[5, 0xff], options.split).await?;
        return Ok(false);
    }
    send(stream, &[5, wanted], options.split).await?;
    let Some((user, password)) = &options.user else { return Ok(true) };
    if stream.read_u8().await? != 1 {
        return Ok(false);
    }
    let shown_user = read_counted(stream).await?;
    let shown_password = read_counted(stream).await?;
    let right = shown_user == user.as_bytes() && shown_password == password.as_bytes();
    send(stream, &[1, u8::from(!right)], options.split).await?;
    Ok(right)
}

async fn read_counted(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; usize::from(stream.read_u8().await?)];
    stream.read_exact(&mut bytes).await?;
    Ok(bytes)
}

async fn read_host(stream: &mut TcpStream, kind: u8) -> io::Result<Option<Host>> {
    Ok(match kind {
        1 => Some(Host::Address(Ipv4Addr::from(stream.read_u32().await?).into())),
        3 => Some(Host::Name(String::from_utf8_lossy(&read_counted(stream).await?).into_owned())),
        4 => Some(Host::Address(Ipv6Addr::from(stream.read_u128().await?).into())),
        _ => None,
    })
}

pub(super) async fn answer5(
    stream: &mut TcpStream,
    code: u8,
    bound: Option<SocketAddr>,
    options: &SocksOptions,
) -> io::Result<()> {
    tokio::time::sleep(options.delay).await;
    let mut out = vec![5, code, 0];
    let bound = bound.unwrap_or(SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), 0));
    append_address(&mut out, bound);
    send(stream, &out, options.split).await
}

/// Appends type, address and port.
pub(super) fn append_address(out: &mut Vec<u8>, address: SocketAddr) {
    match address.ip() {
        IpAddr::V4(ip) => {
            out.push(1);
            out.extend_from_slice(&ip.octets());
        }
        IpAddr::V6(ip) => {
            out.push(4);
            out.extend_from_slice(&ip.octets());
        }
    }
    out.extend_from_slice(&address.port().to_be_bytes());
}

/// Connects to the first address that can be connected to; otherwise the reply code of the last.
async fn dial(host: &Host, port: u16, shared: &Shared, options: &SocksOptions) -> Result<TcpStream, u8> {
    let mut code = reply::HOST_UNREACHABLE;
    for address in host.addresses(options) {
        if address.is_ipv6() && !options.ipv6 {
            code = reply::NET_UNREACHABLE;
            continue;
        }
        match shared.exit.connect(SocketAddr::new(address, port), options.connect_timeout).await {
            Ok(stream) => return Ok(stream),
            Err(error) => code = code_of(&error),
        }
    }
    Err(code)
}

fn code_of(error: &io::Error) -> u8 {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => reply::REFUSED,
        io::ErrorKind::NetworkUnreachable => reply::NET_UNREACHABLE,
        io::ErrorKind::HostUnreachable => reply::HOST_UNREACHABLE,
        io::ErrorKind::TimedOut => reply::TTL_EXPIRED,
        io::ErrorKind::PermissionDenied => reply::NOT_ALLOWED,
        _ => reply::FAILURE,
    }
}

/// SOCKS 4 and its extension 4a, in which an address 0.0.0.x with x not zero says that a name follows.
async fn version4(
    mut stream: TcpStream,
    client: SocketAddr,
    shared: &Arc<Shared>,
    options: &SocksOptions,
) -> io::Result<()> {
    let command = match stream.read_u8().await? {
        1 => SocksCommand::Connect,
        other => SocksCommand::Other(other),
    };
    let port = stream.read_u16().await?;
    let address = stream.read_u32().await?;
    let user = read_to_zero(&mut stream).await?;
    let host = if (1..=0xff).contains(&address) {
        Host::Name(String::from_utf8_lossy(&read_to_zero(&mut stream).await?).into_owned())
    } else {
        Host::Address(Ipv4Addr::from(address).into())
    };
    let allowed = options.user.as_ref().is_none_or(|(name, _)| name.as_bytes() == user);
    let dialled = match command {
        SocksCommand::Connect if allowed => dial(&host, port, shared, options).await,
        SocksCommand::Connect => Err(reply::NOT_ALLOWED),
        _ => Err(reply::COMMAND_NOT_SUPPORTED),
    };
    let code = dialled.as_ref().err().copied().unwrap_or(reply::SUCCEEDED);
    let target = host.with_port(port);
    shared.requests.lock().push(SocksRequest { version: 4, client, command, target, reply: code });
    tokio::time::sleep(options.delay).await;
    // 90 granted, 91 rejected or failed, 93 the user name is not the one that is wanted.
    let status = match code {
        reply::SUCCEEDED => 90,
        reply::NOT_ALLOWED if !allowed => 93,
        _ => 91,
    };
    send(&mut stream, &[0, status, 0, 0, 0, 0, 0, 0], options.split).await?;
    if let Ok(far) = dialled {
        relay(stream, far, shared.counts.carried.clone(), shared.kill_connections.subscribe()).await;
    }
    Ok(())
}

async fn read_to_zero(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    loop {
        match stream.read_u8().await? {
            0 => return Ok(bytes),
            byte if bytes.len() < 512 => bytes.push(byte),
            _ => return Err(io::Error::new(io::ErrorKind::InvalidData, "the name is too long")),
        }
    }
}
