//! `socketpair(2)`. Its ends are streams like any other: reading, writing, shutting down and `splice(2)` work on them.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use tokio::net::{TcpStream, UdpSocket};

use socket2::{Domain, Socket, Type};

use crate::EgressError;

/// Bytes of datagrams that wait in each direction; the kernel may allow less.
const DATAGRAMS: usize = 1 << 20;

pub(super) fn pair() -> Result<(TcpStream, TcpStream), EgressError> {
    let make = || -> io::Result<_> {
        let (a, b) = UnixStream::pair()?;
        Ok((stream(a)?, stream(b)?))
    };
    make().map_err(|source| EgressError::Create { what: "local", source })
}

fn stream(end: UnixStream) -> io::Result<TcpStream> {
    end.set_nonblocking(true)?;
    TcpStream::from_std(OwnedFd::from(end).into())
}

/// Sequenced packets: of datagrams the kernel lets no more than `net.unix.max_dgram_qlen` wait, which is 10 on many hosts.
/// macOS has none.
pub(super) fn datagram_pair() -> Result<(UdpSocket, UdpSocket), EgressError> {
    let kind = if cfg!(any(target_vendor = "apple")) { Type::DGRAM } else { Type::SEQPACKET };
    let make = || -> io::Result<_> {
        let (a, b) = Socket::pair(Domain::UNIX, kind, None)?;
        Ok((datagrams(a)?, datagrams(b)?))
    };
    make().map_err(|source| EgressError::Create { what: "local", source })
}

fn datagrams(end: Socket) -> io::Result<UdpSocket> {
    // What waits counts for the sender.
    end.set_send_buffer_size(DATAGRAMS)?;
    end.set_nonblocking(true)?;
    UdpSocket::from_std(OwnedFd::from(end).into())
}
