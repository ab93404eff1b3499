//! A router of networks in which things go wrong: packets vanish, or are answered by ICMP errors.
//!
//! It is a thread behind a pair of devices, not routes of type `unreachable`: the kernel delivers between two namespaces
//! within the sender's system call, so that an ICMP error reaches a socket that is still inside `connect`; TCP then
//! keeps the error for itself until it has sent the SYN again, a second later (`sock_owned_by_user` in
//! net/ipv4/tcp_ipv4.c). Errors from here come a moment later, as on any real network.

use std::io::{self, Read};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, OwnedFd};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rustix::event::{EventfdFlags, PollFd, PollFlags};
use socket2::{Socket, Type};

use crate::error::LabError;
use crate::ns::NetNs;
use crate::packet_socket::packet_socket;

/// How long an error takes.
const DELAY: Duration = Duration::from_millis(1);

/// Length of an Ethernet header.
const ETHERNET: usize = 14;

/// The name of the device that leads here.
pub(crate) const DEVICE: &str = "trouble";

/// What becomes of packets to an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    /// Nothing comes back.
    Vanish,
    /// ICMP of type destination unreachable (3; for ICMPv6 1) with these codes for IPv4 and IPv6.
    Unreachable(u8, u8),
}

/// The router, running until it is dropped; with it goes the device.
#[derive(Debug)]
pub(crate) struct Trouble {
    _beyond: NetNs,
    stop: OwnedFd,
    thread: Option<JoinHandle<()>>,
}

impl Trouble {
    /// Makes the device [`DEVICE`] in `namespace` and answers from `source` as `fate` says of each destination.
    pub(crate) fn start(
        namespace: &NetNs,
        source: (Ipv4Addr, Ipv6Addr),
        fate: impl Fn(IpAddr) -> Fate + Send + 'static,
    ) -> Result<Self, LabError> {
        let fail = |source| LabError::Server { server: "the router of troubles".to_owned(), source };
        let beyond = NetNs::new("beyond")?;
        // Nobody there but the thread speaks.
        beyond.set_sysctl("ipv6/conf/default/disable_ipv6", "1")?;
        namespace.veth(DEVICE, &beyond, DEVICE)?;
        for end in [namespace, &beyond] {
            end.set_noarp(DEVICE)?;
            end.up(DEVICE)?;
        }
        namespace.wait_operational(DEVICE)?;
        let index = beyond.link_index(DEVICE)?;
        let wire = beyond.run(|| packet_socket(Type::RAW, index))?.map_err(fail)?;
        let stop = rustix::event::eventfd(0, EventfdFlags::CLOEXEC).map_err(|error| fail(error.into()))?;
        let stopped = stop.try_clone().map_err(fail)?;
        let thread = thread::Builder::new()
            .name("lab-trouble".to_owned())
            .spawn(move || answer_until(&stopped, wire, source, fate))
            .map_err(fail)?;
        Ok(Self { _beyond: beyond, stop, thread: Some(thread) })
    }
}

impl Drop for Trouble {
    fn drop(&mut self) {
        // Eight bytes to an eventfd at zero cannot fail; and if they did, the thread would only linger.
        let _ = rustix::io::write(&self.stop, &1_u64.to_ne_bytes());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn answer_until(
    stopped: &OwnedFd,
    mut wire: Socket,
    source: (Ipv4Addr, Ipv6Addr),
    fate: impl Fn(IpAddr) -> Fate,
) {
    let mut buffer = vec![0; ETHERNET + 65_536];
    loop {
        let mut waiting =
            [PollFd::new(&wire, PollFlags::IN), PollFd::from_borrowed_fd(stopped.as_fd(), PollFlags::IN)];
        if rustix::event::poll(&mut waiting, None).is_ok() && !waiting[1].revents().is_empty() {
            return;
        }
        let mut answers = Vec::new();
        loop {
            match wire.read(&mut buffer) {
                Ok(length) => answers.extend(frame_about(&buffer[..length], source, &fate)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                // The namespace is being taken apart.
                Err(_) => return,
            }
        }
        if !answers.is_empty() {
            thread::sleep(DELAY);
        }
        for answer in answers {
            // One that does not go out is lost, as on any network.
            let _ = wire.send(&answer);
        }
    }
}

/// The Ethernet frame that answers `frame`.
fn frame_about(
    frame: &[u8],
    source: (Ipv4Addr, Ipv6Addr),
    fate: &impl Fn(IpAddr) -> Fate,
) -> Option<Vec<u8>> {
    let (header, packet) = frame.split_at_checked(ETHERNET)?;
    let error = error_about(packet, source, fate)?;
    // To whom it came from; nobody looks at where it comes from.
    let mut out = [&header[6..12], &[2, 0, 0, 0, 0, 1], &header[12..]].concat();
    out.extend_from_slice(&error);
    Some(out)
}

/// The ICMP error about `packet`, if it deserves one: RFC 1122, 3.2.2 and RFC 4443, 2.4 forbid errors about errors.
fn error_about(
    packet: &[u8],
    source: (Ipv4Addr, Ipv6Addr),
    fate: &impl Fn(IpAddr) -> Fate,
) -> Option<Vec<u8>> {
    match packet.first()? >> 4 {
        4 => {
            let to = Ipv4Addr::from(*packet.get(12..)?.first_chunk::<4>()?);
            let about = Ipv4Addr::from(*packet.get(16..)?.first_chunk::<4>()?);
            let Fate::Unreachable(code, _) = fate(about.into()) else { return None };
            let header = usize::from(packet[0] & 0xf) * 4;
            if packet[9] == 1 && !matches!(packet.get(header)?, 0 | 8 | 13..=18) {
                return None;
            }
            Some(error_v4(source.0, to, code, &packet[..packet.len().min(548)]))
        }
        6 => {
            let to = Ipv6Addr::from(*packet.get(8..)?.first_chunk::<16>()?);
            let about = Ipv6Addr::from(*packet.get(24..)?.first_chunk::<16>()?);
            let Fate::Unreachable(_, code) = fate(about.into()) else { return None };
            if packet[6] == 58 && *packet.get(40)? < 128 {
                return None;
            }
            Some(error_v6(source.1, to, code, &packet[..packet.len().min(1232)]))
        }
        _ => None,
    }
}

fn error_v4(from: Ipv4Addr, to: Ipv4Addr, code: u8, quoted: &[u8]) -> Vec<u8> {
    let mut icmp = vec![3, code, 0, 0, 0, 0, 0, 0];
    icmp.extend_from_slice(quoted);
    let sum = checksum(&icmp, 0);
    icmp[2..4].copy_from_slice(&sum);
    let length = u16::try_from(20 + icmp.len()).unwrap_or(u16::MAX);
    let mut out = vec![0x45, 0xc0, 0, 0, 0, 0, 0, 0, 64, 1, 0, 0];
    out[2..4].copy_from_slice(&length.to_be_bytes());
    out.extend_from_slice(&from.octets());
    out.extend_from_slice(&to.octets());
    let sum = checksum(&out, 0);
    out[10..12].copy_from_slice(&sum);
    out.extend_from_slice(&icmp);
    out
}

fn error_v6(from: Ipv6Addr, to: Ipv6Addr, code: u8, quoted: &[u8]) -> Vec<u8> {
    let mut icmp = vec![1, code, 0, 0, 0, 0, 0, 0];
    icmp.extend_from_slice(quoted);
    let length = u16::try_from(icmp.len()).unwrap_or(u16::MAX);
    let mut out = vec![0x60, 0, 0, 0, 0, 0, 58, 64];
    out[4..6].copy_from_slice(&length.to_be_bytes());
    out.extend_from_slice(&from.octets());
    out.extend_from_slice(&to.octets());
    // RFC 8200, 8.1: the pseudo-header is the two addresses, the length and the protocol.
    let pseudo =
        out[8..40].chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum::<u32>();
    let sum = checksum(&icmp, pseudo + u32::from(length) + 58);
    icmp[2..4].copy_from_slice(&sum);
    out.extend_from_slice(&icmp);
    out
}

/// RFC 1071.
fn checksum(bytes: &[u8], start: u32) -> [u8; 2] {
    let mut sum = bytes
        .chunks(2)
        .fold(start, |sum, pair| sum + u32::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)])));
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    (!u16::try_from(sum).unwrap_or(0)).to_be_bytes()
}
