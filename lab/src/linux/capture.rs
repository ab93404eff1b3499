//! What was on the wire: a recorder of packets on every side of a device, by an `AF_PACKET` socket.

mod parse;

use std::collections::HashMap;
use std::io;
use std::mem;
use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rustix::event::{EventfdFlags, PollFd, PollFlags};
use socket2::{Socket, Type};

use crate::error::LabError;
use crate::ns::NetNs;
use crate::packet_socket::packet_socket;

/// Which way a packet went, seen from the machine that records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Direction {
    /// The device handed it to the machine. On a TUN device: its program wrote it.
    In,
    /// The machine sent it by the device. On a TUN device: its program read it.
    Out,
}

/// IP protocol numbers that tests ask for.
pub mod protocol {
    /// ICMP.
    pub const ICMP: u8 = 1;
    /// TCP.
    pub const TCP: u8 = 6;
    /// UDP.
    pub const UDP: u8 = 17;
    /// ICMPv6.
    pub const ICMPV6: u8 = 58;
}

/// Flags of TCP.
pub mod flag {
    /// FIN.
    pub const FIN: u8 = 1;
    /// SYN.
    pub const SYN: u8 = 2;
    /// RST.
    pub const RST: u8 = 4;
    /// PSH.
    pub const PSH: u8 = 8;
    /// ACK.
    pub const ACK: u8 = 16;
}

/// A packet of IPv4 or IPv6 that was seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packet {
    /// When the recorder read it.
    pub at: Instant,
    /// The device's name.
    pub device: String,
    /// Which way it went.
    pub direction: Direction,
    /// Source address.
    pub src: IpAddr,
    /// Destination address.
    pub dst: IpAddr,
    /// The upper-layer protocol, after the extension headers of IPv6; see [`protocol`].
    pub protocol: u8,
    /// Source and destination port of TCP and UDP; 0 otherwise, and in fragments but the first.
    pub ports: (u16, u16),
    /// The flags of TCP; see [`flag`].
    pub flags: u8,
    /// Sequence and acknowledgement number of TCP.
    pub sequence: (u32, u32),
    /// Type and code of ICMP and ICMPv6.
    pub icmp: Option<(u8, u8)>,
    /// TTL or hop limit.
    pub ttl: u8,
    /// Length of the IP packet in bytes. A superpacket that the device was to cut counts as one.
    pub length: usize,
    /// Length of the upper layer's payload in bytes; for protocols other than TCP and UDP, of all after the IP header.
    pub payload_length: usize,
    /// The first bytes of the payload, at most [`KEPT`].
    pub payload: Vec<u8>,
    /// Whether it is a fragment.
    pub fragment: bool,
}

impl Packet {
    /// Whether it is TCP with all of `flags` set and none of SYN, RST and FIN besides.
    pub fn is_tcp(&self, flags: u8) -> bool {
        const KINDS: u8 = flag::SYN | flag::RST | flag::FIN;
        self.protocol == protocol::TCP && self.flags & flags == flags && self.flags & KINDS & !flags == 0
    }

    /// Whether it asks for a TCP connection: SYN without ACK.
    pub fn is_syn(&self) -> bool {
        self.is_tcp(flag::SYN) && self.flags & flag::ACK == 0
    }

    /// Whether it is UDP.
    pub fn is_udp(&self) -> bool {
        self.protocol == protocol::UDP
    }

    /// Whether it is ICMP or ICMPv6 that a program caused: echo, or an error. Neighbour discovery and the like are not.
    pub fn is_icmp(&self) -> bool {
        match (self.protocol, self.icmp) {
            (protocol::ICMP, Some(_)) => true,
            (protocol::ICMPV6, Some((kind, _))) => kind <= 129,
            _ => false,
        }
    }

    /// Whether it is none of what a kernel says by itself: neighbour and router discovery, multicast listener reports.
    pub fn is_traffic(&self) -> bool {
        self.protocol != protocol::ICMPV6 && !matches!(self.protocol, 0 | 2) || self.is_icmp()
    }

    /// Whether it goes from or to this address.
    pub fn involves(&self, address: IpAddr) -> bool {
        self.src == address || self.dst == address
    }
}

/// How many bytes of payload are kept of each packet.
pub const KEPT: usize = 128;

/// How much the kernel may keep for a recorder that is not scheduled, in bytes.
const BUFFER: usize = 64 << 20;

/// Records every IP packet of a namespace, or of one of its devices, until it is dropped.
#[derive(Debug)]
pub struct Recorder {
    shared: Arc<Shared>,
    stop: OwnedFd,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    namespace: NetNs,
    socket: Socket,
    what: String,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    packets: Vec<Packet>,
    names: HashMap<i32, String>,
    lost: u32,
    error: Option<io::Error>,
}

impl Recorder {
    /// Starts recording: `device`, or, with `None`, every device but `lo`, also those that come later.
    ///
    /// # Errors
    /// [`LabError::Capture`] when the kernel refuses, [`LabError::Netlink`] when there is no such device.
    pub fn start(namespace: &NetNs, device: Option<&str>) -> Result<Self, LabError> {
        let what = device.map_or_else(|| "every device".to_owned(), |name| format!("\"{name}\""));
        let index = device.map(|name| namespace.link_index(name)).transpose()?;
        let fail = |source| LabError::Capture { device: what.clone(), source };
        let open = || {
            let socket = packet_socket(Type::DGRAM, index.unwrap_or(0))?;
            force_receive_buffer(&socket)?;
            Ok(socket)
        };
        let socket = namespace.run(open)?.map_err(fail)?;
        let stop = rustix::event::eventfd(0, EventfdFlags::CLOEXEC).map_err(|error| fail(error.into()))?;
        let shared = Arc::new(Shared {
            namespace: namespace.clone(),
            socket,
            what: what.clone(),
            state: Mutex::default(),
        });
        let (reader, stopped) = (shared.clone(), stop.try_clone().map_err(fail)?);
        let thread = thread::Builder::new()
            .name("lab-recorder".to_owned())
            .spawn(move || reader.read_until(&stopped))
            .map_err(fail)?;
        Ok(Self { shared, stop, thread: Some(thread) })
    }

    /// All packets so far, in the order in which the kernel handled them. What was sent before the call is there.
    ///
    /// # Errors
    /// [`LabError::Lost`] when the record has gaps, [`LabError::Capture`] when reading failed.
    pub fn packets(&self) -> Result<Vec<Packet>, LabError> {
        self.look(|packets| packets.to_vec())
    }

    /// The packets so far that fulfil `wanted`.
    ///
    /// # Errors
    /// As of [`Recorder::packets`].
    pub fn matching(&self, wanted: impl Fn(&Packet) -> bool) -> Result<Vec<Packet>, LabError> {
        self.look(|packets| packets.iter().filter(|packet| wanted(packet)).cloned().collect())
    }

    /// How many packets so far fulfil `wanted`.
    ///
    /// # Errors
    /// As of [`Recorder::packets`].
    pub fn count(&self, wanted: impl Fn(&Packet) -> bool) -> Result<usize, LabError> {
        self.look(|packets| packets.iter().filter(|packet| wanted(packet)).count())
    }

    /// Waits until a packet fulfils `wanted`, also one from before the call, and returns the first that does.
    ///
    /// # Errors
    /// [`LabError::Deadline`] when there is none after `deadline`; otherwise as of [`Recorder::packets`].
    pub fn wait_for(
        &self,
        deadline: Duration,
        what: &str,
        wanted: impl Fn(&Packet) -> bool,
    ) -> Result<Packet, LabError> {
        let end = Instant::now() + deadline;
        loop {
            if let Some(found) = self.look(|packets| packets.iter().find(|p| wanted(p)).cloned())? {
                return Ok(found);
            }
            if Instant::now() >= end {
                return Err(LabError::Deadline { what: what.to_owned(), waited: deadline });
            }
            thread::sleep(Duration::from_millis(2));
        }
    }

    /// Waits until nothing that fulfils `wanted` came for `quiet`, and returns how many there are by then.
    ///
    /// # Errors
    /// [`LabError::Deadline`] when it does not become quiet within `deadline`: a loop, perhaps. Otherwise as of
    /// [`Recorder::packets`].
    pub fn settle(
        &self,
        quiet: Duration,
        deadline: Duration,
        wanted: impl Fn(&Packet) -> bool,
    ) -> Result<usize, LabError> {
        let begin = Instant::now();
        loop {
            let (count, last) = self.look(|packets| {
                let mut found = packets.iter().filter(|packet| wanted(packet));
                (packets.iter().filter(|packet| wanted(packet)).count(), found.next_back().map(|p| p.at))
            })?;
            if last.unwrap_or(begin).max(begin).elapsed() >= quiet {
                return Ok(count);
            }
            if begin.elapsed() >= deadline {
                let what = format!("no further such packet came for {quiet:?}; {count} came");
                return Err(LabError::Deadline { what, waited: deadline });
            }
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Forgets the packets so far.
    ///
    /// # Errors
    /// As of [`Recorder::packets`].
    pub fn forget(&self) -> Result<(), LabError> {
        self.look(|_| ())?;
        self.shared.state.lock().packets.clear();
        Ok(())
    }

    fn look<T>(&self, view: impl FnOnce(&[Packet]) -> T) -> Result<T, LabError> {
        let mut state = self.shared.state.lock();
        self.shared.drain(&mut state);
        if let Some(source) = state.error.take() {
            return Err(LabError::Capture { device: self.shared.what.clone(), source });
        }
        match state.lost {
            0 => Ok(view(&state.packets)),
            lost => Err(LabError::Lost { lost }),
        }
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        // Eight bytes to an eventfd at zero cannot fail; and if they did, the thread would only linger.
        let _ = rustix::io::write(&self.stop, &1_u64.to_ne_bytes());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn read_until(&self, stopped: &OwnedFd) {
        loop {
            let mut waiting = [
                PollFd::new(&self.socket, PollFlags::IN),
                PollFd::from_borrowed_fd(stopped.as_fd(), PollFlags::IN),
            ];
            if rustix::event::poll(&mut waiting, None).is_ok() && !waiting[1].revents().is_empty() {
                return;
            }
            self.drain(&mut self.state.lock());
        }
    }

    /// Takes what the kernel has. Whoever looks at the packets does so itself first, and so misses none.
    fn drain(&self, state: &mut State) {
        let mut buffer = [0; 2048];
        loop {
            match receive(&self.socket, &mut buffer) {
                Ok((length, address)) => self.note(state, &buffer[..length.min(2048)], length, &address),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // A device that is set down or deleted reports so once.
                Err(error) if error.raw_os_error() == Some(libc::ENETDOWN) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => {
                    state.error = Some(error);
                    break;
                }
            }
        }
        state.lost += lost_since_last_time(&self.socket);
    }

    fn note(&self, state: &mut State, start: &[u8], length: usize, address: &libc::sockaddr_ll) {
        let direction =
            if address.sll_pkttype == libc::PACKET_OUTGOING { Direction::Out } else { Direction::In };
        let Some(device) = self.device_name(state, address.sll_ifindex) else { return };
        let seen = parse::Frame { at: Instant::now(), device, direction, start, length };
        state.packets.extend(parse::packet(seen));
    }

    /// The device's name; `None` for `lo` unless it is the one that is recorded.
    fn device_name(&self, state: &mut State, index: i32) -> Option<String> {
        if !state.names.contains_key(&index) {
            for link in self.namespace.links().unwrap_or_default() {
                state.names.insert(link.index.cast_signed(), link.name);
            }
        }
        let name = state.names.get(&index).cloned().unwrap_or_else(|| format!("#{index}"));
        (name != "lo" || self.what == "\"lo\"").then_some(name)
    }
}

/// `SO_RCVBUFFORCE` goes beyond `net.core.rmem_max`, and a namespace's root may use it. Where it may not, an older
/// kernel, the usual limit holds, and losses are reported.
fn force_receive_buffer(socket: &Socket) -> io::Result<()> {
    if rustix::net::sockopt::set_socket_recv_buffer_size_force(socket, BUFFER).is_err() {
        socket.set_recv_buffer_size(BUFFER)?;
    }
    Ok(())
}

/// Receives one packet; the length is that of the whole packet, also if the buffer is shorter.
fn receive(socket: &Socket, buffer: &mut [u8]) -> io::Result<(usize, libc::sockaddr_ll)> {
    use std::os::fd::AsRawFd;
    // SAFETY: all bits zero are a valid `sockaddr_ll`.
    let mut address: libc::sockaddr_ll = unsafe { mem::zeroed() };
    let mut address_length = mem::size_of::<libc::sockaddr_ll>() as libc::socklen_t;
    // SAFETY: buffer and address are writable for the lengths given, and live throughout the call.
    let length = unsafe {
        libc::recvfrom(
            socket.as_raw_fd(),
            buffer.as_mut_ptr().cast(),
            buffer.len(),
            libc::MSG_TRUNC | libc::MSG_DONTWAIT,
            (&raw mut address).cast(),
            &raw mut address_length,
        )
    };
    usize::try_from(length).map(|length| (length, address)).map_err(|_| io::Error::last_os_error())
}

/// `PACKET_STATISTICS`, which starts anew with each reading.
fn lost_since_last_time(socket: &Socket) -> u32 {
    use std::os::fd::AsRawFd;
    // SAFETY: all bits zero are a valid `tpacket_stats`.
    let mut statistics: libc::tpacket_stats = unsafe { mem::zeroed() };
    let mut length = mem::size_of::<libc::tpacket_stats>() as libc::socklen_t;
    // SAFETY: `statistics` is writable for `length` bytes and lives throughout the call.
    let answer = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_PACKET,
            libc::PACKET_STATISTICS,
            (&raw mut statistics).cast(),
            &raw mut length,
        )
    };
    if answer == 0 { statistics.tp_drops } else { 0 }
}
