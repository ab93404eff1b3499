//! Where traffic comes in.
//!
//! A [`tun::Tun`] hands over whole IP packets, up to 64 KiB each where the kernel offloads segmentation. Each of its
//! [`tun::Queue`]s can be recorded ([`pcap`]) and disturbed ([`fault`]). [`listener`] makes the local sockets that a
//! NAT to the OS's own TCP ends in, [`tproxy`] transparent ones, and [`shortcut`] lets the kernel do that NAT by itself where it can. [`namespace`] is a
//! place for a program of which everything is captured.

pub mod fault;
pub mod listener;
pub mod namespace;
pub mod pcap;
pub mod shortcut;
pub mod tproxy;
pub mod tun;

/// Bytes in front of each packet in a frame: a `virtio_net_hdr` (Linux, `include/uapi/linux/virtio_net.h`).
///
/// It is there on every device, so that the path is the same; a device without offload leaves it zero.
pub const FRAME_HEADER: usize = 10;

/// The largest frame: the header, an IPv6 header and the largest payload that its 16-bit length can say.
pub const MAX_FRAME: usize = FRAME_HEADER + 40 + 65_535;
