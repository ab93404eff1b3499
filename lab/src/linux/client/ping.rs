//! ICMP echo.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use socket2::{Protocol, Type};

use super::{Client, fail};
use crate::error::LabError;

/// What came back for an ICMP echo request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ping {
    /// An echo reply.
    Reply {
        /// Who replied.
        from: IpAddr,
        /// Round trip time.
        took: Duration,
    },
    /// An ICMP error that quotes the request.
    Error {
        /// Who sent it.
        from: IpAddr,
        /// Its type (RFC 792, RFC 4443).
        kind: u8,
        /// Its code.
        code: u8,
        /// How long it took.
        took: Duration,
    },
    /// The kernel at home refused to send it: no route, for example.
    NotSent {
        /// The number of the error.
        errno: i32,
    },
    /// Nothing came in time.
    Silent,
}

/// Length of the request: the ICMP header and 56 bytes, as `ping` sends it.
const LENGTH: usize = 64;

impl Client {
    /// Sends one echo request from a raw socket and waits for what comes.
    ///
    /// # Errors
    /// [`LabError::Client`] when there can be no raw socket.
    pub fn ping(&self, to: IpAddr, timeout: Duration) -> Result<Ping, LabError> {
        static NUMBER: AtomicU16 = AtomicU16::new(1);
        let id = NUMBER.fetch_add(1, Ordering::Relaxed) ^ (std::process::id() as u16).rotate_left(8);
        self.ping_as(to, id, timeout)
    }

    /// The same with an identifier of the caller's choice: several requests with one are those of one `ping`.
    ///
    /// # Errors
    /// As of [`Self::ping`].
    pub fn ping_as(&self, to: IpAddr, id: u16, timeout: Duration) -> Result<Ping, LabError> {
        let what = || format!("ping {to}");
        let protocol = if to.is_ipv4() { Protocol::ICMPV4 } else { Protocol::ICMPV6 };
        // A raw socket is as good as one for datagrams to send, receive and learn who sent.
        let socket = UdpSocket::from(self.socket(SocketAddr::new(to, 0), Type::RAW, protocol)?);
        let begin = Instant::now();
        if let Err(error) = socket.send_to(&request(to, id), SocketAddr::new(to, 0)) {
            return Ok(Ping::NotSent { errno: error.raw_os_error().unwrap_or(0) });
        }
        let mut buffer = [0; 2048];
        loop {
            let left = timeout.saturating_sub(begin.elapsed());
            if left.is_zero() {
                return Ok(Ping::Silent);
            }
            socket.set_read_timeout(Some(left)).map_err(|source| fail(what(), source))?;
            let (length, from) = match socket.recv_from(&mut buffer) {
                Ok(received) => received,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Ping::Silent),
                Err(source) => return Err(fail(what(), source)),
            };
            if let Some(mut found) = classify(&buffer[..length], from.ip(), to, id) {
                if let Ping::Reply { took, .. } | Ping::Error { took, .. } = &mut found {
                    *took = begin.elapsed();
                }
                return Ok(found);
            }
        }
    }
}

fn request(to: IpAddr, id: u16) -> Vec<u8> {
    let mut out = vec![0; LENGTH];
    out[0] = if to.is_ipv4() { 8 } else { 128 };
    out[4..6].copy_from_slice(&id.to_be_bytes());
    out[6..8].copy_from_slice(&1_u16.to_be_bytes());
    for (byte, value) in out[8..].iter_mut().zip(0..) {
        *byte = value;
    }
    // No two that are under way are the same, as with the time in those of `ping`.
    out[8..10].copy_from_slice(&id.to_be_bytes());
    // For ICMPv6 the kernel computes it, whatever stands there.
    if to.is_ipv4() {
        let sum =
            out.chunks(2).fold(0_u32, |sum, pair| sum + u32::from(u16::from_be_bytes([pair[0], pair[1]])));
        let folded = (sum & 0xffff) + (sum >> 16);
        let folded = u16::try_from((folded & 0xffff) + (folded >> 16)).unwrap_or(0);
        out[2..4].copy_from_slice(&(!folded).to_be_bytes());
    }
    out
}

/// Whether the message answers the request `id` to `to`. IPv4 raw sockets receive with the IP header.
fn classify(packet: &[u8], from: IpAddr, to: IpAddr, id: u16) -> Option<Ping> {
    let took = Duration::ZERO;
    let echo = |icmp: &[u8]| icmp.get(4..6) == Some(&id.to_be_bytes());
    // RFC 792: the data of the request must be returned.
    let whole = |icmp: &[u8]| echo(icmp) && icmp.get(6..) == request(to, id).get(6..);
    match to {
        IpAddr::V4(to) => {
            let icmp = packet.get(header_length(packet)?..)?;
            if *icmp.first()? == 0 && whole(icmp) {
                return Some(Ping::Reply { from, took });
            }
            let quoted = icmp.get(8..).filter(|_| matches!(icmp[0], 3 | 11 | 12))?;
            let destination = Ipv4Addr::from(*quoted.get(16..20)?.first_chunk::<4>()?);
            let mine = destination == to && echo(quoted.get(header_length(quoted)?..)?);
            mine.then_some(Ping::Error { from, kind: icmp[0], code: icmp[1], took })
        }
        IpAddr::V6(to) => {
            if *packet.first()? == 129 && whole(packet) {
                return Some(Ping::Reply { from, took });
            }
            let quoted = packet.get(8..).filter(|_| packet[0] < 128)?;
            let destination = Ipv6Addr::from(*quoted.get(24..40)?.first_chunk::<16>()?);
            let mine = destination == to && echo(quoted.get(40..)?);
            mine.then_some(Ping::Error { from, kind: packet[0], code: packet[1], took })
        }
    }
}

fn header_length(packet: &[u8]) -> Option<usize> {
    Some(usize::from(packet.first()? & 0xf) * 4)
}
