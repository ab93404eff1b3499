//! A server that has the key and says whatever a fuzz target wants.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use oneway_flow::Target;
use shadowsocks_crypto::v2::udp::UdpCipher;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::cipher::{Sequence, TAG};
use super::packet::{IDS, NONCE, TO_CLIENT, block};
use super::stream::RESPONSE;
use super::{Key, Method, Packets, ShadowStream, now};

/// A server's salt, as long as the longest.
const SALT: [u8; 32] = [0x5a; 32];
/// A server's session, and the number of its packet.
const SERVER: [u8; IDS] = [7; IDS];
const NUMBER: [u8; 8] = [7; 8];

fn key(method: Method) -> Arc<Key> {
    Arc::new(Key { method, bytes: vec![0x2a; method.key_len()] })
}

/// What was written, and what is read, at most `cut` bytes at once.
struct Wire {
    sent: Vec<u8>,
    said: Vec<u8>,
    at: usize,
    cut: usize,
}

#[derive(Clone)]
struct Carrier(Rc<RefCell<Wire>>);

impl AsyncRead for Carrier {
    fn poll_read(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut wire = self.0.borrow_mut();
        let len = wire.cut.min(buffer.remaining()).min(wire.said.len() - wire.at);
        buffer.put_slice(wire.said.get(wire.at..wire.at + len).unwrap_or_default());
        wire.at += len;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Carrier {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.0.borrow_mut().sent.extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// What a client reads when the server seals these messages, whatever they are, and `rest` follows them; and whether the
/// stream then is over in order. `honest` puts a head before them as SIP022 wants it, which says `first`.
pub fn stream(
    method: Method,
    honest: Option<u16>,
    messages: &[&[u8]],
    rest: &[u8],
    cut: usize,
) -> (Vec<u8>, bool) {
    let key = key(method);
    let wire = Rc::new(RefCell::new(Wire { sent: Vec::new(), said: Vec::new(), at: 0, cut: cut.max(1) }));
    let target = Target::from_addr(([192, 0, 2, 1], 443).into());
    let Ok(mut stream) = ShadowStream::new(Carrier(Rc::clone(&wire)), Arc::clone(&key), &target) else {
        return (Vec::new(), false);
    };
    let mut context = Context::from_waker(Waker::noop());
    let _ = Pin::new(&mut stream).poll_flush(&mut context);
    {
        let mut wire = wire.borrow_mut();
        let salt = SALT.get(..method.key_len()).unwrap_or_default();
        let mut said = salt.to_vec();
        let mut sequence = Sequence::new(&key, salt);
        if let Some(first) = honest.filter(|_| method.is_2022()) {
            let request_salt = wire.sent.get(..method.key_len()).unwrap_or_default();
            let head = [&[RESPONSE][..], &now().to_be_bytes(), request_salt, &first.to_be_bytes()].concat();
            sequence.seal(&head, &mut said);
        }
        for message in messages {
            sequence.seal(message, &mut said);
        }
        said.extend_from_slice(rest);
        wire.said = said;
    }
    let mut read = Vec::new();
    let mut buffer = [0; 1024];
    loop {
        let mut buffer = ReadBuf::new(&mut buffer);
        match Pin::new(&mut stream).poll_read(&mut context, &mut buffer) {
            Poll::Ready(Ok(())) if buffer.filled().is_empty() => return (read, true),
            Poll::Ready(Ok(())) => read.extend_from_slice(buffer.filled()),
            Poll::Ready(Err(_)) | Poll::Pending => return (read, false),
        }
    }
}

/// What a client makes of a packet that says `plain`; with `honest` behind a head as SIP022 wants it. The second time the
/// same packet comes, and as `raw` bytes of nobody who has the key.
pub fn packet(method: Method, honest: bool, plain: &[u8], raw: &[u8]) -> [Option<Vec<u8>>; 3] {
    let key = key(method);
    let Ok(mut packets) = Packets::new(Arc::clone(&key)) else { return [None, None, None] };
    let session = packets.session;
    let mut sealed = Vec::new();
    if !method.is_2022() {
        let salt = SALT.get(..method.key_len()).unwrap_or_default();
        sealed.extend_from_slice(salt);
        Sequence::new(&key, salt).seal(plain, &mut sealed);
    } else {
        let head = [&[TO_CLIENT][..], &now().to_be_bytes(), &session.to_be_bytes()].concat();
        let body = if honest { [&head[..], plain].concat() } else { plain.to_vec() };
        let cipher = UdpCipher::new(method.kind(), &key.bytes, u64::from_be_bytes(NUMBER));
        let is_chacha = method == Method::Blake3Chacha20Poly1305;
        let (outer, nonce) = if is_chacha {
            (vec![9; NONCE], vec![9; NONCE])
        } else {
            let mut ids = SERVER;
            if block(&key, &mut ids, true).is_err() {
                return [None, None, None];
            }
            (ids.to_vec(), SERVER.get(4..).unwrap_or_default().to_vec())
        };
        sealed.extend_from_slice(&outer);
        if is_chacha && honest {
            sealed.extend_from_slice(&SERVER);
        }
        sealed.extend_from_slice(&body);
        sealed.extend_from_slice(&[0; TAG]);
        cipher.encrypt_packet(&nonce, sealed.get_mut(outer.len()..).unwrap_or_default());
    }
    let mut open = |packet: &[u8]| packets.open(&mut packet.to_vec()).ok();
    [open(&sealed), open(&sealed), open(raw)]
}
