//! Runs a handshake over a socket.

use std::io;

use tokio::net::TcpStream;

use crate::ProxyFault;
use crate::handshake::{Handshake, Progress};

/// How a handshake ended early.
#[derive(Debug)]
pub(crate) enum Broken {
    Io(io::Error),
    Fault(ProxyFault),
}

impl From<io::Error> for Broken {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<ProxyFault> for Broken {
    fn from(fault: ProxyFault) -> Self {
        Self::Fault(fault)
    }
}

/// Drives `machine` to its end and returns the bytes that were read behind it. One write per message.
pub(crate) async fn run(stream: &TcpStream, machine: &mut (dyn Handshake + Send)) -> Result<Vec<u8>, Broken> {
    let mut out = Vec::with_capacity(64);
    let mut input = Vec::new();
    machine.start(&mut out);
    loop {
        if !out.is_empty() {
            write_all(stream, &out).await?;
            out.clear();
        }
        match machine.step(&input, &mut out)? {
            Progress::Need(most) => read_some(stream, &mut input, most).await?,
            Progress::Took(len) => drop(input.drain(..len)),
            Progress::Done(len) => {
                input.drain(..len);
                return Ok(input);
            }
        }
    }
}

/// Appends what has come, at most `most` bytes.
async fn read_some(stream: &TcpStream, input: &mut Vec<u8>, most: usize) -> io::Result<()> {
    let len = input.len();
    loop {
        stream.readable().await?;
        input.resize(len + most, 0);
        let read = stream.try_read(&mut input[len..]);
        input.truncate(len + read.as_ref().map_or(0, |read| *read));
        match read {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(_) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
}

async fn write_all(stream: &TcpStream, mut out: &[u8]) -> io::Result<()> {
    while !out.is_empty() {
        stream.writable().await?;
        match stream.try_write(out) {
            Ok(written) => out = &out[written..],
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
