//! Whose a socket is, from the kernel's table of sockets (`sock_diag(7)`): its user and its inode.

use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use netlink_packet_core::{NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage};
use netlink_packet_sock_diag::SockDiagMessage;
use netlink_packet_sock_diag::constants::{AF_INET, AF_INET6, IPPROTO_TCP, IPPROTO_UDP};
use netlink_packet_sock_diag::inet::{ExtensionFlags, InetRequest, SocketId, StateFlags};
use netlink_sys::{SocketAddr as NetlinkAddr, protocols};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, sockopt};

use super::Owner;
use super::diag::{self, Entry};
pub(super) use super::programs::{Programs, sees_programs};
use crate::Network;

/// How long the kernel may take. It answers within the system call.
const PATIENCE: Duration = Duration::from_secs(1);

/// What one answer of a dump holds at most (`NLMSG_GOODSIZE`, and some).
const DATAGRAM: usize = 64 * 1024;

/// The table of sockets of a network namespace, which can be asked from any other one: of the namespace that it was opened in.
#[derive(Debug)]
pub struct SocketTable(OwnedFd);

impl SocketTable {
    /// That of the calling thread's namespace.
    ///
    /// # Errors
    /// The kernel does not tell about sockets.
    pub fn open() -> io::Result<Self> {
        open_here().map(Self)
    }
}

impl AsFd for SocketTable {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl From<OwnedFd> for SocketTable {
    fn from(opened: OwnedFd) -> Self {
        Self(opened)
    }
}

/// A socket that a flow may be of.
#[derive(Clone, Copy, Debug)]
pub(super) struct Socket {
    pub(super) uid: u32,
    /// 0 where no program has it any more.
    pub(super) inode: u32,
    pub(super) cgroup: Option<u64>,
}

impl Socket {
    pub(super) fn uid(self) -> u32 {
        self.uid
    }

    /// Whose it is, but for the program.
    pub(super) fn owner(self) -> Owner {
        Owner { uid: Some(self.uid), cgroup: self.cgroup, ..Owner::default() }
    }
}

impl From<diag::Owned> for Socket {
    fn from((uid, inode, cgroup): diag::Owned) -> Self {
        Self { uid, inode, cgroup }
    }
}

/// The kernel's table of sockets.
#[derive(Debug, Default)]
pub(super) struct Sockets {
    netlink: Option<OwnedFd>,
    /// Whether that asks another network namespace, where no other one can be made.
    is_given: bool,
}

impl Sockets {
    pub(super) fn of(table: SocketTable) -> Self {
        Self { netlink: Some(table.0), is_given: true }
    }

    /// The socket of a flow. Of a datagram more of them may be the one, and are given as well: the kernel compares the source
    /// that a program asks for (`IP_PKTINFO`, ip(7)) with nothing but the host's addresses. None where that is not known.
    pub(super) fn find(
        &mut self,
        network: Network,
        source: SocketAddr,
        destination: SocketAddr,
    ) -> Vec<Socket> {
        let found = match self.ask(network, source, destination) {
            Ok(Some(exact)) if network == Network::Udp => self.at_port(source, exact),
            found => found.map(|found| found.map(Socket::from).into_iter().collect()),
        };
        found.unwrap_or_else(|_| {
            // The answer may still come, to another question: begin anew.
            match &self.netlink {
                Some(netlink) if self.is_given => discard(netlink),
                _ => self.netlink = None,
            }
            Vec::new()
        })
    }

    /// `exact`, and all other UDP sockets that can send from a port, whatever address or device they are bound to.
    fn at_port(&mut self, source: SocketAddr, exact: diag::Owned) -> io::Result<Vec<Socket>> {
        // An IPv6 socket sends IPv4 as well, to mapped addresses.
        let families: &[u8] = if source.is_ipv4() { &[AF_INET, AF_INET6] } else { &[AF_INET6] };
        let mut found = vec![Socket::from(exact)];
        for family in families {
            let all = self.list(*family, IPPROTO_UDP, StateFlags::all(), source.port())?;
            let sockets = all.into_iter().map(|(_, uid, inode, cgroup)| Socket { uid, inode, cgroup });
            found.extend(sockets.filter(|socket| socket.inode != exact.1));
        }
        Ok(found)
    }

    /// The sockets of one family and protocol that are at a port.
    pub(super) fn list(
        &mut self,
        family: u8,
        protocol: u8,
        states: StateFlags,
        port: u16,
    ) -> io::Result<Vec<Entry>> {
        let any = IpAddr::V6(Ipv6Addr::UNSPECIFIED);
        let any = if family == AF_INET { IpAddr::from([0, 0, 0, 0]) } else { any };
        let ends = ends(SocketAddr::new(any, port), SocketAddr::new(any, 0));
        let netlink = self.send(NLM_F_REQUEST | NLM_F_DUMP, family, protocol, states, ends)?;
        let mut found = Vec::new();
        let mut buffer = vec![0; DATAGRAM];
        while !diag::list(receive(netlink, &mut buffer)?, port, &mut found)? {}
        Ok(found)
    }

    /// Asks a question, whose answer is then to be received.
    fn send(
        &mut self,
        flags: u16,
        family: u8,
        protocol: u8,
        states: StateFlags,
        socket_id: SocketId,
    ) -> io::Result<&OwnedFd> {
        let request =
            InetRequest { family, protocol, extensions: ExtensionFlags::empty(), states, socket_id };
        let mut header = NetlinkHeader::default();
        header.flags = flags;
        let mut message = NetlinkMessage::new(header, SockDiagMessage::InetRequest(request).into());
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        let netlink = match self.netlink.take() {
            Some(netlink) => netlink,
            None => open_here()?,
        };
        let netlink = self.netlink.insert(netlink);
        rustix::net::send(&*netlink, &bytes, SendFlags::empty())?;
        Ok(netlink)
    }

    /// The user, the inode and the control group of a socket.
    fn ask(
        &mut self,
        network: Network,
        source: SocketAddr,
        destination: SocketAddr,
    ) -> io::Result<Option<diag::Owned>> {
        // Of a UDP socket the kernel wants the remote end first: it looks as for a datagram that arrives
        // (`udp_dump_one`, net/ipv4/udp_diag.c).
        let (protocol, first, second) = match network {
            Network::Tcp => (IPPROTO_TCP, source, destination),
            Network::Udp => (IPPROTO_UDP, destination, source),
            Network::Icmp => return Ok(None),
        };
        let family = if source.is_ipv4() { AF_INET } else { AF_INET6 };
        let netlink = self.send(NLM_F_REQUEST, family, protocol, StateFlags::all(), ends(first, second))?;
        let mut buffer = [0; 4096];
        diag::one(receive(netlink, &mut buffer)?)
    }
}

/// As [`super::is_orphan`].
pub(super) fn is_orphan(source: SocketAddr, destination: SocketAddr) -> bool {
    // The inode is that of the file (`inet_diag_msg_attrs_fill`, net/ipv4/inet_diag.c); what is left of a socket in
    // FIN-WAIT-2 or TIME-WAIT has none either (`inet_twsk_diag_fill`).
    let found = Sockets::default().ask(Network::Tcp, source, destination);
    found.is_ok_and(|found| found.is_some_and(|(_, inode, _)| inode == 0))
}

fn ends(first: SocketAddr, second: SocketAddr) -> SocketId {
    SocketId {
        source_port: first.port(),
        destination_port: second.port(),
        source_address: first.ip(),
        destination_address: second.ip(),
        interface_id: 0,
        // INET_DIAG_NOCOOKIE
        cookie: [0xff; 8],
    }
}

/// A socket that asks the kernel about sockets of the network namespace that it is made in.
fn open_here() -> io::Result<OwnedFd> {
    let mut socket = netlink_sys::Socket::new(protocols::NETLINK_SOCK_DIAG)?;
    socket.bind_auto()?;
    socket.connect(&NetlinkAddr::new(0, 0))?;
    sockopt::set_socket_timeout(&socket, sockopt::Timeout::Recv, Some(PATIENCE))?;
    // The crate hands none of its sockets out.
    socket.as_fd().try_clone_to_owned()
}

/// The next datagram.
fn receive<'b>(netlink: &OwnedFd, buffer: &'b mut [u8]) -> io::Result<&'b [u8]> {
    let length = loop {
        match rustix::net::recv(netlink, &mut *buffer, RecvFlags::TRUNC) {
            Ok((_, length)) => break length,
            // A signal that this thread happened to take; a socket with a time limit is not asked again by the kernel.
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    };
    buffer.get(..length).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// Throws away what has come too late. The kernel answers within the call that asks, so that no more can come.
fn discard(netlink: &OwnedFd) {
    while rustix::net::recv(netlink, &mut [0; 1][..], RecvFlags::DONTWAIT).is_ok() {}
}
