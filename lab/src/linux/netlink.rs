//! A blocking netlink socket: requests with acknowledgement, and dumps.
//!
//! The socket belongs to the namespace of the thread that opened it and may then be used from any thread.

use std::io;

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::{Socket, SocketAddr};

/// Length of `struct nlmsghdr`.
const HEADER: usize = 16;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_DUMP_INTR: u16 = 0x10;

/// One netlink message as the kernel sent it.
#[derive(Debug, Clone)]
pub(crate) struct Raw {
    /// `nlmsg_type`.
    pub(crate) kind: u16,
    /// What follows the header.
    pub(crate) body: Vec<u8>,
}

/// A netlink socket of one protocol.
#[derive(Debug)]
pub(crate) struct Netlink {
    socket: Socket,
    sequence: u32,
}

impl Netlink {
    /// Opens a socket of `protocol` (`NETLINK_ROUTE`, `NETLINK_NETFILTER`) in the calling thread's namespace.
    pub(crate) fn open(protocol: isize) -> io::Result<Self> {
        let mut socket = Socket::new(protocol)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        // Without it a dump ignores the filter in the request's header.
        let _ = socket.set_netlink_get_strict_chk(true);
        Ok(Self { socket, sequence: 0 })
    }

    /// Sends one change with the extra header `flags` and waits for the kernel's acknowledgement.
    pub(crate) fn change(&mut self, message: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
        self.transact(&mut encode(message), flags | NLM_F_ACK).map(drop)
    }

    /// Asks for one object and returns the answer.
    pub(crate) fn get(&mut self, message: RouteNetlinkMessage) -> io::Result<RouteNetlinkMessage> {
        let answers = self.transact(&mut encode(message), NLM_F_ACK)?;
        let first = answers
            .into_iter()
            .next()
            .ok_or_else(|| io::Error::new(io::ErrorKind::UnexpectedEof, "the kernel sent no answer"))?;
        decode(&first)
    }

    /// Asks for all objects of a kind.
    pub(crate) fn dump(&mut self, message: RouteNetlinkMessage) -> io::Result<Vec<RouteNetlinkMessage>> {
        self.transact(&mut encode(message), NLM_F_DUMP)?.iter().map(decode).collect()
    }

    /// Asks for all objects of the message type `kind`, with `body` after the header, undecoded.
    pub(crate) fn dump_raw(&mut self, kind: u16, body: &[u8]) -> io::Result<Vec<Raw>> {
        self.transact(&mut frame(kind, body), NLM_F_DUMP)
    }

    /// Sends several messages as one write, which nfnetlink wants for its batches, and waits until each message
    /// numbered in `acknowledged` (by its place) was acknowledged.
    pub(crate) fn batch(&mut self, messages: &[(u16, u16, Vec<u8>)], acknowledged: usize) -> io::Result<()> {
        let mut out = Vec::new();
        for (kind, flags, body) in messages {
            self.sequence = self.sequence.wrapping_add(1);
            let mut one = frame(*kind, body);
            stamp(&mut one, flags | NLM_F_REQUEST, self.sequence);
            out.extend_from_slice(&one);
        }
        self.socket.send(&out, 0)?;
        let mut seen = 0;
        while seen < acknowledged {
            let (buffer, _) = self.socket.recv_from_full()?;
            for (header, _, body) in split(&buffer)? {
                if header == NLMSG_ERROR {
                    check_error(body)?;
                    seen += 1;
                }
            }
        }
        Ok(())
    }

    fn transact(&mut self, request: &mut [u8], flags: u16) -> io::Result<Vec<Raw>> {
        // A dump during which the tables changed is marked as inconsistent; it is asked for again.
        for _ in 0..8 {
            self.sequence = self.sequence.wrapping_add(1);
            stamp(request, flags | NLM_F_REQUEST, self.sequence);
            self.socket.send(request, 0)?;
            let (answers, interrupted) = self.receive(flags & NLM_F_DUMP == NLM_F_DUMP)?;
            if !interrupted {
                return Ok(answers);
            }
        }
        Err(io::Error::new(io::ErrorKind::Interrupted, "the tables kept changing while they were read"))
    }

    fn receive(&mut self, dump: bool) -> io::Result<(Vec<Raw>, bool)> {
        let (mut answers, mut interrupted) = (Vec::new(), false);
        loop {
            let (buffer, _) = self.socket.recv_from_full()?;
            for (kind, header, body) in split(&buffer)? {
                if header.sequence != self.sequence {
                    continue;
                }
                interrupted |= header.flags & NLM_F_DUMP_INTR != 0;
                match kind {
                    NLMSG_DONE => return Ok((answers, interrupted)),
                    NLMSG_ERROR => {
                        check_error(body)?;
                        if !dump {
                            return Ok((answers, false));
                        }
                    }
                    _ => answers.push(Raw { kind, body: body.to_vec() }),
                }
            }
        }
    }
}

struct Head {
    flags: u16,
    sequence: u32,
}

fn malformed() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "malformed netlink message")
}

fn split(mut buffer: &[u8]) -> io::Result<Vec<(u16, Head, &[u8])>> {
    let mut messages = Vec::new();
    while buffer.len() >= HEADER {
        let length = read_u32(buffer, 0)? as usize;
        let body = buffer.get(HEADER..length).ok_or_else(malformed)?;
        let head = Head { flags: read_u16(buffer, 6)?, sequence: read_u32(buffer, 8)? };
        messages.push((read_u16(buffer, 4)?, head, body));
        buffer = buffer.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(messages)
}

fn read_u16(bytes: &[u8], at: usize) -> io::Result<u16> {
    let field = bytes.get(at..at + 2).and_then(|b| b.try_into().ok()).ok_or_else(malformed)?;
    Ok(u16::from_ne_bytes(field))
}

fn read_u32(bytes: &[u8], at: usize) -> io::Result<u32> {
    let field = bytes.get(at..at + 4).and_then(|b| b.try_into().ok()).ok_or_else(malformed)?;
    Ok(u32::from_ne_bytes(field))
}

fn check_error(body: &[u8]) -> io::Result<()> {
    match read_u32(body, 0)?.cast_signed() {
        0 => Ok(()),
        code => Err(io::Error::from_raw_os_error(code.wrapping_neg())),
    }
}

fn frame(kind: u16, body: &[u8]) -> Vec<u8> {
    let length = HEADER + body.len();
    let mut out = Vec::with_capacity(length.next_multiple_of(4));
    out.extend_from_slice(&u32::try_from(length).unwrap_or(u32::MAX).to_ne_bytes());
    out.extend_from_slice(&kind.to_ne_bytes());
    out.extend_from_slice(&[0; 10]);
    out.extend_from_slice(body);
    out.resize(length.next_multiple_of(4), 0);
    out
}

fn stamp(message: &mut [u8], flags: u16, sequence: u32) {
    message[6..8].copy_from_slice(&flags.to_ne_bytes());
    message[8..12].copy_from_slice(&sequence.to_ne_bytes());
}

fn encode(message: RouteNetlinkMessage) -> Vec<u8> {
    let mut packet = NetlinkMessage::new(NetlinkHeader::default(), NetlinkPayload::from(message));
    packet.finalize();
    let mut out = vec![0; packet.buffer_len()];
    packet.serialize(&mut out);
    out
}

fn decode(raw: &Raw) -> io::Result<RouteNetlinkMessage> {
    let framed = frame(raw.kind, &raw.body);
    let message = NetlinkMessage::<RouteNetlinkMessage>::deserialize(&framed)
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.to_string()))?;
    match message.payload {
        NetlinkPayload::InnerMessage(inner) => Ok(inner),
        _ => Err(malformed()),
    }
}
