//! Whose a socket is, from the kernel's table of sockets (`sock_diag(7)`), and which program has it, from `/proc`.
//!
//! The table says the user and the inode of a socket. A program that has it has a link `/proc/PID/fd/N` to
//! `socket:[INODE]`.

use std::collections::{HashMap, VecDeque};
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use netlink_packet_core::{NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage};
use netlink_packet_sock_diag::SockDiagMessage;
use netlink_packet_sock_diag::constants::{AF_INET, AF_INET6, IPPROTO_TCP, IPPROTO_UDP};
use netlink_packet_sock_diag::inet::{ExtensionFlags, InetRequest, SocketId, StateFlags};
use netlink_sys::{Socket, SocketAddr as NetlinkAddr, protocols};
use oneway_file::limit;
use rustix::io::Errno;
use rustix::net::{RecvFlags, sockopt};

use super::diag::{self, Entry};
use super::{Owner, Process, text};
use crate::Network;

/// How long the kernel may take. It answers within the system call.
const PATIENCE: Duration = Duration::from_secs(1);

/// What one answer of a dump holds at most (`NLMSG_GOODSIZE`, and some).
const DATAGRAM: usize = 64 * 1024;

/// Programs whose sockets are looked through first: who opens one connection opens others.
const RECENT: usize = 8;

/// Sockets whose programs are remembered.
const REMEMBERED: usize = 1024;

/// A program, what its process is called, and its process with the one that started it.
type Found = (Arc<Process>, Option<Arc<str>>, (u32, u32));

/// The kernel's table of sockets, and what was found in `/proc` before.
#[derive(Debug, Default)]
pub(super) struct Sockets {
    netlink: Option<Socket>,
    recent: VecDeque<u32>,
    /// By inode: the link that led there, and the program.
    known: HashMap<u32, (PathBuf, Found)>,
}

impl Sockets {
    /// The socket of a flow. Of a datagram more of them may be the one, and are given as well: the kernel compares the source
    /// that a program asks for (`IP_PKTINFO`, ip(7)) with nothing but the host's addresses. None where that is not known.
    pub(super) fn find(
        &mut self,
        network: Network,
        source: SocketAddr,
        destination: SocketAddr,
    ) -> Vec<diag::Owned> {
        match self.ask(network, source, destination) {
            Ok(Some(exact)) if network == Network::Udp => at_port(source, exact).unwrap_or_default(),
            Ok(found) => found.into_iter().collect(),
            Err(_) => {
                // The answer may still come, to another question: begin anew.
                self.netlink = None;
                Vec::new()
            }
        }
    }

    /// Whose a socket is.
    pub(super) fn owner(&mut self, (uid, inode, cgroup): diag::Owned, with_process: bool) -> Owner {
        let found = if with_process && inode != 0 { self.process(inode) } else { None };
        Owner {
            uid: Some(uid),
            process: found.as_ref().map(|(process, ..)| Arc::clone(process)),
            comm: found.as_ref().and_then(|(_, comm, _)| comm.clone()),
            pids: found.map(|(.., pids)| pids).into_iter().collect(),
            cgroup,
        }
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
        let request = InetRequest {
            family: if source.is_ipv4() { AF_INET } else { AF_INET6 },
            protocol,
            extensions: ExtensionFlags::empty(),
            states: StateFlags::all(),
            socket_id: SocketId {
                source_port: first.port(),
                destination_port: second.port(),
                source_address: first.ip(),
                destination_address: second.ip(),
                interface_id: 0,
                // INET_DIAG_NOCOOKIE
                cookie: [0xff; 8],
            },
        };
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST;
        let mut message = NetlinkMessage::new(header, SockDiagMessage::InetRequest(request).into());
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        if self.netlink.is_none() {
            self.netlink = Some(open()?);
        }
        let Some(netlink) = &self.netlink else { return Ok(None) };
        netlink.send(&bytes, 0)?;
        let mut buffer = [0; 4096];
        diag::one(receive(netlink, &mut buffer)?)
    }

    /// The program that has a socket.
    fn process(&mut self, inode: u32) -> Option<Found> {
        let wanted = format!("socket:[{inode}]");
        if let Some((link, process)) = self.known.get(&inode)
            && leads_to(link, &wanted)
        {
            return Some(process.clone());
        }
        let recent = self.recent.iter().copied().find_map(|pid| Some((pid, socket_of(pid, &wanted)?)));
        let (pid, link) = recent.or_else(|| {
            let all = fs::read_dir("/proc").ok()?;
            let pids = all.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
            pids.filter(|pid| !self.recent.contains(pid))
                .find_map(|pid| Some((pid, socket_of(pid, &wanted)?)))
        })?;
        self.recent.retain(|known| *known != pid);
        self.recent.push_front(pid);
        self.recent.truncate(RECENT);
        let process = (Arc::new(program(pid)?), comm(pid), (pid, parent(pid).unwrap_or(0)));
        if self.known.len() >= REMEMBERED {
            self.known.clear();
        }
        self.known.insert(inode, (link, process.clone()));
        Some(process)
    }
}

/// As [`super::is_orphan`].
pub(super) fn is_orphan(source: SocketAddr, destination: SocketAddr) -> bool {
    // The inode is that of the file (`inet_diag_msg_attrs_fill`, net/ipv4/inet_diag.c); what is left of a socket in
    // FIN-WAIT-2 or TIME-WAIT has none either (`inet_twsk_diag_fill`).
    let found = Sockets::default().ask(Network::Tcp, source, destination);
    found.is_ok_and(|found| found.is_some_and(|(_, inode, _)| inode == 0))
}

/// `exact`, and all other UDP sockets that can send from a port, whatever address or device they are bound to.
fn at_port(source: SocketAddr, exact: diag::Owned) -> io::Result<Vec<diag::Owned>> {
    // An IPv6 socket sends IPv4 as well, to mapped addresses.
    let families: &[u8] = if source.is_ipv4() { &[AF_INET, AF_INET6] } else { &[AF_INET6] };
    let mut found = vec![exact];
    for family in families {
        let all = list(*family, IPPROTO_UDP, StateFlags::all(), source.port())?;
        let sockets = all.into_iter().map(|(_, uid, inode, cgroup)| (uid, inode, cgroup));
        found.extend(sockets.filter(|(_, inode, _)| *inode != exact.1));
    }
    Ok(found)
}

/// The sockets of one family and protocol that are at a port.
pub(super) fn list(family: u8, protocol: u8, states: StateFlags, port: u16) -> io::Result<Vec<Entry>> {
    let any = IpAddr::V6(Ipv6Addr::UNSPECIFIED);
    let any = if family == AF_INET { IpAddr::from([0, 0, 0, 0]) } else { any };
    let request = InetRequest {
        family,
        protocol,
        extensions: ExtensionFlags::empty(),
        states,
        socket_id: SocketId {
            source_port: port,
            destination_port: 0,
            source_address: any,
            destination_address: any,
            interface_id: 0,
            // INET_DIAG_NOCOOKIE
            cookie: [0xff; 8],
        },
    };
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | NLM_F_DUMP;
    let mut message = NetlinkMessage::new(header, SockDiagMessage::InetRequest(request).into());
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    let netlink = open()?;
    netlink.send(&bytes, 0)?;
    let mut found = Vec::new();
    let mut buffer = vec![0; DATAGRAM];
    while !diag::list(receive(&netlink, &mut buffer)?, port, &mut found)? {}
    Ok(found)
}

fn open() -> io::Result<Socket> {
    let mut socket = Socket::new(protocols::NETLINK_SOCK_DIAG)?;
    socket.bind_auto()?;
    socket.connect(&NetlinkAddr::new(0, 0))?;
    sockopt::set_socket_timeout(&socket, sockopt::Timeout::Recv, Some(PATIENCE))?;
    Ok(socket)
}

/// The next datagram.
fn receive<'b>(netlink: &Socket, buffer: &'b mut [u8]) -> io::Result<&'b [u8]> {
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

/// The link of a program to a socket.
pub(super) fn socket_of(pid: u32, wanted: &str) -> Option<PathBuf> {
    let links = fs::read_dir(format!("/proc/{pid}/fd")).ok()?;
    links.filter_map(|entry| Some(entry.ok()?.path())).find(|link| leads_to(link, wanted))
}

fn leads_to(link: &Path, wanted: &str) -> bool {
    fs::read_link(link).is_ok_and(|target| target.as_os_str() == wanted)
}

pub(super) fn comm(pid: u32) -> Option<Arc<str>> {
    Some(text::comm(&of_process(pid, "comm")?))
}

fn parent(pid: u32) -> Option<u32> {
    text::parent(&of_process(pid, "stat")?)
}

/// A file of a process (`proc_pid(5)`).
pub(super) fn of_process(pid: u32, file: &str) -> Option<Vec<u8>> {
    oneway_file::read(format!("/proc/{pid}/{file}").as_ref(), limit::PROC).ok()
}

pub(super) fn program(pid: u32) -> Option<Process> {
    if let Ok(path) = fs::read_link(format!("/proc/{pid}/exe")) {
        return Some(text::program(&path.to_string_lossy()));
    }
    // Another user's program shows its name only.
    Some(Process { name: comm(pid)?.as_ref().into(), path: "".into() })
}
