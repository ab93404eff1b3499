//! Segments as the connection sees them: what came, and what is to go.

use std::net::SocketAddr;

use oneway_wire::checksum::Checksum;
use oneway_wire::emit::{EmitError, IpHeader};
use oneway_wire::ip::protocol;
use oneway_wire::tcp::{Flags, HEADER_LEN, MAX_HEADER_LEN, TcpOption, TcpView};
use oneway_wire::virtio::{self, Gso, NEEDS_CSUM, VirtioNetHdr};

use super::config::headers;
use super::seq::Seq;

/// TCP timestamps (RFC 7323 3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timestamps {
    /// TSval.
    pub value: u32,
    /// TSecr.
    pub echo: u32,
}

/// A segment that came.
#[derive(Clone, Copy, Debug)]
pub struct Segment<'a> {
    /// SEG.SEQ.
    pub seq: Seq,
    /// SEG.ACK; means something only with [`Flags::ACK`].
    pub ack: Seq,
    /// The control bits.
    pub flags: Flags,
    /// SEG.WND as it stands in the header, not scaled.
    pub window: u16,
    /// The data. The urgent pointer is not looked at: urgent data are ordinary data here, as RFC 6093 (6) advises.
    pub payload: &'a [u8],
    /// The timestamps option.
    pub timestamps: Option<Timestamps>,
    /// The SACK option's blocks.
    pub sack: Blocks,
    /// Options that belong to a SYN.
    pub syn: SynOptions,
}

/// Options that mean something in a segment with [`Flags::SYN`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SynOptions {
    /// Maximum segment size.
    pub mss: Option<u16>,
    /// Window scale, at most 14 (RFC 7323 2.3).
    pub window_scale: Option<u8>,
    /// Whether SACK is permitted.
    pub sack_permitted: bool,
}

impl<'a> Segment<'a> {
    /// Reads a segment and its options.
    pub fn from_view(view: &TcpView<'a>) -> Segment<'a> {
        let mut segment = Segment {
            seq: Seq(view.seq()),
            ack: Seq(view.ack()),
            flags: view.flags(),
            window: view.window(),
            payload: view.payload(),
            timestamps: None,
            sack: Blocks::default(),
            syn: SynOptions::default(),
        };
        let syn = segment.flags.contains(Flags::SYN);
        for option in view.options() {
            match option {
                TcpOption::Timestamps { value, echo } => {
                    segment.timestamps = Some(Timestamps { value, echo });
                }
                TcpOption::Sack(blocks) => {
                    for (left, right) in blocks.iter() {
                        segment.sack.push(Seq(left), Seq(right));
                    }
                }
                TcpOption::Mss(mss) if syn => segment.syn.mss = Some(mss),
                TcpOption::WindowScale(shift) if syn => segment.syn.window_scale = Some(shift.min(14)),
                TcpOption::SackPermitted if syn => segment.syn.sack_permitted = true,
                _ => {}
            }
        }
        segment
    }

    /// SEG.LEN: the data with SYN and FIN counted (RFC 9293 3.4).
    pub fn len(&self) -> u32 {
        self.payload.len() as u32
            + u32::from(self.flags.contains(Flags::SYN))
            + u32::from(self.flags.contains(Flags::FIN))
    }

    /// Whether it occupies no sequence number.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Up to four ranges of sequence numbers, as a SACK option has them (RFC 2018 3).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Blocks {
    blocks: [(Seq, Seq); Blocks::MAX],
    len: u8,
}

impl Blocks {
    /// An option of 40 bytes has room for no more.
    pub const MAX: usize = 4;

    /// Adds a block; without effect when there are [`Blocks::MAX`].
    pub fn push(&mut self, left: Seq, right: Seq) {
        if let Some(place) = self.blocks.get_mut(usize::from(self.len)) {
            *place = (left, right);
            self.len += 1;
        }
    }

    /// Left and right edge of each.
    pub fn as_slice(&self) -> &[(Seq, Seq)] {
        self.blocks.get(..usize::from(self.len)).unwrap_or_default()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

/// Pieces of the send queue that make up a segment's data.
#[derive(Clone, Copy, Debug, Default)]
pub struct Payload<'a> {
    parts: [&'a [u8]; Payload::MAX_PARTS],
    count: usize,
    len: usize,
}

impl<'a> Payload<'a> {
    /// A segment is cut where it would need more pieces.
    pub const MAX_PARTS: usize = 8;

    /// Adds a piece and says whether there was room.
    pub(super) fn push(&mut self, part: &'a [u8]) -> bool {
        let Some(place) = self.parts.get_mut(self.count) else { return false };
        *place = part;
        self.count += 1;
        self.len += part.len();
        true
    }

    /// The pieces, in order.
    pub fn parts(&self) -> &[&'a [u8]] {
        self.parts.get(..self.count).unwrap_or_default()
    }

    /// Bytes of all pieces.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

/// A segment to be sent.
#[derive(Clone, Copy, Debug)]
pub struct Outgoing<'a> {
    /// SEG.SEQ.
    pub seq: Seq,
    /// SEG.ACK.
    pub ack: Seq,
    /// The control bits.
    pub flags: Flags,
    /// The window field, scaled already.
    pub window: u16,
    /// The timestamps option.
    pub timestamps: Option<Timestamps>,
    /// The SACK option.
    pub sack: Blocks,
    /// The options of a SYN.
    pub syn: SynOptions,
    /// The data.
    pub payload: Payload<'a>,
    /// Data of one segment on the wire: a longer payload is a superpacket, which the device cuts.
    pub segment_size: u16,
    /// Hop limit, or time to live.
    pub hop_limit: u8,
    /// Traffic class, or type of service.
    pub traffic_class: u8,
}

/// Length of the longest headers that [`Outgoing::write_headers`] writes.
pub const MAX_HEADERS: usize = virtio::HEADER_LEN + 40 + MAX_HEADER_LEN;

impl Outgoing<'_> {
    /// Data that fit behind these options into one packet of IP.
    pub(super) fn room(&self, v6: bool) -> u32 {
        let timestamps = if self.timestamps.is_some() { 12 } else { 0 };
        let sack = match self.sack.as_slice().len() {
            0 => 0,
            blocks => 4 + 8 * blocks.min(if self.timestamps.is_some() { 3 } else { 4 }),
        };
        u32::from(u16::MAX - headers(v6)) - (timestamps + sack) as u32
    }

    /// Writes the virtio, IP and TCP headers, with the partial checksum that the device completes, and returns their
    /// length. The payload's parts follow on the wire.
    ///
    /// # Errors
    /// [`EmitError`] when the addresses are of different families or the packet is longer than IP can say.
    pub fn write_headers(
        &self,
        buf: &mut [u8; MAX_HEADERS],
        src: SocketAddr,
        dst: SocketAddr,
    ) -> Result<usize, EmitError> {
        let mut options = [0; MAX_HEADER_LEN - HEADER_LEN];
        let options_len = self.write_options(&mut options);
        let tcp_len = HEADER_LEN + options_len;
        let header = IpHeader {
            hop_limit: self.hop_limit,
            traffic_class: self.traffic_class,
            ..IpHeader::new(src.ip(), dst.ip(), protocol::TCP)
        };
        let ip_len = header.header_len();
        let segment_len = tcp_len + self.payload.len();
        let (virtio_header, packet) = buf.split_at_mut(virtio::HEADER_LEN);
        header.write(packet, segment_len)?;

        let tcp = &mut packet[ip_len..ip_len + tcp_len];
        tcp[..2].copy_from_slice(&src.port().to_be_bytes());
        tcp[2..4].copy_from_slice(&dst.port().to_be_bytes());
        tcp[4..8].copy_from_slice(&self.seq.0.to_be_bytes());
        tcp[8..12].copy_from_slice(&self.ack.0.to_be_bytes());
        tcp[12] = (tcp_len as u8 / 4) << 4;
        tcp[13] = self.flags.0;
        tcp[14..16].copy_from_slice(&self.window.to_be_bytes());
        // A partial checksum starts as the sum of the pseudo-header, not inverted.
        let sum = !Checksum::new().pseudo(src.ip(), dst.ip(), protocol::TCP, segment_len as u32).finish();
        tcp[16..18].copy_from_slice(&sum.to_be_bytes());
        tcp[18..20].copy_from_slice(&[0, 0]);
        tcp[HEADER_LEN..].copy_from_slice(&options[..options_len]);

        let is_super = self.payload.len() > usize::from(self.segment_size);
        let gso = match (is_super, dst.is_ipv4()) {
            (false, _) => Gso::None,
            (true, true) => Gso::TcpV4 { ecn: false },
            (true, false) => Gso::TcpV6 { ecn: false },
        };
        let headers = VirtioNetHdr {
            flags: NEEDS_CSUM,
            gso_type: gso.to_raw(),
            hdr_len: if is_super { (ip_len + tcp_len) as u16 } else { 0 },
            gso_size: if is_super { self.segment_size } else { 0 },
            csum_start: ip_len as u16,
            csum_offset: 16,
        };
        virtio_header.copy_from_slice(&headers.encode());
        Ok(virtio::HEADER_LEN + ip_len + tcp_len)
    }

    /// Writes the options, padded to whole words, and returns their length.
    fn write_options(&self, buf: &mut [u8; MAX_HEADER_LEN - HEADER_LEN]) -> usize {
        const NOP: u8 = 1;
        let mut len = 0;
        let mut put = |bytes: &[u8]| {
            buf[len..len + bytes.len()].copy_from_slice(bytes);
            len += bytes.len();
        };
        if let Some(mss) = self.syn.mss {
            let [a, b] = mss.to_be_bytes();
            put(&[2, 4, a, b]);
        }
        if let Some(Timestamps { value, echo }) = self.timestamps {
            // As Linux does: where SACK is permitted too, its option takes the place of the padding.
            put(if self.syn.sack_permitted { &[4, 2] } else { &[NOP, NOP] });
            put(&[8, 10]);
            put(&value.to_be_bytes());
            put(&echo.to_be_bytes());
        } else if self.syn.sack_permitted {
            put(&[NOP, NOP, 4, 2]);
        }
        if let Some(shift) = self.syn.window_scale {
            put(&[NOP, 3, 3, shift]);
        }
        if !self.sack.is_empty() {
            // Eight bytes a block in what timestamps leave: three blocks with, four without.
            let room = if self.timestamps.is_some() { 3 } else { 4 };
            let blocks = self.sack.as_slice();
            let blocks = blocks.get(..room.min(blocks.len())).unwrap_or_default();
            put(&[NOP, NOP, 5, 2 + 8 * blocks.len() as u8]);
            for (left, right) in blocks {
                put(&left.0.to_be_bytes());
                put(&right.0.to_be_bytes());
            }
        }
        len
    }
}

#[cfg(test)]
mod tests;
