//! `socketpair(2)`. Its ends are streams like any other: reading, writing, shutting down and `splice(2)` work on them.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use tokio::net::TcpStream;

use crate::EgressError;

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
