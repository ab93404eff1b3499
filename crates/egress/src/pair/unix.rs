//! `socketpair(2)`. Its ends are streams like any other: reading, writing, shutting down and `splice(2)` work on them.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use tokio::net::{TcpStream, UdpSocket};

use socket2::{Domain, Socket};

use crate::EgressError;

/// Bytes of datagrams that wait in each direction; the kernel may allow less.
const BUFFER: usize = 1 << 20;

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

pub(super) fn datagram_pair() -> Result<(UdpSocket, UdpSocket), EgressError> {
    let make = || -> io::Result<_> {
        let (a, b) = Socket::pair(Domain::UNIX, super::kind::DATAGRAMS, None)?;
        Ok((datagrams(a)?, datagrams(b)?))
    };
    make().map_err(|source| EgressError::Create { what: "local", source })
}

fn datagrams(end: Socket) -> io::Result<UdpSocket> {
    // What waits counts for the sender.
    end.set_send_buffer_size(BUFFER)?;
    end.set_nonblocking(true)?;
    UdpSocket::from_std(OwnedFd::from(end).into())
}
