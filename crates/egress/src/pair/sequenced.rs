//! Systems with sockets for sequenced packets.

use socket2::Type;

/// Sequenced packets: of datagrams the kernel lets no more than `net.unix.max_dgram_qlen` wait, which is 10 on many hosts.
pub(super) const DATAGRAMS: Type = Type::SEQPACKET;
