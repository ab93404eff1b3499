//! Writing packets to the TUN: what passes, and what is answered.

use std::net::{IpAddr, SocketAddr};
use std::ops::Range;

use oneway_capture::FRAME_HEADER;
use oneway_egress::{IcmpErrorEvent, IcmpErrorKind};
use oneway_outbound::Answer;
use oneway_wire::checksum::Checksum;
use oneway_wire::emit::{IpHeader, Unreachable, icmp_error_for, tcp_rst_for, udp_datagram};
use oneway_wire::ip::{IpView, protocol};
use oneway_wire::tcp::TcpView;
use oneway_wire::udp;
use oneway_wire::virtio::{Gso, VirtioNetHdr, partial_checksum};

use super::Worker;

/// Room to keep free in front of a datagram for the headers that [`Worker::write_datagram`] writes there.
pub(super) const DATAGRAM_HEADROOM: usize = FRAME_HEADER + 40 + udp::HEADER_LEN;

/// The longest payload of a UDP superpacket over IPv4.
const SUPERPACKET: usize = u16::MAX as usize - 20 - udp::HEADER_LEN;

impl Worker {
    /// Hands a frame to the kernel as it is.
    pub(super) fn write(&self, frame: &[u8]) {
        match self.queue.get_ref().write(frame) {
            Ok(()) => self.shared.stats.tun_written.add(),
            // A packet that the device cannot take is lost, as on any full link; TCP sends it again.
            Err(_) => self.shared.stats.tun_write_failed.add(),
        }
    }

    /// Hands a packet with complete checksums to the kernel.
    pub(super) fn write_packet(&self, packet: &[u8]) {
        let mut frame = Vec::with_capacity(FRAME_HEADER + packet.len());
        frame.resize(FRAME_HEADER, 0);
        frame.extend_from_slice(packet);
        self.write(&frame);
    }

    /// Answers `packet`, which a client sent.
    pub(super) fn answer(&self, packet: &[u8], answer: Answer) {
        match answer {
            Answer::Rst => self.reset(packet),
            Answer::IcmpNet => self.unreachable(packet, Unreachable::Net),
            Answer::IcmpHost => self.unreachable(packet, Unreachable::Host),
            Answer::IcmpPort => self.unreachable(packet, Unreachable::Port),
            Answer::IcmpAdmin => self.unreachable(packet, Unreachable::AdminProhibited),
            Answer::Silent => {}
        }
    }

    /// Answers a TCP segment with a reset.
    pub(super) fn reset(&self, packet: &[u8]) {
        let Ok(ip) = IpView::parse(packet) else { return };
        let Ok(tcp) = TcpView::parse(ip.payload()) else { return };
        if let Some(rst) = tcp_rst_for(&ip, &tcp) {
            self.write_packet(&rst);
        }
    }

    /// Answers a packet with an ICMP error. It comes from the TUN's network: an address of this host would be taken
    /// for a martian (`fib_validate_source` in `net/ipv4/fib_frontend.c`).
    pub(super) fn unreachable(&self, packet: &[u8], kind: Unreachable) {
        let Ok(ip) = IpView::parse(packet) else { return };
        if let Some(error) = icmp_error_for(packet, kind, self.router(ip.src().is_ipv4())) {
            self.write_packet(&error);
        }
    }

    /// Tells `client` that a datagram of its session did not arrive. `payload` is the front of what it sent.
    pub(super) fn datagram_unreachable(
        &self,
        client: SocketAddr,
        dst: SocketAddr,
        payload: &[u8],
        kind: Unreachable,
    ) {
        let mut packet = Vec::new();
        if udp_datagram(&mut packet, client, dst, payload).is_ok() {
            self.unreachable(&packet, kind);
        }
    }

    /// Hands `buffer[payload]` to the kernel as datagrams of `size` bytes from `src` to `dst`, the last one of what is left:
    /// as one superpacket, where the device takes that. The headers are written into the [`DATAGRAM_HEADROOM`] bytes in
    /// front; the kernel finishes the checksums.
    pub(super) fn write_datagrams(
        &self,
        buffer: &mut [u8],
        payload: Range<usize>,
        size: usize,
        src: SocketAddr,
        dst: SocketAddr,
    ) {
        if payload.len() <= size
            || payload.len() <= SUPERPACKET && self.queue.get_ref().offload().udp_segmentation
        {
            return self.write_datagram(buffer, payload, size, src, dst);
        }
        let Range { mut start, end } = payload;
        while start < end {
            // The headers go to where the datagram before has been taken from.
            let datagram = start..end.min(start + size);
            start = datagram.end;
            self.write_datagram(buffer, datagram, size, src, dst);
        }
    }

    fn write_datagram(
        &self,
        buffer: &mut [u8],
        payload: Range<usize>,
        size: usize,
        src: SocketAddr,
        dst: SocketAddr,
    ) {
        let Range { start, end } = payload;
        let udp_len = end.saturating_sub(start) + udp::HEADER_LEN;
        let mut header = IpHeader::new(src.ip(), dst.ip(), protocol::UDP);
        header.dont_fragment = false;
        // Two in fragments on the way must differ (RFC 6864, 4.3); the kernel counts on from here for those of one superpacket.
        header.identification = self.identification.get();
        let len = end.saturating_sub(start);
        let datagrams = if len > size { len.div_ceil(size.max(1)) } else { 1 };
        self.identification.set(header.identification.wrapping_add(datagrams as u16));
        let ip_len = header.header_len();
        let Some(at) = start.checked_sub(FRAME_HEADER + ip_len + udp::HEADER_LEN) else { return };
        let Some(frame) = buffer.get_mut(at..end) else { return };
        let (virtio, packet) = frame.split_at_mut(FRAME_HEADER);
        let mut offload = partial_checksum(ip_len as u16, true);
        if end - start > size {
            let hdr_len = (ip_len + udp::HEADER_LEN) as u16;
            offload =
                VirtioNetHdr { gso_type: Gso::UdpL4.to_raw(), gso_size: size as u16, hdr_len, ..offload };
        }
        virtio.copy_from_slice(&offload.encode());
        let (ip, datagram) = packet.split_at_mut(ip_len);
        if header.write(ip, udp_len).is_err() {
            return self.shared.stats.udp_dropped.add();
        }
        let pseudo = pseudo(src.ip(), dst.ip(), udp_len as u32);
        datagram[..2].copy_from_slice(&src.port().to_be_bytes());
        datagram[2..4].copy_from_slice(&dst.port().to_be_bytes());
        datagram[4..6].copy_from_slice(&(udp_len as u16).to_be_bytes());
        datagram[6..8].copy_from_slice(&pseudo.to_be_bytes());
        self.write(frame);
    }
}

/// What a client is to be told of an ICMP error about what was sent for it.
pub(super) fn reported(event: &IcmpErrorEvent) -> Option<Unreachable> {
    Some(match event.kind {
        IcmpErrorKind::Net => Unreachable::Net,
        IcmpErrorKind::Host => Unreachable::Host,
        IcmpErrorKind::Port | IcmpErrorKind::Protocol => Unreachable::Port,
        IcmpErrorKind::AdminProhibited => Unreachable::AdminProhibited,
        IcmpErrorKind::TooBig => Unreachable::FragNeeded { mtu: event.mtu.unwrap_or(1280) },
        IcmpErrorKind::TtlExceeded => Unreachable::TtlExceeded,
        _ => return None,
    })
}

/// The sum that a partial checksum starts with: not inverted.
fn pseudo(src: IpAddr, dst: IpAddr, len: u32) -> u16 {
    !Checksum::new().pseudo(src, dst, protocol::UDP, len).finish()
}
