//! `AF_PACKET` sockets: packet(7).

use std::io;

use socket2::{Domain, Protocol, SockAddr, SockAddrStorage, Socket, Type};

/// A socket that sees every packet of the device with this number, or, with 0, of all devices. With [`Type::DGRAM`]
/// packets come without their Ethernet header, with [`Type::RAW`] with it. It does not block.
pub(crate) fn packet_socket(kind: Type, index: u32) -> io::Result<Socket> {
    let every = (libc::ETH_P_ALL as u16).to_be();
    // Protocol 0: nothing is received before the socket is bound to the device.
    let socket = Socket::new(Domain::PACKET, kind, Some(Protocol::from(0)))?;
    socket.set_nonblocking(true)?;
    let mut storage = SockAddrStorage::zeroed();
    // SAFETY: `sockaddr_ll` is a socket address type, as `view_as` demands; all bits zero, it is valid.
    let address = unsafe { storage.view_as::<libc::sockaddr_ll>() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_protocol = every;
    address.sll_ifindex = index.cast_signed();
    let length = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
    // SAFETY: the storage holds an initialised `sockaddr_ll`, and `length` is its size.
    let address = unsafe { SockAddr::new(storage, length) };
    socket.bind(&address)?;
    Ok(socket)
}
