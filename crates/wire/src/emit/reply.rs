//! Answers to one packet: resets and echo replies.

use std::net::{IpAddr, SocketAddr};

use super::{IpHeader, TcpHeader, ip_header, tcp_segment};
use crate::checksum;
use crate::icmp::Message;
use crate::ip::{IpView, Transport, Version, protocol};
use crate::tcp::{Flags, TcpView};

/// The reset that refuses `tcp`, as a closed port sends it (RFC 9293 3.5.2 group 1 and 3.10.7.1): with an ACK in
/// the segment the reset takes its sequence number from there, otherwise it has sequence number 0 and
/// acknowledges the whole segment. `None` when the segment is itself a reset.
///
/// `tcp` is what `packet` carries. A source route is not sent back.
pub fn tcp_rst_for(packet: &IpView<'_>, tcp: &TcpView<'_>) -> Option<Vec<u8>> {
    let flags = tcp.flags();
    if flags.contains(Flags::RST) {
        return None;
    }
    let header = if flags.contains(Flags::ACK) {
        TcpHeader { seq: tcp.ack(), flags: Flags::RST, ..TcpHeader::default() }
    } else {
        TcpHeader {
            ack: tcp.seq().wrapping_add(tcp.sequence_len()),
            flags: Flags::RST | Flags::ACK,
            ..TcpHeader::default()
        }
    };
    let mut reset = Vec::with_capacity(60);
    let src = SocketAddr::new(packet.dst(), tcp.dst_port());
    let dst = SocketAddr::new(packet.src(), tcp.src_port());
    tcp_segment(&mut reset, src, dst, &header, &[]).ok()?;
    Some(reset)
}

/// The echo reply to `packet`, with all of its data (RFC 1122 3.2.2.6, RFC 4443 4.2). IP options and extension
/// headers are not sent back.
///
/// `None` when it is not an echo request, its checksum is wrong, it is a fragment, or it was sent to many or
/// from nobody in particular.
pub fn icmp_echo_reply(packet: &IpView<'_>) -> Option<Vec<u8>> {
    let Transport::Icmp(icmp) = packet.transport().ok()? else { return None };
    let Message::EchoRequest { .. } = icmp.message() else { return None };
    let (src, dst) = (packet.src(), packet.dst());
    if !icmp.checksum_valid(src, dst) || !is_one_host(src) || !is_one_host(dst) {
        return None;
    }
    let (protocol, kind) = match packet.version() {
        Version::V4 => (protocol::ICMP, 0),
        Version::V6 => (protocol::ICMPV6, 129),
    };
    let request = packet.payload();
    let mut reply = Vec::with_capacity(40 + request.len());
    let header = IpHeader {
        traffic_class: packet.traffic_class(),
        dont_fragment: packet.dont_fragment(),
        identification: icmp.checksum(),
        ..IpHeader::new(dst, src, protocol)
    };
    ip_header(&mut reply, &header, request.len()).ok()?;
    let at = reply.len();
    reply.extend_from_slice(request);
    reply[at..at + 4].copy_from_slice(&[kind, 0, 0, 0]);
    // From nothing: a reply of zeros alone is where an update goes wrong, as zero is then the sum and not 0xffff.
    let message = &reply[at..];
    let ck = match packet.version() {
        Version::V4 => !checksum::sum(message),
        Version::V6 => checksum::transport(dst, src, protocol, message),
    };
    reply[at + 2..at + 4].copy_from_slice(&ck.to_be_bytes());
    Some(reply)
}

/// Whether a packet to this address may reach several hosts, so that none must answer it with an error (RFC 1122
/// 3.2.2). A reserved address that nobody has is not one of them: whoever asks for it should learn that.
pub(super) fn is_to_many(addr: IpAddr) -> bool {
    match addr {
        IpAddr::V4(addr) => addr.is_multicast() || addr.is_broadcast() || addr.is_unspecified(),
        IpAddr::V6(addr) => addr.is_multicast() || addr.is_unspecified(),
    }
}

/// Whether an address names one host: not unspecified, multicast or broadcast, nor in class E (RFC 1122 3.2.2).
pub(super) fn is_one_host(addr: IpAddr) -> bool {
    match addr {
        IpAddr::V4(addr) => {
            !(addr.is_multicast() || addr.octets()[0] == 0 || addr.octets()[0] >= 240 || addr.is_broadcast())
        }
        IpAddr::V6(addr) => !(addr.is_multicast() || addr.is_unspecified()),
    }
}
