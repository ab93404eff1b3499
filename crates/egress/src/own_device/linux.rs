//! A socket filter (socket(7), `SO_ATTACH_FILTER`), by the number of the device that a packet came by.

use std::io;

use oneway_route::IfIndex;
use socket2::{SockFilter, Socket};

/// Instructions of classic BPF, and where it finds what is not in the packet (include/uapi/linux/filter.h). The filter sees
/// the device as long as the packet has not been queued (`__udp_enqueue_schedule_skb`, net/ipv4/udp.c).
const LOAD_WORD: u16 = 0x20;
const JUMP_IF_EQUAL: u16 = 0x15;
const RETURN: u16 = 0x06;
const SKF_AD_IFINDEX: u32 = (-0x1000_i32 + 8) as u32;

/// Lets the socket receive nothing that comes by this device.
pub(crate) fn hear_nothing_of(socket: &Socket, device: IfIndex) -> io::Result<()> {
    socket.attach_filter(&[
        SockFilter::new(LOAD_WORD, 0, 0, SKF_AD_IFINDEX),
        SockFilter::new(JUMP_IF_EQUAL, 0, 1, device.0),
        SockFilter::new(RETURN, 0, 0, 0),
        SockFilter::new(RETURN, 0, 0, u32::MAX),
    ])
}
