//! A Shadowsocks server: that of the project's own crate.

use std::collections::HashMap;
use std::io::{self, Write};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ::shadowsocks::config::{ServerConfig, ServerType};
use ::shadowsocks::context::{Context, SharedContext};
use ::shadowsocks::relay::Address;
use ::shadowsocks::relay::tcprelay::ProxyListener;
use ::shadowsocks::relay::udprelay::ProxySocket;
use ::shadowsocks::relay::udprelay::options::UdpSocketControlData;
use oneway_lab::NetNs;
use oneway_lab::harness::Failed;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::oneshot;

/// The server, running. Dropped, it ends with all its connections, each in the middle of a chunk: behind a whole one the end
/// of the stream is a regular one.
pub struct Shadowsocks {
    requests: Arc<Mutex<Vec<String>>>,
    resets: Arc<AtomicBool>,
    _stop: oneshot::Sender<()>,
}

impl Shadowsocks {
    /// Starts it. Names are all those of `named`.
    pub fn start(
        namespace: &NetNs,
        address: SocketAddr,
        method: &str,
        password: &str,
        named: IpAddr,
    ) -> Result<Self, Failed> {
        let requests = Arc::<Mutex<Vec<String>>>::default();
        let method = method.parse().map_err(|_| format!("{method} is no cipher"))?;
        let config = ServerConfig::new(address, password, method)?;
        let (stop, stopped) = oneshot::channel();
        let (ready, started) = mpsc::channel();
        let seen = Arc::clone(&requests);
        let resets = Arc::<AtomicBool>::default();
        let reset = Arc::clone(&resets);
        namespace.spawn_thread("shadowsocks", move || {
            let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else {
                return;
            };
            let connections = Connections::default();
            runtime.block_on(async {
                let context = Context::new_shared(ServerType::Server);
                let begun = begin(context, &config, seen, Arc::clone(&connections), named).await;
                let failed = begun.is_err();
                let _ = ready.send(begun);
                if !failed {
                    let _ = stopped.await;
                }
            });
            drop(runtime);
            for (_, mut connection) in
                connections.lock().into_iter().flat_map(|mut all| std::mem::take(&mut *all))
            {
                // One that takes nothing more has stopped within a chunk as well.
                let _ = connection.write(&[0]);
                if reset.load(Ordering::Relaxed) {
                    let _ = SockRef::from(&connection).set_linger(Some(Duration::ZERO));
                }
            }
        })?;
        started.recv()??;
        Ok(Self { requests, resets, _stop: stop })
    }

    /// Ends it, with a reset of each connection.
    pub fn reset(self) {
        self.resets.store(true, Ordering::Relaxed);
    }

    /// What was asked for, as `tcp HOST:PORT` and `udp HOST:PORT` for each datagram.
    pub fn requests(&self) -> Vec<String> {
        self.requests.lock().map(|requests| requests.clone()).unwrap_or_default()
    }
}

type Requests = Arc<Mutex<Vec<String>>>;
/// Those that live, by the client's end.
type Connections = Arc<Mutex<HashMap<SocketAddr, std::net::TcpStream>>>;

fn note(requests: &Requests, text: String) {
    if let Ok(mut requests) = requests.lock() {
        requests.push(text);
    }
}

fn resolve(address: &Address, named: IpAddr) -> SocketAddr {
    match address {
        Address::SocketAddress(address) => *address,
        Address::DomainNameAddress(_, port) => SocketAddr::new(named, *port),
    }
}

#[allow(clippy::disallowed_methods, reason = "the server of the test is another program")]
async fn begin(
    context: SharedContext,
    config: &ServerConfig,
    requests: Requests,
    connections: Connections,
    named: IpAddr,
) -> io::Result<()> {
    let listener = ProxyListener::bind(context.clone(), config).await?;
    let datagrams = ProxySocket::bind(context, config).await.map_err(io::Error::other)?;
    let seen = Arc::clone(&requests);
    tokio::spawn(async move {
        while let Ok((mut stream, client)) = listener.accept().await {
            let (seen, connections) = (Arc::clone(&seen), Arc::clone(&connections));
            let Ok(connection) = stream.get_ref().as_fd().try_clone_to_owned() else { continue };
            if let Ok(mut connections) = connections.lock() {
                connections.insert(client, connection.into());
            }
            tokio::spawn(async move {
                let carried = async {
                    let address = stream.handshake().await?;
                    note(&seen, format!("tcp {address}"));
                    let onward = TcpStream::connect(resolve(&address, named)).await?;
                    let ((from, to), (back, on)) = (tokio::io::split(stream), onward.into_split());
                    tokio::try_join!(pass_on(from, on), pass_on(back, to))
                };
                let ended = carried.await;
                if let Ok(mut connections) = connections.lock() {
                    connections.remove(&client);
                }
                ended
            });
        }
    });
    tokio::spawn(carry(Arc::new(datagrams), requests, named));
    Ok(())
}

/// Its streams want to be given the same bytes again until they are written, which `tokio::io::copy` does not do.
async fn pass_on(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin) -> io::Result<()> {
    let mut buffer = vec![0; 16 * 1024];
    loop {
        match from.read(&mut buffer).await? {
            0 => return to.shutdown().await,
            len => to.write_all(&buffer[..len]).await?,
        }
    }
}

/// A socket of its own for each client and family.
#[allow(clippy::disallowed_methods, reason = "the server of the test is another program")]
async fn carry(
    server: Arc<ProxySocket<::shadowsocks::net::UdpSocket>>,
    requests: Requests,
    named: IpAddr,
) -> io::Result<()> {
    let mut sockets: HashMap<(SocketAddr, bool), Arc<UdpSocket>> = HashMap::new();
    let mut buffer = vec![0; 65_536];
    loop {
        let Ok((len, client, address, _, control)) = server.recv_from_with_ctrl(&mut buffer).await else {
            continue;
        };
        note(&requests, format!("udp {address}"));
        let to = resolve(&address, named);
        let key = (client, to.is_ipv4());
        let socket = match sockets.get(&key) {
            Some(socket) => Arc::clone(socket),
            None => {
                let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
                let socket = Arc::new(UdpSocket::bind(any).await?);
                sockets.insert(key, Arc::clone(&socket));
                let (inside, server) = (Arc::clone(&socket), Arc::clone(&server));
                let mut ours = UdpSocketControlData::default();
                ours.client_session_id = control.map_or(0, |control| control.client_session_id);
                ours.server_session_id = u64::from(client.port()) << 1 | u64::from(to.is_ipv4());
                tokio::spawn(async move {
                    let mut buffer = vec![0; 65_536];
                    while let Ok((len, from)) = inside.recv_from(&mut buffer).await {
                        let from = Address::SocketAddress(from);
                        ours.packet_id += 1;
                        let _ = server.send_to_with_ctrl(client, &from, &ours, &buffer[..len]).await;
                    }
                });
                socket
            }
        };
        let _ = socket.send_to(&buffer[..len], to).await;
    }
}
