//! Datagrams received several at a time.

#[cfg(target_os = "linux")]
#[path = "recv_batch/linux.rs"]
mod os;
#[cfg(not(target_os = "linux"))]
#[path = "recv_batch/portable.rs"]
mod os;

use std::io;
use std::net::SocketAddr;

use tokio::io::Interest;
use tokio::net::UdpSocket;

/// Room for datagrams that are received together, shared by all sockets of a thread: a socket that waits owns none.
#[derive(Debug)]
pub struct RecvBatch {
    headroom: usize,
    /// The slots, one behind the other.
    memory: Box<[u8]>,
    /// Length of a slot in bytes; never zero.
    slot: usize,
    received: Vec<Received>,
    /// How many datagrams the next call asks for.
    ask: usize,
}

/// What one slot holds.
#[derive(Clone, Copy, Debug)]
struct Received {
    len: usize,
    /// Length of each datagram but the last, where the kernel has joined several ([`crate::segments`]).
    size: Option<u16>,
    from: SocketAddr,
}

/// A received datagram and the room around it.
#[derive(Debug)]
pub struct Datagram<'a> {
    /// The slot: the headroom, then `len` bytes of payload, then what is not in use.
    pub slot: &'a mut [u8],
    /// Length of the payload in bytes.
    pub len: usize,
    /// Length of a datagram: where the payload is longer, it is that of several, of which the last may be shorter. At
    /// least 1.
    pub size: usize,
    /// Who sent it.
    pub from: SocketAddr,
}

/// Datagrams that one call can take.
const MOST: usize = 32;

/// Asked for at first: the second place is there to show that there is no second datagram.
const ASK_FIRST: usize = 2;

impl RecvBatch {
    /// Room for `slots` datagrams of up to `room` bytes, each with `headroom` free bytes in front of it. At
    /// least one, at most 32.
    ///
    /// Memory is touched only where datagrams fill it.
    pub fn new(slots: usize, headroom: usize, room: usize) -> Self {
        let (slots, slot) = (slots.clamp(1, MOST), (headroom + room).max(1));
        Self {
            headroom,
            memory: vec![0; slots * slot].into_boxed_slice(),
            slot,
            received: Vec::with_capacity(slots),
            ask: ASK_FIRST.min(slots),
        }
    }

    /// Where payload begins in a slot.
    pub fn headroom(&self) -> usize {
        self.headroom
    }

    /// Takes what has come on `socket`, without waiting, in place of what the batch held. True if there may be more;
    /// otherwise the socket has been emptied, and its next datagram makes it readable again.
    ///
    /// # Errors
    /// [`io::ErrorKind::WouldBlock`] if there is nothing; else those of `recvmsg(2)`, with `IP_RECVERR` also those
    /// about datagrams sent earlier (ip(7)).
    pub fn recv(&mut self, socket: &UdpSocket) -> io::Result<bool> {
        self.received.clear();
        let (slots, ask) = (self.memory.len() / self.slot, self.ask);
        let received = socket.try_io(Interest::READABLE, || {
            let slots = self.memory.chunks_exact_mut(self.slot).take(ask);
            os::receive(socket, slots, self.headroom, &mut self.received)?;
            // Fewer than asked for: the queue was seen empty, and tokio is told so by this error. Where an error of
            // the socket was what ended the batch, it came after the last look at the socket's readiness and
            // reports the datagrams behind it anew, as the mask of an edge is whole (epoll(7), `ep_item_poll`).
            if self.received.len() < ask { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(()) }
        });
        match received {
            Ok(()) => {
                self.ask = slots;
                Ok(true)
            }
            Err(error) => {
                self.ask = ASK_FIRST.min(slots);
                if self.received.is_empty() { Err(error) } else { Ok(false) }
            }
        }
    }

    /// What the last [`Self::recv`] took, in the order of arrival.
    pub fn datagrams(&mut self) -> impl Iterator<Item = Datagram<'_>> {
        self.memory.chunks_exact_mut(self.slot).zip(&self.received).map(|(slot, received)| Datagram {
            slot,
            len: received.len,
            size: received.size.map_or(received.len, usize::from).max(1),
            from: received.from,
        })
    }
}
