//! The servers of the far side: each is a thread with a runtime of its own inside a namespace, and ends when dropped.

pub mod dns;
pub mod http_proxy;
pub mod origin;
pub mod process;
pub(crate) mod relay;
pub mod socks;

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::mpsc;
use std::thread::JoinHandle;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, UdpSocket};
use tokio::sync::oneshot;

pub use dns::{DnsServer, Fault, Zone};
pub use http_proxy::{HttpProxy, HttpProxyOptions};
pub use origin::Origin;
pub use process::SocksProcess;
pub use socks::{BindAnswer, SocksOptions, SocksServer};

use crate::error::LabError;
use crate::ns::NetNs;

/// A thread in a namespace that runs a server until this is dropped.
#[derive(Debug)]
pub(crate) struct ServerThread {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<Result<(), LabError>>>,
}

impl ServerThread {
    /// Runs `setup` inside the namespace and inside a runtime; it makes the listeners and spawns the tasks. Returns
    /// when it has ended.
    pub(crate) fn start<F>(
        namespace: &NetNs,
        server: &str,
        setup: impl FnOnce() -> F + Send + 'static,
    ) -> Result<Self, LabError>
    where
        F: Future<Output = io::Result<()>>,
    {
        let (stop, stopped) = oneshot::channel();
        let (ready, started) = mpsc::channel();
        let thread = namespace.spawn_thread(&format!("lab-{server}"), move || {
            let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
                Ok(runtime) => runtime,
                Err(error) => return drop(ready.send(Err(error))),
            };
            runtime.block_on(async {
                let outcome = setup().await;
                let failed = outcome.is_err();
                let _ = ready.send(outcome);
                if !failed {
                    let _ = stopped.await;
                }
            });
            // Dropping the runtime closes every connection that the server still has.
        })?;
        let fail = |source| LabError::Server { server: server.to_owned(), source };
        match started.recv() {
            Ok(Ok(())) => Ok(Self { stop: Some(stop), thread: Some(thread) }),
            Ok(Err(source)) => Err(fail(source)),
            // The thread ended without a word: it could not enter the namespace.
            Err(_) => match thread.join() {
                Ok(Err(error)) => Err(error),
                _ => Err(fail(io::Error::other("its thread ended"))),
            },
        }
    }
}

impl Drop for ServerThread {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn socket(address: SocketAddr, kind: Type, protocol: Protocol) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), kind, Some(protocol))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// Listens on `address`; must run inside a runtime. `receive_buffer`, in bytes, makes the window small.
pub(crate) fn listen(address: SocketAddr, receive_buffer: Option<usize>) -> io::Result<TcpListener> {
    let within = |error: io::Error| io::Error::new(error.kind(), format!("TCP {address}: {error}"));
    let socket = socket(address, Type::STREAM, Protocol::TCP)?;
    socket.set_reuse_address(true)?;
    if let Some(size) = receive_buffer {
        socket.set_recv_buffer_size(size)?;
    }
    socket.bind(&address.into()).map_err(within)?;
    socket.listen(4096).map_err(within)?;
    TcpListener::from_std(socket.into())
}

/// Binds a datagram socket with large buffers to `address`; must run inside a runtime.
pub(crate) fn datagrams(address: SocketAddr) -> io::Result<UdpSocket> {
    let within = |error: io::Error| io::Error::new(error.kind(), format!("UDP {address}: {error}"));
    let socket = socket(address, Type::DGRAM, Protocol::UDP)?;
    socket.set_recv_buffer_size(4 << 20)?;
    socket.set_send_buffer_size(4 << 20)?;
    socket.bind(&address.into()).map_err(within)?;
    UdpSocket::from_std(socket.into())
}

/// Has the kernel send RST instead of FIN when `stream` is dropped.
pub(crate) fn reset_on_drop(stream: &tokio::net::TcpStream) {
    let _ = socket2::SockRef::from(stream).set_linger(Some(std::time::Duration::ZERO));
}
