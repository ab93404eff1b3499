//! The TCP services.

use std::future::pending;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::super::{listen, reset_on_drop};
use super::{Book, Network, Open, Tally, http, port};
use crate::pattern::{self, Sum};

/// Receive buffer of the slow service, in bytes. The kernel doubles it.
const SLOW_BUFFER: usize = 4096;

#[derive(Debug, Clone, Copy)]
enum Service {
    Echo,
    Discard,
    Chargen,
    Http,
    Sum,
    Reset,
    Slow,
    Silent,
    FinFirst,
    ResetAtOnce,
    Client,
}

const SERVICES: [(u16, Service); 11] = [
    (port::ECHO, Service::Echo),
    (port::DISCARD, Service::Discard),
    (port::CHARGEN, Service::Chargen),
    (port::HTTP, Service::Http),
    (port::SUM, Service::Sum),
    (port::RESET, Service::Reset),
    (port::SLOW, Service::Slow),
    (port::SILENT, Service::Silent),
    (port::FIN_FIRST, Service::FinFirst),
    (port::RESET_AT_ONCE, Service::ResetAtOnce),
    (port::CLIENT, Service::Client),
];

/// Starts the services on `address`; must run inside a runtime.
pub(super) fn start(address: IpAddr, book: &Arc<Book>) -> io::Result<()> {
    for (port, service) in SERVICES {
        let server = SocketAddr::new(address, port);
        let small = matches!(service, Service::Slow).then_some(SLOW_BUFFER);
        let listener = listen(server, small)?;
        let book = book.clone();
        tokio::spawn(async move {
            loop {
                let (stream, client) = match listener.accept().await {
                    Ok(accepted) => accepted,
                    // Out of descriptors: let others close theirs.
                    Err(_) => {
                        tokio::time::sleep(Duration::from_millis(10)).await;
                        continue;
                    }
                };
                let open = Open::new(&book);
                let tally = book.enter(Network::Tcp, server, client);
                tokio::spawn(async move {
                    // What the client does to its connection is its own business.
                    let _ = serve(service, stream, client, &tally).await;
                    drop(open);
                });
            }
        });
    }
    let held = hang(SocketAddr::new(address, port::HANG))?;
    tokio::spawn(async move {
        let _held = held;
        pending::<()>().await;
    });
    Ok(())
}

/// A listener whose backlog is filled by one connection of our own, and which never accepts. The kernel drops further
/// SYNs (`sk_acceptq_is_full` in net/ipv4/tcp_input.c).
fn hang(address: SocketAddr) -> io::Result<(Socket, Socket)> {
    let listener = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    listener.set_reuse_address(true)?;
    if address.is_ipv6() {
        listener.set_only_v6(true)?;
    }
    listener.bind(&address.into())?;
    listener.listen(0)?;
    let filler = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    filler.connect(&address.into())?;
    Ok((listener, filler))
}

async fn serve(service: Service, mut stream: TcpStream, client: SocketAddr, tally: &Tally) -> io::Result<()> {
    stream.set_nodelay(true)?;
    match service {
        Service::Echo => echo(&mut stream, tally).await,
        Service::Discard => drain(&mut stream, tally).await.map(drop),
        Service::Chargen => chargen(&mut stream).await,
        Service::Http => http::serve(&mut stream, client, tally).await,
        Service::Sum => {
            let sum = drain(&mut stream, tally).await?;
            stream.write_all(format!("{sum}\n").as_bytes()).await
        }
        Service::Reset => {
            let mut one = [0];
            tally.add_bytes(stream.read(&mut one).await?);
            reset_on_drop(&stream);
            Ok(())
        }
        Service::Slow => {
            let sum = drain_slowly(&mut stream, tally).await?;
            stream.write_all(format!("{sum}\n").as_bytes()).await
        }
        Service::Silent => {
            // Not reading, the only thing that can be noticed is an error: a reset or a time-out.
            loop {
                stream.ready(tokio::io::Interest::ERROR).await?;
                if let Some(error) = stream.take_error()? {
                    return Err(error);
                }
            }
        }
        Service::FinFirst => {
            stream.write_all(b"bye\n").await?;
            stream.shutdown().await?;
            drain(&mut stream, tally).await.map(drop)
        }
        Service::ResetAtOnce => {
            reset_on_drop(&stream);
            Ok(())
        }
        Service::Client => stream.write_all(format!("{client}\n").as_bytes()).await,
    }
}

async fn echo(stream: &mut TcpStream, tally: &Tally) -> io::Result<()> {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let read = stream.read(&mut buffer).await?;
        if read == 0 {
            return stream.shutdown().await;
        }
        tally.add_bytes(read);
        stream.write_all(&buffer[..read]).await?;
    }
}

async fn drain(stream: &mut TcpStream, tally: &Tally) -> io::Result<Sum> {
    let mut buffer = vec![0; 64 * 1024];
    let mut sum = Sum::default();
    loop {
        let read = stream.read(&mut buffer).await?;
        if read == 0 {
            return Ok(sum);
        }
        tally.add_bytes(read);
        sum.add(&buffer[..read]);
    }
}

async fn drain_slowly(stream: &mut TcpStream, tally: &Tally) -> io::Result<Sum> {
    let mut buffer = vec![0; 4096];
    let mut sum = Sum::default();
    loop {
        let read = stream.read(&mut buffer).await?;
        if read == 0 {
            return Ok(sum);
        }
        tally.add_bytes(read);
        sum.add(&buffer[..read]);
        tokio::time::sleep(Duration::from_millis(4)).await;
    }
}

async fn chargen(stream: &mut TcpStream) -> io::Result<()> {
    let mut sent = 0;
    loop {
        sent += stream.write(pattern::piece(sent, pattern::PERIOD)).await? as u64;
    }
}
