//! What programs on a machine of the laboratory do: connect, fetch, ask, ping; with the outcome and the time taken.

mod dns;
mod load;
mod ping;

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::thread;
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, Socket, Type};

pub use dns::DnsAnswer;
pub use hickory_proto::rr::RecordType;
pub use load::Load;
pub use ping::Ping;

use crate::error::LabError;
use crate::ns::NetNs;

/// How an attempt to reach somebody ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It worked.
    Done,
    /// RST to a SYN, or ICMP port unreachable.
    Refused,
    /// RST on an existing connection.
    Reset,
    /// ICMP net unreachable, or no route at home.
    NetUnreachable,
    /// ICMP host unreachable.
    HostUnreachable,
    /// ICMPv6 administratively prohibited, or forbidden at home. (ICMP for IPv4 says host unreachable.)
    Prohibited,
    /// Nothing came in time.
    TimedOut,
    /// Any other error, by its number.
    Other(i32),
}

impl From<&io::Error> for Outcome {
    fn from(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::ConnectionRefused => Self::Refused,
            io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => Self::Reset,
            io::ErrorKind::NetworkUnreachable => Self::NetUnreachable,
            io::ErrorKind::HostUnreachable => Self::HostUnreachable,
            io::ErrorKind::PermissionDenied => Self::Prohibited,
            io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => Self::TimedOut,
            _ => Self::Other(error.raw_os_error().unwrap_or(0)),
        }
    }
}

/// An attempt to connect.
#[derive(Debug)]
pub struct Dial {
    /// How it ended.
    pub outcome: Outcome,
    /// How long it took.
    pub took: Duration,
    /// The connection, when [`Outcome::Done`]. Reads and writes give up after ten seconds.
    pub stream: Option<TcpStream>,
}

impl Dial {
    /// The connection.
    ///
    /// # Errors
    /// [`LabError::Client`] with the outcome when there is none.
    pub fn connected(self) -> Result<TcpStream, LabError> {
        self.stream.ok_or_else(|| LabError::Client {
            what: "connect".to_owned(),
            source: io::Error::other(format!("{:?} after {:?}", self.outcome, self.took)),
        })
    }
}

/// A datagram sent and what came back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exchange {
    /// [`Outcome::Done`] when an answer came.
    pub outcome: Outcome,
    /// How long it took.
    pub took: Duration,
    /// Who answered.
    pub from: Option<SocketAddr>,
    /// The answer.
    pub data: Vec<u8>,
}

/// The answer to an HTTP request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpReply {
    /// The status code.
    pub status: u16,
    /// The body.
    pub body: Vec<u8>,
    /// From the first SYN to the last byte.
    pub took: Duration,
}

/// A program on a machine of the laboratory.
#[derive(Debug, Clone)]
pub struct Client {
    namespace: NetNs,
    source: Option<SocketAddr>,
    device: Option<String>,
}

/// How long reads and writes wait unless a method says otherwise.
const PATIENCE: Duration = Duration::from_secs(10);

impl NetNs {
    /// A client in this namespace.
    pub fn client(&self) -> Client {
        Client { namespace: self.clone(), source: None, device: None }
    }
}

impl Client {
    /// Has it bind its sockets to this address before it connects.
    #[must_use]
    pub fn source(mut self, source: IpAddr) -> Self {
        self.source = Some(SocketAddr::new(source, 0));
        self
    }

    /// Has it bind its sockets to this address and port before it connects.
    #[must_use]
    pub fn source_port(mut self, source: SocketAddr) -> Self {
        self.source = Some(source);
        self
    }

    /// Has it bind its sockets to this device (`SO_BINDTODEVICE`).
    #[must_use]
    pub fn device(mut self, device: &str) -> Self {
        self.device = Some(device.to_owned());
        self
    }

    /// Connects over TCP and says how that ended.
    ///
    /// # Errors
    /// [`LabError::Client`] when there can be no socket; that it cannot connect is an outcome.
    pub fn tcp(&self, to: SocketAddr, timeout: Duration) -> Result<Dial, LabError> {
        let socket = self.socket(to, Type::STREAM, Protocol::TCP)?;
        let begin = Instant::now();
        let connected = socket.connect_timeout(&to.into(), timeout);
        let took = begin.elapsed();
        if let Err(error) = connected {
            // socket2 reports its own time-out without an error number of the kernel.
            return Ok(Dial { outcome: Outcome::from(&error), took, stream: None });
        }
        let stream = TcpStream::from(socket);
        let ready = stream
            .set_read_timeout(Some(PATIENCE))
            .and_then(|()| stream.set_write_timeout(Some(PATIENCE)))
            .and_then(|()| stream.set_nodelay(true));
        ready.map_err(|source| fail(format!("prepare a connection to {to}"), source))?;
        Ok(Dial { outcome: Outcome::Done, took, stream: Some(stream) })
    }

    /// Makes `count` connections, one after the other, and returns them open.
    ///
    /// # Errors
    /// [`LabError::Client`] at the first that cannot be made within `timeout`.
    pub fn tcp_many(
        &self,
        to: SocketAddr,
        count: usize,
        timeout: Duration,
    ) -> Result<Vec<TcpStream>, LabError> {
        self.namespace
            .run(|| -> io::Result<Vec<TcpStream>> {
                let one = || {
                    let socket = self.socket_here(to, Type::STREAM, Protocol::TCP)?;
                    socket.connect_timeout(&to.into(), timeout)?;
                    Ok(TcpStream::from(socket))
                };
                std::iter::repeat_with(one).take(count).collect()
            })?
            .map_err(|source| fail(format!("make {count} connections to {to}"), source))
    }

    /// Fetches `path` from an HTTP server by one GET on a connection of its own.
    ///
    /// # Errors
    /// [`LabError::Client`] when it cannot connect within `timeout`, or the answer is not HTTP.
    pub fn http_get(&self, to: SocketAddr, path: &str, timeout: Duration) -> Result<HttpReply, LabError> {
        let begin = Instant::now();
        let what = || format!("fetch http://{to}{path}");
        let mut stream = self.tcp(to, timeout)?.connected()?;
        let request = format!("GET {path} HTTP/1.1\r\nHost: {to}\r\nConnection: close\r\n\r\n");
        let mut bytes = Vec::new();
        stream
            .set_read_timeout(Some(timeout))
            .and_then(|()| stream.write_all(request.as_bytes()))
            .and_then(|()| stream.read_to_end(&mut bytes))
            .map_err(|source| fail(what(), source))?;
        parse_http(&bytes)
            .map(|(status, body)| HttpReply { status, body, took: begin.elapsed() })
            .ok_or_else(|| fail(what(), io::Error::new(io::ErrorKind::InvalidData, "the answer is not HTTP")))
    }

    /// Sends one datagram from a connected socket and waits for one answer; ICMP errors are outcomes.
    ///
    /// # Errors
    /// [`LabError::Client`] when there can be no socket.
    pub fn udp(&self, to: SocketAddr, data: &[u8], timeout: Duration) -> Result<Exchange, LabError> {
        let socket = self.socket(to, Type::DGRAM, Protocol::UDP)?;
        report_all_errors(&socket, to.is_ipv4())
            .map_err(|source| fail(format!("prepare a socket for {to}"), source))?;
        let begin = Instant::now();
        let end = |outcome, from, data| Exchange { outcome, took: begin.elapsed(), from, data };
        if let Err(error) = socket.connect(&to.into()) {
            return Ok(end(Outcome::from(&error), None, Vec::new()));
        }
        let socket = UdpSocket::from(socket);
        let mut buffer = vec![0; 65_536];
        let exchanged = socket
            .set_read_timeout(Some(timeout))
            .and_then(|()| socket.send(data))
            .and_then(|_| socket.recv(&mut buffer));
        Ok(match exchanged {
            Ok(length) => end(Outcome::Done, Some(to), buffer[..length].to_vec()),
            Err(error) => end(Outcome::from(&error), None, Vec::new()),
        })
    }

    /// An unconnected datagram socket, which hears from strangers too; its reads give up after ten seconds.
    ///
    /// # Errors
    /// [`LabError::Client`] when there can be none.
    pub fn udp_socket(&self, ipv6: bool) -> Result<UdpSocket, LabError> {
        let any: IpAddr = if ipv6 { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() };
        let any = SocketAddr::new(any, 0);
        let socket = self.socket(any, Type::DGRAM, Protocol::UDP)?;
        let bound = if self.source.is_none() { socket.bind(&any.into()) } else { Ok(()) };
        let socket = UdpSocket::from(socket);
        bound
            .and_then(|()| socket.set_read_timeout(Some(PATIENCE)))
            .map_err(|source| fail("bind a datagram socket".to_owned(), source))?;
        Ok(socket)
    }

    /// A socket for `to`, made in the namespace; it stays there.
    fn socket(&self, to: SocketAddr, kind: Type, protocol: Protocol) -> Result<Socket, LabError> {
        self.namespace
            .run(|| self.socket_here(to, kind, protocol))?
            .map_err(|source| fail(format!("make a socket for {to}"), source))
    }

    fn socket_here(&self, to: SocketAddr, kind: Type, protocol: Protocol) -> io::Result<Socket> {
        let socket = Socket::new(Domain::for_address(to), kind, Some(protocol))?;
        if let Some(device) = &self.device {
            socket.bind_device(Some(device.as_bytes()))?;
        }
        if let Some(source) = self.source {
            socket.bind(&source.into())?;
        }
        Ok(socket)
    }
}

/// `IP_RECVERR`: without it a datagram socket hears of closed ports only, not of unreachable hosts and networks.
fn report_all_errors(socket: &Socket, ipv4: bool) -> io::Result<()> {
    let (level, option) =
        if ipv4 { (libc::IPPROTO_IP, libc::IP_RECVERR) } else { (libc::IPPROTO_IPV6, libc::IPV6_RECVERR) };
    let on: libc::c_int = 1;
    let length = size_of_val(&on) as libc::socklen_t;
    // SAFETY: the value is a `c_int` that lives throughout the call, and `length` is its size.
    match unsafe { libc::setsockopt(socket.as_raw_fd(), level, option, (&raw const on).cast(), length) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// `UDP_SEGMENT` (udp(7)): what the socket sends from now on leaves as datagrams of `size` bytes, the last one of what is
/// left; at most 64 of them.
///
/// # Errors
/// Those of `setsockopt(2)`.
pub fn send_in_segments(socket: &UdpSocket, size: u16) -> io::Result<()> {
    let size = libc::c_int::from(size);
    let length = size_of_val(&size) as libc::socklen_t;
    let value = (&raw const size).cast();
    // SAFETY: the value is a `c_int` that lives throughout the call, and `length` is its size.
    match unsafe { libc::setsockopt(socket.as_raw_fd(), libc::SOL_UDP, libc::UDP_SEGMENT, value, length) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

fn fail(what: String, source: io::Error) -> LabError {
    LabError::Client { what, source }
}

fn parse_http(bytes: &[u8]) -> Option<(u16, Vec<u8>)> {
    let end = bytes.windows(4).position(|window| window == b"\r\n\r\n")?;
    let head = std::str::from_utf8(&bytes[..end]).ok()?;
    let status = head.split_whitespace().nth(1)?.parse().ok()?;
    Some((status, bytes[end + 4..].to_vec()))
}

/// Waits until `condition` holds, looking every few milliseconds. `what` completes the sentence "waited until …".
///
/// # Errors
/// [`LabError::Deadline`] when it does not hold after `deadline`.
pub fn wait_until(
    deadline: Duration,
    what: &str,
    mut condition: impl FnMut() -> bool,
) -> Result<Duration, LabError> {
    let begin = Instant::now();
    loop {
        if condition() {
            return Ok(begin.elapsed());
        }
        if begin.elapsed() >= deadline {
            return Err(LabError::Deadline { what: what.to_owned(), waited: deadline });
        }
        thread::sleep(Duration::from_millis(5));
    }
}

/// Runs `work` for each number below `count`, all at the same time, each on a thread of its own; results in order.
/// A panic passes through.
pub fn parallel<T: Send>(count: usize, work: impl Fn(usize) -> T + Sync) -> Vec<T> {
    thread::scope(|scope| {
        let threads: Vec<_> = (0..count)
            .map(|index| {
                let work = &work;
                scope.spawn(move || work(index))
            })
            .collect();
        let join = |thread: thread::ScopedJoinHandle<'_, T>| {
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        };
        threads.into_iter().map(join).collect()
    })
}
