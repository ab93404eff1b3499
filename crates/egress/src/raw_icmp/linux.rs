//! Two filters. That of types (raw(7) `ICMP_FILTER`, `ICMP6_FILTER` of RFC 3542, 3.2) is looked at before the kernel copies
//! a message for the socket (`raw_v4_input`, net/ipv4/raw.c), that of contents (socket(7), `SO_ATTACH_FILTER`) before it
//! queues the copy.
#![allow(unsafe_code)]

use std::io;
use std::mem;
use std::os::fd::AsRawFd;

use libc::{c_int, c_void};
use oneway_route::{Family, IfIndex};
use socket2::{SockFilter, Socket};

use crate::icmp::EARS;

/// `SOL_RAW` and `ICMP_FILTER` (include/uapi/linux/icmp.h): a word with a bit for each type below 32 that is not wanted.
const ICMP_FILTER: (c_int, c_int) = (255, 1);
/// `IPPROTO_ICMPV6` as a level and `ICMPV6_FILTER` (include/uapi/linux/icmpv6.h): the same in eight words, for all types.
const ICMPV6_FILTER: (c_int, c_int) = (58, 1);

/// Types of ICMP: echo reply; unreachable and time exceeded, which quote a request.
const REPLY_V4: u8 = 0;
const ERRORS_V4: [u8; 2] = [3, 11];
const REQUEST_V4: u8 = 8;
/// Those of ICMPv6: unreachable, too big, time exceeded, parameter problem.
const REPLY_V6: u8 = 129;
const ERRORS_V6: [u8; 4] = [1, 2, 3, 4];
const REQUEST_V6: u8 = 128;

const ICMP: u8 = 1;
const ICMPV6: u8 = 58;
const FRAGMENT: u8 = 44;

/// Lets a raw socket receive nothing.
pub(crate) fn hear_nothing(socket: &Socket, family: Family) -> io::Result<()> {
    block_all_but(socket, family, &[])?;
    // Types of ICMP from 32 on are blocked by no other.
    socket.attach_filter(&[step(RETURN, 0)])
}

/// Lets a raw socket receive what is for this one of the [`EARS`], but nothing that comes by the device `not_by`.
pub(crate) fn hear_part(
    socket: &Socket,
    family: Family,
    ear: u16,
    not_by: Option<IfIndex>,
) -> io::Result<()> {
    let wanted = match family {
        Family::V4 => [&[REPLY_V4][..], &ERRORS_V4],
        Family::V6 => [&[REPLY_V6][..], &ERRORS_V6],
    };
    block_all_but(socket, family, &wanted.concat())?;
    socket.attach_filter(&program(family, ear, not_by))
}

fn block_all_but(socket: &Socket, family: Family, wanted: &[u8]) -> io::Result<()> {
    let mut blocked = [u32::MAX; 8];
    for kind in wanted {
        if let Some(word) = blocked.get_mut(usize::from(kind / 32)) {
            *word &= !(1 << (kind % 32));
        }
    }
    match family {
        Family::V4 => set(socket, ICMP_FILTER, &blocked[0]),
        Family::V6 => set(socket, ICMPV6_FILTER, &blocked),
    }
}

fn set<T: Copy>(socket: &Socket, (level, option): (c_int, c_int), value: &T) -> io::Result<()> {
    // SAFETY: the descriptor is open for the borrow of `socket`; the value points to a live `T` of that length.
    let done = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            option,
            (&raw const *value).cast::<c_void>(),
            mem::size_of::<T>() as libc::socklen_t,
        )
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Instructions of classic BPF (include/uapi/linux/bpf_common.h): A is the accumulator, X the index.
const LOAD_WORD: u16 = 0x20;
const LOAD_BYTE: u16 = 0x30;
const LOAD_BYTE_AT_X: u16 = 0x50;
const LOAD_HALF_AT_X: u16 = 0x48;
/// X: four times the lower half of a byte, the length of a header of IPv4.
const LOAD_LENGTH_INTO_X: u16 = 0xb1;
const LOAD_INTO_X: u16 = 0x01;
const AND: u16 = 0x54;
const SHIFT_LEFT: u16 = 0x64;
const ADD: u16 = 0x04;
const ADD_X: u16 = 0x0c;
const MOVE_TO_X: u16 = 0x07;
const JUMP_IF_EQUAL: u16 = 0x15;
const RETURN: u16 = 0x06;
/// Where it finds the device (include/uapi/linux/filter.h).
const SKF_AD_IFINDEX: u32 = (-0x1000_i32 + 8) as u32;

/// What the socket takes. X becomes the place of the message that has the identifier: what is no reply quotes a request.
fn program(family: Family, ear: u16, not_by: Option<IfIndex>) -> Vec<SockFilter> {
    let mut program = Vec::with_capacity(24);
    if let Some(device) = not_by {
        program.extend([step(LOAD_WORD, SKF_AD_IFINDEX), jump(device.0, 0, 1), step(RETURN, 0)]);
    }
    match family {
        // It begins with the header of IPv4, as does what an error quotes behind its 8 bytes.
        Family::V4 => program.extend([
            step(LOAD_LENGTH_INTO_X, 0),
            step(LOAD_BYTE_AT_X, 0),
            jump(REPLY_V4, 10, 0),
            step(LOAD_BYTE_AT_X, 8 + 9),
            jump(ICMP, 0, 12),
            step(LOAD_BYTE_AT_X, 8),
            step(AND, 0xf),
            step(SHIFT_LEFT, 2),
            step(ADD_X, 0),
            step(ADD, 8),
            step(MOVE_TO_X, 0),
            step(LOAD_BYTE_AT_X, 0),
            jump(REQUEST_V4, 0, 4),
        ]),
        // It begins with the header of ICMPv6. What an error quotes may have been sent in fragments.
        Family::V6 => program.extend([
            step(LOAD_INTO_X, 0),
            step(LOAD_BYTE, 0),
            jump(REPLY_V6, 9, 0),
            step(LOAD_INTO_X, 8 + 40),
            step(LOAD_BYTE, 8 + 6),
            jump(ICMPV6, 4, 0),
            jump(FRAGMENT, 0, 9),
            step(LOAD_INTO_X, 8 + 40 + 8),
            step(LOAD_BYTE, 8 + 40),
            jump(ICMPV6, 0, 6),
            step(LOAD_BYTE_AT_X, 0),
            jump(REQUEST_V6, 0, 4),
        ]),
    }
    program.extend([
        step(LOAD_HALF_AT_X, 4),
        step(AND, u32::from(EARS - 1)),
        jump(ear, 0, 1),
        step(RETURN, u32::MAX),
        // Whoever reads beyond the end ends the same.
        step(RETURN, 0),
    ]);
    program
}

fn step(code: u16, k: u32) -> SockFilter {
    SockFilter::new(code, 0, 0, k)
}

/// Skips so many steps if A is `k`, and else so many.
fn jump(k: impl Into<u32>, is: u8, is_not: u8) -> SockFilter {
    SockFilter::new(JUMP_IF_EQUAL, is, is_not, k.into())
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixDatagram;

    use socket2::SockRef;

    use super::*;

    const ID: u16 = 0x1234;
    /// Another ear's.
    const OTHER: u16 = 0x1235;

    /// Which of these packets the kernel lets through, by their places.
    fn taken(family: Family, packets: &[Vec<u8>]) -> Vec<usize> {
        let (from, to) = UnixDatagram::pair().unwrap();
        SockRef::from(&to).attach_filter(&program(family, ID % EARS, None)).unwrap();
        to.set_nonblocking(true).unwrap();
        let taken = |packet: &Vec<u8>| {
            from.send(packet).unwrap();
            to.recv(&mut [0; 2048]).is_ok()
        };
        packets.iter().enumerate().filter(|(_, packet)| taken(packet)).map(|(at, _)| at).collect()
    }

    fn echo(kind: u8, id: u16) -> Vec<u8> {
        let [high, low] = id.to_be_bytes();
        vec![kind, 0, 0, 0, high, low, 0, 7, b'a', b'b']
    }

    /// Behind a header of IPv4 with so many bytes of options.
    fn v4(options: u8, protocol: u8, mut payload: Vec<u8>) -> Vec<u8> {
        let mut packet = vec![0; 20 + usize::from(options)];
        packet[0] = 0x45 + options / 4;
        packet[9] = protocol;
        packet.append(&mut payload);
        packet
    }

    fn v6(next: u8, mut payload: Vec<u8>) -> Vec<u8> {
        let mut packet = vec![0; 40];
        packet[0] = 0x60;
        packet[6] = next;
        packet.append(&mut payload);
        packet
    }

    fn error(kind: u8, mut quoted: Vec<u8>) -> Vec<u8> {
        let mut message = vec![kind, 0, 0, 0, 0, 0, 0, 0];
        message.append(&mut quoted);
        message
    }

    #[test]
    fn of_icmp_what_is_about_requests_of_ours_is_taken() {
        let about = |options, id| v4(options, ICMP, error(3, v4(8, ICMP, echo(REQUEST_V4, id))));
        let packets = [
            v4(0, ICMP, echo(REPLY_V4, ID)),
            v4(0, ICMP, echo(REPLY_V4, ID + EARS)),
            v4(12, ICMP, echo(REPLY_V4, ID)),
            about(0, ID),
            about(40, ID),
            v4(0, ICMP, error(11, v4(0, ICMP, echo(REQUEST_V4, ID)[..8].to_vec()))),
            // Not these.
            v4(0, ICMP, echo(REPLY_V4, OTHER)),
            v4(0, ICMP, echo(REQUEST_V4, ID)),
            about(0, OTHER),
            v4(0, ICMP, error(3, v4(0, 17, echo(REQUEST_V4, ID)))),
            v4(0, ICMP, error(3, v4(0, ICMP, echo(REPLY_V4, ID)))),
            v4(0, ICMP, error(3, Vec::new())),
            v4(0, ICMP, error(3, v4(0, ICMP, echo(REQUEST_V4, ID)[..4].to_vec()))),
            v4(0, ICMP, Vec::new()),
            vec![0x45],
        ];
        assert_eq!(taken(Family::V4, &packets), [0, 1, 2, 3, 4, 5]);
    }

    #[test]
    fn of_icmpv6_what_is_about_requests_of_ours_is_taken() {
        let fragment = |next: u8, id| {
            let mut rest = vec![next, 0, 0, 1, 0, 0, 0, 9];
            rest.append(&mut echo(REQUEST_V6, id));
            v6(FRAGMENT, rest)
        };
        let packets = [
            echo(REPLY_V6, ID),
            error(1, v6(ICMPV6, echo(REQUEST_V6, ID))),
            error(2, fragment(ICMPV6, ID)),
            // Not these.
            echo(REPLY_V6, OTHER),
            echo(REQUEST_V6, ID),
            error(1, v6(ICMPV6, echo(REQUEST_V6, OTHER))),
            error(2, fragment(ICMPV6, OTHER)),
            error(2, fragment(17, ID)),
            error(1, v6(17, echo(REQUEST_V6, ID))),
            error(1, v6(ICMPV6, echo(REPLY_V6, ID))),
            error(1, Vec::new()),
            Vec::new(),
        ];
        assert_eq!(taken(Family::V6, &packets), [0, 1, 2]);
    }
}
