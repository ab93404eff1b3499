//! Many connections or datagrams at once.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, UdpSocket};
use tokio::sync::Semaphore;

use super::{Client, fail};
use crate::error::LabError;
use crate::pattern;

/// What became of a load.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Load {
    /// Connections or datagrams that did all they should.
    pub completed: u64,
    /// Those that did not.
    pub failed: u64,
    /// Bytes of payload that came back, or arrived.
    pub bytes: u64,
    /// From the first to the last.
    pub took: Duration,
}

#[derive(Default)]
struct Tally {
    completed: AtomicU64,
    failed: AtomicU64,
    bytes: AtomicU64,
}

impl Client {
    /// Makes `connections` connections to an echo service, at most `at_once` at a time; each sends `bytes` of the
    /// pattern, compares what comes back, and closes.
    ///
    /// # Errors
    /// [`LabError::Client`] when there can be no runtime. Connections that fail are counted.
    pub fn tcp_load(
        &self,
        to: SocketAddr,
        connections: usize,
        at_once: usize,
        bytes: usize,
    ) -> Result<Load, LabError> {
        self.load(connections, at_once, move |_| async move {
            let socket = if to.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
            let mut stream = socket.connect(to).await?;
            let (mut read, mut write) = stream.split();
            let sent = pattern::bytes(bytes);
            let send = async {
                write.write_all(&sent).await?;
                write.shutdown().await
            };
            let mut back = Vec::with_capacity(bytes);
            tokio::try_join!(send, read.read_to_end(&mut back))?;
            if back == sent { Ok(bytes as u64) } else { Err(io::ErrorKind::InvalidData.into()) }
        })
    }

    /// Opens `sockets` datagram sockets, at most `at_once` at a time; each sends one datagram of `bytes` to an echo
    /// service and waits up to `patience` for it to come back.
    ///
    /// # Errors
    /// [`LabError::Client`] when there can be no runtime. Datagrams that do not come back are counted.
    pub fn udp_load(
        &self,
        to: SocketAddr,
        sockets: usize,
        at_once: usize,
        bytes: usize,
        patience: Duration,
    ) -> Result<Load, LabError> {
        self.load(sockets, at_once, move |_| async move {
            let any: SocketAddr = match to {
                SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
                SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
            };
            let socket = UdpSocket::bind(any).await?;
            socket.connect(to).await?;
            let sent = pattern::bytes(bytes);
            socket.send(&sent).await?;
            let mut back = vec![0; bytes + 1];
            let length = tokio::time::timeout(patience, socket.recv(&mut back))
                .await
                .map_err(|_| io::ErrorKind::TimedOut)??;
            if back[..length] == sent { Ok(bytes as u64) } else { Err(io::ErrorKind::InvalidData.into()) }
        })
    }

    /// Reads from a service that sends for ever, over `streams` connections, for `time`.
    ///
    /// # Errors
    /// [`LabError::Client`] when there can be no runtime.
    pub fn download(&self, to: SocketAddr, streams: usize, time: Duration) -> Result<Load, LabError> {
        self.load(streams, streams, move |end: Instant| async move {
            let socket = if to.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
            let mut stream = socket.connect(to).await?;
            let (mut buffer, mut got) = (vec![0; 256 * 1024], 0);
            let end = tokio::time::Instant::from_std(end + time);
            loop {
                match tokio::time::timeout_at(end, stream.read(&mut buffer)).await {
                    Err(_) => return Ok(got),
                    Ok(Ok(0)) => return Err(io::ErrorKind::UnexpectedEof.into()),
                    Ok(read) => got += read? as u64,
                }
            }
        })
    }

    /// Writes to a service that only reads, over `streams` connections, for `time`.
    ///
    /// # Errors
    /// [`LabError::Client`] when there can be no runtime.
    pub fn upload(&self, to: SocketAddr, streams: usize, time: Duration) -> Result<Load, LabError> {
        self.load(streams, streams, move |end: Instant| async move {
            let socket = if to.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
            let mut stream = socket.connect(to).await?;
            let mut sent = 0;
            let end = tokio::time::Instant::from_std(end + time);
            loop {
                match tokio::time::timeout_at(end, stream.write(pattern::piece(sent, pattern::PERIOD))).await
                {
                    Err(_) => return Ok(sent),
                    Ok(written) => sent += written? as u64,
                }
            }
        })
    }

    /// Runs `one` `count` times. It is given the time of the beginning, and returns how many bytes it carried.
    fn load<F>(
        &self,
        count: usize,
        at_once: usize,
        one: impl Fn(Instant) -> F + Send + Sync + 'static,
    ) -> Result<Load, LabError>
    where
        F: Future<Output = io::Result<u64>> + Send + 'static,
    {
        let run = move || -> io::Result<Load> {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let tally = Arc::new(Tally::default());
            let begin = Instant::now();
            runtime.block_on(async {
                let places = Arc::new(Semaphore::new(at_once));
                let mut running = tokio::task::JoinSet::new();
                for _ in 0..count {
                    // The semaphore is never closed.
                    let place = places.clone().acquire_owned().await.map_err(io::Error::other)?;
                    let (work, tally) = (one(begin), tally.clone());
                    running.spawn(async move {
                        match work.await {
                            Ok(bytes) => {
                                tally.completed.fetch_add(1, Ordering::Relaxed);
                                tally.bytes.fetch_add(bytes, Ordering::Relaxed);
                            }
                            Err(_) => drop(tally.failed.fetch_add(1, Ordering::Relaxed)),
                        }
                        drop(place);
                    });
                }
                while running.join_next().await.is_some() {}
                Ok::<(), io::Error>(())
            })?;
            Ok(Load {
                completed: tally.completed.load(Ordering::Relaxed),
                failed: tally.failed.load(Ordering::Relaxed),
                bytes: tally.bytes.load(Ordering::Relaxed),
                took: begin.elapsed(),
            })
        };
        self.namespace.run(run)?.map_err(|source| fail("put load on".to_owned(), source))
    }
}
