//! Cutting superpackets as the kernel does for a device that cannot: `tcp_gso_segment` in `net/ipv4/tcp_offload.c`,
//! `__udp_gso_segment` in `net/ipv4/udp_offload.c`, `inet_gso_segment` in `net/ipv4/af_inet.c`.

use oneway_wire::ip::{IpView, Version, protocol};
use oneway_wire::tcp::{Flags, TcpView};
use oneway_wire::udp::{self, UdpView};
use oneway_wire::virtio::{Gso, VirtioNetHdr, complete_checksum};
use oneway_wire::{Malformed, checksum};

use super::{be16, be32, put16, set_ip_length};

/// The headers that every piece begins with.
#[derive(Clone, Copy, Debug)]
struct Headers<'a> {
    bytes: &'a [u8],
    /// Length of the IP header.
    ip_len: usize,
    is_tcp: bool,
    /// The sum of the addresses and the protocol number; the length is still to be added.
    pseudo: u16,
}

/// Cuts a packet as its `header` says, and gives each piece to `each`, in order and with complete checksums. An ordinary
/// packet comes out whole.
///
/// The packet lies in `parts`, of which the first has all headers. `buf` is for the pieces: its content does not matter,
/// and it is not allocated anew once it has had the longest of them.
///
/// # Errors
/// [`Malformed`] when the packet is not what its header says, or of a kind that is never cut: a fragment, a packet with
/// an authentication or a routing header, a segment with SYN, RST or URG. Nothing has been given to `each` then.
pub fn segment(
    header: &VirtioNetHdr,
    parts: &[&[u8]],
    buf: &mut Vec<u8>,
    mut each: impl FnMut(&[u8]),
) -> Result<(), Malformed> {
    let total = parts.iter().map(|part| part.len()).sum();
    header.check(total)?;
    buf.clear();
    let gso = header.gso()?;
    if gso == Gso::None {
        parts.iter().for_each(|part| buf.extend_from_slice(part));
        complete_checksum(header, buf)?;
        each(buf);
        return Ok(());
    }
    let first = parts.first().copied().unwrap_or_default();
    let headers = Headers::of(gso, first, total)?;
    let size = usize::from(header.gso_size);
    let mut rest = Rest { part: &first[headers.bytes.len()..], parts: parts.get(1..).unwrap_or_default() };
    let mut left = total - headers.bytes.len();
    let (mut index, mut offset) = (0, 0);
    loop {
        let len = left.min(size);
        left -= len;
        buf.clear();
        buf.extend_from_slice(headers.bytes);
        rest.take(len, buf);
        headers.finish(buf, index, offset, left == 0);
        each(buf);
        if left == 0 {
            return Ok(());
        }
        index = index.wrapping_add(1);
        offset += len as u32;
    }
}

impl<'a> Headers<'a> {
    /// Reads the headers of a superpacket of `total` bytes.
    fn of(gso: Gso, first: &'a [u8], total: usize) -> Result<Headers<'a>, Malformed> {
        let unsupported = |what| Err(Malformed::Unsupported { what });
        let ip = IpView::parse_quoted(first)?;
        if ip.total_len() != total {
            return Err(Malformed::Length {
                what: "IP total length of a superpacket",
                value: ip.total_len(),
            });
        }
        if ip.fragment().is_some() || ip.source_routed() || ip.authenticated() {
            return unsupported("a superpacket with fragment, routing or authentication header");
        }
        let matches = match gso {
            Gso::TcpV4 { .. } => ip.version() == Version::V4 && ip.protocol() == protocol::TCP,
            Gso::TcpV6 { .. } => ip.version() == Version::V6 && ip.protocol() == protocol::TCP,
            Gso::UdpL4 => ip.protocol() == protocol::UDP,
            Gso::None => false,
        };
        if !matches {
            return unsupported("a superpacket of another protocol than its gso_type");
        }
        let ip_len = ip.header_len();
        let is_tcp = gso != Gso::UdpL4;
        let transport_len = if is_tcp {
            let tcp = TcpView::parse(ip.payload())?;
            if tcp.flags().intersects(Flags::SYN | Flags::RST | Flags::URG) {
                return unsupported("a superpacket with SYN, RST or URG");
            }
            tcp.header_len()
        } else {
            let udp = ip.payload();
            // The view wants the whole datagram; the first part need not have it.
            if udp.len() < udp::HEADER_LEN {
                return UdpView::parse(udp).and(unsupported("a UDP header in two parts"));
            }
            if usize::from(be16(udp, 4)) != total - ip_len {
                let value = be16(udp, 4).into();
                return Err(Malformed::Length { what: "UDP length of a superpacket", value });
            }
            udp::HEADER_LEN
        };
        let pseudo = checksum::pseudo(ip.src(), ip.dst(), ip.protocol(), 0);
        Ok(Headers { bytes: &first[..ip_len + transport_len], ip_len, is_tcp, pseudo })
    }

    /// Makes a copy of the headers with its data behind it the piece number `index`, whose data begin at `offset`.
    fn finish(&self, packet: &mut [u8], index: u16, offset: u32, is_last: bool) {
        if packet[0] >> 4 == 4 {
            let id = be16(packet, 4).wrapping_add(index);
            put16(packet, 4, id);
        }
        set_ip_length(packet, self.ip_len);
        let segment = &mut packet[self.ip_len..];
        let len = segment.len() as u16;
        let field = if self.is_tcp {
            let seq = be32(segment, 4).wrapping_add(offset);
            segment[4..8].copy_from_slice(&seq.to_be_bytes());
            if !is_last {
                segment[13] &= !(Flags::FIN | Flags::PSH).0;
            }
            // RFC 3168 6.1.2: the window is reduced once.
            if index > 0 || offset > 0 {
                segment[13] &= !Flags::CWR.0;
            }
            16
        } else {
            put16(segment, 4, len);
            6
        };
        put16(segment, field, 0);
        let pseudo = checksum::combine(self.pseudo, len);
        let ck = !checksum::combine(pseudo, checksum::sum(segment));
        put16(segment, field, if self.is_tcp { ck } else { checksum::udp_field(ck) });
    }
}

/// The data that no piece has yet.
struct Rest<'a> {
    part: &'a [u8],
    parts: &'a [&'a [u8]],
}

impl Rest<'_> {
    /// Appends the next `len` bytes to `buf`.
    fn take(&mut self, mut len: usize, buf: &mut Vec<u8>) {
        while len > 0 {
            let (now, later) = self.part.split_at(len.min(self.part.len()));
            buf.extend_from_slice(now);
            len -= now.len();
            self.part = later;
            if later.is_empty() {
                let Some((next, parts)) = self.parts.split_first() else { return };
                (self.part, self.parts) = (next, parts);
            }
        }
    }
}
