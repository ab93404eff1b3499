//! A connection's bytes in sealed chunks.
//!
//! ```text
//! SIP004, both ways:   salt [length]tag [payload]tag [length]tag [payload]tag …    the first payload begins with the address
//! SIP022, to server:   salt [type time length]tag [address padding payload]tag     then as above
//!         from server: salt [type time salt-of-request length]tag [payload]tag     then as above
//! ```

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use oneway_flow::Target;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::cipher::{Sequence, TAG};
use super::{Key, fill, invalid, is_recent, now, random};
use crate::ProxyFault;
use crate::socks5::datagram::{HEADER_MAX, encode_header};
use crate::tunnel::Carrier;

/// The most that a chunk of SIP004 holds; the two bits above are reserved.
const CHUNK: usize = 0x3fff;

/// Read at once.
const SCRATCH: usize = 64 * 1024;

/// RSV and FRAG in front of an address in the header of a SOCKS5 datagram.
const SOCKS_PREFIX: usize = 3;

const REQUEST: u8 = 0;
pub(super) const RESPONSE: u8 = 1;

/// The most padding of a request that carries no payload yet (SIP022, 3.1.4).
const MAX_PADDING: u16 = 900;

thread_local! {
    /// Used within one poll only.
    static SCRATCH_BUFFER: RefCell<Box<[u8]>> = RefCell::new(vec![0; SCRATCH].into_boxed_slice());
}

/// Carries a stream over another one. Idle it holds two keys, and no buffers.
pub(crate) struct ShadowStream<S> {
    carrier: S,
    key: Arc<Key>,
    /// The address, until it is sent together with the first bytes.
    request: Option<Vec<u8>>,
    request_salt: Vec<u8>,
    sealing: Option<Sequence>,
    /// Sealed, to be written.
    out: Vec<u8>,
    out_at: usize,
    opening: Option<Sequence>,
    expected: Expected,
    /// Received, to be opened.
    input: Vec<u8>,
    /// Opened, to be taken.
    plain: Vec<u8>,
    plain_at: usize,
}

/// What comes next from the server.
#[derive(Clone, Copy, PartialEq)]
enum Expected {
    Salt,
    Head,
    Length,
    Payload(usize),
}

impl<S> ShadowStream<S> {
    /// A stream to `target` by way of the server that `carrier` leads to.
    pub(crate) fn new(carrier: S, key: Arc<Key>, target: &Target) -> Result<Self, ProxyFault> {
        let mut header = [0; HEADER_MAX];
        let len = encode_header(&mut header, target)?;
        Ok(Self {
            carrier,
            key,
            request: Some(header.get(SOCKS_PREFIX..len).unwrap_or_default().to_vec()),
            request_salt: Vec::new(),
            sealing: None,
            out: Vec::new(),
            out_at: 0,
            opening: None,
            expected: Expected::Salt,
            input: Vec::new(),
            plain: Vec::new(),
            plain_at: 0,
        })
    }

    /// Seals the beginning of `bytes`, behind the request if that is still to be sent; says how many.
    fn seal(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let Some(address) = self.request.take() else {
            let taken = bytes.get(..CHUNK).unwrap_or(bytes);
            self.chunk(taken);
            return Ok(taken.len());
        };
        let mut salt = vec![0; self.key.method.key_len()];
        fill(&mut salt)?;
        let mut sequence = Sequence::new(&self.key, &salt);
        self.out.extend_from_slice(&salt);
        let room = CHUNK - address.len() - usize::from(MAX_PADDING) - 2;
        let taken = bytes.get(..room).unwrap_or(bytes);
        if self.key.method.is_2022() {
            // Without payload it would have a length of its own.
            let padding = match taken.is_empty() {
                true => 1 + u16::from_be_bytes(random()?) % MAX_PADDING,
                false => 0,
            };
            let mut zeroes = vec![0; padding.into()];
            fill(&mut zeroes)?;
            let head = [&address[..], &padding.to_be_bytes(), &zeroes, taken].concat();
            let fixed = [&[REQUEST][..], &now().to_be_bytes(), &(head.len() as u16).to_be_bytes()].concat();
            sequence.seal(&fixed, &mut self.out);
            sequence.seal(&head, &mut self.out);
            self.sealing = Some(sequence);
        } else {
            self.sealing = Some(sequence);
            self.chunk(&[&address[..], taken].concat());
        }
        self.request_salt = salt;
        Ok(taken.len())
    }

    fn chunk(&mut self, payload: &[u8]) {
        if let Some(sequence) = &mut self.sealing {
            sequence.seal(&(payload.len() as u16).to_be_bytes(), &mut self.out);
            sequence.seal(payload, &mut self.out);
        }
    }

    /// Opens all that has come whole.
    fn open(&mut self) -> io::Result<()> {
        let mut input = std::mem::take(&mut self.input);
        let mut at = 0;
        let salt_len = self.key.method.key_len();
        let is_2022 = self.key.method.is_2022();
        loop {
            let need = match self.expected {
                Expected::Salt => salt_len,
                Expected::Head => 1 + 8 + salt_len + 2 + TAG,
                Expected::Length => 2 + TAG,
                Expected::Payload(len) => len + TAG,
            };
            let Some(message) = input.get_mut(at..at + need) else { break };
            at += need;
            if self.expected == Expected::Salt {
                self.opening = Some(Sequence::new(&self.key, message));
                self.expected = if is_2022 { Expected::Head } else { Expected::Length };
                continue;
            }
            let Some(sequence) = &mut self.opening else { return Err(invalid("a message before its salt")) };
            let opened = sequence.open(message)?;
            self.expected = match self.expected {
                Expected::Head => Expected::Payload(head(opened, &self.request_salt)?),
                Expected::Length => Expected::Payload(length(opened, if is_2022 { 0xffff } else { CHUNK })?),
                Expected::Salt | Expected::Payload(_) => {
                    self.plain.extend_from_slice(opened);
                    Expected::Length
                }
            };
        }
        input.drain(..at);
        if !input.is_empty() {
            self.input = input;
        }
        Ok(())
    }
}

/// The length of the first payload, from the head of a response of SIP022.
fn head(head: &[u8], request_salt: &[u8]) -> io::Result<usize> {
    let Some((&[kind, ref time @ ..], rest)) = head.split_first_chunk::<9>() else {
        return Err(invalid("a response whose head is too short"));
    };
    let time: [u8; 8] = *time;
    if kind != RESPONSE || !is_recent(u64::from_be_bytes(time)) {
        return Err(invalid(
            "a response of another kind, or from another time; see the clocks of both hosts",
        ));
    }
    match rest.split_last_chunk::<2>() {
        Some((salt, len)) if salt == request_salt => Ok(u16::from_be_bytes(*len).into()),
        _ => Err(invalid("a response to another request")),
    }
}

fn length(bytes: &[u8], most: usize) -> io::Result<usize> {
    let Some(len) = bytes.first_chunk::<2>() else { return Err(invalid("a length that is none")) };
    let len = usize::from(u16::from_be_bytes(*len));
    if len > most { Err(invalid("a chunk that is too long")) } else { Ok(len) }
}

impl<S: AsyncWrite + Unpin> ShadowStream<S> {
    /// Writes what is sealed.
    fn poll_out(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Some(rest) = self.out.get(self.out_at..).filter(|rest| !rest.is_empty()) {
            match ready!(Pin::new(&mut self.carrier).poll_write(cx, rest))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                len => self.out_at += len,
            }
        }
        (self.out, self.out_at) = (Vec::new(), 0);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for ShadowStream<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.poll_out(cx))?;
        let mut taken = 0;
        // Some at once: each write is a system call.
        while taken < bytes.len() && self.out.len() < SCRATCH {
            taken += self.seal(bytes.get(taken..).unwrap_or_default())?;
        }
        // They are taken, whether or not they can be written now.
        match self.poll_out(cx)? {
            Poll::Ready(()) | Poll::Pending => Poll::Ready(Ok(taken)),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.request.is_some() {
            // A server that speaks first waits for the request.
            self.seal(&[])?;
        }
        ready!(self.poll_out(cx))?;
        Pin::new(&mut self.carrier).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.as_mut().poll_flush(cx))?;
        Pin::new(&mut self.carrier).poll_shutdown(cx)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for ShadowStream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        loop {
            if let Some(plain) = this.plain.get(this.plain_at..).filter(|plain| !plain.is_empty()) {
                let len = plain.len().min(buffer.remaining());
                buffer.put_slice(plain.get(..len).unwrap_or_default());
                this.plain_at += len;
                return Poll::Ready(Ok(()));
            }
            (this.plain, this.plain_at) = (Vec::new(), 0);
            let len = SCRATCH_BUFFER.with_borrow_mut(|scratch| {
                let mut received = ReadBuf::new(scratch);
                ready!(Pin::new(&mut this.carrier).poll_read(cx, &mut received))?;
                this.input.extend_from_slice(received.filled());
                Poll::Ready(Ok::<_, io::Error>(received.filled().len()))
            });
            if ready!(len)? == 0 {
                // Nothing says that a stream is whole; in the middle of a chunk it is not.
                let is_whole = this.input.is_empty() && this.expected == Expected::Length;
                return Poll::Ready(if is_whole { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) });
            }
            this.open()?;
        }
    }
}

impl<S: Carrier> Carrier for ShadowStream<S> {
    fn socket(&self) -> &TcpStream {
        self.carrier.socket()
    }
}
