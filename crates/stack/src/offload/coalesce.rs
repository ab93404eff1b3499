//! Joining packets as the kernel does for a device that hands over single ones: `tcp_gro_receive` in
//! `net/ipv4/tcp_offload.c`, `udp_gro_receive_segment` in `net/ipv4/udp_offload.c`, `inet_gro_receive` in
//! `net/ipv4/af_inet.c`. Stricter than the kernel where it would not give the same packets back: acknowledgment and
//! window must be equal, too.

use oneway_wire::checksum;
use oneway_wire::ip::{IPV6_HEADER_LEN, IpView, protocol};
use oneway_wire::tcp::{self, Flags};
use oneway_wire::udp;
use oneway_wire::virtio::{DATA_VALID, Gso, HEADER_LEN, NEEDS_CSUM, VirtioNetHdr};

use super::{be16, be32, plain_ip_len, pseudo, put16, set_ip_length};

/// The longest frame: the virtio header, an IPv6 header and the longest payload that its length field can say.
pub const MAX_FRAME: usize = HEADER_LEN + IPV6_HEADER_LEN + u16::MAX as usize;

/// The longest superpacket, whatever its family.
const MAX_JOINED: usize = u16::MAX as usize;

/// Takes a batch of frames (virtio header and packet) and joins those that are one after the other in the same TCP
/// connection, or datagrams of one length from one socket to one other.
///
/// What comes out is in the order of the first packet of each, and the packets of one connection stay in order. What
/// cannot be joined comes out as it came, but with [`DATA_VALID`] set where the checksum was looked at and is right.
#[derive(Debug)]
pub struct Coalescer {
    slots: Vec<Slot>,
    limit: usize,
    used: usize,
}

#[derive(Debug)]
struct Slot {
    /// [`MAX_FRAME`] bytes, of which the system gives only those that are touched.
    frame: Box<[u8]>,
    len: usize,
    /// While packets may be joined to this one, and after that if any were.
    run: Option<Run>,
}

/// One packet, or several that were joined.
#[derive(Clone, Copy, Debug)]
struct Run {
    shape: Shape,
    /// Packets that it is made of.
    count: u16,
    /// IPv4: what each identification is more than the one before, once there are two.
    id_step: Option<u16>,
    /// Nothing follows it.
    closed: bool,
}

/// What is read of a packet that could be joined to another.
#[derive(Clone, Copy, Debug)]
struct Shape {
    v4: bool,
    is_tcp: bool,
    ip_len: usize,
    /// Length of all headers.
    headers: usize,
    /// Bytes of data, at least one.
    data: usize,
    /// Whether this is the last of a run: PSH.
    last: bool,
}

impl Coalescer {
    /// Room for `limit` frames that could not be joined, each of [`MAX_FRAME`] bytes. Memory is taken as they come, and
    /// kept.
    pub const fn new(limit: usize) -> Self {
        Self { slots: Vec::new(), limit, used: 0 }
    }

    /// Where the next frame is to be written; `None` when there is no room before [`Coalescer::clear`].
    pub fn room(&mut self) -> Option<&mut [u8]> {
        if self.used >= self.limit {
            return None;
        }
        if self.used == self.slots.len() {
            self.slots.push(Slot { frame: vec![0; MAX_FRAME].into_boxed_slice(), len: 0, run: None });
        }
        self.slots.get_mut(self.used).map(|slot| &mut *slot.frame)
    }

    /// Takes the frame of `len` bytes that was written to [`Coalescer::room`].
    pub fn commit(&mut self, len: usize) {
        let (before, after) = self.slots.split_at_mut(self.used);
        let Some(slot) = after.first_mut() else { return };
        let len = len.min(slot.frame.len());
        (slot.len, slot.run) = (len, None);
        self.used += 1;
        let Some((header, packet)) =
            slot.frame.get_mut(..len).and_then(|frame| frame.split_first_chunk_mut::<HEADER_LEN>())
        else {
            return;
        };
        let open = before.iter_mut().filter(|slot| slot.run.is_some_and(|run| !run.closed));
        let Some(ends) = Ends::of(packet) else {
            // It may belong to any of them, and must not be overtaken.
            open.for_each(Slot::close);
            return;
        };
        let shape = Shape::of(&ends, &VirtioNetHdr::decode(header), packet);
        if let Some(shape) = shape {
            header[0] |= if header[0] & NEEDS_CSUM == 0 { DATA_VALID } else { 0 };
            slot.run = Some(Run { shape, count: 1, id_step: None, closed: shape.last });
        }
        // There is one at most: whatever is not joined to it closes it.
        for earlier in open.filter(|slot| ends.are_those_of(slot.packet())) {
            match shape {
                Some(shape) if earlier.join(&shape, packet) => self.used -= 1,
                _ => earlier.close(),
            }
        }
    }

    /// Whether nothing was taken.
    pub const fn is_empty(&self) -> bool {
        self.used == 0
    }

    /// Bytes of all frames.
    pub fn bytes(&self) -> usize {
        self.slots.iter().take(self.used).map(|slot| slot.len).sum()
    }

    /// The frames, joined ones with a partial checksum and what [`segment`](super::segment) needs to cut them.
    pub fn frames(&mut self) -> impl Iterator<Item = &mut [u8]> {
        self.slots.iter_mut().take(self.used).map(Slot::finish)
    }

    /// Forgets the frames.
    pub const fn clear(&mut self) {
        self.used = 0;
    }
}

impl Slot {
    fn packet(&self) -> &[u8] {
        self.frame.get(HEADER_LEN..self.len).unwrap_or_default()
    }

    fn close(&mut self) {
        if let Some(run) = &mut self.run {
            run.closed = true;
        }
    }

    /// Appends the data of `packet`, if it is what follows.
    fn join(&mut self, shape: &Shape, packet: &[u8]) -> bool {
        let Some(mut run) = self.run else { return false };
        let Some(id_step) = run.follows(self.packet(), shape, packet) else { return false };
        let Some(place) = self.frame.get_mut(self.len..self.len + shape.data) else { return false };
        place.copy_from_slice(&packet[shape.headers..]);
        self.len += shape.data;
        run.count += 1;
        run.id_step = Some(id_step);
        run.closed = shape.last || shape.data < run.shape.data;
        self.run = Some(run);
        if shape.last {
            self.frame[HEADER_LEN + shape.ip_len + 13] |= Flags::PSH.0;
        }
        true
    }

    /// The frame, with headers that say how long it has become.
    fn finish(&mut self) -> &mut [u8] {
        let frame = &mut self.frame[..self.len];
        let Some(Run { shape, count: 2.., .. }) = self.run else { return frame };
        let (header, packet) = frame.split_at_mut(HEADER_LEN);
        set_ip_length(packet, shape.ip_len);
        let len = packet.len() - shape.ip_len;
        if let Ok(ip) = IpView::parse(packet) {
            let sum = pseudo(&ip, len);
            let segment = &mut packet[shape.ip_len..];
            if !shape.is_tcp {
                put16(segment, 4, len as u16);
            }
            put16(segment, shape.checksum_offset(), sum);
        }
        let gso = match (shape.is_tcp, shape.v4) {
            (true, true) => Gso::TcpV4 { ecn: false },
            (true, false) => Gso::TcpV6 { ecn: false },
            (false, _) => Gso::UdpL4,
        };
        let virtio = VirtioNetHdr {
            flags: NEEDS_CSUM,
            gso_type: gso.to_raw(),
            hdr_len: shape.headers as u16,
            gso_size: shape.data as u16,
            csum_start: shape.ip_len as u16,
            csum_offset: shape.checksum_offset() as u16,
        };
        header.copy_from_slice(&virtio.encode());
        frame
    }
}

impl Run {
    /// Whether `packet` is what follows `joined`; then by how much its identification differs from the last one.
    fn follows(&self, joined: &[u8], shape: &Shape, packet: &[u8]) -> Option<u16> {
        let own = &self.shape;
        if (shape.headers, shape.ip_len) != (own.headers, own.ip_len)
            || shape.data > own.data
            || joined.len() + shape.data > MAX_JOINED
        {
            return None;
        }
        // All fields of the IP headers but lengths, identification and checksum.
        let same = |from: usize, to: usize| joined[from..to] == packet[from..to];
        let same_ip =
            if own.v4 { same(0, 2) && same(6, 10) && same(12, 20) } else { same(0, 4) && same(6, 40) };
        if !same_ip {
            return None;
        }
        if own.is_tcp {
            let at = own.ip_len;
            let next = be32(joined, at + 4).wrapping_add((joined.len() - own.headers) as u32);
            // Ports, acknowledgment and data offset; the flags were looked at; window; urgent pointer and options.
            let same_tcp = same(at, at + 4)
                && same(at + 8, at + 13)
                && same(at + 14, at + 16)
                && same(at + 18, own.headers);
            if be32(packet, at + 4) != next || !same_tcp {
                return None;
            }
        }
        if !own.v4 {
            return Some(0);
        }
        // The identification of a packet that must not be fragmented means nothing (RFC 6864 4.1); there are systems
        // that always send the same.
        let dont_fragment = packet[6] & 0x40 != 0;
        let from_first = be16(packet, 4).wrapping_sub(be16(joined, 4));
        let step = if from_first == 0 { 0 } else { 1 };
        let regular = from_first == self.count * step && (step == 1 || dont_fragment);
        (regular && self.id_step.is_none_or(|known| known == step)).then_some(step)
    }
}

/// Whose packet it is.
#[derive(Clone, Copy, Debug)]
struct Ends<'a> {
    v4: bool,
    is_tcp: bool,
    addresses: &'a [u8],
    ports: &'a [u8],
    /// Length of the packet as its header says.
    stated: usize,
}

impl<'a> Ends<'a> {
    /// Reads a TCP segment's or a datagram's ends; `None` where they cannot be told at a glance.
    fn of(packet: &'a [u8]) -> Option<Ends<'a>> {
        let v4 = match packet.first()? {
            0x45 => true,
            first if first >> 4 == 6 => false,
            _ => return None,
        };
        let ip_len = plain_ip_len(v4);
        let ports = packet.get(ip_len..ip_len + 4)?;
        let stated = if v4 { be16(packet, 2).into() } else { usize::from(be16(packet, 4)) + IPV6_HEADER_LEN };
        if stated < ip_len + ports.len() {
            return None;
        }
        // A fragment, be it the first one, is only a part of a packet.
        if v4 && be16(packet, 6) & 0x3fff != 0 {
            return None;
        }
        let (protocol, addresses) =
            if v4 { (packet[9], &packet[12..20]) } else { (packet[6], &packet[8..40]) };
        let is_tcp = match protocol {
            protocol::TCP => true,
            protocol::UDP => false,
            _ => return None,
        };
        Some(Ends { v4, is_tcp, addresses, ports, stated })
    }

    fn are_those_of(&self, packet: &[u8]) -> bool {
        Ends::of(packet).is_some_and(|other| {
            (self.v4, self.is_tcp, self.ports) == (other.v4, other.is_tcp, other.ports)
                && self.addresses == other.addresses
        })
    }
}

impl Shape {
    /// What is to be known of a packet that may be joined to others of its kind; `None` if none may be.
    fn of(ends: &Ends<'_>, header: &VirtioNetHdr, packet: &[u8]) -> Option<Shape> {
        let &Ends { v4, is_tcp, stated, .. } = ends;
        let ip_len = plain_ip_len(v4);
        let segment = packet.get(ip_len..)?;
        if stated != packet.len() || header.gso_type != Gso::None.to_raw() {
            return None;
        }
        let (transport_len, last) = if is_tcp {
            let flags = Flags(*segment.get(13)?);
            let only_data = flags == Flags::ACK || flags == Flags::ACK | Flags::PSH;
            let len = usize::from(segment[12] >> 4) * 4;
            if !only_data || len < tcp::HEADER_LEN {
                return None;
            }
            (len, flags.contains(Flags::PSH))
        } else {
            // A datagram without a checksum would come out of `segment` with one.
            if segment.len() < udp::HEADER_LEN
                || usize::from(be16(segment, 4)) != segment.len()
                || be16(segment, 6) == 0
            {
                return None;
            }
            (udp::HEADER_LEN, false)
        };
        let headers = ip_len + transport_len;
        let data = packet.len().checked_sub(headers).filter(|&data| data > 0)?;
        let shape = Shape { v4, is_tcp, ip_len, headers, data, last };
        shape.checksums_are_right(header, packet).then_some(shape)
    }

    const fn checksum_offset(&self) -> usize {
        if self.is_tcp { 16 } else { 6 }
    }

    fn checksums_are_right(&self, header: &VirtioNetHdr, packet: &[u8]) -> bool {
        let (ip, segment) = packet.split_at(self.ip_len);
        if self.v4 && checksum::sum(ip) != 0xffff {
            return false;
        }
        if header.flags & NEEDS_CSUM != 0 {
            // It never left this machine, and is to be completed over the whole.
            return usize::from(header.csum_start) == self.ip_len
                && usize::from(header.csum_offset) == self.checksum_offset();
        }
        let proto = if self.is_tcp { protocol::TCP } else { protocol::UDP };
        IpView::parse(packet).is_ok_and(|ip| {
            header.flags & DATA_VALID != 0 || checksum::transport_valid(ip.src(), ip.dst(), proto, segment)
        })
    }
}
