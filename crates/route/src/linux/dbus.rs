//! As much of D-Bus as one daemon is asked by: calls and their answers, each within a time limit.
//!
//! `zbus` 5.19 would bring 35 crates that nothing else here needs, and an executor with a thread, for a dozen calls; its time
//! limit is one of calls and not of the handshake, so that a bus which takes a connection and says nothing would be waited
//! for without end. Sections are those of the D-Bus specification.

#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzing;

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

/// Where the system's bus listens if the environment names none.
const SYSTEM_BUS: &str = "/run/dbus/system_bus_socket";
/// A message may be as long as 128 MiB; no answer to us is.
const MOST: usize = 1 << 20;
/// Messages that are passed over in search of an answer: signals that nobody asked for.
const PASSED_OVER: usize = 64;

/// A connection to the system's bus.
#[derive(Debug)]
pub(super) struct Bus {
    stream: UnixStream,
    deadline: Instant,
    serial: u32,
}

/// Whom a call goes to.
#[derive(Debug, Clone, Copy)]
pub(super) struct To<'a> {
    pub(super) destination: &'a str,
    pub(super) path: &'a str,
    pub(super) interface: &'a str,
}

/// The bus itself.
pub(super) const DAEMON: To<'_> = To {
    destination: "org.freedesktop.DBus",
    path: "/org/freedesktop/DBus",
    interface: "org.freedesktop.DBus",
};

fn broken(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the bus does not keep to its protocol: {what}"))
}

impl Bus {
    /// Connects, and says hello. All that is asked by this connection has to be answered within `limit`.
    pub(super) fn open(limit: Duration) -> io::Result<Self> {
        let deadline = Instant::now() + limit;
        let mut bus = Self { stream: connect(limit)?, deadline, serial: 0 };
        bus.authenticate()?;
        bus.call(DAEMON, "Hello", "", &Body::default())?;
        Ok(bus)
    }

    /// "Authentication Protocol": by the credentials of the socket.
    fn authenticate(&mut self) -> io::Result<()> {
        let uid = rustix::process::geteuid().as_raw().to_string();
        let hex: String = uid.bytes().map(|byte| format!("{byte:02x}")).collect();
        self.send(format!("\0AUTH EXTERNAL {hex}\r\n").as_bytes())?;
        let mut line = Vec::new();
        while !line.ends_with(b"\r\n") {
            let mut byte = [0];
            self.receive(&mut byte)?;
            line.extend(byte);
            if line.len() > 1024 {
                return Err(broken("an answer to AUTH without an end"));
            }
        }
        if !line.starts_with(b"OK ") {
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, "the bus does not let us in"));
        }
        self.send(b"BEGIN\r\n")
    }

    fn left(&self) -> io::Result<Duration> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(left) }
    }

    fn send(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            self.stream.set_write_timeout(Some(self.left()?))?;
            match self.stream.write(bytes) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(n) => bytes = bytes.get(n..).unwrap_or_default(),
                Err(error) => retry(error)?,
            }
        }
        Ok(())
    }

    fn receive(&mut self, mut buffer: &mut [u8]) -> io::Result<()> {
        while !buffer.is_empty() {
            self.stream.set_read_timeout(Some(self.left()?))?;
            match self.stream.read(buffer) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(n) => buffer = buffer.get_mut(n..).unwrap_or_default(),
                Err(error) => retry(error)?,
            }
        }
        Ok(())
    }

    /// Calls a method with arguments of these types, and returns those of the answer. Nothing is started for it.
    pub(super) fn call(&mut self, to: To<'_>, member: &str, types: &str, body: &Body) -> io::Result<Values> {
        const NO_AUTO_START: u8 = 2;
        self.serial += 1;
        let mut message = Body(vec![b'l', 1, NO_AUTO_START, 1]);
        message.u32(u32::try_from(body.0.len()).unwrap_or(u32::MAX)).u32(self.serial);
        // "Header Fields": an array of structures of a number and a variant.
        message.array(8, |fields| {
            for (number, kind, value) in
                [(1, "o", to.path), (2, "s", to.interface), (3, "s", member), (6, "s", to.destination)]
            {
                fields.align(8).u8(number).signature(kind).string(value);
            }
            if !types.is_empty() {
                fields.align(8).u8(8).signature("g").signature(types);
            }
        });
        message.align(8);
        message.0.extend_from_slice(&body.0);
        self.send(&message.0)?;
        for _ in 0..PASSED_OVER {
            if let Some(answer) = self.message()? {
                return answer;
            }
        }
        Err(broken("no answer among all that it sends"))
    }

    /// One message; the answer, if it is that to the last call.
    fn message(&mut self) -> io::Result<Option<io::Result<Values>>> {
        let mut head = vec![0; 16];
        self.receive(&mut head)?;
        let is_big = match head.first() {
            Some(b'l') => false,
            Some(b'B') => true,
            _ => return Err(broken("a byte order that is none")),
        };
        let kind = head.get(1).copied().unwrap_or_default();
        let mut numbers = Values { bytes: head, at: 4, is_big };
        let (body, _serial, fields) = (numbers.u32()? as usize, numbers.u32()?, numbers.u32()? as usize);
        let padded = fields.next_multiple_of(8);
        if body > MOST || fields > MOST {
            return Err(broken("a message that is too long"));
        }
        // Behind the head, which is as long as two alignments: what is aligned there stays so.
        let mut rest = vec![0; padded];
        self.receive(&mut rest)?;
        let (mut answers, mut error) = (None, None);
        let mut values = Values { bytes: rest, at: 0, is_big };
        while values.at < fields {
            values.align(8);
            let number = values.u8()?;
            match (number, values.signature()?.as_str()) {
                (5, "u") => answers = Some(values.u32()?),
                (4, "s") => error = Some(values.string()?),
                (_, "u") => drop(values.u32()?),
                (_, "s" | "o") => drop(values.string()?),
                (_, "g") => drop(values.signature()?),
                _ => return Err(broken("a header field of an unknown type")),
            }
        }
        let mut bytes = vec![0; body];
        self.receive(&mut bytes)?;
        if answers != Some(self.serial) {
            return Ok(None);
        }
        let mut values = Values { bytes, at: 0, is_big };
        Ok(match kind {
            2 => Some(Ok(values)),
            3 => {
                let text = values.string().unwrap_or_default();
                let text: String = text.chars().filter(|c| !c.is_control()).take(200).collect();
                Some(Err(io::Error::other(format!("{text} ({})", error.unwrap_or_default()))))
            }
            _ => None,
        })
    }
}

/// `Interrupted` is tried again; a socket's time limit ends as `WouldBlock`.
fn retry(error: io::Error) -> io::Result<()> {
    match error.kind() {
        io::ErrorKind::Interrupted => Ok(()),
        io::ErrorKind::WouldBlock => Err(io::ErrorKind::TimedOut.into()),
        _ => Err(error),
    }
}

/// Connects to the bus, which may have more callers than it takes.
#[allow(clippy::disallowed_methods, reason = "a Unix socket: nothing of it leaves this host")]
fn connect(limit: Duration) -> io::Result<UnixStream> {
    let named = std::env::var("DBUS_SYSTEM_BUS_ADDRESS").ok();
    let path = named.as_deref().and_then(|address| {
        let address = address.split(';').find_map(|one| one.strip_prefix("unix:"))?;
        address.split(',').find_map(|pair| pair.strip_prefix("path="))
    });
    let address = SocketAddrUnix::new(path.unwrap_or(SYSTEM_BUS))?;
    let socket =
        rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    // It holds for connect(2), too (`unix_stream_connect`, net/unix/af_unix.c).
    rustix::net::sockopt::set_socket_timeout(&socket, rustix::net::sockopt::Timeout::Send, Some(limit))?;
    rustix::net::connect(&socket, &address)?;
    Ok(socket.into())
}

/// Arguments, in the order of bytes `l` ("Marshaling").
#[derive(Debug, Default, Clone)]
pub(super) struct Body(Vec<u8>);

impl Body {
    pub(super) fn align(&mut self, to: usize) -> &mut Self {
        self.0.resize(self.0.len().next_multiple_of(to), 0);
        self
    }

    pub(super) fn u8(&mut self, value: u8) -> &mut Self {
        self.0.push(value);
        self
    }

    pub(super) fn u32(&mut self, value: u32) -> &mut Self {
        self.align(4).0.extend(value.to_le_bytes());
        self
    }

    pub(super) fn i32(&mut self, value: i32) -> &mut Self {
        self.align(4).0.extend(value.to_le_bytes());
        self
    }

    pub(super) fn bool(&mut self, value: bool) -> &mut Self {
        self.u32(value.into())
    }

    pub(super) fn string(&mut self, value: &str) -> &mut Self {
        self.u32(u32::try_from(value.len()).unwrap_or(u32::MAX)).0.extend(value.bytes());
        self.u8(0)
    }

    fn signature(&mut self, value: &str) -> &mut Self {
        self.u8(u8::try_from(value.len()).unwrap_or(u8::MAX)).0.extend(value.bytes());
        self.u8(0)
    }

    pub(super) fn bytes(&mut self, value: &[u8]) -> &mut Self {
        self.u32(u32::try_from(value.len()).unwrap_or(u32::MAX)).0.extend(value);
        self
    }

    /// An array of elements that are aligned to `to`; its length does not count the padding before the first.
    pub(super) fn array(&mut self, to: usize, elements: impl FnOnce(&mut Self)) -> &mut Self {
        self.u32(0);
        let length_at = self.0.len() - 4;
        self.align(to);
        let begin = self.0.len();
        elements(self);
        let length = u32::try_from(self.0.len() - begin).unwrap_or(u32::MAX);
        if let Some(place) = self.0.get_mut(length_at..length_at + 4) {
            place.copy_from_slice(&length.to_le_bytes());
        }
        self
    }
}

/// The arguments of an answer, taken one after the other.
#[derive(Debug)]
pub(super) struct Values {
    bytes: Vec<u8>,
    at: usize,
    is_big: bool,
}

impl Values {
    pub(super) fn align(&mut self, to: usize) {
        self.at = self.at.next_multiple_of(to);
    }

    fn take(&mut self, length: usize) -> io::Result<&[u8]> {
        let end = self.at.checked_add(length).filter(|end| *end <= self.bytes.len());
        let end = end.ok_or_else(|| broken("a message that ends too early"))?;
        let begin = std::mem::replace(&mut self.at, end);
        Ok(self.bytes.get(begin..end).unwrap_or_default())
    }

    pub(super) fn u8(&mut self) -> io::Result<u8> {
        Ok(self.take(1)?.first().copied().unwrap_or_default())
    }

    pub(super) fn u32(&mut self) -> io::Result<u32> {
        self.align(4);
        let is_big = self.is_big;
        let bytes: [u8; 4] = self.take(4)?.try_into().unwrap_or_default();
        Ok(if is_big { u32::from_be_bytes(bytes) } else { u32::from_le_bytes(bytes) })
    }

    pub(super) fn string(&mut self) -> io::Result<String> {
        let length = self.u32()? as usize;
        let text =
            String::from_utf8(self.take(length)?.to_vec()).map_err(|_| broken("a string that is no text"))?;
        self.take(1)?;
        Ok(text)
    }

    pub(super) fn signature(&mut self) -> io::Result<String> {
        let length = self.u8()?.into();
        let text = String::from_utf8(self.take(length)?.to_vec())
            .map_err(|_| broken("a signature that is no text"))?;
        self.take(1)?;
        Ok(text)
    }

    pub(super) fn bytes(&mut self) -> io::Result<Vec<u8>> {
        let length = self.u32()? as usize;
        Ok(self.take(length)?.to_vec())
    }

    /// Takes the elements of an array, each aligned to `to`.
    pub(super) fn array<T>(
        &mut self,
        to: usize,
        mut element: impl FnMut(&mut Self) -> io::Result<T>,
    ) -> io::Result<Vec<T>> {
        let length = self.u32()? as usize;
        self.align(to);
        let end = self.at.saturating_add(length);
        let mut elements = Vec::new();
        while self.at < end {
            let before = self.at;
            self.align(to);
            elements.push(element(self)?);
            if self.at == before {
                return Err(broken("an array of nothing"));
            }
        }
        Ok(elements)
    }
}
