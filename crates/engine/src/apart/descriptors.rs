//! Descriptors on their way from process to process (unix(7), `SCM_RIGHTS`).

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags,
};

/// The most that go at once: the queues of 16 workers, two listeners for each, and the table of sockets.
pub(super) const MOST: usize = 49;

/// The longest text that goes with them.
const TEXT: usize = 16 * 1024;

/// Sends a text that ends with a line feed, and descriptors.
pub(super) fn send(channel: &UnixStream, text: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(io::Error::other("too many descriptors"));
    }
    let sent = rustix::net::sendmsg(channel, &[IoSlice::new(text)], &mut control, SendFlags::NOSIGNAL)?;
    if sent == text.len() { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
}

/// Receives a text up to its line feed, and the descriptors that came with it.
pub(super) fn receive(channel: &UnixStream) -> io::Result<(Vec<u8>, Vec<OwnedFd>)> {
    let (mut text, mut descriptors) = (Vec::new(), Vec::new());
    loop {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut part = [0; 4096];
        let mut parts = [IoSliceMut::new(&mut part)];
        let got = rustix::net::recvmsg(channel.as_fd(), &mut parts, &mut control, RecvFlags::CMSG_CLOEXEC)?;
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(rights) = message {
                descriptors.extend(rights);
            }
        }
        if got.bytes == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        text.extend_from_slice(part.get(..got.bytes).unwrap_or_default());
        if text.last() == Some(&b'\n') {
            return Ok((text, descriptors));
        }
        if text.len() > TEXT {
            return Err(io::ErrorKind::InvalidData.into());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;

    #[test]
    fn descriptors_arrive_with_their_text() {
        let (a, b) = UnixStream::pair().unwrap();
        let (mut far, near) = UnixStream::pair().unwrap();
        send(&a, b"{\"a\":1}\n", &[near.as_fd(), near.as_fd()]).unwrap();
        let (text, mut got) = receive(&b).unwrap();
        assert_eq!((text.as_slice(), got.len()), (&b"{\"a\":1}\n"[..], 2));
        UnixStream::from(got.remove(0)).write_all(b"x").unwrap();
        let mut byte = [0];
        far.read_exact(&mut byte).unwrap();
        assert_eq!(byte, *b"x");
        drop(a);
        assert_eq!(receive(&b).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn a_text_without_end_is_refused() {
        let (mut a, b) = UnixStream::pair().unwrap();
        let writer = std::thread::spawn(move || a.write_all(&[b'x'; 3 * TEXT]));
        assert_eq!(receive(&b).unwrap_err().kind(), io::ErrorKind::InvalidData);
        drop(b);
        let _ = writer.join();
    }
}
