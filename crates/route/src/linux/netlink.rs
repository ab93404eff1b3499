//! A small blocking netlink client: requests with strict acknowledgement, and dumps.

use std::io;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkBuffer, NetlinkDeserializable, NetlinkHeader,
    NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::{Socket, SocketAddr, protocols};
use rustix::net::{RecvFlags, sockopt};

use crate::error::RouteError;

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_CAPPED: u16 = 0x100;
const NLM_F_ACK_TLVS: u16 = 0x200;
const NLM_F_DUMP_INTR: u16 = 0x10;
const NLMSGERR_ATTR_MSG: u16 = 1;
const HEADER: usize = 16;

/// How long one answer may take. The kernel answers within the system call, but for work it does
/// under the RTNL lock while others hold it.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often a dump that changed while it was read is read again.
const DUMP_TRIES: u32 = 16;
/// How much longer than the one before the pause before each further try is.
const PAUSE: Duration = Duration::from_millis(4);

/// A socket to one netlink subsystem, in the network namespace of the thread that made it.
#[derive(Debug)]
pub(super) struct Netlink {
    socket: Socket,
    sequence: u32,
    buffer: Vec<u8>,
}

/// One message of an answer.
pub(super) struct Message<'a> {
    pub(super) kind: u16,
    pub(super) payload: &'a [u8],
}

/// An error number and the kernel's own words.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) source: io::Error,
    pub(super) hint: Option<String>,
}

impl Refusal {
    /// Names the request that was refused.
    pub(super) fn of(self, what: impl Into<String>) -> RouteError {
        RouteError::Refused { what: what.into(), source: self.source, hint: self.hint }
    }

    pub(super) fn errno(&self) -> i32 {
        self.source.raw_os_error().unwrap_or(0)
    }
}

impl Netlink {
    /// A socket for links, addresses, routes and rules.
    pub(super) fn routing() -> Result<Self, RouteError> {
        Self::open(protocols::NETLINK_ROUTE).map_err(|source| RouteError::Open { what: "routing", source })
    }

    /// A socket for nftables.
    pub(super) fn netfilter() -> Result<Self, RouteError> {
        Self::open(protocols::NETLINK_NETFILTER)
            .map_err(|source| RouteError::Open { what: "nftables", source })
    }

    /// A socket for lists of sockets.
    pub(super) fn sock_diag() -> Result<Self, RouteError> {
        Self::open(protocols::NETLINK_SOCK_DIAG)
            .map_err(|source| RouteError::Open { what: "sockets", source })
    }

    fn open(protocol: isize) -> io::Result<Self> {
        let mut socket = Socket::new(protocol)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        // The kernel checks the headers of dump requests and filters by them (4.20 and later); older
        // ones answer with everything, which is filtered here as well.
        let _ = socket.set_netlink_get_strict_chk(true);
        let _ = socket.set_cap_ack(true);
        let _ = socket.set_ext_ack(true);
        sockopt::set_socket_timeout(&socket, sockopt::Timeout::Recv, Some(PATIENCE))?;
        Ok(Self { socket, sequence: 0, buffer: vec![0; 256 * 1024] })
    }

    /// A new sequence number.
    pub(super) fn next_sequence(&mut self) -> u32 {
        self.sequence = self.sequence.wrapping_add(1);
        self.sequence
    }

    /// Has the socket take that many bytes at once, as far as this process may: beyond `net.core.wmem_max` only with
    /// `CAP_NET_ADMIN` of the machine itself. The kernel refuses what does not fit (`netlink_sendmsg`, net/netlink/af_netlink.c).
    pub(super) fn make_room(&self, bytes: usize) {
        let wanted = bytes.saturating_add(32 * 1024);
        if sockopt::socket_send_buffer_size(&self.socket).is_ok_and(|has| has >= wanted) {
            return;
        }
        if sockopt::set_socket_send_buffer_size_force(&self.socket, wanted).is_err() {
            let _ = sockopt::set_socket_send_buffer_size(&self.socket, wanted);
        }
    }

    /// Sends bytes that are one or more whole messages.
    pub(super) fn send(&self, what: &str, bytes: &[u8]) -> Result<(), RouteError> {
        loop {
            match self.socket.send(bytes, 0) {
                Ok(n) if n == bytes.len() => return Ok(()),
                Ok(_) => return Err(talk(what, io::Error::from(io::ErrorKind::WriteZero))),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => return Err(talk(what, source)),
            }
        }
    }

    /// Hands every message of the next datagram to `take`, with its sequence number and flags,
    /// until that answers `true` (enough) or the datagrams stop coming.
    ///
    /// `ENOBUFS` (the kernel dropped an answer because the socket was full) is an error: the answer
    /// that is waited for may be the lost one.
    pub(super) fn receive(
        &mut self,
        what: &str,
        mut take: impl FnMut(u32, u16, Message<'_>) -> Result<bool, RouteError>,
    ) -> Result<(), RouteError> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let length = match rustix::net::recv(&self.socket, &mut self.buffer[..], RecvFlags::TRUNC) {
                Ok((_, length)) => length,
                Err(rustix::io::Errno::INTR) if Instant::now() < deadline => continue,
                Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => {
                    return Err(talk(what, io::Error::from(io::ErrorKind::TimedOut)));
                }
                Err(e) => return Err(talk(what, e.into())),
            };
            let Some(datagram) = self.buffer.get(..length) else {
                return Err(decode(what, format!("a datagram of {length} bytes was cut short")));
            };
            if each(what, datagram, &mut take)? {
                return Ok(());
            }
        }
    }

    /// Sends one request and waits for its acknowledgement. What was answered before that is
    /// handed to `take`.
    pub(super) fn request(
        &mut self,
        what: &str,
        message: RouteNetlinkMessage,
        flags: u16,
        mut take: impl FnMut(Message<'_>) -> Result<(), RouteError>,
    ) -> Result<Result<(), Refusal>, RouteError> {
        let sequence = self.next_sequence();
        self.send(what, &serialize(message, sequence, NLM_F_REQUEST | NLM_F_ACK | flags))?;
        let mut outcome = None;
        self.receive(what, |answer, flags, message| {
            if answer != sequence {
                return Ok(false);
            }
            if message.kind != NLMSG_ERROR {
                take(message)?;
                return Ok(false);
            }
            outcome = Some(acknowledgement(what, flags, message.payload)?);
            Ok(true)
        })?;
        outcome.ok_or_else(|| decode(what, "no acknowledgement".into()))
    }

    /// Makes a change; what the kernel refuses is returned apart from failures to talk to it.
    pub(super) fn change(
        &mut self,
        what: &str,
        message: RouteNetlinkMessage,
        flags: u16,
    ) -> Result<Result<(), Refusal>, RouteError> {
        self.request(what, message, flags, |_| Ok(()))
    }

    /// Reads a whole list, again if it changed meanwhile. Each message is made what is wanted of it as it comes: a router has
    /// a million routes, and messages are many times as large as what is kept.
    pub(super) fn dump<T>(
        &mut self,
        what: &str,
        request: &RouteNetlinkMessage,
        wanted: impl Fn(&RouteNetlinkMessage) -> Option<T>,
    ) -> Result<Vec<T>, RouteError> {
        let request = |sequence| serialize(request.clone(), sequence, NLM_F_REQUEST | NLM_F_DUMP);
        self.dump_bytes(what, request, |message| Ok(parse(what, &message)?.as_ref().and_then(&wanted)))
    }

    /// [`Netlink::dump`] for any subsystem.
    pub(super) fn dump_bytes<T>(
        &mut self,
        what: &str,
        request: impl Fn(u32) -> Vec<u8>,
        wanted: impl Fn(Message<'_>) -> Result<Option<T>, RouteError>,
    ) -> Result<Vec<T>, RouteError> {
        for tried in 0..DUMP_TRIES {
            // Whoever changes it all the time is not done at once.
            thread::sleep(PAUSE * tried);
            let sequence = self.next_sequence();
            self.send(what, &request(sequence))?;
            let (mut list, mut steady) = (Vec::new(), true);
            self.receive(what, |answer, flags, message| {
                if answer != sequence {
                    return Ok(false);
                }
                steady &= flags & NLM_F_DUMP_INTR == 0;
                match message.kind {
                    NLMSG_DONE => Ok(true),
                    NLMSG_ERROR => {
                        acknowledgement(what, flags, message.payload)?.map_err(|e| e.of(what))?;
                        Ok(true)
                    }
                    _ => {
                        list.extend(wanted(message)?);
                        Ok(false)
                    }
                }
            })?;
            if steady {
                return Ok(list);
            }
        }
        Err(RouteError::Unsteady { what: what.into() })
    }
}

/// Hands every message of a datagram to `take`, with its sequence number and flags, until that answers `true`; says whether
/// it did.
pub(super) fn each(
    what: &str,
    datagram: &[u8],
    mut take: impl FnMut(u32, u16, Message<'_>) -> Result<bool, RouteError>,
) -> Result<bool, RouteError> {
    let mut rest = datagram;
    while rest.len() >= HEADER {
        let message = NetlinkBuffer::new_checked(rest).map_err(|e| decode(what, e.to_string()))?;
        let (kind, flags, sequence) = (message.message_type(), message.flags(), message.sequence_number());
        let size = message.length() as usize;
        let payload = rest.get(HEADER..size).unwrap_or_default();
        if take(sequence, flags, Message { kind, payload })? {
            return Ok(true);
        }
        rest = rest.get(size.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(false)
}

/// A message of what `netlink-packet-route` does not know, as of sock_diag(7): `struct nlmsghdr`, then `body`.
pub(super) fn raw_request(kind: u16, flags: u16, sequence: u32, body: &[u8]) -> Vec<u8> {
    let length = (HEADER + body.len()) as u32;
    let mut bytes = Vec::with_capacity(HEADER + body.len());
    bytes.extend(length.to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(flags.to_ne_bytes());
    bytes.extend(sequence.to_ne_bytes());
    bytes.extend(0_u32.to_ne_bytes());
    bytes.extend_from_slice(body);
    bytes
}

fn serialize(message: RouteNetlinkMessage, sequence: u32, flags: u16) -> Vec<u8> {
    let mut header = NetlinkHeader::default();
    header.flags = flags;
    header.sequence_number = sequence;
    let mut message = NetlinkMessage::new(header, NetlinkPayload::from(message));
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    bytes
}

/// Decodes one message. A link or route that this decoder cannot read is left out with a warning,
/// since every exotic route would otherwise stop oneway; a rule is an error, since what it does to
/// our packets is not known.
pub(super) fn parse(what: &str, message: &Message<'_>) -> Result<Option<RouteNetlinkMessage>, RouteError> {
    const RTM_NEWRULE: u16 = 32;
    match parse_strictly(what, message) {
        Ok(message) => Ok(Some(message)),
        Err(e) if message.kind == RTM_NEWRULE => Err(e),
        Err(e) => {
            if LEFT_OUT.fetch_add(1, Ordering::Relaxed) < MOST_LEFT_OUT {
                tracing::warn!("left out one entry of the kernel's answer: {e}");
            }
            Ok(None)
        }
    }
}

/// How many entries were left out since the start, and of how many that is said: lists are read again and again, and may
/// have as many of such entries as of others.
static LEFT_OUT: AtomicU32 = AtomicU32::new(0);
const MOST_LEFT_OUT: u32 = 16;

/// Decodes one message that must be understood.
pub(super) fn parse_strictly(what: &str, message: &Message<'_>) -> Result<RouteNetlinkMessage, RouteError> {
    let mut header = NetlinkHeader::default();
    header.message_type = message.kind;
    header.length = (message.payload.len() + HEADER) as u32;
    RouteNetlinkMessage::deserialize(&header, message.payload).map_err(|e| decode(what, e.to_string()))
}

/// Reads an `NLMSG_ERROR`: 0 is success. Extended acknowledgements carry words (`NLMSGERR_ATTR_MSG`).
pub(super) fn acknowledgement(
    what: &str,
    flags: u16,
    payload: &[u8],
) -> Result<Result<(), Refusal>, RouteError> {
    let Some((code, rest)) = payload.split_first_chunk::<4>() else {
        return Err(decode(what, "a short acknowledgement".into()));
    };
    let code = i32::from_ne_bytes(*code);
    if code == 0 {
        return Ok(Ok(()));
    }
    let source = io::Error::from_raw_os_error(code.wrapping_neg());
    let hint = if flags & NLM_F_ACK_TLVS == 0 { None } else { words(flags, rest) };
    Ok(Err(Refusal { source, hint }))
}

fn words(flags: u16, original: &[u8]) -> Option<String> {
    // After the error number comes the request: all of it, or its header alone (`NLM_F_CAPPED`).
    let length = u32::from_ne_bytes(*original.first_chunk()?) as usize;
    let skip = if flags & NLM_F_CAPPED == 0 { length.checked_next_multiple_of(4)? } else { HEADER };
    attributes(original.get(skip..)?)
        .find(|(kind, _)| *kind == NLMSGERR_ATTR_MSG)
        .map(|(_, text)| String::from_utf8_lossy(text).trim_end_matches('\0').to_owned())
}

/// Splits a run of netlink attributes (`struct nlattr`) into types and values.
pub(super) fn attributes(mut rest: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    /// `NLA_F_NESTED | NLA_F_NET_BYTEORDER`
    const NLA_FLAGS: u16 = 0xc000;
    std::iter::from_fn(move || {
        let size = usize::from(u16::from_ne_bytes(*rest.first_chunk()?));
        let kind = u16::from_ne_bytes(*rest.get(2..)?.first_chunk()?) & !NLA_FLAGS;
        let value = rest.get(4..size)?;
        rest = rest.get(size.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

fn talk(what: &str, source: io::Error) -> RouteError {
    RouteError::Talk { what: what.into(), source }
}

pub(super) fn decode(what: &str, detail: String) -> RouteError {
    RouteError::Decode { what: what.into(), detail }
}
