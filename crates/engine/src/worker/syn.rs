//! The SYN of a connection that is being dialled, in no more memory than it must take.
//!
//! A SYN may carry data (RFC 7413), and IPv6 headers in front of it: 64 KiB, which a client could have held for each connection
//! that it asks for. What is answered to it, and what the kernel's TCP is told, is about the SYN alone; data that are not
//! acknowledged are sent again.

use oneway_capture::FRAME_HEADER;
use oneway_wire::checksum;
use oneway_wire::emit::{IpHeader, ip_header};
use oneway_wire::ip::{IpView, protocol};
use oneway_wire::tcp::TcpView;

/// The longest headers of IPv4 and TCP with all options that there may be.
const LONGEST: usize = 60 + 60;

/// Where the checksum of TCP is in its header.
const CHECKSUM: std::ops::Range<usize> = 16..18;

/// What is kept of a SYN.
pub(super) fn held(packet: &[u8]) -> Box<[u8]> {
    bare(packet).map_or_else(|| packet.into(), Vec::into_boxed_slice)
}

/// The same of a frame.
pub(super) fn held_frame(frame: &[u8]) -> Box<[u8]> {
    let packet = frame.get(FRAME_HEADER..).unwrap_or_default();
    match bare(packet) {
        // Its checksum is complete, and there is nothing to be cut.
        Some(bare) => [&[0; FRAME_HEADER][..], &bare].concat().into_boxed_slice(),
        None => frame.into(),
    }
}

/// A packet that is too long without what is not needed of it: data, options of IPv4, more headers of IPv6.
fn bare(packet: &[u8]) -> Option<Vec<u8>> {
    if packet.len() <= LONGEST {
        return None;
    }
    let ip = IpView::parse(packet).ok()?;
    let tcp = TcpView::parse(ip.payload()).ok()?;
    let mut segment = ip.payload().get(..tcp.header_len())?.to_vec();
    let header = IpHeader {
        hop_limit: ip.ttl(),
        traffic_class: ip.traffic_class(),
        ..IpHeader::new(ip.src(), ip.dst(), protocol::TCP)
    };
    let mut bare = Vec::with_capacity(header.header_len() + segment.len());
    ip_header(&mut bare, &header, segment.len()).ok()?;
    segment.get_mut(CHECKSUM)?.fill(0);
    let sum = checksum::transport(ip.src(), ip.dst(), protocol::TCP, &segment);
    segment.get_mut(CHECKSUM)?.copy_from_slice(&sum.to_be_bytes());
    bare.append(&mut segment);
    Some(bare)
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use oneway_wire::emit::{TcpHeader, tcp_segment};
    use oneway_wire::tcp::Flags;

    use super::*;

    fn syn(ends: [&str; 2], payload: &[u8]) -> Vec<u8> {
        let [src, dst] = ends.map(|end| end.parse::<SocketAddr>().unwrap());
        let options = &[2, 4, 5, 180, 4, 2, 8, 10, 0, 0, 0, 1, 0, 0, 0, 0, 1, 3, 3, 7];
        let header = TcpHeader { seq: 7, ack: 0, flags: Flags::SYN, window: 1000, options };
        let mut packet = Vec::new();
        tcp_segment(&mut packet, src, dst, &header, payload).unwrap();
        packet
    }

    #[test]
    fn data_take_no_memory() {
        for ends in [["192.0.2.1:5", "198.51.100.1:80"], ["[2001:db8::1]:5", "[2001:db8::2]:80"]] {
            let plain = syn(ends, b"");
            assert_eq!(*held(&plain), plain);
            let mut long = syn(ends, &[9; 60_000]);
            // A code point that rules may ask for.
            let class: [u8; 2] = if long[0] >> 4 == 4 { [0x45, 0xb8] } else { [0x6b, 0x80] };
            long[..2].copy_from_slice(&class);
            let kept = held(&long);
            assert_eq!(kept.len(), plain.len());
            let (ip, before) = (IpView::parse(&kept).unwrap(), IpView::parse(&long).unwrap());
            assert!(ip.header_checksum_valid());
            assert_eq!((ip.traffic_class(), ip.src(), ip.dst()), (0xb8, before.src(), before.dst()));
            let tcp = TcpView::parse(ip.payload()).unwrap();
            assert!(tcp.checksum_valid(ip.src(), ip.dst()) && tcp.payload().is_empty());
            let head = |packet: &IpView<'_>| packet.payload()[..CHECKSUM.start].to_vec();
            assert_eq!(head(&ip), head(&before));
            assert_eq!(tcp.raw_options(), TcpView::parse(before.payload()).unwrap().raw_options());
            let frame = [&[1; FRAME_HEADER][..], &long].concat();
            assert_eq!(*held_frame(&frame), [&[0; FRAME_HEADER][..], &kept[..]].concat());
        }
    }

    #[test]
    fn what_is_short_is_kept_as_it_is() {
        let short = syn(["192.0.2.1:5", "198.51.100.1:80"], b"some");
        assert_eq!(*held(&short), short);
        let frame = [&[1; FRAME_HEADER][..], &short].concat();
        assert_eq!(*held_frame(&frame), frame);
    }
}
